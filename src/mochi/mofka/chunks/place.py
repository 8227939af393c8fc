"""How a partition's directory is removed: at once for whoever opens it, and whole after any crash.

The directory, whose name ends with the partition's uuid, is renamed to ``.deleted-<uuid>`` beside it first, which is
one step, and fits wherever the name itself did; then what is in it goes file by file. So a removal that was cut short
has either not begun, or has left nothing at the place where a partition is opened, and is finished by another call.
Only what is ours is removed: chunk files, and files named ``mofka.*``. Any other file, such as a quarantine file,
stays, and keeps the directory that it is in.
"""

import itertools
import os
from typing import Protocol

from mochi.disk.contract import File
from mochi.mofka.chunks.format.layout import LOCK_NAME, belongs

ASIDE = ".deleted"
"""What stands for the topic in the name of a directory that is being removed; ``-<n>`` follows if others are left."""

_UUID_LENGTH = 36


class RemovingFiles(Protocol):
    """A file system, as far as a removal needs one; refusals are `StorageError`."""

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory of this name."""

    def list_directory(self, path: str) -> list[str]:
        """Give the names in a directory, in any order."""

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory are on disk."""

    def lock(self, path: str) -> File:
        """Make a lock file and hold its lock until it is closed; `PartitionLocked` if another does."""

    def rename(self, path: str, target: str) -> None:
        """Give a file or directory another name, which is free."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory, or a link to one."""


def remove_partition(files: RemovingFiles, directory: str) -> list[str]:
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


def _clear(files: RemovingFiles, directory: str) -> list[str]:
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
