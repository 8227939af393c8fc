"""Checks of directories: all that is wrong is found, nothing is changed, and a repair does what was said."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.disk import File, PosixFiles
from mochi.mofka.chunks import (
    ChunkConfig,
    CorruptPartition,
    DamagedEvents,
    Origin,
    PartitionDirectory,
    Retention,
    StorageError,
)
from mochi.mofka.chunks.format.layout import DESCRIPTOR_SIZE, INDEX_SIZE
from mochi.mofka.fsck.check import check, repair
from mochi.mofka.fsck.findings import Effect, Report
from tests.chunks.chunk_events import PARTITIONS, Event, batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

FOUR = ChunkConfig(max_events_per_chunk=4)
UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER = "11234567-89ab-cdef-0123-456789abcdef"
FILES = PosixFiles()


def made(directory: Path, config: ChunkConfig = FOUR, first: int = 0) -> Path:
    """Make a partition of ten events: chunks of 4, 4 and 2, two batches in the first two."""
    with PartitionDirectory.open(directory, config) as store:
        for number in range(first, first + 10, 2):
            store.append(
                [batch_of(numbered(number, 2), Origin(b"p" * 16, number // 2))], {"c": number - first}
            )
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return made(tmp_path / f"topic-{UUID}")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Make the same, as it is when its process was killed before the end."""
    source = tmp_path / "source" / f"topic-{UUID}"
    with PartitionDirectory.open(source, FOUR) as store:
        for number in range(0, 10, 2):
            store.append([batch_of(numbered(number, 2))])
        return shutil.copytree(source, tmp_path / f"topic-{UUID}")


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def checked(directory: Path) -> Report:
    """Check a directory, and see that nothing was changed."""
    before = content(directory)
    report = check(FILES, str(directory))
    assert content(directory) == before
    return report


def found(report: Report) -> list[tuple[str, str, list[int]]]:
    """Give effect, file and events of each finding."""
    return [
        (str(each.effect), each.file, list(range(each.first, each.first + each.count)))
        for each in report.findings
    ]


def served(store: PartitionDirectory) -> dict[int, Event]:
    """Read all events that can be read, by id."""
    events = {}
    for event_id in range(store.event_count):
        try:
            read = store.read_range(event_id, 1, 1 << 20, with_data=True)
        except DamagedEvents:
            continue
        assert read.data is not None
        events[event_id] = (bytes(read.metadata), bytes(read.data))
    return events


