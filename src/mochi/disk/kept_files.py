"""The files that a partition has open to be written, which may be closed and opened again in between.

Invariants
----------
1. A descriptor is closed only when nobody uses the files, and what was written by it is on disk.
2. A file that is opened again is there: none is made anew in the place of one that was taken away.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

from mochi.disk.contract import Buffer, File, FileLayer
from mochi.disk.descriptors import Descriptors, Holder


class RoomyFiles:
    """A file layer that makes room where a call finds no descriptor."""

    def __init__(self, files: FileLayer, descriptors: Descriptors) -> None:
        self.descriptors = descriptors
        self._files = files
        self.is_directory = files.is_directory
        self.make_directory = files.make_directory
        self.remove_directory = files.remove_directory
        self.rename = files.rename
        self.remove = files.remove
        self.size = files.size

    def list_directory(self, path: str) -> list[str]:
        return self.descriptors.call(partial(self._files.list_directory, path))

    def sync_directory(self, path: str) -> None:
        self.descriptors.call(partial(self._files.sync_directory, path))

    def sync_all(self, files: Sequence[File]) -> None:
        self._files.sync_all(files)

    def open(self, path: str, *, writable: bool) -> File:
        return self.descriptors.call(partial(self._files.open, path, writable=writable))

    def lock(self, path: str) -> File:
        return self.descriptors.call(partial(self._files.lock, path))

    def lock_shared(self, path: str) -> File:
        return self.descriptors.call(partial(self._files.lock_shared, path))


class KeptFiles(RoomyFiles, Holder):
    """A file layer whose open files are a holder of descriptors, for one partition's writer.

    Attributes
    ----------
    when_short : callable
        Has whoever owns the partition put on disk what is written, unless that has to wait; called from any thread.
    """

    def __init__(self, files: FileLayer, descriptors: Descriptors) -> None:
        RoomyFiles.__init__(self, files, descriptors)
        Holder.__init__(self)
        self.when_short: Callable[[], None] = lambda: None
        self._open: list[KeptFile] = []

    def open(self, path: str, *, writable: bool) -> "KeptFile":
        """Open a file, now; it may be closed and opened again whenever the files are not in use."""
        kept = KeptFile(self, path)
        kept.file = self.opened(path, writable=writable)
        self._open.append(kept)
        return kept

    def opened(self, path: str, *, writable: bool) -> File:
        """Open a file that counts."""
        return self.descriptors.open(partial(self._files.open, path, writable=writable))

    def sync_all(self, files: Sequence[File]) -> None:
        """Return when all that was written to files of this layer is on disk."""
        unsettled = [(kept, kept.file, kept.written) for kept in cast(Sequence[KeptFile], files) if kept.file]
        self._files.sync_all([file for _, file, _ in unsettled])
        for kept, _, written in unsettled:
            kept.synced = max(kept.synced, written)

    def use(self) -> None:
        """Keep what is open until it rests as often."""
        self.descriptors.use(self)

    def rest(self) -> None:
        """Let what is open be closed."""
        self.descriptors.rest(self)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep what is open for the body."""
        self.use()
        try:
            yield
        finally:
            self.rest()

    def unsynced(self) -> list["KeptFile"]:
        """Return the files by which something was written that may not be on disk."""
        return [kept for kept in self._open if kept.written != kept.synced]

    def is_unsynced(self) -> bool:
        """Tell whether there is any such file."""
        return any(kept.written != kept.synced for kept in self._open)  # invariant 1

    def settle(self) -> None:
        """Have the files put on disk."""
        self.when_short()

    def give_up(self) -> list[File]:
        """Part with the files that are open, for the caller to close."""
        files = [kept.file for kept in self._open if kept.file is not None]
        for kept in self._open:
            kept.file = None
        return files

    def closed(self, kept: "KeptFile") -> None:
        """Know of a file no more."""
        self._open.remove(kept)
        if kept.file is not None:
            self.descriptors.closed()
            kept.file.close()


class KeptFile:
    """A file of `KeptFiles`, to be used while they are in use.

    Attributes
    ----------
    file : File or None
        What is open, if anything is.
    written, synced : int
        How often it was written, and how many of these writes are on disk.
    """

    __slots__ = ("_files", "file", "path", "synced", "written")

    def __init__(self, files: KeptFiles, path: str) -> None:
        self._files = files
        self.path = path
        self.file: File | None = None
        self.written = 0
        self.synced = 0

    def _opened(self) -> File:
        self._files.size(self.path)  # invariant 2
        self.file = self._files.opened(self.path, writable=True)
        return self.file

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        file = self.file or self._opened()
        self.written += 1
        file.write(buffers, offset)

    def read(self, target: memoryview, offset: int) -> None:
        (self.file or self._opened()).read(target, offset)

    def truncate(self, size: int) -> None:
        file = self.file or self._opened()
        self.written += 1
        file.truncate(size)

    def sync(self) -> None:
        self._files.sync_all([self])

    def close(self) -> None:
        self._files.closed(self)
