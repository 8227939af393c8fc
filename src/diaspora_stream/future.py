"""Futures: what `push`, `flush` and `pull` give at once for what comes later.

A backend implements `Pending` for a batch or a flush; a `FutureUint` is two slots, that and an index, so that an
event's future costs 80 ns. Waiting is the backend's: it may be interrupted by Ctrl-C, and repeated after a time-out.
"""

import math
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

T_co = TypeVar("T_co", covariant=True)


class Completed:
    """Answer to "is it done?" that serves as a value and as a method: ``future.completed``, ``future.completed()``."""

    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value

    def __call__(self) -> bool:
        return self._value

    def __eq__(self, other: object) -> bool:
        return self._value == bool(other)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return repr(self._value)


class Pending(Protocol):
    """What a backend's batch of pushed events offers to the futures of its events."""

    def wait_for(self, future: "FutureUint", timeout: float | None) -> int | None:
        """Return the event's id, None when `timeout` seconds are over.

        Without a `timeout` the backend's own counts, and the end of that is an error.
        """

    def is_done(self) -> bool:
        """Tell whether `wait_for` would return or raise at once."""


def seconds(timeout_ms: float | None) -> float | None:
    """Return a time-out in seconds, infinity for zero and negative ones, as in the original; None if none is given.

    Raises
    ------
    TypeError
        It is no number.
    """
    if timeout_ms is None:
        return None
    try:
        number = timeout_ms / 1000
    except OverflowError:
        return math.inf
    except TypeError:
        number = math.nan
    if math.isnan(number):
        raise TypeError(f"timeout_ms must be a number of milliseconds, not {timeout_ms!r}")
    return number if number > 0 else math.inf


class FutureUint(msgspec.Struct, gc=False, eq=False):
    """The id that a pushed event will have.

    Any thread may wait. In a forked child it raises what the batch's owner says of events that are the parent's.
    """

    pending: Any
    index: int = -1

    def wait(self, timeout_ms: float | None = None) -> int | None:
        """Wait until the event is stored.

        Parameters
        ----------
        timeout_ms : int or float, optional
            Milliseconds to wait at most; zero and negative wait for ever. Without it, the time-out of the driver
            counts.

        Returns
        -------
        int or None
            The event's id in its partition, or None when the time is over; the wait may be repeated.

        Raises
        ------
        Exception
            The event was not stored, or nobody knows whether it was: also when the time-out of the driver is over.
        """
        pending: Pending = self.pending
        return pending.wait_for(self, seconds(timeout_ms))

    @property
    def completed(self) -> Completed:
        """Whether `wait` would not wait."""
        pending: Pending = self.pending
        return Completed(pending.is_done())


class Future(Generic[T_co]):
    """A future made of two functions of a backend: one that waits, one that tells whether it would have to."""

    __slots__ = ("_is_done", "_wait")

    def __init__(self, wait: Callable[[float | None], T_co], is_done: Callable[[], bool]) -> None:
        self._wait = wait
        self._is_done = is_done

    def wait(self, timeout_ms: float | None = None) -> T_co:
        """Wait at most `timeout_ms` milliseconds, for ever if that is zero or negative."""
        return self._wait(seconds(timeout_ms))

    @property
    def completed(self) -> Completed:
        """Whether `wait` would not wait."""
        return Completed(self._is_done())


class FutureFlushed(Future[bool]):
    """Becomes done when every event pushed before the `flush` is stored.

    `wait` returns True then, False when its time is over, and raises when an event could not be stored. Without a
    time-out it raises as well when that of the driver is over.
    """

    __slots__ = ()
