"""In which order a consumer hands out what its feeds bring. No I/O.

Feeds put batches, failures and their ends in line. When an application wants an event and none is ready, the next in
line is looked at, or the next part of the batch that is open.

Invariants
----------
1. One batch is open at a time, and its events are ready before anything behind it is looked at.
2. A batch's credit goes back once, when its last event was taken.
3. A failure is handed out in its place, once its feed lets it go. Nothing overtakes it.
4. The end comes when all feeds have ended and nothing is in line.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from mochi.mofka.client.core import machine
from mochi.mofka.client.core.transitions import Name, Table, following
from mochi.mofka.client.event import EndedFeed, FailedFeed, ReceivedBatch


class State(Name):
    """What the application gets events from."""

    WAITING = "no batch is open: the next in line is looked at"
    OPEN = "a batch is open"
    LOADING = "data of the next events of the open batch is loaded"
    ENDED = "no feed brings anything more"
    CLOSED = "nothing is handed out any more"


class Event(Name):
    """What may happen to that."""

    OPENED = "the next in line is a batch"
    EXHAUSTED = "all events of the open batch were taken, and nothing is in line"
    NEEDED = "the next events of the open batch need their data"
    LOADED = "they have it"
    PASSED = "the next in line is a failure, or the end of a feed"
    FINISHED = "all feeds have ended, and nothing is in line"
    CLOSED = "the consumer is closed"


TRANSITIONS: Table[State, Event] = {
    State.WAITING: {
        Event.OPENED: State.OPEN,
        Event.PASSED: State.WAITING,
        Event.FINISHED: State.ENDED,
        Event.CLOSED: State.CLOSED,
    },
    State.OPEN: {
        Event.OPENED: State.OPEN,
        Event.PASSED: State.WAITING,
        Event.NEEDED: State.LOADING,
        Event.EXHAUSTED: State.WAITING,
        Event.CLOSED: State.CLOSED,
    },
    State.LOADING: {
        Event.LOADED: State.OPEN,
        Event.CLOSED: State.CLOSED,
    },
    State.ENDED: {
        Event.CLOSED: State.CLOSED,
    },
    State.CLOSED: {
        Event.CLOSED: State.CLOSED,
    },
}


class Open(msgspec.Struct, frozen=True):
    """Take a batch out of the line, and make its first `count` events ready."""

    batch: ReceivedBatch
    count: int


class Load(msgspec.Struct, frozen=True):
    """Load data of the events of a batch from `start` on, and make them ready."""

    batch: ReceivedBatch
    start: int


class GiveBack(msgspec.Struct, frozen=True):
    """Give the credit of a batch back."""

    batch: ReceivedBatch


class Tell(msgspec.Struct, frozen=True):
    """Take a failure out of the line, and make it ready, if its feed lets it go."""

    failed: FailedFeed


class Pass(msgspec.Struct, frozen=True):
    """Take the end of a feed out of the line."""

    ended: EndedFeed


class Give(msgspec.Struct, frozen=True):
    """Give what is ready to the futures that wait."""


class Finish(msgspec.Struct, frozen=True):
    """Make the end ready."""


class Clear(msgspec.Struct, frozen=True):
    """Drop what is ready and what is in line."""


Action: TypeAlias = Open | Load | GiveBack | Tell | Pass | Give | Finish | Clear


class HandOutState(machine.State, kw_only=True):
    """What a consumer is in. Each method is an event, and returns what is to be done.

    Attributes
    ----------
    feeds : int
        Feeds that have not ended.
    selects : bool
        Whether a selector says which data is loaded, where it did not come with the events.
    batch : ReceivedBatch or None
        The one that is open.
    opened : int
        How many of its events were made ready.
    """

    feeds: int
    selects: bool
    at: State = State.WAITING
    batch: ReceivedBatch | None = None
    opened: int = 0

    def wanted(self, ready: Sequence[Any], line: Sequence[Any]) -> list[Action]:
        """Make the next events ready, if none is."""
        if ready:
            return [Give()]
        if self.at is State.CLOSED or self.at is State.LOADING:
            return []
        batch = self.batch
        if batch is not None and self.opened < batch.count:
            return self._load(batch)
        given_back: list[Action] = [] if batch is None else [GiveBack(batch)]  # invariant 2
        self.batch = None
        if not line:
            if batch is not None:
                self.at = following(TRANSITIONS, self.at, Event.EXHAUSTED)
            if self.feeds:
                return given_back
            if self.at is not State.ENDED:
                self.at = following(TRANSITIONS, self.at, Event.FINISHED)  # invariant 4
            return [*given_back, Finish()]
        item = line[0]
        if item.__class__ is ReceivedBatch:
            self.at = following(TRANSITIONS, self.at, Event.OPENED)
            self.batch = item
            if item.data is not None or not self.selects:
                self.opened = item.count
                return [*given_back, Open(item, item.count)]
            self.opened = 0
            return [*given_back, Open(item, 0), *self._load(item)]
        self.at = following(TRANSITIONS, self.at, Event.PASSED)
        if isinstance(item, FailedFeed):
            return [*given_back, Tell(item)]  # invariant 3
        self.feeds -= 1
        return [*given_back, Pass(item)]

    def _load(self, batch: ReceivedBatch) -> list[Action]:
        self.at = following(TRANSITIONS, self.at, Event.NEEDED)
        return [Load(batch, self.opened)]

    def loaded(self, batch: ReceivedBatch, end: int) -> list[Action]:
        """Take note that the events of a batch before `end` are ready."""
        if batch is self.batch and end > self.opened:  # else it is told again
            self.at = following(TRANSITIONS, self.at, Event.LOADED)
            self.opened = end
        return []

    def closed(self) -> list[Action]:
        """Hand out nothing more."""
        self.at = following(TRANSITIONS, self.at, Event.CLOSED)
        self.batch = None
        return [Clear()]

    def in_child(self, feeds: int) -> "HandOutState":
        """Return what a forked child begins with: nothing is open, and a consumer that is closed stays so."""
        at = State.CLOSED if self.at is State.CLOSED else State.WAITING
        return HandOutState(feeds=feeds, selects=self.selects, at=at)

    def broken(self, error: Exception) -> list[Action]:
        return list(self.outbox)
