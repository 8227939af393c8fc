"""Opening directories as crashes leave them, and as they do not."""

import os
import shutil
from pathlib import Path

import pytest

from mochi.mofka.chunks import ChunkConfig, CorruptPartition, PartitionDirectory, StorageError
from tests.chunks.chunk_events import batch_of, chunk_files, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

FOUR = ChunkConfig(max_events_per_chunk=4)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a partition of ten events as the original does: chunks of 4, 4 and 2, and no files of ours."""
    with PartitionDirectory.open(tmp_path / "p", FOUR) as store:
        store.append([batch_of(numbered(first, 2)) for first in range(0, 10, 2)])
    for ours in (tmp_path / "p").glob("mofka*"):
        ours.unlink()
    return tmp_path / "p"


def quarantined(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("quarantine-*"))}


def shorten(path: Path) -> None:
    """Take the last byte off a file."""
    os.truncate(path, path.stat().st_size - 1)


def extend(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def goes_on(directory: Path, kept: int) -> None:
    """See that `kept` events are there, that more can be appended after them, and that it stays so."""
    with PartitionDirectory.open(directory, FOUR) as store:
        assert events_of(store) == numbered(0, kept)
        assert store.append([batch_of(numbered(kept, 3))]) == [kept]
        assert events_of(store) == numbered(0, kept + 3)
    with PartitionDirectory.open(directory, FOUR) as store:
        assert events_of(store) == numbered(0, kept + 3)
        assert store.quarantined == []


def test_an_orderly_end_changes_nothing(directory: Path) -> None:
    before = chunk_files(directory)
    PartitionDirectory.open(directory).close()
    assert chunk_files(directory) == before
    assert quarantined(directory) == {}


def test_events_that_a_killed_process_left_are_made_durable_before_they_count(directory: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(directory, files=files):
        for kind in ("meta", "data", "desc", "idx"):
            assert ("sync", f"chunk-000002.{kind}") in files.calls


def test_a_torn_index_record_goes_to_quarantine(directory: Path) -> None:
    extend(directory / "chunk-000002.idx", b"torn")
    with PartitionDirectory.open(directory) as store:
        assert store.quarantined == ["quarantine-000002-idx-0"]
    assert quarantined(directory) == {"quarantine-000002-idx-0": b"torn"}
    goes_on(directory, 10)


@pytest.mark.parametrize(
    ("kind", "size", "kept"),
    [
        ("meta", 3, 9),
        ("meta", 2, 9),
        ("meta", 1, 8),
        ("meta", 0, 8),
        ("data", 39, 9),
        ("data", 19, 8),
        ("desc", 111, 9),
        ("desc", 55, 8),
    ],
)
def test_an_event_whose_bytes_are_short_is_not_whole(
    directory: Path, kind: str, size: int, kept: int
) -> None:
    os.truncate(directory / f"chunk-000002.{kind}", size)
    goes_on(directory, kept)


def test_what_is_cut_off_is_kept_beside(directory: Path) -> None:
    before = chunk_files(directory)
    shorten(directory / "chunk-000002.data")
    with PartitionDirectory.open(directory) as store:
        assert events_of(store) == numbered(0, 9)
    assert quarantined(directory) == {
        "quarantine-000002-data-0": before["chunk-000002.data"][20:-1],
        "quarantine-000002-desc-0": before["chunk-000002.desc"][56:],
        "quarantine-000002-idx-0": before["chunk-000002.idx"][48:],
        "quarantine-000002-meta-0": before["chunk-000002.meta"][2:],
    }


def test_records_of_zeros_are_not_events(directory: Path) -> None:
    extend(directory / "chunk-000002.idx", bytes(48 * 5 + 7))
    goes_on(directory, 10)
    assert quarantined(directory) == {"quarantine-000002-idx-0": bytes(48 * 5 + 7)}


def test_stale_records_of_earlier_bytes_are_not_events(directory: Path) -> None:
    path = directory / "chunk-000002.idx"
    extend(path, path.read_bytes()[:48])
    goes_on(directory, 10)


def test_a_batch_torn_before_its_index_does_not_come_back(directory: Path) -> None:
    for kind in ("meta", "data", "desc"):
        extend(directory / f"chunk-000002.{kind}", b"ghost" * 20)
    goes_on(directory, 10)
    assert set(quarantined(directory).values()) == {b"ghost" * 20}


def test_large_torn_tails_are_moved_whole(directory: Path) -> None:
    tail = os.urandom(1 << 20) + b"rest"
    extend(directory / "chunk-000002.data", tail)
    goes_on(directory, 10)
    assert quarantined(directory) == {"quarantine-000002-data-0": tail}


def test_earlier_quarantine_is_never_written_over(directory: Path) -> None:
    for content in (b"first", b"second", b"third"):
        extend(directory / "chunk-000002.idx", content)
        PartitionDirectory.open(directory).close()
    assert list(quarantined(directory).values()) == [b"first", b"second", b"third"]


def test_a_trailing_empty_chunk_is_the_one_to_append_to(directory: Path) -> None:
    for kind in ("meta", "data", "desc", "idx"):
        (directory / f"chunk-000003.{kind}").touch()
    with PartitionDirectory.open(directory) as store:
        store.append([batch_of(numbered(10, 1))])
        assert events_of(store) == numbered(0, 11)
    assert os.stat(directory / "chunk-000002.idx").st_size == 2 * 48
    assert os.stat(directory / "chunk-000003.idx").st_size == 48


def test_a_next_chunk_of_which_only_some_files_were_made_is_completed(directory: Path) -> None:
    (directory / "chunk-000003.data").touch()
    goes_on(directory, 10)
    assert (directory / "chunk-000003.idx").stat().st_size == 3 * 48


def test_bytes_in_chunks_after_the_last_event_go_to_quarantine(directory: Path) -> None:
    for chunk in (3, 4):
        for kind in ("meta", "data", "desc", "idx"):
            (directory / f"chunk-{chunk:06d}.{kind}").write_bytes(b"x" * chunk)
    with PartitionDirectory.open(directory, FOUR) as store:
        assert len(store.quarantined) == 8
        store.append([batch_of(numbered(first, 4)) for first in (10, 14, 18)])
        assert events_of(store) == numbered(0, 22)
    with PartitionDirectory.open(directory) as store:
        assert events_of(store) == numbered(0, 22)


def test_the_last_chunk_with_events_may_be_torn_before_empty_ones(directory: Path) -> None:
    shorten(directory / "chunk-000002.data")
    for kind in ("meta", "data", "desc", "idx"):
        (directory / f"chunk-000003.{kind}").touch()
    goes_on(directory, 9)


def refuses(directory: Path, problem: str) -> None:
    """See that opening fails, and changes nothing."""
    before = chunk_files(directory)
    with pytest.raises(CorruptPartition, match=problem) as caught:
        PartitionDirectory.open(directory)
    assert caught.value.operation == "recover"
    assert Path(caught.value.path).parent == directory
    assert chunk_files(directory) == before
    assert quarantined(directory) == {}


def test_a_missing_chunk_in_the_middle_is_refused(directory: Path) -> None:
    extend(directory / "chunk-000002.idx", b"torn")
    for kind in ("meta", "data", "desc", "idx"):
        (directory / f"chunk-000001.{kind}").unlink()
    refuses(directory, r"chunk-000001.idx is missing, though there is a chunk 2")


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("kind", ["meta", "data", "desc", "idx"])
def test_a_missing_file_is_refused(directory: Path, chunk: int, kind: str) -> None:
    (directory / f"chunk-{chunk:06d}.{kind}").unlink()
    refuses(directory, f"chunk-{chunk:06d}.{kind} is missing, though the chunk has")


@pytest.mark.parametrize("size", [0, 47, 100])
def test_an_empty_or_torn_index_in_the_middle_is_refused(directory: Path, size: int) -> None:
    os.truncate(directory / "chunk-000001.idx", size)
    refuses(directory, f"chunk-000001.idx has {size} bytes, but must have a positive multiple of 48")


@pytest.mark.parametrize("kind", ["meta", "data", "desc"])
def test_short_files_in_the_middle_are_refused(directory: Path, kind: str) -> None:
    shorten(directory / f"chunk-000001.{kind}")
    refuses(directory, r"chunk-000001.idx ends with a record of bytes that the chunk lacks")


def test_files_of_other_names_are_passed_over(directory: Path) -> None:
    for name in ("chunk-7.idx", "chunk-000009.bak", "notes"):
        (directory / name).write_bytes(b"mine")
    goes_on(directory, 10)


def test_a_failed_opening_lets_go_of_the_lock(directory: Path) -> None:
    os.rename(directory / "chunk-000001.data", directory / "aside")
    refuses(directory, "chunk-000001.data is missing")
    os.rename(directory / "aside", directory / "chunk-000001.data")
    goes_on(directory, 10)


def test_recovery_may_be_interrupted_at_any_call_and_run_again(directory: Path, tmp_path: Path) -> None:
    shorten(directory / "chunk-000002.data")
    extend(directory / "chunk-000002.idx", b"torn")
    whole = RecordingFiles()
    shutil.copytree(directory, tmp_path / "whole")
    PartitionDirectory.open(tmp_path / "whole", FOUR, whole).close()
    changing = len(whole.calls) - len(["meta", "data", "desc", "idx", "seals"])
    assert [operation for operation, _ in whole.calls].count("truncate") == 4
    for failing in range(changing):
        copy = tmp_path / str(failing)
        shutil.copytree(directory, copy)
        with pytest.raises(StorageError, match="made to fail"):
            PartitionDirectory.open(copy, FOUR, RecordingFiles(fail_at=failing))
        for part in (b"torn", (directory / "chunk-000002.data").read_bytes()[20:]):
            assert any(part in path.read_bytes() for path in copy.iterdir())
        goes_on(copy, 9)


def test_a_crash_after_events_without_data_and_then_some_with_it_loses_nothing(tmp_path: Path) -> None:
    events = [(b"m", b""), (b"n", b"data"), (b"o", b""), (b"p", b"more")]
    with PartitionDirectory.open(tmp_path / "running") as store:
        for event in events:
            store.append([batch_of([event])])
        shutil.copytree(tmp_path / "running", tmp_path / "killed")
    with PartitionDirectory.open(tmp_path / "killed") as store:
        assert events_of(store) == events
        assert store.damaged == []