def overwritten(path: Path, begin: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(new)


def flipped(path: Path, begin: int) -> None:
    overwritten(path, begin, bytes([path.read_bytes()[begin] ^ 4]))


def test_a_sound_directory_is_described(directory: Path) -> None:
    report = checked(directory)
    assert report.sound
    assert not report.findings
    assert (report.count, report.verified, report.unverified, report.lost) == (10, 10, 0, 0)
    assert [(chunk.first, chunk.count, chunk.verified) for chunk in report.chunks] == [
        (0, 4, 4),
        (4, 4, 4),
        (8, 2, 2),
    ]
    assert report.cursors == {"c": 8}
    assert [(each.identity, each.next) for each in report.producers] == [(b"p" * 16, 5)]
    with PartitionDirectory.open(directory) as store:
        assert report.epoch == store.epoch


def test_a_directory_without_events_is_sound(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert checked(tmp_path / "empty").sound
    with PartitionDirectory.open(tmp_path / "opened"):
        pass
    report = checked(tmp_path / "opened")
    assert report.sound
    assert report.count == 0


@pytest.mark.parametrize("name", ["plain", "mixed", "rotated"])
def test_directories_of_the_original_are_sound_and_unverified(name: str) -> None:
    (source,) = PARTITIONS.glob(f"{name}-*/")
    report = checked(source)
    assert not report.findings
    assert report.foreign
    assert report.unverified == report.count > 0


Damage = Callable[[Path], object]

TABLE: dict[str, tuple[Damage, list[tuple[str, str, list[int]]], str]] = {
    "a bit of metadata": (
        lambda d: flipped(d / "chunk-000001.meta", 5),
        [("lost", "chunk-000001.meta", [6, 7])],
        "do not match their checksum",
    ),
    "a bit of data": (
        lambda d: flipped(d / "chunk-000000.data", 3),
        [("lost", "chunk-000000.data", [0, 1])],
        "do not match their checksum",
    ),
    "all data zero": (
        lambda d: (d / "chunk-000001.data").write_bytes(bytes(80)) and None,
        [("lost", "chunk-000001.data", [4, 5, 6, 7])],
        "are zeros now",
    ),
    "data missing": (
        lambda d: (d / "chunk-000001.data").unlink(),
        [("lost", "chunk-000001.data", [4, 5, 6, 7])],
        "are not in it",
    ),
    "data short": (
        lambda d: os.truncate(d / "chunk-000001.data", 60),
        [("lost", "chunk-000001.data", [6, 7])],
        "are not in it",
    ),
    "data of the last chunk short": (
        lambda d: os.truncate(d / "chunk-000002.data", 30),
        [("lost", "chunk-000002.data", [8, 9])],
        "are not in it",
    ),
    "data of another chunk": (
        lambda d: shutil.copy(d / "chunk-000000.data", d / "chunk-000001.data") and None,
        [("lost", "chunk-000001.data", [4, 5, 6, 7])],
        "do not match their checksum",
    ),
    "index missing": (
        lambda d: (d / "chunk-000001.idx").unlink(),
        [("repairable", "chunk-000001.idx", [4, 5, 6, 7])],
        "is missing",
    ),
    "index short": (
        lambda d: os.truncate(d / "chunk-000002.idx", 50),
        [("repairable", "chunk-000002.idx", [8, 9])],
        "did not fit",
    ),
    "index zero": (
        lambda d: (d / "chunk-000000.idx").write_bytes(bytes(4 * INDEX_SIZE)) and None,
        [("repairable", "chunk-000000.idx", [0, 1, 2, 3])],
        "contradict the seals",
    ),
    "a bit of the index": (
        lambda d: flipped(d / "chunk-000000.idx", INDEX_SIZE + 8),
        [("repairable", "chunk-000000.idx", [1])],
        "contradict the seals",
    ),
    "a bit of a descriptor": (
        lambda d: flipped(d / "chunk-000001.desc", DESCRIPTOR_SIZE),
        [("repairable", "chunk-000001.desc", [5])],
        "contradict the seals",
    ),
    "descriptors of another chunk": (
        lambda d: shutil.copy(d / "chunk-000000.desc", d / "chunk-000001.desc") and None,
        [("repairable", "chunk-000001.desc", [4, 5, 6, 7])],
        "are of chunk 0",
    ),
    "descriptors missing": (
        lambda d: (d / "chunk-000000.desc").unlink(),
        [("repairable", "chunk-000000.desc", [0, 1, 2, 3])],
        "is missing",
    ),
    "seals missing": (
        lambda d: (d / "mofka-000001.seals").unlink(),
        [("doubtful", "mofka-000001.seals", [4, 5, 6, 7])],
        "are missing",
    ),
    "seals of the last chunk missing": (
        lambda d: (d / "mofka-000002.seals").unlink(),
        [("doubtful", "mofka-000002.seals", [8, 9])],
        "are missing",
    ),
    "a bit of a seal": (
        lambda d: flipped(d / "mofka-000000.seals", 20),
        [("doubtful", "mofka-000000.seals", [0, 1])],
        "are damaged",
    ),
    "the place of a seal": (
        lambda d: flipped(d / "mofka-000000.seals", 64),
        [("doubtful", "mofka-000000.seals", [0, 1])],
        "are damaged",
    ),
    "seals of another chunk": (
        lambda d: shutil.copy(d / "mofka-000000.seals", d / "mofka-000001.seals") and None,
        [("doubtful", "mofka-000001.seals", [4, 5, 6, 7])],
        "of another chunk or partition",
    ),
    "a chunk missing": (
        lambda d: [path.unlink() for path in d.glob("*-000001.*")] and None,
        [
            ("lost", "chunk-000001.idx", [4, 5, 6, 7]),
            ("doubtful", "mofka-000001.seals", [4, 5, 6, 7]),
        ],
        "",
    ),
    "the journal missing": (
        lambda d: (d / "mofka.journal").unlink(),
        [("lost", "mofka.journal", [])],
        "epoch, producers and cursors are forgotten",
    ),
    "a ledger damaged": (
        lambda d: (
            [flipped(d / f"mofka.ledger-{n}", 40) for n in range(2) if (d / f"mofka.ledger-{n}").exists()]
            and None
        ),
        [("lost", "mofka.ledger-*", [])],
        "producers and cursors",
    ),
    "a torn tail": (
        lambda d: overwritten(d / "chunk-000002.idx", 2 * INDEX_SIZE, b"torn"),
        [("pending", "chunk-000002.idx", [])],
        "has 4 bytes beyond the last whole event",
    ),
    "a tail of zeros": (
        lambda d: os.truncate(d / "chunk-000002.data", 1000),
        [("pending", "chunk-000002.data", [])],
        "has 960 bytes beyond the last whole event, all of them zero",
    ),
}


@pytest.mark.parametrize("damage", TABLE)
def test_a_damage_is_found_and_told_from_others(directory: Path, damage: str) -> None:
    harm, expected, problem = TABLE[damage]
    harm(directory)
    report = checked(directory)
    seen = [
        (effect, "mofka.ledger-*" if "ledger" in file else file, ids) for effect, file, ids in found(report)
    ]
    assert sorted(seen) == sorted(expected)
    assert any(problem in finding.problem for finding in report.findings)
    assert report.sound == all(effect == "pending" for effect, _, _ in expected)
    lost = {event_id for effect, _, ids in expected if effect == "lost" for event_id in ids}
    assert report.lost == len(lost)
    assert report.verified + report.unverified + report.lost == report.count == 10
    repaired(directory, report)
    after = checked(directory)
    assert [finding for finding in after.findings if finding.repair] == []
    assert after.sound == all(each.repair for each in report.findings)
    with PartitionDirectory.open(directory, FOUR) as store:
        assert served(store) == {n: numbered(n, 1)[0] for n in range(10) if n not in lost}


def repaired(directory: Path, report: Report) -> None:
    """Repair a directory, and see that nothing that was there is gone, and no other files written than was said."""
    before = content(directory)
    repair(FILES, str(directory), report)
    after = content(directory)
    quarantine = b"".join(after[name] for name in sorted(after) if name.startswith("quarantine"))
    for name, old in before.items():
        if name.startswith("chunk-") and after[name] != old:
            assert old in quarantine or old[len(after[name]) :] in quarantine
    if report.repairable:
        quarantined = {name for name in after if name.startswith("quarantine")}
        remade = {finding.file for finding in report.findings if finding.effect == Effect.REPAIRABLE}
        written = {name for name in after if after[name] != before.get(name)} - {"mofka.lock"}
        assert written <= {*report.changes, *remade, *quarantined}


def test_what_a_crash_left_over_is_told_and_written_again(killed: Path) -> None:
    os.truncate(killed / "chunk-000002.idx", 0)
    overwritten(killed / "chunk-000002.data", 40, b"of a commit that was cut short")
    report = checked(killed)
    assert report.sound
    assert not report.closed
    assert (report.count, report.verified) == (10, 10)
    assert found(report) == [
        ("pending", "mofka.journal", list(range(10))),
        ("pending", "chunk-000002.data", []),
    ]
    assert "beyond the last whole commit" in report.findings[1].problem
    repaired(killed, report)
    assert not checked(killed).findings
    with PartitionDirectory.open(killed) as store:
        assert events_of(store) == numbered(0, 10)


def test_a_directory_in_use_is_checked_as_far_as_its_last_checkpoint(directory: Path) -> None:
    with PartitionDirectory.open(directory, FOUR) as store:
        store.append([batch_of(numbered(10, 20))])
        flipped(directory / "chunk-000001.data", 3)
        (directory / "chunk-000000.idx").unlink()
        report = checked(directory)
        assert f"process {os.getpid()}" in report.locked
        assert report.count >= 10
        assert found(report) == [
            ("repairable", "chunk-000000.idx", [0, 1, 2, 3]),
            ("lost", "chunk-000001.data", [4, 5]),
        ]
        with pytest.raises(StorageError, match="is locked by"):
            repair(FILES, str(directory), report)


def test_a_server_waits_for_a_check_and_checks_for_none(directory: Path) -> None:
    with pytest.raises(StorageError, match="is locked by whoever checks it"):
        check(FILES, str(directory), lambda size: PartitionDirectory.open(directory).close())
    assert check(FILES, str(directory), lambda size: check(FILES, str(directory))).sound


def test_a_copy_of_a_chunk_is_told_from_events(directory: Path) -> None:
    for kind in ("meta", "data", "desc", "idx"):
        shutil.copy(directory / f"chunk-000001.{kind}", directory / f"chunk-000003.{kind}")
    report = checked(directory)
    assert report.count == 10
    assert all("is a copy of a file of chunk 1" in finding.problem for finding in report.findings)
    repaired(directory, report)
    report = checked(directory)
    assert not report.findings
    assert len(report.quarantine) == 4


def test_what_no_server_would_open_is_refused_and_left_alone(directory: Path, tmp_path: Path) -> None:
    other = made(tmp_path / f"topic-{OTHER}")
    shutil.copy(other / "mofka.journal", directory)
    report = checked(directory)
    (finding,) = report.findings
    assert finding.effect == Effect.REFUSED
    assert f"is of the partition {OTHER}" in finding.problem
    assert not report.repairable


def original(tmp_path: Path, name: str = "rotated") -> Path:
    (source,) = PARTITIONS.glob(f"{name}-*/")
    return shutil.copytree(source, tmp_path / source.name)


def test_a_torn_tail_of_the_original_is_cut_so_that_it_can_append_again(tmp_path: Path) -> None:
    directory = original(tmp_path)
    before = content(directory)
    for kind in ("meta", "data", "desc"):
        with (directory / f"chunk-000004.{kind}").open("ab") as file:
            file.write(b"torn" * 30)
    with (directory / "chunk-000004.idx").open("ab") as file:
        file.write(bytes(INDEX_SIZE) + b"torn")
    report = checked(directory)
    assert report.sound
    assert [finding.file for finding in report.findings] == [
        f"chunk-000004.{kind}" for kind in ("meta", "data", "desc", "idx")
    ]
    repaired(directory, report)
    assert {name: content(directory)[name] for name in before} == before
    assert not checked(directory).findings


def test_a_damaged_index_in_the_middle_of_the_last_chunk_of_the_original_is_no_torn_tail(
    tmp_path: Path,
) -> None:
    directory = original(tmp_path)
    overwritten(directory / "chunk-000004.idx", 3 * INDEX_SIZE, bytes(INDEX_SIZE))
    report = checked(directory)
    lost = next(finding for finding in report.findings if finding.file.endswith("idx"))
    assert (lost.effect, lost.first, lost.count) == (Effect.LOST, 283, 17)
    assert not report.sound


@pytest.mark.parametrize(
    "place", [3 * INDEX_SIZE, 3 * INDEX_SIZE + 7, 3 * INDEX_SIZE + 16, 3 * INDEX_SIZE + 24]
)
def test_an_index_of_the_original_that_contradicts_itself_is_found(tmp_path: Path, place: int) -> None:
    directory = original(tmp_path)
    flipped(directory / "chunk-000001.idx", place)
    report = checked(directory)
    assert not report.sound
    assert 73 in {event_id for _, _, ids in found(report) for event_id in ids}


def test_a_missing_chunk_of_the_original_is_refused(tmp_path: Path) -> None:
    directory = original(tmp_path)
    for path in directory.glob("chunk-000002.*"):
        path.unlink()
    report = checked(directory)
    assert [finding.effect for finding in report.findings] == [Effect.REFUSED]
    assert "chunk-000002.idx is missing" in report.findings[0].problem


def test_blocks_of_large_data_are_told_one_by_one(tmp_path: Path) -> None:
    events = [(b"m%d" % n, bytes([n]) * 150_000) for n in range(1, 70)]
    with PartitionDirectory.open(tmp_path / f"topic-{UUID}") as store:
        store.append([batch_of(events)])
    for place in (70_000, 140_000, 10_000_000):
        flipped(tmp_path / f"topic-{UUID}" / "chunk-000000.data", place)
    report = checked(tmp_path / f"topic-{UUID}")
    assert [(each.begin, each.end, each.first, each.count) for each in report.findings] == [
        (65536, 196608, 0, 2),
        (152 * 65536, 153 * 65536, 66, 1),
    ]
    assert report.lost == 3


def test_missing_bytes_are_named_from_where_they_are_missing(directory: Path) -> None:
    path = directory / "chunk-000001.data"
    size = path.stat().st_size
    os.truncate(path, size - 3)
    (finding,) = checked(directory).findings
    assert (finding.problem, finding.begin, finding.end) == ("are not in it", size - 3, size)
    assert (finding.first, finding.count) == (6, 2)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, bytes]]:
    """Give the files of the ten events, after an orderly end, and (true) after a kill."""
    directory = tmp_path_factory.mktemp("pristine") / f"topic-{UUID}"
    with PartitionDirectory.open(directory, FOUR) as store:
        for number in range(0, 10, 2):
            store.append([batch_of(numbered(number, 2))])
        after_kill = content(directory)
    return {False: content(directory), True: after_kill}


