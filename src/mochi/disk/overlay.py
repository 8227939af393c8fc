"""A file layer that keeps to itself whatever is changed: files below it are only ever read.

What a recovery would do to a directory is found by letting it: over an overlay it does all of it, and the disk stays as
it is. Bytes written are kept in unnamed temporary files, so memory does not grow with them. One thread at a time
changes an overlay; any may read what is not changed just now.

Invariants
----------
1. Nothing below is made, written or cut, and locks there are shared.
2. What is read is what would be read if the changes had been made below, or reading is refused.
"""

import errno
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from mochi.disk.contract import Buffer, File, FileLayer
from mochi.disk.errors import StorageError
from mochi.disk.files import PlainCalls, PosixFile


class Cut(NamedTuple):
    """A file that was cut: its path, the bytes cut off, and the file that was made last before."""

    path: str
    begin: int
    end: int
    aside: str


class Overlay:
    """Files of `below`, with changes that nobody else sees; to be closed.

    Parameters
    ----------
    unkept : str
        How the names of files begin that nobody reads; of these the size alone is kept.

    Attributes
    ----------
    cuts : list of Cut
        All cuts so far.
    removed : list of str
        Paths of all files that were removed so far.
    """

    def __init__(self, below: FileLayer, unkept: str) -> None:
        self.cuts: list[Cut] = []
        self.removed: list[str] = []
        self._below = below
        self.unkept = unkept
        self._files: dict[str, _Content] = {}
        self._made: list[str] = []
        self._resources = ExitStack()

    @property
    def changed(self) -> list[str]:
        """Paths of the files that were made or changed, sorted."""
        return sorted(path for path, content in self._files.items() if content.changed or path in self._made)

    def is_directory(self, path: str) -> bool:
        return self._below.is_directory(path)

    def make_directory(self, path: str, *, private: bool) -> bool:
        raise StorageError(f"cannot make {path}: it is only read", path=path, operation="make")

    def remove_directory(self, path: str) -> None:
        raise StorageError(f"cannot remove {path}: it is only read", path=path, operation="remove")

    def list_directory(self, path: str) -> list[str]:
        made = [os.path.basename(each) for each in self._made if os.path.dirname(each) == path]
        below = self._below.list_directory(path)
        return [name for name in below if os.path.join(path, name) not in self.removed] + made

    def sync_directory(self, path: str) -> None:
        pass

    def size(self, path: str) -> int:
        content = self._files.get(path)
        return content.size if content else self._below_size(path)

    def sync_all(self, files: Sequence[File]) -> None:
        pass

    def open(self, path: str, *, writable: bool) -> File:
        below = None
        if path not in self._made:
            try:
                below = self._open_below(path)
            except StorageError as error:
                if error.errno != errno.ENOENT or not writable:
                    raise
                self._made.append(path)
        if writable and path not in self._files:
            self._files[path] = _Content(0 if below is None else self._below_size(path), self._resources)
        content = self._files.get(path)
        if below is not None and content is None:
            return below
        assert content is not None
        return _OverlayFile(self, path, below, content)

    def lock(self, path: str) -> File:
        """Keep out who would change the files below: nobody, where there is no lock file."""
        if os.path.basename(path) in self._below.list_directory(os.path.dirname(path)):
            return self._below.lock_shared(path)  # invariant 1
        return self.open(path, writable=True)

    def lock_shared(self, path: str) -> File:
        return self._below.lock_shared(path)

    def hide(self, path: str, size: int) -> None:
        """Show no more of a file than its first bytes."""
        self._files.setdefault(path, _Content(self._below.size(path), self._resources)).truncate(size)

    def remove(self, path: str) -> None:
        self.size(path)
        self._files.pop(path, None)
        if path in self._made:
            self._made.remove(path)
        elif path not in self.removed:
            self.removed.append(path)

    def rename(self, path: str, target: str) -> None:
        content = bytearray(self.size(path))
        with closing(self.open(path, writable=False)) as file:
            file.read(memoryview(content), 0)
        self.remove(path)
        if os.path.basename(target) in self.list_directory(os.path.dirname(target)):
            self.remove(target)
        with closing(self.open(target, writable=True)) as file:
            file.write([content], 0)

    def close(self) -> None:
        """Forget all changes."""
        self._resources.close()

    def _below_size(self, path: str) -> int:
        self._see_that_it_is_there(path)
        return self._below.size(path)

    def _open_below(self, path: str) -> File:
        self._see_that_it_is_there(path)
        return self._below.open(path, writable=False)  # invariant 1

    def _see_that_it_is_there(self, path: str) -> None:
        if path in self.removed:
            raise StorageError.refused("open", path, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))

    def cut(self, path: str, begin: int, end: int) -> None:
        """Take note of a cut."""
        self.cuts.append(Cut(path, begin, end, self._made[-1] if self._made else ""))


