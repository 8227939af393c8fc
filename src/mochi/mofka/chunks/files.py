"""The few calls that storage makes of the operating system; nothing else in this package makes any.

`FileLayer` and `File` are what the rest is written against, so that a test can put a layer in between that
records, tears or fails; `PosixFiles` and the files of an abt_io instance are the real ones. A refusal of the
operating system comes out as one of `REFUSALS`, with its `errno`: of `PosixFiles` as a `StorageError` that names the
file and the operation, of others as it is. Whoever decides on a refusal catches all of them. A call either does all
that was asked or raises: short reads and
writes are continued here. Calls may be made from several threads at once, each at its own offsets.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from mochi.margo.shortage import lacks_descriptors
from mochi.mofka.chunks.errors import REFUSALS, PartitionLocked, StorageError, SyncFailed

Buffer = bytes | bytearray | memoryview

_IOV_MAX = os.sysconf("SC_IOV_MAX")


class File(Protocol):
    """An open file, read and written at given offsets."""

    @property
    def path(self) -> str:
        """Path that it was opened by."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one after the other, from `offset` on."""

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on; a file that ends before is an error."""

    def sync(self) -> None:
        """Return when all that was written is on disk; what a failed call did not write is lost for good."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def close(self) -> None:
        """Close the file, which releases its lock; the object is of no use afterwards."""


class FileLayer(Protocol):
    """A file system, as far as storage needs one."""

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory of this name."""

    def make_directory(self, path: str) -> bool:
        """Make a directory in one that is there; tell whether it was missing. A file in its place is an error."""

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory, or a link to one."""

    def list_directory(self, path: str) -> list[str]:
        """Give the names in a directory, in any order."""

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory are on disk."""

    def size(self, path: str) -> int:
        """Give the length of a file in bytes; a directory (EISDIR) or a device (EINVAL) is none."""

    def sync_all(self, files: Sequence[File]) -> None:
        """Return when all that was written to several files is on disk, as after `File.sync` of each."""

    def rename(self, path: str, target: str) -> None:
        """Give a file another name; a file that has it already is no more."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def open(self, path: str, *, writable: bool) -> File:
        """Open a file for reading; or for both reading and writing, and then make it if it is missing."""

    def lock(self, path: str) -> File:
        """Make a lock file and hold its lock until it is closed; refused if another does."""


class PosixFiles:
    """The file system of this machine. Forked children share the lock that their parent holds."""

    def make_directory(self, path: str) -> bool:
        with _reporting("make", path):
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NotADirectoryError(errno.ENOTDIR, "is not a directory") from None
                return False
            return True

    def list_directory(self, path: str) -> list[str]:
        with _reporting("list", path):
            return os.listdir(path)

    def sync_directory(self, path: str) -> None:
        with _reporting("sync", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def size(self, path: str) -> int:
        with _reporting("examine", path):
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory, not a file")
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file")
            return found.st_size

    def sync_all(self, files: Sequence[File]) -> None:
        for file in files:
            file.sync()

    def is_directory(self, path: str) -> bool:
        with _reporting("examine", path):
            return os.path.isdir(path)

    def rename(self, path: str, target: str) -> None:
        with _reporting("rename", path):
            os.rename(path, target)

    def remove(self, path: str) -> None:
        with _reporting("remove", path):
            os.unlink(path)

    def remove_directory(self, path: str) -> None:
        with _reporting("remove", path):
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)

    def open(self, path: str, *, writable: bool) -> File:
        with _reporting("open", path):
            return PosixFile(os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o644), path)

    def lock(self, path: str) -> File:
        with _reporting("lock", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            file = PosixFile(fd, path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(fd).st_nlink:
                    problem = f"{path} was removed just now, by whoever had it locked"
                    raise PartitionLocked(problem, path=path, operation="lock", errno=errno.EAGAIN)
                # A full disk has no room for the name, and the lock holds without.
                with suppress(StorageError):
                    holder = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
                    file.write([holder], 0)
                    file.truncate(len(holder))
            except BlockingIOError as error:
                refusal = _locked(fd, path, error)
                file.close()
                raise refusal from None
            except BaseException:
                file.close()
                raise
            return file

    def lock_shared(self, path: str) -> File:
        """Keep out whoever wants the lock of a lock file that is there, and is not changed; others may share it."""
        with _reporting("lock", path):
            fd = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                refusal = _locked(fd, path, error)
                os.close(fd)
                raise refusal from None
            return PosixFile(fd, path)


class PosixFile:
    """A file descriptor and the path it was opened by."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        pending = [view for buffer in buffers if (view := memoryview(buffer).cast("B"))]
        first = 0
        with _reporting("write", self.path):
            while first < len(pending):
                written = os.pwritev(self._fd, pending[first : first + _IOV_MAX], offset)
                if not written:
                    raise OSError(errno.EIO, f"nothing was written at byte {offset}")
                offset += written
                while first < len(pending) and written >= len(pending[first]):
                    written -= len(pending[first])
                    first += 1
                if written:
                    pending[first] = pending[first][written:]

    def read(self, target: memoryview, offset: int) -> None:
        with _reporting("read", self.path):
            while target:
                got = os.preadv(self._fd, [target], offset)
                if not got:
                    raise OSError(errno.EIO, f"the file ends at byte {offset}, {len(target)} bytes too early")
                offset += got
                target = target[got:]

    def sync(self) -> None:
        with _reporting("sync", self.path):
            os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        with _reporting("truncate", self.path):
            os.ftruncate(self._fd, size)

    def close(self) -> None:
        with _reporting("close", self.path):
            os.close(self._fd)


def _locked(fd: int, path: str, error: OSError) -> PartitionLocked:
    """Give the error for a lock that somebody holds."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 256, 0).decode(errors="replace").strip() or "a process"
    else:
        holder = "whoever checks it just now"
    return PartitionLocked(
        f"{path} is locked by {holder}; one store at a time may have the directory open",
        path=path,
        operation="lock",
        errno=error.errno,
    )


@contextmanager
def syncing(path: str) -> Iterator[None]:
    """Let any failure of a sync come out as `SyncFailed`, whatever the error number.

    One is none: that there was no descriptor to open a directory by, which no sync ever says.
    """
    try:
        yield
    except (*REFUSALS, MemoryError) as error:
        if lacks_descriptors(error):
            raise
        where = getattr(error, "path", "") or getattr(error, "filename", "") or path
        problem = str(error) or "out of memory"
        raise SyncFailed(
            problem, path=where, operation="sync", errno=getattr(error, "errno", None)
        ) from error


@contextmanager
def _reporting(operation: str, path: str) -> Iterator[None]:
    """Let refusals of the operating system come out as a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError.refused(operation, path, error) from error
