"""Directories of ours that lost something: what is whole is served, ids stay, and what is lost is told."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import open_files
from mochi.disk import FileLayer, PosixFile, PosixFiles
from mochi.mofka.chunks import (
    ChunkConfig,
    CorruptPartition,
    DamagedEvents,
    PartitionDirectory,
    StorageError,
    follow,
)
from mochi.mofka.chunks.reader import ChunkReader
from tests.chunks.chunk_events import Event, batch_of, chunk_files, numbered

FOUR = ChunkConfig(max_events_per_chunk=4)
UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER = "11234567-89ab-cdef-0123-456789abcdef"


def made(directory: Path, first: int = 0) -> Path:
    """Make a partition of ten events: chunks of 4, 4 and 2."""
    with PartitionDirectory.open(directory, FOUR) as store:
        store.append([batch_of(numbered(number, 2)) for number in range(first, first + 10, 2)])
    return directory


@pytest.fixture(params=["posix", "abt_io"])
def files(request: pytest.FixtureRequest) -> Any:
    """Each of the real layers: what tells of damage must not depend on how a layer refuses."""
    return PosixFiles() if request.param == "posix" else open_files("io", AbtIoConfig())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return made(tmp_path / f"topic-{UUID}")


def served(store: ChunkReader) -> dict[int, Event]:
    """Read all events that can be read, one by one, by id."""
    found = {}
    refused: list[tuple[int, range]] = []
    for event_id in range(store.event_count):
        try:
            read = store.read_range(event_id, 1, 1 << 20, with_data=True)
        except DamagedEvents as error:
            refused.append((event_id, range(error.first, error.first + error.count)))
        else:
            assert read.data is not None
            found[event_id] = (bytes(read.metadata), bytes(read.data))
    assert all(event_id in told for event_id, told in refused)
    return found


def serves(files: FileLayer, directory: Path, ids: list[int], *told: str) -> None:
    """See that of ten events those with these ids are served, the rest told, and that more can be appended."""
    for round_ in range(2):
        with PartitionDirectory.open(directory, FOUR, files) as store:
            for problem in told:
                assert any(problem in damage for damage in store.damaged), store.damaged
            count = 10 + 3 * round_
            assert store.event_count == count
            expected = {event_id: numbered(event_id, 1)[0] for event_id in (*ids, *range(10, count))}
            assert served(store) == expected
            assert store.append([batch_of(numbered(count, 3))]) == [count]


ALL = list(range(10))


@pytest.mark.parametrize("kind", ["meta", "data"])
def test_a_missing_file_in_the_middle_costs_its_events(files: FileLayer, directory: Path, kind: str) -> None:
    (directory / f"chunk-000001.{kind}").unlink()
    serves(
        files,
        directory,
        [0, 1, 2, 3, 8, 9],
        f"chunk-000001.{kind} is missing: some or all of events 4 to 7 are lost",
    )


def test_a_missing_chunk_costs_its_events_and_the_others_keep_their_ids(
    files: FileLayer, directory: Path
) -> None:
    for path in (*directory.glob("chunk-000000.*"), directory / "mofka-000000.seals"):
        path.unlink()
    serves(files, directory, ALL[4:], "chunk-000000.data is missing")


def test_a_short_file_costs_the_events_it_lacks(files: FileLayer, directory: Path) -> None:
    os.truncate(directory / "chunk-000001.data", 60)
    serves(files, directory, [0, 1, 2, 3, 8, 9], "chunk-000001.data has 60 of 80 bytes")


def test_a_zero_filled_file_costs_its_events_when_they_are_read(files: FileLayer, directory: Path) -> None:
    (directory / "chunk-000001.meta").write_bytes(bytes(8))
    serves(files, directory, [0, 1, 2, 3, 8, 9])


def test_the_last_chunk_is_left_alone_when_it_lost_bytes_and_the_next_begun(
    files: FileLayer, directory: Path
) -> None:
    os.truncate(directory / "chunk-000002.data", 30)
    before = (directory / "chunk-000002.data").read_bytes()
    serves(
        files,
        directory,
        ALL[:8],
        "chunk-000002.data has 30 of 40 bytes: some or all of events 8 to 9 are lost",
    )
    assert (directory / "chunk-000002.data").read_bytes() == before


@pytest.mark.parametrize("kinds", [("idx",), ("desc",), ("idx", "desc")])
@pytest.mark.parametrize("chunks", [(0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("how", ["missing", "empty", "short", "zero"])
def test_a_lost_index_is_made_again_as_it_was(
    files: FileLayer, directory: Path, kinds: tuple[str, ...], chunks: tuple[int, ...], how: str
) -> None:
    before = chunk_files(directory)
    lost = [f"chunk-{chunk:06d}.{kind}" for chunk in chunks for kind in kinds]
    for name in lost:
        path = directory / name
        if how == "missing":
            path.unlink()
        elif how == "zero":
            path.write_bytes(bytes(path.stat().st_size))
        else:
            os.truncate(path, 50 if how == "short" else 0)
    with PartitionDirectory.open(directory, FOUR, files) as store:
        assert served(store) == dict(enumerate(numbered(0, 10)))
        after = chunk_files(directory)
        if how != "zero":
            assert after == before
            assert len(store.damaged) == len(lost)
    for path in directory.glob("quarantine*"):
        assert path.stat().st_size


@pytest.mark.parametrize("roster", [False, True])
def test_seals_tell_of_a_chunk_whose_index_and_roster_are_lost(
    files: FileLayer, directory: Path, roster: bool
) -> None:
    before = chunk_files(directory)
    if not roster:
        (directory / "mofka.chunks").unlink()
    (directory / "chunk-000000.idx").unlink()
    with PartitionDirectory.open(directory, FOUR, files) as store:
        assert served(store) == dict(enumerate(numbered(0, 10)))
    assert chunk_files(directory) == before


def test_lost_seals_cost_the_verifying_alone(files: FileLayer, directory: Path) -> None:
    (directory / "mofka-000001.seals").unlink()
    serves(
        files,
        directory,
        ALL,
        "mofka-000001.seals is missing: events 4 to 7 are served without being verified",
    )


def test_damaged_seals_cost_the_verifying_alone(files: FileLayer, directory: Path) -> None:
    path = directory / "mofka-000001.seals"
    path.write_bytes(os.urandom(path.stat().st_size))
    serves(files, directory, ALL)


def test_files_of_another_partition_are_told_from_ours(
    files: FileLayer, directory: Path, tmp_path: Path
) -> None:
    other = made(tmp_path / f"topic-{OTHER}", first=100)
    for name in ("chunk-000001.meta", "chunk-000001.data"):
        os.truncate(other / name, (directory / name).stat().st_size)
        shutil.copy(other / name, directory)
    serves(files, directory, [0, 1, 2, 3, 8, 9])


def test_a_disk_that_was_swapped_is_refused(files: FileLayer, directory: Path, tmp_path: Path) -> None:
    other = made(tmp_path / f"topic-{OTHER}")
    for path in directory.iterdir():
        path.unlink()
    for path in other.iterdir():
        shutil.copy(path, directory)
    with pytest.raises(
        CorruptPartition, match=f"is of the partition {OTHER}, but the directory is of {UUID}"
    ):
        PartitionDirectory.open(directory, files=files)


def test_a_directory_that_is_behind_its_journal_does_not_go_back(files: FileLayer, tmp_path: Path) -> None:
    directory = made(tmp_path / f"topic-{UUID}")
    for path in directory.glob("chunk-00000[12].*"):
        path.unlink()
    serves(files, directory, ALL[:4], "chunk-000001.data is missing", "chunk-000002.data is missing")


def test_a_copy_of_a_chunk_is_not_taken_for_the_next_one(files: FileLayer, directory: Path) -> None:
    for kind in ("meta", "data", "desc", "idx"):
        shutil.copy(directory / f"chunk-000001.{kind}", directory / f"chunk-000003.{kind}")
    with PartitionDirectory.open(directory, FOUR, files) as store:
        assert store.event_count == 10
        assert len(store.quarantined) == 4
    serves(files, directory, ALL)


class ForbiddingFiles(PosixFiles):
    """Real files, some of which may not be opened: root may open all, so that modes of files do not do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def open(self, path: str, *, writable: bool) -> PosixFile:
        if os.path.basename(path) == self.name:
            raise StorageError.refused("open", path, OSError(errno.EACCES, "Permission denied"))
        return super().open(path, writable=writable)


