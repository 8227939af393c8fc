"""The place of a partition: its directory made and locked, taken back if nothing comes of it, or removed.

A directory is removed in two steps, so that any crash leaves it there or gone. First it is renamed to
``.deleted-<uuid>`` beside, which fits wherever the name itself did; then what is in it goes file by file, which another
call finishes. Only what is ours is removed: chunk files, and files named ``mofka.*``. Any other file, such as a
quarantine file, stays, and keeps the directory that it is in.

Invariants:
1. What was there before a directory was made stays, and so does what somebody else has put into it meanwhile.
2. Files are taken back only under the lock, and only where there was no file of a partition before.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mochi.disk import File, FileLayer, lacks_locks
from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.format.layout import LOCK_NAME, belongs


@contextmanager
def made_and_locked(files: FileLayer, path: str) -> Iterator[File]:
    """Make a partition's directory and its parents where they are missing, and lock it for the body.

    Gives the lock, which is the caller's to close. If the body fails it is closed, and all that was made is removed.
    These are files of a partition that were not there, and directories of this call as far as they are empty.

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
    if any(belongs(name) and name != LOCK_NAME for name in before):  # invariant 2
        return
    new = [name for name in files.list_directory(path) if belongs(name) and name not in before]
    for name in sorted(new, key=LOCK_NAME.__eq__):
        files.remove(os.path.join(path, name))


ASIDE = ".deleted"
"""What stands for the topic in the name of a directory that is being removed; ``-<n>`` follows if others are left."""

_UUID_LENGTH = 36


def remove_partition(files: FileLayer, directory: str) -> list[str]:
    """Remove a partition's directory that nobody has open, and what earlier removals of it have left.

    Returns
    -------
    list of str
        Paths of what is not ours to remove, and stays; sorted. A directory that is missing is no error.

    Raises
    ------
    PartitionLocked
        If a store has the directory open; nothing is changed then.
    StorageError
        If the operating system refuses a call; another call goes on from there.

    Notes
    -----
    One system call for each file, and one sync of the directory above for each of two steps.
    """
    parent, name = os.path.split(os.path.abspath(directory))
    if not files.is_directory(parent):
        return []
    first = f"{ASIDE}-{name[-_UUID_LENGTH:]}"
    names = (first, f"{first}-", f"{name}{ASIDE}-")  # the last as earlier versions named it
    aside = [entry for entry in files.list_directory(parent) if entry == first or entry.startswith(names[1:])]
    if files.is_directory(directory):
        free = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(1)))
        aside.append(next(entry for entry in free if entry not in aside))
        lock = files.lock(os.path.join(directory, LOCK_NAME))
        try:
            files.rename(directory, os.path.join(parent, aside[-1]))
        finally:
            lock.close()
        files.sync_directory(parent)
    kept = [path for entry in aside for path in _clear(files, os.path.join(parent, entry))]
    files.sync_directory(parent)
    return sorted(kept)


def _clear(files: FileLayer, directory: str) -> list[str]:
    """Remove what is ours in a directory, and the directory if nothing else is in it; return what is."""
    kept = []
    for name in files.list_directory(directory):
        path = os.path.join(directory, name)
        if belongs(name):
            files.remove(path)
        else:
            kept.append(path)
    if not kept:
        files.remove_directory(directory)
    return kept
