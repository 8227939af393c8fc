"""Errors of the chunk files: one root, and a class for each thing that a caller would decide on."""

import errno as error_numbers


class StorageError(Exception):
    """Root of the errors of this package; raised itself where the operating system refuses a call.

    Attributes
    ----------
    path : str
        File or directory at fault, empty where none is.
    operation : str
        What was being done, such as ``write``, ``sync`` or ``open``.
    errno : int or None
        Error number of the operating system, if it was the one to refuse.
    """

    def __init__(
        self, problem: str, *, path: str = "", operation: str = "", errno: int | None = None
    ) -> None:
        super().__init__(problem)
        self.path = path
        self.operation = operation
        self.errno = errno

    @classmethod
    def refused(cls, operation: str, path: str, error: OSError) -> "StorageError":
        """Give the error for a call that the operating system refused."""
        number = error.errno or error_numbers.EIO
        name = error_numbers.errorcode.get(number, str(number))
        return cls(
            f"cannot {operation} {path}: {error.strerror} ({name})",
            path=path,
            operation=operation,
            errno=number,
        )


REFUSALS = (StorageError, OSError)
"""What calls on files raise where the operating system refuses: some file layers the one, some the other."""


class InvalidBatch(StorageError, ValueError):
    """A batch that cannot be stored as it is; nothing was written, and the partition goes on."""


class OutOfRange(StorageError, IndexError):
    """Events, or bytes of an event, that the partition does not hold."""


class ExpiredEvents(OutOfRange):
    """Events that the partition held, and has dropped by its retention.

    Attributes
    ----------
    first, next : int
        The events: those that were asked for, from the id `first` on, up to the first one that there still is.
    """

    def __init__(self, first: int, next: int) -> None:
        super().__init__(
            f"the retention has dropped events {first} to {next - 1}; the first that there still is, is {next}",
            operation="read",
        )
        self.first = first
        self.next = next


class PartitionLocked(StorageError):
    """Another process, or another store of this one, has the directory open."""


class CorruptPartition(StorageError):
    """Files that no crash leaves behind; nothing was changed, and a person has to look."""


class DamagedEvents(CorruptPartition):
    """Events whose bytes are lost, or not those that were written; all others are served.

    Attributes
    ----------
    first, count : int
        The events: consecutive ones, from the id `first` on.
    """

    def __init__(self, problem: str, *, path: str, first: int, count: int) -> None:
        super().__init__(problem, path=path, operation="read")
        self.first = first
        self.count = count


class SyncFailed(StorageError):
    """What was written may be lost, and no later sync would tell; the kernel forgets what it could not write."""


class PartitionPoisoned(StorageError):
    """No more events are taken, because an earlier write or sync failed or the store is closed."""
