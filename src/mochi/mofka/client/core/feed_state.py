"""What a feed does about its partition: asks, takes, grants, tells. No I/O.

A feed asks one partition for events and grants it credit. A search finds the partition and subscribes; a subscription
brings batches; a failure waits in line behind the batches that came before it.

Invariants
----------
1. Events arrive in order, each once: `next` is the first that has not. Only the last subscription counts.
2. One search at a time, and only the last one counts. After a failure the feed asks again when that is the next to be
   handed out.
3. After a change of epoch the feed goes on from the consumer's cursor.
4. Losses that touch are one failure, until it is handed out: it waits for the answer to what comes behind it, unless
   the partition is missing.
5. Batches and bytes that are held, granted or owed are together the bounds. A batch's credit goes back once, and not
   before the partition knows the subscription that it is for.
6. What is put in line is numbered, and the numbers go on after a fork: who is given one twice passes it over.
"""

from typing import Any, TypeAlias

import msgspec

from diaspora_stream.errors import DiasporaError, EventsLost
from mochi.mofka.client.core import machine
from mochi.mofka.client.core.transitions import Name, Table, following
from mochi.mofka.client.refusals import EpochChanged


class State(Name):
    """Where a feed stands."""

    IDLE = "nothing was asked for yet"
    LOOKING = "the partition is looked for and asked"
    MISSING = "the partition is looked for, and was not found at once"
    SUBSCRIBED = "events come"
    FAILED = "a failure waits to be handed out"
    ENDED = "nothing more comes"


class Event(Name):
    """What may happen to a feed; what belongs to an earlier search or subscription is no event."""

    WANTED = "the consumer wants events"
    MISSED = "a search did not find the partition"
    ASKED = "a search asks the partition for events"
    BEGUN = "the partition has subscribed the feed"
    RECEIVED = "a batch came"
    CUT = "the subscription is lost, and the partition may be elsewhere"
    FAILED = "the partition refuses, or was not found in time"
    JOINED = "more events are lost, right behind those of a failure that was not handed out yet"
    DUE = "the failure is the next to be handed out"
    FINISHED = "the partition has no more events"
    STOPPED = "the consumer wants no more"


TRANSITIONS: Table[State, Event] = {
    State.IDLE: {
        Event.WANTED: State.LOOKING,
        Event.STOPPED: State.ENDED,
    },
    State.LOOKING: {
        Event.WANTED: State.LOOKING,
        Event.MISSED: State.MISSING,
        Event.ASKED: State.LOOKING,
        Event.BEGUN: State.SUBSCRIBED,
        Event.CUT: State.LOOKING,
        Event.FAILED: State.FAILED,
        Event.JOINED: State.LOOKING,
        Event.STOPPED: State.ENDED,
    },
    State.MISSING: {
        Event.WANTED: State.MISSING,
        Event.MISSED: State.MISSING,
        Event.ASKED: State.MISSING,
        Event.BEGUN: State.SUBSCRIBED,
        Event.CUT: State.MISSING,
        Event.FAILED: State.FAILED,
        Event.JOINED: State.LOOKING,
        Event.STOPPED: State.ENDED,
    },
    State.SUBSCRIBED: {
        Event.WANTED: State.SUBSCRIBED,
        Event.RECEIVED: State.SUBSCRIBED,
        Event.CUT: State.LOOKING,
        Event.FAILED: State.FAILED,
        Event.JOINED: State.LOOKING,
        Event.FINISHED: State.ENDED,
        Event.STOPPED: State.ENDED,
    },
    State.FAILED: {
        Event.WANTED: State.FAILED,
        Event.DUE: State.LOOKING,
        Event.STOPPED: State.ENDED,
    },
    State.ENDED: {
        Event.WANTED: State.ENDED,
        Event.STOPPED: State.ENDED,
    },
}


class Look(msgspec.Struct, frozen=True):
    """Begin a search, because of `cause` if something was there before."""

    search: int
    cause: Any


class Deliver(msgspec.Struct, frozen=True):
    """Put a batch in line, as number `number`; None stands for the end."""

    number: int
    batch: Any


class Tell(msgspec.Struct, frozen=True):
    """Put a failure in line."""

    number: int
    error: DiasporaError