@settings(max_examples=150, deadline=None)
@given(
    killed=st.booleans(),
    file=st.integers(0, 100),
    place=st.integers(0, 1 << 15),
    new=st.binary(min_size=1, max_size=80) | st.integers(1, 80).map(bytes),
)
def test_wherever_bytes_are_changed_it_is_found_or_all_events_are_as_they_were(
    pristine: dict[bool, dict[str, bytes]], killed: bool, file: int, place: int, new: bytes
) -> None:
    files = pristine[killed]
    name = sorted(files)[file % len(files)]
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent, f"topic-{UUID}")
        directory.mkdir()
        for each, old in files.items():
            (directory / each).write_bytes(old)
        overwritten(directory / name, place % max(1, min(len(files[name]), 1 << 15)), new)
        report = checked(directory)
        if any(finding.effect == Effect.REFUSED for finding in report.findings):
            with pytest.raises(CorruptPartition):
                PartitionDirectory.open(directory, FOUR, RecordingFiles())
            return
        concerned = {
            event_id for effect, _, ids in found(report) if effect in ("doubtful", "lost") for event_id in ids
        }
        with PartitionDirectory.open(directory, FOUR, RecordingFiles()) as store:
            assert store.event_count == report.count
            events = served(store)
        assert {n: events.get(n) for n in range(report.count) if n not in concerned} == {
            n: numbered(n, 1)[0] for n in range(report.count) if n not in concerned
        }
        assert len(events) == report.verified + report.unverified
        if report.sound and not killed:
            assert report.count == 10
        assert report.count in ((10,) if not killed else range(0, 11, 2))


