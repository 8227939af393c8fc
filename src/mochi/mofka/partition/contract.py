"""What the provider of a partition expects of its manager: where events are kept, and how they come back.

Rules
-----
1. `receive` and `close` may be called from any thread at any time, the others one at a time. Ids are
   dense, and given in the order of the calls of `append`.
2. `done` of any method is called once, from any thread, at once or later; that of `read` only where it returns nothing.
3. `count` grows when the events can be read, and before `done` of their `append` is called.
4. What `remembered` and `cursor` tell is as durable as the events are.
5. After `append` has failed in a way that leaves the storage unsure, every later one fails too.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, Pieces, Remembered

T = TypeVar("T")


class Slice(msgspec.Struct):
    """Consecutive events, as they go out to a consumer: buffers that hold them back to back."""

    first: int
    metadata_sizes: NDArray[np.uint32]
    metadata: Sequence[Buffer]
    data_sizes: NDArray[np.uint32]
    data: Sequence[Buffer]

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.metadata_sizes)


class LargeEvent(Exception):
    """The first event that was to be read is larger than the bytes that were allowed for it; nothing was read.

    Attributes
    ----------
    size : int
        Bytes that it takes at least.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"an event of {size} bytes or more")
        self.size = size


def reading(
    read: Callable[[], T], done: Callable[[T | BaseException], None], as_fault: Callable[[Exception], Fault]
) -> Callable[[], None]:
    """Return the work of a thread that reads: `done` is told what was read, or any error, for somebody waits."""

    def work() -> None:
        outcome: T | BaseException
        try:
            outcome = read()
        except LargeEvent as error:
            outcome = error
        except Exception as error:
            outcome = as_fault(error)
        done(outcome)

    return work


def expired(first: int, next: int) -> Fault:
    """Return what a client is told that asked for events from `first` on, where the first that there is is `next`."""
    problem = f"events {first} to {next - 1} have expired by the retention of the partition"
    return Fault("expired", problem, {"first": first, "next": next})


class Partition(Protocol):
    """A partition manager.

    Attributes
    ----------
    first : int
        Id of the first event that there is: those before have expired by the retention.
    count : int
        Id after the last event that can be read.
    epoch : int
        From 1; another one when the partition has begun anew without its events.
    error : BaseException or None
        Why no more events are taken, if so.
    damaged : sequence of str
        What was found to be lost, or had to be made again, when the partition was opened.
    lent_size : int
        Bytes of the buffers that producers on the same node may put the data of their batches into.
    keeps_buffers : bool
        Whether the buffers of a batch become the storage, so that they may not be lent ones.
    """

    count: int
    epoch: int
    damaged: Sequence[str]
    keeps_buffers: bool

    @property
    def first(self) -> int:
        """Id of the first event that there is."""

    @property
    def lent_size(self) -> int:
        """Bytes of a buffer lent to a producer."""

    @property
    def error(self) -> BaseException | None:
        """Why no more events are taken."""

    @property
    def config(self) -> dict[str, Any]:
        """The ``partition`` section of the provider's configuration, with all that was filled in."""

    def remembered(self) -> Iterable[Remembered]:
        """Tell the producers whose recent batches are known, the one quiet for longest first; asked once."""

    def cursor(self, consumer: str) -> int:
        """Return the id of the next event of a consumer: behind the last one acknowledged, or 0."""

    def acknowledge(self, consumer: str, next_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Move a cursor forward, if it is not there yet; `done` is told when it is stored, or why it is not.

        Raises
        ------
        Fault
            ``too_many_consumers``: there is no room for the cursor of one more.
        """

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Return three buffers for a batch that is about to arrive; 0 bytes of data when those come otherwise."""

    def append(self, batch: Batch, done: Callable[[int | BaseException], None]) -> None:
        """Store a batch, with its origin; `done` is told the id of its first event, or why it is not stored."""

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> Slice | None:
        """Read events from `first` on, at least one, of those that are there.

        They are returned if they are in memory. Else `done` is told them later, or why they cannot be had. That is a
        `Fault` ``expired`` if event `first` is not there any more, a `LargeEvent` if it alone needs more than
        `max_bytes`.

        Raises
        ------
        Fault
            It is known at once that they cannot be read.
        """

    def read_data(self, pieces: Pieces, done: Callable[[Sequence[Buffer] | BaseException], None]) -> None:
        """Read pieces of events' data, in ascending order; `done` is told buffers that hold them back to back."""

    def expires_in(self) -> float | None:
        """Return in how many seconds there is something to `expire`; None: not before another `append`."""

    def expire(self) -> None:
        """Drop what is too old for the retention, now or soon. What is too much is dropped without being asked."""

    def close(self) -> None:
        """Finish what is under way, and let go of everything."""
