"""How events get from a consumer's feeds to its futures and loops.

In which order is decided by `mochi.mofka.client.core.hand_out`. An event is two slots, made when its batch is opened;
handing one out is one operation on a deque.

Invariants
----------
1. An event is in a batch in line, in `ready`, in a future, or with the application. It passes from one to the next by
   statements without a call between them, so that nothing that interrupts finds it in none, or in two. A future that
   is dropped gives its event back, to the front.
2. Futures get events in the order of the pulls: while `waiting` has a living future, no pull takes an event past it.
3. A traceback that somebody keeps must not keep the future of a wait that was interrupted, which would get the next
   event: the frames below the wait hold its weak reference alone.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any, Protocol

from diaspora_stream.consumer import DataAllocator, DataSelector, FutureEvent
from diaspora_stream.event import Event
from diaspora_stream.future import Completed, seconds
from mochi.mofka.client.core.hand_out import (
    Action,
    Clear,
    Finish,
    GiveBack,
    HandOutState,
    Load,
    Open,
    Pass,
    State,
    Tell,
)
from mochi.mofka.client.core.machine import Machine
from mochi.mofka.client.event import (
    EndedFeed,
    FailedEvent,
    FailedFeed,
    MofkaEvent,
    NoMoreEvents,
    ReceivedBatch,
)
from mochi.mofka.client.loading import load


class Puller(Protocol):
    """A consumer, as its futures know it."""

    def wait_for(self, place: "weakref.ref[PulledEvent]", timeout: float | None) -> Any:
        """Wait until the future at `place` has its event; None when the time is over."""

    def fulfil(self) -> None:
        """Hand the events that are here to the futures that wait, in their order."""

    def give_back(self, event: Any) -> None:
        """Take the event of a future that was dropped; it is the next one handed out."""


class PulledEvent(FutureEvent):
    """The future of a pull, see `diaspora_stream.consumer.FutureEvent`."""

    __slots__ = ("__weakref__", "_consumer", "_taken", "event")

    def __init__(self, consumer: Puller) -> None:
        self.event: Event | None = None
        self._taken = False
        self._consumer = consumer

    def wait(self, timeout_ms: float | None = None) -> Event | None:
        """Wait for the event, at most `timeout_ms` milliseconds; zero, negative and nothing wait for ever."""
        event = self.event
        if event is None:
            try:
                event = self._consumer.wait_for(weakref.ref(self), seconds(timeout_ms))
            except BaseException:
                del self
                raise
            if event is None:
                return None
        if event.__class__ is FailedEvent or event.__class__ is FailedFeed:
            self._taken = True
            raise event.error
        self._taken = True
        return event

    @property
    def completed(self) -> Completed:
        """Whether `wait` would not wait."""
        if self.event is None:
            self._consumer.fulfil()
        return Completed(self.event is not None)

    def __del__(self) -> None:
        try:
            if self.event is not None and not self._taken:
                self._consumer.give_back(self.event)
        except AttributeError:  # Ctrl-C struck while it was made
            pass


def event_at(place: "weakref.ref[PulledEvent]") -> Any:
    """Return the event of the future at a place, None if it has none or was dropped."""
    future = place()
    return None if future is None else future.event


def is_vacant(place: "weakref.ref[PulledEvent]") -> bool:
    """Tell whether the future at a place is there, and waits for an event."""
    future = place()
    return future is not None and future.event is None


class HandOut(Machine[HandOutState]):
    """Hands out what is in line.

    Parameters
    ----------
    feeds : int
        How many put something in line.
    data_selector, data_allocator : callable or None
        Say which data is loaded, where it does not come with the events.
    shows_text : bool
        Whether metadata is JSON text.
    wake : callable
        Has those that wait look again whether they are done.

    Attributes
    ----------
    line : deque of ReceivedBatch, FailedFeed and EndedFeed
        What the feeds bring.
    ready : deque
        What is handed out next.
    taking : iterator
        Takes what is ready; `IndexError` where nothing is.
    waiting : deque of weak references
        Futures that have no event, in the order of the pulls.
    loader : int or None
        The thread that loads data.
    """

    def __init__(
        self,
        feeds: int,
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
        shows_text: bool,
        wake: Callable[[], object],
    ) -> None:
        self._feeds = feeds
        self._data_selector = data_selector
        self._data_allocator = data_allocator
        self._shows_text = shows_text
        self._wake = wake
        self.line: deque[ReceivedBatch | FailedFeed | EndedFeed] = deque()
        self.ready: deque[Any] = deque()
        self.taking = iter(self.ready.popleft, None)
        self.waiting: deque[weakref.ref[PulledEvent]] = deque()
        self.loader: int | None = None
        self._loaded: tuple[Load | None, int] = (None, 0)
        self.begin(HandOutState(feeds=feeds, selects=data_selector is not None))

    def __repr__(self) -> str:
        return f"<HandOut of {self._feeds} feeds, {self.now.at}>"

    def reset(self) -> None:
        """Begin anew in a forked child; futures that have no event wait on."""
        self.line.clear()
        self.ready.clear()
        self.loader = None
        self.begin(self.now.in_child(self._feeds))

    @property
    def is_closed(self) -> bool:
        """Whether nothing is handed out any more."""
        return self.now.at is State.CLOSED

    def close(self) -> None:
        """Hand out nothing more; never waits."""
        self.post(HandOutState.closed)
        self._wake()

    def fulfil(self) -> None:
        """Make events ready, if none is, and give them to the futures that wait, in their order; may load data.

        Does nothing while another thread loads, which then goes on with it.
        """
        if self.loader is None:
            self.tell(HandOutState.wanted, self.ready, self.line)

    def has_news(self) -> bool:
        """Tell whether `fulfil` would find something."""
        if self.loader is not None:
            return False
        now = self.now
        if self.ready or now.outbox or now.at is State.CLOSED or now.at is State.ENDED:
            return True
        if now.batch is not None and now.opened < now.batch.count:
            return True
        try:
            following = self.line[0]
        except IndexError:
            return not now.feeds
        return not isinstance(following, FailedFeed) or not following.feed.holds_back(following)

    def in_background(self, work: Callable[[], object]) -> None:
        """Leave what Ctrl-C interrupted to the next who wants an event: it may run callables of the application."""
        self._wake()

    def perform(self, action: Action) -> None:
        """Do what the state asks for; may be repeated, and does no more then."""
        line, ready = self.line, self.ready
        match action:
            case GiveBack(batch):
                batch.feed.give_back(batch)
                return
            case Open(batch, count):
                events = map(MofkaEvent, repeat(batch), range(count))
                if line and line[0] is batch:  # no call from here on, invariant 1
                    ready += events
                    del line[0]
            case Load():
                self._load_once(action)
            case Tell(failed):
                if not failed.feed.may_tell(failed):
                    return
                if line and line[0] is failed:  # no call from here on, invariant 1
                    ready += (failed,)
                    del line[0]
            case Pass(ended):
                if line and line[0] is ended:
                    del line[0]
            case Finish():
                end = NoMoreEvents(self._shows_text)
                if not ready:
                    ready += (end,)
            case Clear():
                line.clear()
                ready.clear()
                return
        if self.waiting:
            self._give()

    def _give(self) -> None:
        """Hand what is ready to the futures that wait; where more of these wait, look at what is next in line."""
        waiting = self.waiting
        while waiting:
            place = waiting[0]
            if not is_vacant(place):
                del waiting[0]
            elif self.ready:
                self._fill(place)
            else:
                self.post(HandOutState.wanted, self.ready, self.line)
                return

    def _fill(self, place: "weakref.ref[PulledEvent]") -> None:
        future = place()
        if future is not None:
            try:
                for event in self.taking:
                    future.event = event
                    break
            except IndexError:
                pass

    def _load_once(self, action: Load) -> None:
        if self._loaded[0] is not action:
            assert self._data_selector is not None
            assert self._data_allocator is not None
            self.loader = threading.get_ident()
            try:
                events = load(action.batch, action.start, self._data_selector, self._data_allocator)
            finally:
                self.loader = None
            loaded = action, action.start + len(events)
            ready = self.ready
            ready += events  # no call between these, invariant 1
            self._loaded = loaded
        self.post(HandOutState.loaded, action.batch, self._loaded[1])