def test_a_file_that_may_not_be_read_is_named_and_costs_nothing_else(directory: Path) -> None:
    with PartitionDirectory.open(directory, FOUR, ForbiddingFiles("chunk-000001.data")) as store:
        with pytest.raises(
            StorageError, match=r"cannot open .*chunk-000001.data: Permission denied \(EACCES\)"
        ):
            store.read_range(4, 1, 100, with_data=True)
        assert store.read_range(0, 4, 1000, with_data=True).count == 4
        assert store.read_range(4, 4, 1000, with_data=False).count == 4
    with pytest.raises(StorageError, match=r"chunk-000002.idx: Permission denied"):
        PartitionDirectory.open(directory, FOUR, ForbiddingFiles("chunk-000002.idx"))


def test_a_chunk_file_that_is_a_directory_is_a_clear_error(files: FileLayer, directory: Path) -> None:
    (directory / "chunk-000002.data").unlink()
    (directory / "chunk-000002.data").mkdir()
    with pytest.raises(
        CorruptPartition, match=r"chunk-000002.data is a directory, not a file; put the file back"
    ):
        PartitionDirectory.open(directory, files=files)


def test_a_view_reads_beside_a_writer_and_changes_nothing(files: FileLayer, directory: Path) -> None:
    with PartitionDirectory.open(directory, FOUR, files) as store:
        store.append([batch_of(numbered(10, 1))])
        os.truncate(directory / "chunk-000000.idx", 50)
        os.truncate(directory / "chunk-000001.data", 60)
        with (directory / "chunk-000002.desc").open("ab") as file:
            file.write(b"torn")
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        with follow(directory, files) as seen:
            assert seen.event_count == 11
            assert served(seen) == {n: numbered(n, 1)[0] for n in range(11) if n not in range(4, 8)}
            assert [chunk.count for chunk in seen.chunks] == [4, 4, 3]
            assert len(seen.damaged) == 2
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_view_of_what_is_no_directory_is_a_clear_error(files: FileLayer, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        follow(tmp_path / "nothing", files)
    assert not (tmp_path / "nothing").exists()
