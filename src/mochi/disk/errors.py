"""Errors of what is stored: one root, and a class for each thing that a caller would decide on."""

import errno as error_numbers


class StorageError(OSError):
    """Root of the errors of what is stored; raised itself where the operating system refuses a call.

    Attributes
    ----------
    path : str
        File or directory at fault, empty where none is; the `filename` of an `OSError`.
    operation : str
        What was being done, such as ``write``, ``sync`` or ``open``.
    errno : int or None
        Error number of the operating system, if it was the one to refuse.
    """

    def __init__(
        self, problem: str, *, path: str = "", operation: str = "", errno: int | None = None
    ) -> None:
        super().__init__(problem)
        self.errno = errno
        self.strerror = problem
        self.filename = path
        self.operation = operation

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def path(self) -> str:
        return str(self.filename)

    @classmethod
    def refused(cls, operation: str, path: str, error: OSError) -> "StorageError":
        """Return the error for a call that the system refused; it is also of Python's class of its number."""
        number = error.errno or error_numbers.EIO
        name = error_numbers.errorcode.get(number, str(number))
        problem = f"cannot {operation} {path}: {error.strerror} ({name})"
        kind = _REFUSALS.get(type(error), cls) if cls is StorageError else cls
        refusal = kind(problem, path=path, operation=operation, errno=number)
        refusal.strerror = error.strerror
        return refusal


def lacks_descriptors(error: BaseException) -> bool:
    """Tell whether a call failed because this process, or the machine, can have no more files open."""
    return getattr(error, "errno", None) in (error_numbers.EMFILE, error_numbers.ENFILE)


def lacks_locks(error: OSError) -> bool:
    """Tell whether a lock was refused by a file system that has none, so that nobody else can hold one."""
    return error.errno in (error_numbers.ENOLCK, error_numbers.ENOSYS, error_numbers.EOPNOTSUPP)


_REFUSALS: dict[type[OSError], type[StorageError]] = {
    kind: type("StorageError", (StorageError, kind), {})
    for kind in (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
}


class Locked(StorageError, BlockingIOError):
    """Somebody else has the lock, or the file was removed by who had it; says which, and who.

    Parameters
    ----------
    path : str
        Of the lock file.
    error : OSError
        As of `locks.take` and `locks.share`.
    """

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"{path} is {error.strerror}", path=path, operation="lock", errno=error.errno)
        self.strerror = error.strerror


class SyncFailed(StorageError):
    """What was written may be lost, and no later sync would tell; the kernel forgets what it could not write."""