def test_a_directory_in_use_without_sync_is_checked_as_far_as_whole_events_go(tmp_path: Path) -> None:
    directory = tmp_path / f"topic-{UUID}"
    with PartitionDirectory.open(directory, ChunkConfig(max_events_per_chunk=4, sync=False)) as store:
        for number in range(0, 10, 2):
            store.append([batch_of(numbered(number, 2))])
        report = checked(directory)
        assert (report.count, report.verified, report.findings) == (10, 10, [])


def test_a_killed_partition_without_sync_is_sound_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    source = tmp_path / "source" / f"topic-{UUID}"
    with PartitionDirectory.open(source, ChunkConfig(sync=False)) as store:
        store.append([batch_of(numbered(0, 2))])
        store.append([batch_of(numbered(2, 2))])
        directory = shutil.copytree(source, tmp_path / f"topic-{UUID}")
    os.truncate(directory / "chunk-000000.idx", 3 * INDEX_SIZE)
    report = checked(directory)
    assert report.sound
    assert (report.count, report.verified) == (2, 2)
    assert {(effect, file.split(".")[-1]) for effect, file, _ in found(report)} == {
        ("pending", kind) for kind in ("journal", "meta", "data", "desc", "idx", "seals")
    }
    repaired(directory, report)
    assert not checked(directory).findings


