"""A partition that cannot be made leaves nothing behind, and takes nothing that is not its own with it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi.disk import PosixFile, PosixFiles
from mochi.mofka.chunks import PartitionDirectory, PartitionLocked, StorageError
from tests.chunks.chunk_events import batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles


def tree(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


class Meddling(RecordingFiles):
    """Files of a disk on which something happens, and then fails: at a call, or at all that make a file."""

    def __init__(self, happens: Callable[[], object], fail_at: int | None = None) -> None:
        super().__init__(fail_at, errno.ENOSPC)
        self.happens = happens

    def called(self, operation: str, path: str) -> None:
        if len(self.calls) == self.fail_at:
            self.happens()
        super().called(operation, path)


def test_a_failure_at_any_call_leaves_nothing_of_what_was_made(tmp_path: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(tmp_path / "whole" / "a" / "b", files=files):
        opening = len(files.calls)
    for directory in (tmp_path / "new" / "a" / "b", tmp_path):
        for failing in range(opening - 4 * (directory == tmp_path)):
            before = tree(tmp_path)
            with pytest.raises(StorageError, match="made to fail"):
                PartitionDirectory.open(directory, files=RecordingFiles(failing, errno.ENOSPC))
            assert tree(tmp_path) == before


def test_a_path_that_is_too_long_leaves_none_of_its_directories(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ENAMETOOLONG"):
        PartitionDirectory.open(tmp_path.joinpath(*["y" * 200] * 25))
    assert not tree(tmp_path)


def test_what_another_has_put_there_meanwhile_stays(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b" / "c"
    files = Meddling(lambda: (tmp_path / "a" / "other").touch(), 6)
    with pytest.raises(StorageError, match="made to fail"):
        PartitionDirectory.open(directory, files=files)
    assert tree(tmp_path) == ["a", "a/other"]
    files = Meddling(lambda: (directory / "notes.txt").touch(), 6)
    with pytest.raises(StorageError, match="made to fail"):
        PartitionDirectory.open(directory, files=files)
    assert tree(directory) == ["notes.txt"]


def test_a_directory_that_another_has_open_is_left_to_it(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "a") as store:
        before = tree(tmp_path)
        with pytest.raises(PartitionLocked):
            PartitionDirectory.open(tmp_path / "a")
        assert tree(tmp_path) == before
        store.append([batch_of(numbered(0, 1))])


def test_no_file_goes_where_there_was_a_partition(tmp_path: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(tmp_path, files=files) as store:
        store.append([batch_of(numbered(0, 3))])
    (tmp_path / "mofka.journal").unlink()
    before = set(tree(tmp_path))
    for failing in range(len(files.calls)):
        try:
            with PartitionDirectory.open(tmp_path, files=RecordingFiles(failing)) as store:
                assert events_of(store) == numbered(0, 3)
        except StorageError:
            pass
        assert set(tree(tmp_path)) >= before
    with PartitionDirectory.open(tmp_path) as store:
        assert events_of(store) == numbered(0, 3)


def test_a_file_system_without_locks_keeps_no_lock_file(tmp_path: Path) -> None:
    class WithoutLocks(PosixFiles):
        def lock(self, path: str) -> PosixFile:
            Path(path).touch()
            raise StorageError(f"cannot lock {path}", path=path, operation="lock", errno=errno.ENOLCK)

    with pytest.raises(StorageError, match="cannot lock"):
        PartitionDirectory.open(tmp_path / "a" / "b", files=WithoutLocks())
    assert not tree(tmp_path)


def test_a_directory_on_a_full_disk_is_locked_without_a_word_in_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    lock = PosixFiles().lock(str(tmp_path / "lock"))
    with pytest.raises(PartitionLocked, match=f"is locked by process {os.getpid()} on"):
        PosixFiles().lock(str(tmp_path / "lock"))
    lock.close()