class Widen(msgspec.Struct, frozen=True):
    """Have the failure that was put in line last tell `error`."""

    number: int
    error: DiasporaError


class Grant(msgspec.Struct, frozen=True):
    """Give credit back to the partition. One that is repeated lets it send a batch too many."""

    subscription: Any
    batches: int
    size: int


class Leave(msgspec.Struct, frozen=True):
    """Ask the partition to send no more."""

    subscription: Any


class Wake(msgspec.Struct, frozen=True):
    """Have those that wait look again whether they are done."""


Action: TypeAlias = Look | Deliver | Tell | Widen | Grant | Leave | Wake


class Terms(msgspec.Struct, frozen=True):
    """What a partition is asked for: events from `start` on, of `epoch`, ahead by so many batches and bytes."""

    start: int | None
    epoch: int
    batches: int
    size: int


class FeedState(machine.State, kw_only=True):
    """What a feed is in. Each method is an event, and returns what is to be done.

    Attributes
    ----------
    max_batches, max_bytes : int
        What the partition may send ahead; its last batch may go beyond the bytes.
    next : int or None
        The first event that has not arrived; None stands for the consumer's cursor.
    epoch : int
        Of the partition; 0 takes any.
    search : int
        Number of the last search.
    subscription : object or None
        What events come by, or are asked for by. Known by identity.
    terms : Terms or None
        What the last subscription asked for.
    put : int
        Number of what was put in line last.
    untold : DiasporaError or None
        What the failure tells that was put in line last, until it is handed out, or a batch comes.
    held_batches, held_bytes : int
        Of what has arrived and was not given back.
    given_back : int
        Number of the last batch that was.
    owed_batches, owed_bytes : int
        What was given back since the partition was asked, and before it answered.
    """

    max_batches: int
    max_bytes: int
    at: State = State.IDLE
    next: int | None = None
    epoch: int = 0
    search: int = 0
    subscription: Any = None
    terms: Terms | None = None
    put: int = 0
    untold: DiasporaError | None = None
    held_batches: int = 0
    held_bytes: int = 0
    given_back: int = 0
    owed_batches: int = 0
    owed_bytes: int = 0

    def is_searching(self, search: int) -> bool:
        """Tell whether a search goes on."""
        return search == self.search and self.at in (State.LOOKING, State.MISSING)

    def is_untold(self, number: int) -> bool:
        """Tell whether a failure may not be handed out yet: it may grow, or nothing was asked for behind it."""
        return number == self.put and self.untold is not None

    def holds_back(self, number: int) -> bool:
        """Tell whether a failure waits for the answer to what comes behind it."""
        return self.at is State.LOOKING and self.is_untold(number) and isinstance(self.untold, EventsLost)

    def wanted(self) -> list[Action]:
        """Look for the partition, if nothing was asked for yet."""
        is_idle = self.at is State.IDLE
        self._to(Event.WANTED)
        return [self._look(None)] if is_idle else []

    def missed(self, search: int) -> list[Action]:
        """Take note that a search did not find the partition at once."""
        if not self.is_searching(search):
            return []
        self._to(Event.MISSED)
        return [Wake()]

    def asks(self, search: int, subscription: Any) -> list[Action]:
        """Take note that a search asks the partition for events, by `terms`."""
        if self.is_searching(search):
            self._to(Event.ASKED)
            self.subscription = subscription
            batches, size = self.max_batches - self.held_batches, self.max_bytes - self.held_bytes
            self.terms = Terms(self.next, self.epoch, max(batches, 0), max(size, 0))
            self.owed_batches = self.owed_bytes = 0
        return []

    def begun(self, subscription: Any, epoch: int, first: int) -> list[Action]:
        """Take note of where a subscription begins; leave one that is not wanted any more."""
        if subscription is not self.subscription:
            return [Leave(subscription)]
        self._to(Event.BEGUN)
        self.epoch, self.next = epoch, first
        if not self.owed_batches:
            return [Wake()]
        return [Grant(subscription, self.owed_batches, self.owed_bytes), Wake()]

    def received(self, subscription: Any, following: int, size: int, batch: Any) -> list[Action]:
        """Take a batch of `size` bytes, which ends before event `following`."""
        if subscription is not self.subscription:
            return []  # invariant 1
        self._to(Event.RECEIVED)
        self.next = following
        self.untold = None
        self.held_batches += 1
        self.held_bytes += size
        self.put += 1
        return [Deliver(self.put, batch)]

    def finished(self, subscription: Any) -> list[Action]:
        """Take note that the partition has no more events."""
        if subscription is not self.subscription:
            return []
        self._to(Event.FINISHED)
        return self._end()

    def cut(self, subscription: Any, cause: Any) -> list[Action]:
        """Look for a partition whose subscription is lost; a search that goes on learns of it by itself."""
        if subscription is not self.subscription:
            return []
        was_subscribed = self.at is State.SUBSCRIBED
        self._to(Event.CUT)
        self.subscription = None
        return [self._look(cause)] if was_subscribed else []

    def refused(self, subscription: Any, error: DiasporaError) -> list[Action]:
        """Take note of an error that ends a subscription."""
        return self._failed(error) if subscription is self.subscription else []

    def given_up(self, search: int, error: DiasporaError) -> list[Action]:
        """Take note of an error that ends a search."""
        return self._failed(error) if self.is_searching(search) else []

    def due(self, number: int) -> list[Action]:
        """Ask again, once a failure is the next to be handed out. It may be if it is not `is_untold` then."""
        actions: list[Action] = []
        if self.is_untold(number):
            if self.at is State.FAILED:
                self._to(Event.DUE)  # invariant 2
                actions = [self._look(None)]
            if not self.holds_back(number):
                self.untold = None
        return actions

    def gives_back(self, number: int, size: int) -> list[Action]:
        """Have the partition send more, now that a batch is handed out."""
        if number <= self.given_back:
            return []  # invariants 5 and 6
        self.given_back = number
        self.held_batches -= 1
        self.held_bytes -= size
        if self.at is State.SUBSCRIBED:
            return [Grant(self.subscription, 1, size)]
        self.owed_batches += 1
        self.owed_bytes += size
        return []

    def stopped(self) -> list[Action]:
        """Have the partition send no more."""
        has_ended = self.at is State.ENDED
        leave: list[Action] = [] if self.subscription is None else [Leave(self.subscription)]
        self._to(Event.STOPPED)
        return leave if has_ended else [*leave, *self._end()]

    def in_child(self) -> "FeedState":
        """Return what a forked child begins with: its consumer's cursor, and nothing of what the parent holds."""
        return FeedState(
            max_batches=self.max_batches,
            max_bytes=self.max_bytes,
            search=self.search,
            put=self.put,
            given_back=self.put,  # invariant 6
        )

    def overtaken(self) -> list[Action]:
        return list(self.outbox)

    def broken(self, error: Exception) -> list[Action]:
        if Event.FAILED not in TRANSITIONS[self.at]:
            return list(self.outbox)
        return [*self.outbox, *self._tell(DiasporaError(f"a fault of the client: {error!r}"))]

    def _to(self, event: Event) -> None:
        self.at = following(TRANSITIONS, self.at, event)

    def _look(self, cause: Any) -> Look:
        self.subscription = None
        self.search += 1
        return Look(self.search, cause)

    def _end(self) -> list[Action]:
        self.subscription = None
        self.put += 1
        return [Deliver(self.put, None)]

    def _tell(self, error: DiasporaError) -> list[Action]:
        self._to(Event.FAILED)
        self.subscription = None
        self.untold = error
        self.put += 1
        return [Tell(self.put, error)]

    def _failed(self, error: DiasporaError) -> list[Action]:
        if isinstance(error, EpochChanged):
            self.next, self.epoch = None, 0  # invariant 3
        if not isinstance(error, EventsLost):
            return self._tell(error)
        first = error.first if self.next is None else max(error.first, self.next)
        lost = error.over(first, max(error.next, first + 1))
        self.next = lost.next
        before = self.untold
        if type(before) is not type(lost) or before.next != lost.first:
            return self._tell(lost)
        self.untold = before.over(before.first, lost.next)  # invariant 4
        self._to(Event.JOINED)
        return [Widen(self.put, self.untold), self._look(None)]
