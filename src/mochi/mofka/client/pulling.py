"""Futures of pulls, whichever driver fulfils them. No I/O."""

import weakref
from typing import Any, Protocol

from diaspora_stream.consumer import FutureEvent
from diaspora_stream.event import Event
from diaspora_stream.future import Completed, seconds
from mochi.mofka.client.event import FailedEvent, FailedFeed


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
