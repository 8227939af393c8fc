"""Errors of the chunk files: a class for each thing that a caller would decide on; `mochi.disk` has their root."""

from mochi.disk import Locked as PartitionLocked
from mochi.disk import StorageError, SyncFailed

__all__ = [
    "CorruptPartition",
    "DamagedEvents",
    "ExpiredEvents",
    "InvalidBatch",
    "OutOfRange",
    "PartitionLocked",
    "PartitionPoisoned",
    "StorageError",
    "SyncFailed",
]


class InvalidBatch(StorageError, ValueError):
    """A batch that cannot be stored as it is; nothing was written, and the partition goes on."""


class OutOfRange(StorageError, IndexError):
    """Events, or bytes of an event, that the partition does not hold."""


class ExpiredEvents(OutOfRange):
    """Events that the partition held, and has dropped by its retention.

    Attributes
    ----------
    first, next : int
        The events: those that were asked for, from the id `first` on, up to the first one that is left.
    """

    def __init__(self, first: int, next: int) -> None:
        super().__init__(
            f"the retention has dropped events {first} to {next - 1}; the first one that is left is {next}",
            operation="read",
        )
        self.first = first
        self.next = next


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


class PartitionPoisoned(StorageError):
    """No more events are taken, because an earlier write or sync failed or the store is closed."""
