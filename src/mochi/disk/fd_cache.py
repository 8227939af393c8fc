"""Files of a partition that are kept open for reading, so that a read seldom has to open one.

Invariants
----------
1. A file that someone is reading is never closed.
2. At most `capacity` files stay open, but for those in use. The one not used for longest is closed first, and any
   where the process has no room (`descriptors`).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from mochi.disk.contract import File, FileLayer
from mochi.disk.descriptors import Descriptors, Holder, close_all
from mochi.disk.errors import StorageError


class _Entry(Holder):
    """A file that is open for reading."""

    __slots__ = ("_cache", "file", "path")

    def __init__(self, cache: "FdCache", path: str, file: File) -> None:
        super().__init__()
        self._cache = cache
        self.path = path
        self.file = file

    def give_up(self) -> Sequence[File]:
        self._cache.drop(self)
        return [self.file]


class FdCache:
    """Files open for reading, by path. Any thread may use it.

    Parameters
    ----------
    capacity : int
        Files that stay open at most.
    descriptors : Descriptors
        Those of the process; its lock guards what is here as well.
    """

    def __init__(self, files: FileLayer, capacity: int, descriptors: Descriptors) -> None:
        self._files = files
        self._capacity = capacity
        self._descriptors = descriptors
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    @contextmanager
    def open(self, path: str) -> Iterator[File]:
        """Lend the file while the context lasts. About 3 µs when it is open already."""
        entry = self._used(path)
        if entry is None:
            entry = self._added(path, self._descriptors.open(partial(self._files.open, path, writable=False)))
        try:
            yield entry.file
        finally:
            with self._descriptors.lock:
                self._descriptors.holders.rest(entry)
                is_forgotten = self._entries.get(path) is not entry
                unwanted = self._unused([entry]) if is_forgotten else self._surplus()
            if unwanted:
                close_all(unwanted)

    def forget(self, paths: Iterable[str]) -> None:
        """Close files that are removed, those in use as soon as their last user is done."""
        with self._descriptors.lock:
            unwanted = self._unused([self._entries.pop(path) for path in paths if path in self._entries])
        close_all(unwanted)

    def close(self) -> None:
        """Close all files, those in use as soon as their last user is done, and lend no more."""
        with self._descriptors.lock:
            self._capacity = 0
            unwanted = self._surplus()
        close_all(unwanted)

    def drop(self, entry: _Entry) -> None:
        """Know of an entry no more, which is not in use; the caller has the lock."""
        del self._entries[entry.path]

    def _used(self, path: str) -> _Entry | None:
        """Use the entry of a path, if there is one."""
        with self._descriptors.lock:
            if not self._capacity:
                raise StorageError(f"cannot read {path}: the store is closed", path=path, operation="read")
            entry = self._entries.get(path)
            if entry is not None:
                self._entries.move_to_end(path)
                self._descriptors.holders.use(entry)
            return entry

    def _added(self, path: str, file: File) -> _Entry:
        """Use the entry of a path, with a file that was opened for it unless somebody else was sooner."""
        with self._descriptors.lock:
            entry = self._entries.setdefault(path, _Entry(self, path, file))
            self._descriptors.holders.use(entry)
            unwanted = self._surplus()  # invariant 2
            if entry.file is not file:
                self._descriptors.holders.open -= 1
                unwanted.append(file)
        close_all(unwanted)
        return entry

    def _surplus(self) -> list[File]:
        """Take out the files that are too many, and not in use; the caller has the lock."""
        count = len(self._entries) - self._capacity
        if count <= 0:
            return []
        surplus = [entry for entry in self._entries.values() if not entry.users][:count]
        for entry in surplus:
            del self._entries[entry.path]
        return self._unused(surplus)

    def _unused(self, entries: Iterable[_Entry]) -> list[File]:
        """Return the files of those that are not in use, counted no more; the caller has the lock."""
        holders = self._descriptors.holders
        unused = [entry for entry in entries if not entry.users]  # invariant 1
        for entry in unused:
            holders.forget(entry)
        holders.open -= len(unused)
        return [entry.file for entry in unused]
