"""What a search for a partition decides: where to look next, when, and for how long. No I/O.

A partition is looked for at its address, and where the directory of partitions says that it is now. A connection that
is lost, or was never there, is tried at once. After a refusal, and after each failure, the directory is asked first.
"""

from enum import auto
from typing import Any

import msgspec

from mochi.margo.errors import Fault, MargoError
from mochi.mofka.client.core.transitions import Name, Table, following
from mochi.mofka.client.refusals import PartitionInfo

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
"""Seconds between two looks for a partition; twice as many each time."""

CONNECT_TIMEOUT = 5.0
"""Seconds after which a server that does not even greet is passed over, where there is something else to try."""


class Phase(Name):
    """Where a search is."""

    BEGUN = auto()
    CONNECTING = auto()
    ASKING = auto()
    RESTING = auto()
    FOUND = auto()
    """There is a connection. It may be lost before it proves to be of use; then the same search goes on."""

    OVER = auto()


class Event(Name):
    """What happens to a search."""

    TRY = auto()
    MISS = auto()
    REST = auto()
    FIND = auto()
    END = auto()


_ANYWHERE = {Event.TRY: Phase.CONNECTING, Event.MISS: Phase.ASKING, Event.END: Phase.OVER}
"""Who looks may be torn from it anywhere, and begin again: by Ctrl-C, or when the driver is closed."""

TRANSITIONS: Table[Phase, Event] = {
    Phase.BEGUN: _ANYWHERE,
    Phase.CONNECTING: {**_ANYWHERE, Event.FIND: Phase.FOUND},
    Phase.ASKING: {**_ANYWHERE, Event.REST: Phase.RESTING},
    Phase.RESTING: _ANYWHERE,
    Phase.FOUND: _ANYWHERE,
    Phase.OVER: dict.fromkeys(Event, Phase.OVER),  # ended by another thread than that which looks
}


class Connect(msgspec.Struct, frozen=True):
    """Connect to `partition`; then `found` or `missed`."""

    partition: PartitionInfo
    timeout: float


class Ask(msgspec.Struct, frozen=True):
    """Ask the directory where `partition` is; then `located`."""

    partition: PartitionInfo
    error: MargoError


class Rest(msgspec.Struct, frozen=True):
    """Wait; then `rested`."""

    seconds: float


class Warn(msgspec.Struct, frozen=True):
    """Tell the log of a search that takes long: for what, and the outcome if it is over."""

    partition: PartitionInfo
    seconds: float
    error: MargoError | None = None
    outcome: str = ""


class GiveUp(msgspec.Struct, frozen=True):
    """Raise `error`: nobody was found in time."""

    error: MargoError


class SearchState(msgspec.Struct):
    """A search for one partition, from the first failure to the first success.

    Events are given the time, in seconds on any clock. The last action that they return is what comes next.

    Attributes
    ----------
    began, deadline, patience : float
        When the search began and when it ends; how many seconds pass before the log is told.
    failures : int
        How often nobody was found.
    reason : MargoError or None
        Why nobody was found last.
    told : PartitionInfo or None
        What the log was told of.
    """

    began: float
    deadline: float
    patience: float
    phase: Phase = Phase.BEGUN
    partition: PartitionInfo | None = None
    pause: float = FIRST_PAUSE
    failures: int = 0
    reason: MargoError | None = None
    told: PartitionInfo | None = None

    def _advance(self, event: Event) -> None:
        self.phase = following(TRANSITIONS, self.phase, event)

    def is_over(self, now: float) -> bool:
        """Tell whether the time of the search has passed."""
        return now >= self.deadline

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the search is over, a millisecond at least."""
        return max(self.deadline - now, 1e-3)

    def look(self, partition: PartitionInfo, cause: MargoError | None, now: float) -> list[Any]:
        """Begin to look for `partition`, or again because of `cause`."""
        is_first = self.phase is Phase.BEGUN
        self.partition = partition
        if cause is None or (is_first and not isinstance(cause, Fault)):
            return self._connect(now)
        return self.missed(cause)

    def _connect(self, now: float) -> list[Any]:
        self._advance(Event.TRY)
        assert self.partition is not None
        return [Connect(self.partition, min(self.seconds_left(now), CONNECT_TIMEOUT))]

    def missed(self, error: MargoError) -> list[Any]:
        """Take note that nobody was found."""
        self._advance(Event.MISS)
        self.failures += 1
        self.reason = error.with_traceback(None)
        assert self.partition is not None
        return [Ask(self.partition, self.reason)]

    def located(self, partition: PartitionInfo, error: MargoError, now: float) -> list[Any]:
        """Take note of what the directory says; `error` is the last failure with what the directory adds to it."""
        self.reason = error.with_traceback(None)
        actions: list[Any] = []
        assert self.partition is not None
        if self.told is None and now - self.began >= self.patience:
            self.told = self.partition
            actions.append(Warn(self.partition, self.patience, error))
        if self.is_over(now):
            self._advance(Event.END)
            return [*actions, GiveUp(self.reason)]
        if partition != self.partition:
            self.partition = partition
            return actions + self._connect(now)
        self._advance(Event.REST)
        pause = min(self.pause, self.seconds_left(now))
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        return [*actions, Rest(pause)]

    def rested(self, now: float) -> list[Any]:
        """Look again after a pause."""
        return self._connect(now)

    def found(self) -> list[Any]:
        """Take note of a connection."""
        self._advance(Event.FIND)
        return []

    def ended(self, outcome: str, now: float) -> list[Any]:
        """Take note that the search is over: the partition has proved to be there, or was given up."""
        self._advance(Event.END)
        told, self.told = self.told, None
        return [] if told is None else [Warn(told, now - self.began, outcome=outcome)]
