"""The file system of this machine, by one system call for each thing that is asked."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mochi.disk.contract import Buffer, File
from mochi.disk.errors import Locked, StorageError, SyncFailed, lacks_descriptors
from mochi.disk.locks import share, take

_IOV_MAX = os.sysconf("SC_IOV_MAX")


class PosixFiles:
    """The file system of this machine. Forked children share the lock that their parent holds.

    Parameters
    ----------
    by_umask : bool
        Whether the umask alone says who may use what is made; else it is the owner's (modes 0700 and 0600).
    """

    def __init__(self, *, by_umask: bool = False) -> None:
        self._directory_mode, self._file_mode = (0o777, 0o666) if by_umask else (0o700, 0o600)

    def make_directory(self, path: str, *, private: bool) -> bool:
        with _reporting("make", path):
            try:
                os.mkdir(path, self._directory_mode if private else 0o777)
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
            flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
            return PosixFile(os.open(path, flags, self._file_mode), path)

    def lock(self, path: str) -> File:
        with _reporting("lock", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, self._file_mode)
            return _locked(fd, path, take)

    def lock_shared(self, path: str) -> File:
        with _reporting("lock", path):
            return _locked(os.open(path, os.O_RDONLY), path, share)


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


def _locked(fd: int, path: str, lock: Callable[[int], None]) -> "PosixFile":
    """Return the file once `lock` has locked it; closes it otherwise."""
    try:
        lock(fd)
    except BlockingIOError as error:
        os.close(fd)
        raise Locked(f"{path} is {error.strerror}", path=path, operation="lock", errno=error.errno) from None
    except BaseException:
        os.close(fd)
        raise
    return PosixFile(fd, path)


@contextmanager
def syncing(path: str) -> Iterator[None]:
    """Let any failure of a sync come out as `SyncFailed`, whatever the error number.

    One is none: that there was no descriptor to open a directory by, which no sync ever says.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
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
    except StorageError:
        raise
    except OSError as error:
        raise StorageError.refused(operation, path, error) from error