class _Content:
    """What a file has: its first bytes from below, and what was written over them."""

    def __init__(self, size: int, resources: ExitStack) -> None:
        self.size = size
        self.changed = False
        self.kept = True
        self._from_below = size
        self._written: list[tuple[int, int]] = []
        self._store: File | None = None
        self._resources = resources

    def write(self, content: memoryview, offset: int) -> None:
        if self._store is None:
            name = f"a temporary file in {tempfile.gettempdir()}"
            try:
                unnamed = tempfile.TemporaryFile()  # noqa: SIM115
            except OSError as error:
                raise StorageError.refused("open", name, error) from error
            self._resources.callback(unnamed.close)
            self._store = PosixFile(name, unnamed.fileno(), PlainCalls())
        self._store.write([content], offset)
        start, stop = offset, offset + len(content)
        apart = [(begin, end) for begin, end in self._written if end < start or stop < begin]
        touching = [extent for extent in self._written if extent not in apart]
        merged = (
            min([start, *(begin for begin, _ in touching)]),
            max([stop, *(end for _, end in touching)]),
        )
        self._written = sorted([*apart, merged])
        self.size = max(self.size, stop)
        self.changed = True

    def extend(self, size: int) -> None:
        """Take note of bytes that are written, and not kept."""
        self.size = max(self.size, size)
        self.kept = False
        self.changed = True

    def truncate(self, size: int) -> None:
        self.size = size
        self._from_below = min(self._from_below, size)
        self._written = [(begin, min(end, size)) for begin, end in self._written if begin < size]
        self.changed = True

    def read(self, below: File | None, target: memoryview, offset: int) -> None:
        stop = offset + len(target)
        covered = any(begin <= offset and stop <= end for begin, end in self._written)
        if not covered:
            held = max(0, min(stop, self._from_below) - offset)
            if below is not None and held:
                below.read(target[:held], offset)
            target[held:] = bytes(len(target) - held)
        for begin, end in self._written:
            low, high = max(begin, offset), min(end, stop)
            if low < high and self._store is not None:
                self._store.read(target[low - offset : high - offset], low)


class _OverlayFile:
    """A file of an overlay that may be written."""

    def __init__(self, overlay: Overlay, path: str, below: File | None, content: _Content) -> None:
        self.path = path
        self._overlay = overlay
        self._below = below
        self._content = content

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            if os.path.basename(self.path).startswith(self._overlay.unkept):
                self._content.extend(offset + len(view))
            elif view:
                self._content.write(view, offset)
            offset += len(view)

    def read(self, target: memoryview, offset: int) -> None:
        if (missing := offset + len(target) - self._content.size) > 0:
            problem = f"the file ends at byte {self._content.size}, {missing} bytes too early"
            raise StorageError.refused("read", self.path, OSError(errno.EIO, problem))
        if not self._content.kept:  # invariant 2
            raise StorageError(f"what {self.path} has was not kept", path=self.path, operation="read")
        self._content.read(self._below, target, offset)

    def sync(self) -> None:
        pass

    def truncate(self, size: int) -> None:
        self._overlay.cut(self.path, size, self._content.size)
        self._content.truncate(size)

    def close(self) -> None:
        if self._below is not None:
            self._below.close()