def test_a_damaged_checksum_is_found_wherever_a_seal_has_it(tmp_path: Path) -> None:
    directory = tmp_path / f"topic-{UUID}"
    with PartitionDirectory.open(directory) as store:
        store.append([batch_of([(b"m", b"x" * 1_000_000)])])
        store.append([batch_of(numbered(1, 2))])
    size = (directory / "mofka-000000.seals").stat().st_size
    flipped(directory / "mofka-000000.seals", size - 128 - 40)
    report = checked(directory)
    assert found(report) == [("doubtful", "mofka-000000.seals", [0])]
    assert (report.verified, report.unverified) == (2, 1)


class BadSectors(PosixFiles):
    """Real files, of which one has bytes that cannot be read."""

    def __init__(self, name: str, bad: range) -> None:
        super().__init__()
        self.name = name
        self.bad = bad

    def open(self, path: str, *, writable: bool) -> File:  # type: ignore[override]
        file = super().open(path, writable=writable)
        return BadFile(file, self.bad) if path.endswith(self.name) else file


class BadFile:
    def __init__(self, file: File, bad: range) -> None:
        self.path = file.path
        self.bad = bad
        self.write, self.sync, self.truncate, self.close = file.write, file.sync, file.truncate, file.close
        self._file = file

    def read(self, target: memoryview, offset: int) -> None:
        if offset < self.bad.stop and self.bad.start < offset + len(target):
            raise StorageError.refused("read", self.path, OSError(errno.EIO, "Input/output error"))
        self._file.read(target, offset)


