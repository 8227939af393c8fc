"""The calls on files that storage is made of, at given offsets, complete or failed.

A call either does all that was asked or raises an `OSError` that names the file: short reads and writes are
continued here. Calls block, and may be made from several threads at once, each at its own offsets.
`null_io_read`, `null_io_write` and `trace_io` of the configuration take effect here.
"""

import errno
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

from mochi.abt_io.calls import Calls, SystemCalls
from mochi.abt_io.config import AbtIoConfig
from mochi.disk import share, take

Buffer = bytes | bytearray | memoryview

_IOV_MAX = os.sysconf("SC_IOV_MAX")


class Files:
    """The file system of this machine.

    Parameters
    ----------
    name : str
        Name of the provider, for the trace.
    config : AbtIoConfig
        Checked configuration.
    calls : Calls, optional
        How files are read, written and synced.
    by_umask : bool
        Whether the umask alone says who may use what is made; else it is the owner's (modes 0700 and 0600).
    """

    def __init__(
        self, name: str, config: AbtIoConfig, calls: Calls | None = None, *, by_umask: bool = False
    ) -> None:
        self._name = name
        self._start = time.monotonic()
        self.config = config
        self.calls = calls or SystemCalls()
        self._directory_mode, self._file_mode = (0o777, 0o666) if by_umask else (0o700, 0o600)

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory of this name."""
        with self.operation("stat", path):
            return os.path.isdir(path)

    def make_directory(self, path: str, *, private: bool) -> bool:
        """Make a directory in one that is there, and tell whether it was missing.

        One that is not private goes by the umask.

        Raises
        ------
        NotADirectoryError
            Something else has this name.
        """
        with self.operation("mkdir", path):
            try:
                os.mkdir(path, self._directory_mode if private else 0o777)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NotADirectoryError(errno.ENOTDIR, "is not a directory") from None
                return False
            return True

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        with self.operation("rmdir", path):
            os.rmdir(path)

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, in any order."""
        with self.operation("listdir", path):
            return os.listdir(path)

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory are on disk."""
        with self.operation("fsync", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def size(self, path: str) -> int:
        """Return the length of a file in bytes; a directory (EISDIR) or a device (EINVAL) is none."""
        with self.operation("stat", path):
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory, not a file")
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file")
            return found.st_size

    def rename(self, path: str, target: str) -> None:
        """Give a file another name; a file that has it already is no more."""
        with self.operation("rename", path):
            os.rename(path, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        with self.operation("unlink", path):
            os.unlink(path)

    def open(self, path: str, *, writable: bool) -> "File":
        """Open a file to read; or to read and write, and then make it if it is missing."""
        with self.operation("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, self._file_mode)
        return File(self, path, fd)

    def lock(self, path: str) -> "File":
        """Make a lock file and hold its lock until it is closed. Forked children share the lock.

        Raises
        ------
        BlockingIOError
            Another process, or another lock of this one, holds it; the message says which process.
        """
        return self._locked(self.open(path, writable=True), take)

    def lock_shared(self, path: str) -> "File":
        """Keep out whoever wants the lock of a file that is there, and is not changed; errors as `lock`."""
        return self._locked(self.open(path, writable=False), share)

    def _locked(self, file: "File", lock: Callable[[int], None]) -> "File":
        try:
            with self.operation("lock", file.path):
                lock(file.fd)
        except BaseException:
            file.close()
            raise
        return file

    def sync_all(self, files: Sequence["File"]) -> None:
        """Return when all that was written to the files is on disk, as `File.sync`; at once where that can be."""
        with ExitStack() as operations:
            for file in files:
                operations.enter_context(self.operation("fdatasync", file.path))
            if not self.config.null_io_write:
                for file, error in zip(files, self.calls.sync([file.fd for file in files]), strict=True):
                    if error is not None:
                        error.filename = file.path
                        raise error

    @contextmanager
    def operation(self, kind: str, path: str, offset: int = 0, length: int = 0) -> Iterator[None]:
        """Give an `OSError` of the body the file's path, and trace the body if the configuration asks for it.

        A line of the trace holds, much as the extended traces of Darshan do, module, provider, operation,
        offset and length in bytes, start and end in seconds since the provider was made, and the path.
        """
        start = time.monotonic()
        try:
            yield
        except OSError as error:
            error.filename = error.filename or path
            raise
        finally:
            if self.config.trace_io:
                begin, end = start - self._start, time.monotonic() - self._start
                sys.stderr.write(
                    f"X_ABT_IO {self._name} {kind} {offset} {length} {begin:.6f} {end:.6f} {path}\n"
                )


class File:
    """An open file.

    Attributes
    ----------
    path : str
        Path that it was opened by.
    fd : int
        File descriptor.
    """

    def __init__(self, files: Files, path: str, fd: int) -> None:
        self._files = files
        self.path = path
        self.fd = fd

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one after the other, from byte `offset` on, without joining them."""
        views = [memoryview(buffer) for buffer in buffers]
        pending = deque(view.cast("B") for view in views if view.nbytes)
        left = sum(map(len, pending))
        with self._files.operation("write", self.path, offset, left):
            while left and not self._files.config.null_io_write:
                written = self._files.calls.write(self.fd, list(islice(pending, _IOV_MAX)), offset)
                if not written:
                    raise OSError(errno.EIO, f"nothing could be written at byte {offset}")
                offset += written
                left -= written
                while left and written:
                    view = pending.popleft()
                    if written < len(view):
                        pending.appendleft(view[written:])
                    written -= min(written, len(view))

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on; a file that ends before is an error (EIO)."""
        with self._files.operation("read", self.path, offset, len(target)):
            while target and not self._files.config.null_io_read:
                count = self._files.calls.read(self.fd, target, offset)
                if not count:
                    raise OSError(errno.EIO, f"the file ends at byte {offset}, {len(target)} bytes too early")
                offset += count
                target = target[count:]

    def sync(self) -> None:
        """Return when all that was written is on disk; after a failure it is lost, for all one can know."""
        self._files.sync_all([self])

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes, or extend it with zeros."""
        with self._files.operation("ftruncate", self.path, length=size):
            os.ftruncate(self.fd, size)

    def close(self) -> None:
        """Close the file, which releases its lock."""
        with self._files.operation("close", self.path):
            os.close(self.fd)
