"""A partition's directory is removed as a whole, however often that is cut short."""

from itertools import count
from pathlib import Path

import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import (
    ChunkConfig,
    PartitionDirectory,
    PartitionLocked,
    StorageError,
    remove_partition,
)
from tests.chunks.chunk_events import batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

EVENTS = numbered(0, 25)


def fill(directory: Path) -> None:
    """Store `EVENTS` in some chunks."""
    with PartitionDirectory.open(directory, ChunkConfig(max_events_per_chunk=10)) as store:
        for first in range(0, 25, 5):
            store.append([batch_of(EVENTS[first : first + 5])])


def test_nothing_is_left_of_a_directory_that_has_only_what_is_the_partitions_own(tmp_path: Path) -> None:
    fill(tmp_path / "topic-1")
    fill(tmp_path / "topic-11")
    assert remove_partition(PosixFiles(), str(tmp_path / "topic-1")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["topic-11"]
    with PartitionDirectory.open(tmp_path / "topic-11") as store:
        assert events_of(store) == EVENTS


def test_a_directory_that_is_missing_is_no_error(tmp_path: Path) -> None:
    assert remove_partition(PosixFiles(), str(tmp_path / "topic-1")) == []
    assert remove_partition(PosixFiles(), str(tmp_path / "no" / "topic-1")) == []


def test_what_is_not_the_partitions_own_stays_and_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "topic-1"
    for number in range(3):
        fill(directory)
        (directory / "quarantine-000000-meta-0").write_bytes(b"torn")
        (directory / "notes.txt").write_text("mine")
        kept = remove_partition(PosixFiles(), str(directory))
        expected = {
            str(tmp_path / aside / name)
            for aside in (".deleted-topic-1", ".deleted-topic-1-1", ".deleted-topic-1-2")[: number + 1]
            for name in ("quarantine-000000-meta-0", "notes.txt")
        }
        assert set(kept) == expected
        assert {str(path) for path in tmp_path.rglob("*") if path.is_file()} == expected
        assert not directory.exists()


def test_whatever_the_length_of_its_name_a_directory_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / f"{'t' * 218}-5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"
    fill(directory)
    (directory / "notes.txt").write_text("mine")
    aside = tmp_path / ".deleted-5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"
    assert remove_partition(PosixFiles(), str(directory)) == [str(aside / "notes.txt")]
    assert list(tmp_path.iterdir()) == [aside]


def test_what_an_earlier_version_left_is_found_by_its_name(tmp_path: Path) -> None:
    for left in ("topic-1.deleted-0", "topic-1.deleted-7", "topic-11.deleted-0"):
        fill(tmp_path / left)
    assert remove_partition(PosixFiles(), str(tmp_path / "topic-1")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["topic-11.deleted-0"]


def test_a_directory_that_is_open_is_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "topic-1")
    with PartitionDirectory.open(tmp_path / "topic-1") as store:
        with pytest.raises(PartitionLocked):
            remove_partition(PosixFiles(), str(tmp_path / "topic-1"))
        assert events_of(store) == EVENTS


def test_a_link_to_a_directory_goes_with_what_is_in_it(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    (tmp_path / "topic-1").symlink_to(tmp_path / "elsewhere")
    assert remove_partition(PosixFiles(), str(tmp_path / "topic-1")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_new_name_is_on_disk_before_any_file_goes(tmp_path: Path) -> None:
    fill(tmp_path / "topic-1")
    files = RecordingFiles()
    remove_partition(files, str(tmp_path / "topic-1"))
    operations = [operation for operation, _ in files.calls]
    assert operations[:2] == ["rename", "sync"]
    assert set(operations[2:-1]) == {"remove"}
    assert operations[-1] == "sync"


def test_wherever_a_removal_is_cut_short_the_partition_is_whole_or_gone_and_another_call_ends_it(
    tmp_path: Path,
) -> None:
    outcomes = set()
    for fail_at in count():
        parent = tmp_path / str(fail_at)
        directory = parent / "topic-1"
        fill(directory)
        try:
            remove_partition(RecordingFiles(fail_at), str(directory))
        except StorageError:
            pass
        else:
            assert fail_at > 15
            break
        outcomes.add(directory.exists())
        if directory.exists():
            with PartitionDirectory.open(directory) as store:
                assert events_of(store) == EVENTS
        assert remove_partition(PosixFiles(), str(directory)) == []
        assert list(parent.iterdir()) == []
    assert outcomes == {True, False}
