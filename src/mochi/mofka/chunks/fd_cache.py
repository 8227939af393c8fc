"""Files kept open for reading, so that a read seldom has to open one.

Invariants: a file that someone is reading is never closed; at most `capacity` files stay open, but for the
ones in use beyond that; of the others the one not used for longest is closed first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.files import File, FileLayer


@dataclass(slots=True)
class _Entry:
    file: File
    users: int = 0
    is_forgotten: bool = False


class FdCache:
    """Files open for reading, by path. Any thread may use it; files are opened one at a time."""

    def __init__(self, files: FileLayer, capacity: int) -> None:
        self._files = files
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def open(self, path: str) -> Iterator[File]:
        """Lend the file while the context lasts. About 2 µs when it is open already."""
        with self._lock:
            if not self._capacity:
                raise StorageError(f"cannot read {path}: the store is closed", path=path, operation="read")
            entry = self._entries.get(path)
            if entry is None:
                entry = self._entries[path] = _Entry(self._files.open(path, writable=False))
            entry.users += 1
            self._entries.move_to_end(path)
            self._evict()
        try:
            yield entry.file
        finally:
            with self._lock:
                entry.users -= 1
                if entry.is_forgotten and not entry.users:
                    entry.file.close()
                self._evict()

    def forget(self, paths: Iterable[str]) -> None:
        """Close files that are removed, those in use as soon as their last user is done."""
        with self._lock:
            for path in paths:
                entry = self._entries.pop(path, None)
                if entry is not None:
                    entry.is_forgotten = True
                    if not entry.users:
                        entry.file.close()

    def close(self) -> None:
        """Close all files, those in use as soon as their last user is done, and lend no more."""
        with self._lock:
            self._capacity = 0
            self._evict()

    def _evict(self) -> None:
        excess = len(self._entries) - self._capacity
        if excess > 0:
            idle = [path for path, entry in self._entries.items() if not entry.users]
            for path in idle[:excess]:
                self._entries.pop(path).file.close()
