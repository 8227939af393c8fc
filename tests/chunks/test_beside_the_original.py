"""A directory that the original goes on with after a crash of ours, and that we open again then."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import ChunkConfig, Origin, PartitionDirectory, StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.fsck.check import check, repair
from mochi.mofka.fsck.findings import Effect
from tests.chunks.chunk_events import Event, batch_of, events_of, numbered, readable
from tests.chunks.recording_files import RecordingFiles

BLOCK = 4096
KINDS = ("meta", "data", "desc", "idx")
SYNC = pytest.mark.parametrize("sync", [True, False])
OTHERS = [(b"other %d" % i, b"#%d;" % i * 7) for i in range(9)]


def append_as_the_original(directory: Path, events: Sequence[Event], most: int = 1000) -> None:
    """Attach a directory and append events, each a batch, as the original does; it begins a chunk after `most`."""
    number = 0
    while (directory / f"chunk-{number + 1:06d}.idx").exists():
        number += 1
    for event in events:
        paths = {kind: directory / f"chunk-{number:06d}.{kind}" for kind in KINDS}
        index = paths["idx"].read_bytes()
        records = np.frombuffer(index[: len(index) // 48 * 48], layout.INDEX_DTYPE)
        ends = dict.fromkeys(("metadata", "data", "descriptor"), 0)
        if len(records):
            ends = {name: int(records[f"{name}_offset"][-1] + records[f"{name}_size"][-1]) for name in ends}
        metadata, data = event
        record = np.frombuffer(b"\xaa" * 48, layout.INDEX_DTYPE).copy()  # padding is what the heap had
        sizes = {"metadata": len(metadata), "data": len(data), "descriptor": 56}
        for name, size in sizes.items():
            record[f"{name}_offset"], record[f"{name}_size"] = ends[name], size
        descriptor = layout.descriptor_records(number, record["data_offset"], record["data_size"])
        for kind, place, content in (
            ("meta", ends["metadata"], metadata),
            ("data", ends["data"], data),
            ("desc", ends["descriptor"], descriptor.tobytes()),
            ("idx", 48 * len(records), record.tobytes()),
        ):
            with paths[kind].open("r+b") as file:
                file.seek(place)
                file.write(content)
        if len(records) + 1 >= most:
            number += 1
            for kind in KINDS:
                (directory / f"chunk-{number:06d}.{kind}").touch()


def crashed(
    directory: Path, events: Sequence[Event], *, sync: bool, batch: int = 2, most: int = 1000
) -> tuple[Path, dict[str, int]]:
    """Store events in batches, and give what a kill leaves, and how long the files were before the last batch."""
    config = ChunkConfig(max_events_per_chunk=most, sync=sync)
    with PartitionDirectory.open(directory / "p", config) as store:
        sizes: dict[str, int] = {}
        for number in range(0, len(events), batch):
            sizes = {path.name: path.stat().st_size for path in (directory / "p").iterdir()}
            origin = Origin(b"p" * 16, number // batch)
            store.append([batch_of(events[number : number + batch], origin)], {"c": number})
        shutil.copytree(directory / "p", directory / "crashed")
    return directory / "crashed", sizes


def opens_with(directory: Path, expected: Sequence[Event], others: int) -> PartitionDirectory:
    """See that a directory has these events, the last of them of others, and that a check says so; twice."""
    report = check(PosixFiles(), str(directory))
    told = [finding for finding in report.findings if "another program" in finding.problem]
    assert [(finding.effect, finding.first, finding.count) for finding in told] == [
        (Effect.PENDING, len(expected) - others, others)
    ]
    assert report.sound
    assert (report.count, report.unverified, report.lost) == (len(expected), others, 0)
    repaired = directory.parent / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    shutil.copytree(directory, repaired)
    repair(PosixFiles(), str(repaired), report)
    for path in (repaired, directory):
        with PartitionDirectory.open(path) as store:
            assert events_of(store) == list(expected)
            assert not list(path.glob("mofka.displaced"))
        assert check(PosixFiles(), str(path)).findings == []
    return store


@SYNC
@pytest.mark.parametrize("most", [1000, 3])
def test_what_the_original_appends_behind_a_level_journal_is_adopted(
    tmp_path: Path, sync: bool, most: int
) -> None:
    directory, _ = crashed(tmp_path, numbered(0, 6), sync=sync)
    append_as_the_original(directory, OTHERS, most)
    with contextlib.closing(opens_with(directory, [*numbered(0, 6), *OTHERS], 9)) as store:
        assert store.damaged == store.quarantined == []


@SYNC
@pytest.mark.parametrize("others", [OTHERS, numbered(70, 9), OTHERS[:1], numbered(70, 1)])
@pytest.mark.parametrize(
    "left", [(), ("seals",), ("desc",), ("meta", "data"), ("meta", "data", "seals", "desc")]
)
def test_what_the_original_appends_where_the_journal_would_write_is_kept_behind_that(
    tmp_path: Path, sync: bool, others: list[Event], left: Sequence[str]
) -> None:
    directory, sizes = crashed(tmp_path, numbered(50, 6), sync=sync)
    for path in directory.glob("*-000000.*"):
        if path.suffix[1:] not in left:
            os.truncate(path, sizes[path.name])
    append_as_the_original(directory, others)
    ours = numbered(50, 6 if sync else 4)
    if left == ("seals",) and not sync and len(others[0][0]) == 3:
        pytest.skip("events of the same sizes cannot be told from ours that a power cut has torn")
    shutil.copytree(directory, tmp_path / "again")
    opens_with(directory, [*ours, *others], len(others)).close()
    with PartitionDirectory.open(tmp_path / "again") as store:
        assert [(each.first, each.count, each.place) for each in store.adopted] == [
            (len(ours), len(others), 4)
        ]
        assert len(store.damaged) == sync
        assert store.cursors["c"] == 4
        assert store.producers() == [] if not sync else [p.next for p in store.producers()] == [3]


def test_moving_what_the_original_appended_may_be_interrupted_at_any_call(tmp_path: Path) -> None:
    directory, sizes = crashed(tmp_path, numbered(50, 6), sync=True)
    for path in directory.glob("*-000000.*"):
        os.truncate(path, sizes[path.name])
    append_as_the_original(directory, OTHERS, 8)
    whole = RecordingFiles()
    shutil.copytree(directory, tmp_path / "whole")
    PartitionDirectory.open(tmp_path / "whole", files=whole).close()
    for failing in range(len(whole.calls)):
        for kept in (False, True):
            copy = tmp_path / f"{failing}-{kept}"
            shutil.copytree(directory, copy)
            files = RecordingFiles(fail_at=failing)
            with contextlib.suppress(StorageError):
                PartitionDirectory.open(copy, files=files).close()
            files.end_process()
            files.power_cut(copy, tmp_path / f"cut-{failing}-{kept}", (lambda kept=kept: bool(kept)), int)
            with PartitionDirectory.open(tmp_path / f"cut-{failing}-{kept}") as store:
                assert events_of(store) == [*numbered(50, 6), *OTHERS]
                assert store.append([batch_of(numbered(80, 1))]) == [15]


def test_large_data_that_the_original_wrote_over_is_refused_and_its_own_events_kept(tmp_path: Path) -> None:
    large = [(b"large", os.urandom(200_000)), (b"small", b"data")]
    directory, sizes = crashed(tmp_path, [*numbered(0, 2), *large], sync=True)
    for kind in ("meta", "desc", "idx", "seals"):
        path = directory / layout.file_name(0, kind)
        os.truncate(path, sizes[path.name])
    append_as_the_original(directory, OTHERS)
    with PartitionDirectory.open(directory) as store:
        found = readable(store)
        assert store.event_count == 13
        assert 2 not in found
        assert [found[number] for number in range(4, 13)] == OTHERS
        assert len(store.damaged) == 2


@SYNC
def test_what_the_original_appends_behind_events_that_the_journal_lost_is_adopted(
    tmp_path: Path, sync: bool
) -> None:
    directory, _ = crashed(tmp_path, numbered(0, 6), sync=sync)
    with (directory / "mofka.journal").open("r+b") as file:
        file.seek(4 * BLOCK + 30 if sync else 2 * BLOCK + 200)
        file.write(b"rot")
    append_as_the_original(directory, OTHERS)
    with PartitionDirectory.open(directory) as store:
        assert events_of(store) == [*numbered(0, 6), *OTHERS]
        assert store.producers() == []
        assert store.quarantined == []


def test_the_beginning_of_a_commit_that_is_not_whole_is_kept_where_others_follow_it(tmp_path: Path) -> None:
    files = RecordingFiles()
    config = ChunkConfig(max_events_per_chunk=4)
    with PartitionDirectory.open(tmp_path / "p", config, files) as store:
        store.append([batch_of(numbered(0, 2), Origin(b"p" * 16, 0))])
        writes = [index for index, (operation, _) in enumerate(files.calls) if operation == "write"]
        files.fail_at = writes[-1] + 8
        batches = [
            batch_of(numbered(2, 2), Origin(b"p" * 16, 1)),
            batch_of(numbered(4, 2), Origin(b"p" * 16, 2)),
        ]
        commit = store.begin(batches)
        assert commit is not None
        assert commit.error is not None
        shutil.copytree(tmp_path / "p", tmp_path / "alone")
        shutil.copytree(tmp_path / "p", tmp_path / "followed")
    assert (tmp_path / "alone" / "chunk-000000.idx").stat().st_size == 4 * 48
    with PartitionDirectory.open(tmp_path / "alone") as store:
        assert events_of(store) == numbered(0, 2)
        assert store.adopted == []
    append_as_the_original(tmp_path / "followed", OTHERS)
    with PartitionDirectory.open(tmp_path / "followed") as store:
        assert events_of(store) == [*numbered(0, 4), *OTHERS]
        assert [producer.next for producer in store.producers()] == [2]
