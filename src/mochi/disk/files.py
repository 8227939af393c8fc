"""The file system of this machine. What it refuses becomes a `StorageError` here, and nowhere else."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from mochi.disk.contract import Buffer, File
from mochi.disk.errors import Locked, StorageError, SyncFailed
from mochi.disk.locks import share, take

F = TypeVar("F", bound=Callable[..., Any])

_IOV_MAX = os.sysconf("SC_IOV_MAX")


class Calls(Protocol):
    """How bytes move. Calls block, and may do less than all of what was asked."""

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        """Write the first bytes of at most ``IOV_MAX`` buffers, and return how many."""

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        """Fill the first bytes of `target`, and return how many; 0 at the end of the file."""

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        """Return when the bytes of all files are on disk, with what went wrong for each."""


def sync_one(fd: int) -> OSError | None:
    """Return when the bytes of a file are on disk, with what went wrong."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        return error
    return None


class PlainCalls:
    """One system call for each, in the thread that asks."""

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        return os.preadv(fd, [target], offset)

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        return list(map(sync_one, fds))


def _refusing(operation: str) -> Callable[[F], F]:
    """Let what the system refuses of a call on a path come out as a `StorageError`."""

    def decorate(call: F) -> F:
        @wraps(call)
        def refusing(self: Any, path: str, *args: Any, **options: Any) -> Any:
            try:
                return call(self, path, *args, **options)
            except StorageError:
                raise
            except OSError as error:
                raise StorageError.refused(operation, path, error) from error

        return cast(F, refusing)

    return decorate


class PosixFiles:
    """A `FileLayer` of real files.

    Parameters
    ----------
    calls : Calls, optional
        How bytes move; by plain system calls when absent.
    by_umask : bool
        Whether the umask alone says who may use what is made; else it is the owner's (modes 0700 and 0600).
    """

    def __init__(self, calls: Calls | None = None, *, by_umask: bool = False) -> None:
        self._calls = calls or PlainCalls()
        self._directory_mode, self._file_mode = (0o777, 0o666) if by_umask else (0o700, 0o600)

    def _file(self, path: str, fd: int) -> "PosixFile":
        return PosixFile(path, fd, self._calls)

    @_refusing("examine")
    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    @_refusing("make")
    def make_directory(self, path: str, *, private: bool) -> bool:
        try:
            os.mkdir(path, self._directory_mode if private else 0o777)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, "is not a directory") from None
            return False
        return True

    @_refusing("remove")
    def remove_directory(self, path: str) -> None:
        if os.path.islink(path):
            os.unlink(path)
        else:
            os.rmdir(path)

    @_refusing("list")
    def list_directory(self, path: str) -> list[str]:
        return os.listdir(path)

    @_refusing("sync")
    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            raise SyncFailed.refused("sync", path, error) from error
        finally:
            os.close(fd)

    @_refusing("examine")
    def size(self, path: str) -> int:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return found.st_size

    def sync_all(self, files: Sequence[File]) -> None:
        _sync_all(self._calls, cast(Sequence[PosixFile], files))

    @_refusing("rename")
    def rename(self, path: str, target: str) -> None:
        os.rename(path, target)

    @_refusing("remove")
    def remove(self, path: str) -> None:
        os.unlink(path)

    @_refusing("open")
    def open(self, path: str, *, writable: bool) -> "PosixFile":
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        return self._file(path, os.open(path, flags, self._file_mode))

    @_refusing("lock")
    def lock(self, path: str) -> "PosixFile":
        return self._locked(path, os.open(path, os.O_RDWR | os.O_CREAT, self._file_mode), take)

    @_refusing("lock")
    def lock_shared(self, path: str) -> "PosixFile":
        return self._locked(path, os.open(path, os.O_RDONLY), share)

    def _locked(self, path: str, fd: int, lock: Callable[[int], None]) -> "PosixFile":
        try:
            lock(fd)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise Locked(path, error) from None
            raise
        return self._file(path, fd)


class PosixFile:
    """A `File` with a descriptor.

    Attributes
    ----------
    path : str
        Path that it was opened by.
    fd : int
        Descriptor.
    """

    def __init__(self, path: str, fd: int, calls: Calls) -> None:
        self.path = path
        self.fd = fd
        self._calls = calls

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        views = [view.cast("B") for buffer in buffers if (view := memoryview(buffer)).nbytes]
        first = 0
        try:
            while first < len(views):
                written = self._calls.write(self.fd, views[first : first + _IOV_MAX], offset)
                if not written:
                    raise OSError(errno.EIO, f"nothing could be written at byte {offset}")
                offset += written
                while first < len(views) and written >= len(views[first]):
                    written -= len(views[first])
                    first += 1
                if written:
                    views[first] = views[first][written:]
        except OSError as error:
            raise StorageError.refused("write", self.path, error) from error

    def read(self, target: memoryview, offset: int) -> None:
        try:
            while target:
                count = self._calls.read(self.fd, target, offset)
                if not count:
                    raise OSError(errno.EIO, f"the file ends at byte {offset}, {len(target)} bytes too early")
                offset += count
                target = target[count:]
        except OSError as error:
            raise StorageError.refused("read", self.path, error) from error

    def sync(self) -> None:
        _sync_all(self._calls, [self])

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise StorageError.refused("truncate", self.path, error) from error

    def close(self) -> None:
        try:
            os.close(self.fd)
        except OSError as error:
            raise StorageError.refused("close", self.path, error) from error


def _sync_all(calls: Calls, files: Sequence[PosixFile]) -> None:
    """Sync files; any failure is a `SyncFailed`, for nothing tells what was put on disk."""
    try:
        outcomes = calls.sync([file.fd for file in files])
    except OSError as error:
        outcomes = [error]
    except MemoryError:
        outcomes = [OSError(errno.EIO, "out of memory")]
    for file, outcome in zip(files, outcomes, strict=False):
        if outcome is not None:
            raise SyncFailed.refused("sync", file.path, outcome) from outcome
