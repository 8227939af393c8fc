"""Events between a consumer and a producer: taken in batches, pushed again until they are stored.

Invariants of an outbox
-----------------------
1. An event that was given to `push` comes out of `stored` once, when it is stored or refused, in the order of the
   pushes. What failed to be stored is pushed again, together with all that failed beside it, in their order.
2. An event is refused by its metadata or size: its push raises, and raises again with nothing else on its way.
"""

import logging
from collections import deque
from typing import Any, Final, Generic, TypeVar

import msgspec

from diaspora_stream.consumer import Consumer
from diaspora_stream.ctl.stopping import Stop
from diaspora_stream.errors import ConnectionFailed, DiasporaError, InvalidMetadata, TimeoutExpired
from diaspora_stream.event import Event
from diaspora_stream.future import FutureUint
from diaspora_stream.producer import Producer

T = TypeVar("T")

MAX_EVENTS: Final = 8192
"""Events of an outbox at which it is full."""

MAX_BYTES: Final = 64 << 20
"""Bytes of data of an outbox at which it is full."""

PAUSE: Final = 1.0
"""Seconds between what failed and the next try."""

TRANSIENT: Final = (ConnectionFailed, TimeoutExpired)
"""Errors of servers that are away for a while."""

_log = logging.getLogger("diaspora_stream.ctl")


def take(consumer: Consumer, limit: int, timeout_ms: float | None) -> tuple[list[Event], Exception | None]:
    """Return the events that are here, and why there are no more of them, if that is an error.

    Parameters
    ----------
    limit : int
        Events at most.
    timeout_ms : float or None
        Milliseconds to wait for the first; None does not wait. An event that comes later is for the next call.
    """
    events: list[Event] = []
    while len(events) < limit:
        pull = consumer.pull()
        if not pull.completed and (events or timeout_ms is None):
            break
        try:
            event = pull.wait(timeout_ms)
        except Exception as error:
            return events, error
        if event is None:
            break
        events.append(event)
        if event.event_id is None:
            break
    return events, None


class Receipts:
    """Acknowledgements that are due: of each partition, the last event that was done. For one thread."""

    def __init__(self) -> None:
        self._due: dict[str, Event] = {}

    def add(self, event: Event) -> None:
        """Have an event acknowledged, which comes after those of its partition that were added before."""
        self._due[str(event.partition or id(event))] = event

    def send(self) -> None:
        """Acknowledge what is due; what cannot be for now stays so."""
        for key, event in list(self._due.items()):
            try:
                event.acknowledge()
            except DiasporaError as error:
                _log.warning("event %s is not acknowledged: %s", event.event_id, error)
                if isinstance(error, TRANSIENT):
                    continue
            del self._due[key]


class _Item(msgspec.Struct, Generic[T]):
    metadata: Any
    data: Any
    size: int
    tag: T
    future: FutureUint | None = None
    error: Exception | None = None


class Outbox(Generic[T]):
    """Events on their way into a topic, each with a tag; see the module. For one thread.

    Attributes
    ----------
    refused, repeated : int
        Events that cannot be stored, and pushes of events that had been pushed before.
    """

    def __init__(self, producer: Producer, stop: Stop) -> None:
        self.refused = 0
        self.repeated = 0
        self._producer = producer
        self._stop = stop
        self._items: deque[_Item[T]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether no more should be pushed before some are stored."""
        return len(self._items) >= MAX_EVENTS or self._bytes >= MAX_BYTES

    def push(self, metadata: Any, data: Any, size: int, tag: T) -> None:
        """Push an event with data of `size` bytes, which must stay unchanged until its tag comes out of `stored`."""
        item = _Item(metadata, data, size, tag)
        self._items.append(item)
        self._bytes += size
        self._send(item)

    def _send(self, item: _Item[T]) -> None:
        try:
            item.future = self._producer.push(item.metadata, item.data)
            item.error = None
        except (DiasporaError, TypeError) as error:
            item.error = error

    def flush(self) -> None:
        """Have everything sent that waits for a batch to be full."""
        try:
            self._producer.flush()
        except DiasporaError as error:
            _log.warning("%s", error)

    def stored(self, timeout_ms: float | None) -> list[T]:
        """Return the tags of the first events that are stored or refused.

        Parameters
        ----------
        timeout_ms : float or None
            Milliseconds to wait for the very first, and for each try after a failure; None does not wait.
        """
        tags: list[T] = []
        while self._items and self._is_settled(self._items[0], None if tags else timeout_ms):
            item = self._items.popleft()
            self._bytes -= item.size
            tags.append(item.tag)
        return tags

    def _is_settled(self, item: _Item[T], timeout_ms: float | None) -> bool:
        if item.future is not None:
            if timeout_ms is None and not item.future.completed:
                return False
            try:
                return item.future.wait(timeout_ms) is not None
            except DiasporaError as error:
                item.future, item.error = None, error
        if isinstance(item.error, InvalidMetadata | TypeError):
            return self._is_refused(item)
        if timeout_ms is None:
            return False
        self._again(item)
        if item.future is not None:
            return self._is_settled(item, timeout_ms)
        if isinstance(item.error, TRANSIENT):
            return False
        return self._is_refused(item)

    def _is_refused(self, item: _Item[T]) -> bool:
        self.refused += 1
        _log.error("an event cannot be stored in topic %r: %s", self._producer.topic.name, item.error)
        return True

    def _again(self, first: _Item[T]) -> None:
        """Push again all that failed, `first` at their head, once nothing else is on its way."""
        _log.warning("topic %r: %s; trying again", self._producer.topic.name, first.error)
        for item in self._items:
            if item.future is not None:
                try:
                    item.future.wait()
                except DiasporaError as error:
                    item.future, item.error = None, error
        self._stop.wait(PAUSE)
        for item in self._items:
            if item.future is None and not isinstance(item.error, InvalidMetadata | TypeError):
                self.repeated += 1
                self._send(item)
                if item.future is None:
                    break