def test_bytes_that_the_disk_does_not_give_cost_their_events(directory: Path, tmp_path: Path) -> None:
    report = check(BadSectors("chunk-000001.data", range(50, 51)), str(directory))
    assert found(report) == [("lost", "chunk-000001.data", [6, 7])]
    assert "cannot be read: cannot read" in report.findings[0].problem
    assert (report.verified, report.lost) == (8, 2)
    source = original(tmp_path)
    report = check(BadSectors("chunk-000001.meta", range(5, 6)), str(source))
    assert {effect for effect, _, _ in found(report)} == {"lost"}
    assert 70 in found(report)[0][2]
    assert report.count == 300


def trimmed(tmp_path: Path) -> Path:
    """Make the ten events again, and drop the first chunk of them."""
    directory = made(tmp_path / "trimmed" / f"topic-{UUID}")
    with PartitionDirectory.open(
        directory, ChunkConfig(max_events_per_chunk=4, retention=Retention(max_bytes=1800))
    ) as store:
        assert store.trim() == 1
    return directory


def test_a_partition_whose_oldest_chunks_were_dropped_is_sound(directory: Path, tmp_path: Path) -> None:
    left = directory / "chunk-000000.meta"
    directory = trimmed(tmp_path)
    report = checked(directory)
    assert not report.findings
    assert (report.first, report.count, report.verified, report.chunks[0].number) == (4, 6, 6, 1)
    shutil.copy(left, directory)
    (directory / "chunk-000000.data").write_bytes(b"something else")
    report = checked(directory)
    assert found(report) == [("doubtful", "chunk-000000.data", []), ("pending", "chunk-000000.meta", [])]
    repair(FILES, str(directory), report)
    assert not (directory / "chunk-000000.meta").exists()
    assert found(checked(directory)) == [("doubtful", "chunk-000000.data", [])]
    flipped(directory / "mofka.trimmed", 120)
    assert [finding.effect for finding in checked(directory).findings] == [Effect.REFUSED]


@pytest.mark.parametrize("max_bytes", [1, 10**6])
def test_an_orderly_end_leaves_nothing_to_change_whatever_was_dropped(tmp_path: Path, max_bytes: int) -> None:
    directory = tmp_path / f"topic-{UUID}"
    config = ChunkConfig(max_events_per_chunk=4, retention=Retention(max_bytes=max_bytes))
    with PartitionDirectory.open(directory, config) as store:
        for number in range(10):
            store.append([batch_of(numbered(number, 1))])
            store.trim()
    report = checked(directory)
    assert (report.findings, report.changes) == ([], [])
    assert len(report.chunks) == (1 if max_bytes == 1 else 3)


def test_chunks_that_are_dropped_during_a_check_are_left_out(directory: Path) -> None:
    config = ChunkConfig(max_events_per_chunk=4, retention=Retention(max_bytes=1800))
    with PartitionDirectory.open(directory, config) as store:
        report = check(FILES, str(directory), lambda size: store.trim())
        assert not report.findings
        assert (report.first, report.count, report.verified) in ((0, 10, 10), (4, 6, 6))
        assert checked(directory).first == 4
