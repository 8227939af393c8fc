"""Making a partition's directory, and taking it back if it does not become a partition.

Invariants: what was there before stays as it is, and so does what somebody else has put into a directory meanwhile;
files are taken back only under the lock, and only where there was no file of a partition before.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mochi.disk import File, FileLayer, lacks_locks
from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.format.layout import LOCK_NAME, belongs


@contextmanager
def made_and_locked(files: FileLayer, path: str) -> Iterator[File]:
    """Make a partition's directory and its parents where they are missing, and lock it for the body.

    Gives the lock, which is the caller's to close. If the body fails it is closed, and all that was made is removed:
    files of a partition that were not there, and directories of this call as far as they are empty.

    Raises
    ------
    PartitionLocked
        If another has the directory open.
    StorageError
        If the operating system refuses a call.
    """
    made: list[str] = []
    try:
        _make_directories(files, os.path.abspath(path), made)
        before = files.list_directory(path)
        had_lock = LOCK_NAME in before
        lock = _lock(files, os.path.join(path, LOCK_NAME), had_lock)
        try:
            before = [name for name in files.list_directory(path) if had_lock or name != LOCK_NAME]
            yield lock
        except BaseException:
            with suppress(StorageError):
                _remove_new(files, path, before)
            lock.close()
            raise
    except BaseException:
        with suppress(StorageError):
            for directory in reversed(made):
                files.remove_directory(directory)
        raise


def _make_directories(files: FileLayer, path: str, made: list[str]) -> None:
    """Make what is missing of a path, each synced in the one above it, and note what was made."""
    missing = []
    while not files.is_directory(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        if files.make_directory(directory, private=directory == missing[0]):
            made.append(directory)
        files.sync_directory(os.path.dirname(directory))


def _lock(files: FileLayer, path: str, existed: bool) -> File:
    try:
        return files.lock(path)
    except StorageError as error:
        if lacks_locks(error) and not existed:
            with suppress(StorageError):
                files.remove(path)
        raise


def _remove_new(files: FileLayer, path: str, before: list[str]) -> None:
    """Remove the files of a partition that has just been begun, the lock's last; leave one that was there alone."""
    if any(belongs(name) and name != LOCK_NAME for name in before):
        return
    new = [name for name in files.list_directory(path) if belongs(name) and name not in before]
    for name in sorted(new, key=LOCK_NAME.__eq__):
        files.remove(os.path.join(path, name))
