"""The consumer of the embedded drivers: events are read when somebody waits for them.

Whoever waits reads the next batch, of one partition after the other, and hands its events to the futures in the order
of the pulls. Who finds nothing sleeps until the watcher tells of a change.

Invariants: an event is still to be read, in `_ready`, in a future, or with the application; a future that is dropped
gives its event back, to the front. It passes from one place to the next without a call between, as in
`mochi.mofka.client.consumer`. A failure of a partition is handed out once, behind the events before it.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from diaspora_stream.consumer import Consumer, DataAllocator, DataSelector
from diaspora_stream.errors import DiasporaError, EventsDamaged, EventsExpired, TopicNotFound
from diaspora_stream.event import Event
from diaspora_stream.serializer import DefaultSerializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE, WHOLE
from mochi.margo.owned_lock import OwnedLock
from mochi.mofka.chunks import DamagedEvents, ExpiredEvents, StorageError
from mochi.mofka.client.event import (
    FailedEvent,
    FailedFeed,
    MofkaEvent,
    NoMoreEvents,
    ReceivedBatch,
)
from mochi.mofka.client.loading import choose
from mochi.mofka.client.pulling import PulledEvent, event_at, is_vacant
from mochi.mofka.files.cursors import CursorKeeper
from mochi.mofka.files.partition import EmbeddedPartition
from mochi.mofka.files.storage import Reader
from mochi.mofka.files.writing import WRITING

if TYPE_CHECKING:
    from mochi.mofka.files.topic import EmbeddedTopic

MAX_EVENTS = 16384
MAX_BYTES = 8 << 20
"""Events, and their bytes, that are read at once."""

Watching: TypeAlias = Callable[[Sequence[EmbeddedPartition], Callable[[], None]], Callable[[], None]]
"""Has a function called when partitions may have more events, until what it returns is called."""


class Feed:
    """What one consumer reads of one partition.

    Attributes
    ----------
    partition : EmbeddedPartition
        For events.
    deserialize, show : callable or None
        Likewise.
    """

    def __init__(
        self,
        consumer: "EmbeddedConsumer",
        topic: "EmbeddedTopic",
        partition: EmbeddedPartition,
        reader: Reader,
    ) -> None:
        self.partition = partition
        serializer = topic.serializer
        self.deserialize = None if isinstance(serializer, DefaultSerializer) else serializer.deserialize
        self.show = serializer.deserialize_text if topic.generation.metadata_text else self.deserialize
        self.reader = reader
        self._name = consumer.name
        self._topic = topic.name
        self._cursors = consumer.cursors
        self.next_id = 0
        self.begin()

    def begin(self) -> None:
        """Go on behind the last event that was acknowledged."""
        self.next_id = max(self._cursors.get(self._name, self.partition.index), self.reader.first_id)

    def has_more(self) -> bool:
        """Look for new events."""
        if self.next_id < self.reader.event_count or self.next_id < self.reader.refresh():
            return True
        if not self.partition.exists():
            raise TopicNotFound(self._topic)
        return False

    def read(self, max_events: int, *, with_data: bool) -> ReceivedBatch:
        """Read the next events."""
        events = self.reader.read_range(self.next_id, max_events, MAX_BYTES, with_data=with_data)
        return ReceivedBatch(
            self, 0, events.first, events.metadata_sizes, events.metadata, events.data_sizes, events.data
        )

    def explained(self, error: StorageError) -> DiasporaError:
        """Return what an application is told of an error; events that are lost are passed over."""
        where = f"topic {self._topic!r}, {self.partition}"
        if isinstance(error, ExpiredEvents):
            lost: EventsDamaged | EventsExpired = EventsExpired(where, self.next_id, error.next)
        elif isinstance(error, DamagedEvents):
            lost = EventsDamaged(where, self.next_id, error.first + error.count, str(error))
        else:
            return DiasporaError(f"{where}: {error}")
        self.next_id = max(lost.next, self.next_id + 1)
        return lost

    def acknowledge(self, event_id: int, epoch: int) -> None:
        """Move the consumer's cursor behind an event."""
        self._cursors.advance(self._name, self.partition.index, event_id + 1)


class EmbeddedConsumer(Consumer):
    """See `diaspora_stream.consumer.Consumer`.

    Parameters
    ----------
    open_reader : callable
        Opens a partition to be read.
    watch : callable
        Has a function called when partitions may have more events; returns what ends that. None if whatever there
        will be is there already: the consumer then comes to an end.
    """

    def __init__(
        self,
        topic: "EmbeddedTopic",
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        targets: Sequence[EmbeddedPartition],
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
        iteration_timeout_ms: float,
        cursors: CursorKeeper,
        watch: Watching | None,
    ) -> None:
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self.cursors = cursors
        self.data_selector = None if data_selector is WHOLE else data_selector
        self.data_allocator = None if data_allocator is WHOLE else data_allocator
        self._loads_all = data_selector is WHOLE
        self._iteration_timeout_ms = iteration_timeout_ms
        self._most = MAX_EVENTS if batch_size in (0, ADAPTIVE_BATCH_SIZE) else min(batch_size, MAX_EVENTS)
        self._watch = watch
        self._unwatch: Callable[[], None] = lambda: None
        self._waiting: deque[weakref.ref[PulledEvent]] = deque()
        self._feeds: list[Feed] = []
        self._closed = False
        self._begin()
        try:
            for partition in targets:
                self._feeds.append(Feed(self, topic, partition, partition.open_reader()))
        except (StorageError, OSError) as error:
            self.close()
            raise DiasporaError(f"topic {topic.name!r}, {partition} cannot be read: {error}") from error
        self._active = list(self._feeds)
        WRITING.start()
        weakref.finalize(self, _let_go, [feed.reader for feed in self._feeds]).atexit = False
        self._start_watching()

    def _begin(self) -> None:
        self._lock = OwnedLock()
        self._news = threading.Condition(OwnedLock())
        self._news_count = 0
        self._ready: deque[Any] = deque()
        self._taking = iter(self._ready.popleft, None)
        self._current: ReceivedBatch | None = None
        self._opened = 0
        self._active = list(self._feeds)

    def _start_watching(self) -> None:
        if self._watch is not None:
            self._unwatch = self._watch([feed.partition for feed in self._feeds], self.notify)

    def reset(self) -> None:
        """Begin anew in a forked child, behind the acknowledged events; futures that have no event wait on."""
        is_active = bool(self._active)
        self._begin()
        if self._closed:
            return
        for feed in self._feeds:
            feed.begin()
        if is_active:
            self._start_watching()
        else:
            self._active = []

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of topic {self.topic.name!r}>"

    def notify(self) -> None:
        """Have those who wait look again."""
        with self._news:
            self._news_count += 1
            self._news.notify_all()

    def pull(self) -> PulledEvent:
        """Return a future of the next event, see `diaspora_stream.consumer.Consumer.pull`."""
        future = PulledEvent(self)
        if not self._waiting:
            try:
                for event in self._taking:
                    future.event = event
                    return future
            except IndexError:
                pass
        self._check_open()
        self._waiting.append(weakref.ref(future))
        return future

    def _check_open(self) -> None:
        if self._closed:
            raise DiasporaError(f"{self!r} is closed")

    def wait_for(self, place: "weakref.ref[PulledEvent]", timeout: float | None) -> Any:
        """Wait until the future at `place` has its event; None when the time is over."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            seen = self._news_count
            self.fulfil()
            if (event := event_at(place)) is not None:
                return event
            self._check_open()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with self._news:
                if self._news_count == seen:
                    self._news.wait(min(left, 3600.0))

    def fulfil(self) -> None:
        """Hand the events that are there to the futures that wait, in their order; may read and load."""
        if self._lock.is_mine():
            raise DiasporaError(f"a data selector or allocator of {self!r} cannot wait for its events")
        given = 0
        try:
            with self._lock:
                while self._waiting and not self._closed:
                    place = self._waiting[0]
                    if not is_vacant(place):
                        del self._waiting[0]
                    elif self._ready or self._open_next():
                        self._fill(place)
                        given += 1
                    else:
                        break
        finally:
            if given:
                self.notify()

    def _fill(self, place: "weakref.ref[PulledEvent]") -> None:
        future = place()
        if future is not None:
            try:
                for event in self._taking:
                    future.event = event
                    break
            except IndexError:
                pass

    def _open_next(self) -> bool:
        """Make the next events ready; the caller holds the lock. False without any."""
        ready = self._ready
        batch = self._current
        if batch is not None:
            events = self._load(batch)
            following = None if self._opened + len(events) == batch.count else batch
            ready += events
            self._opened += len(events)
            self._current = following
            return True
        for feed in list(self._active):
            try:
                if not feed.has_more():
                    continue
                batch = feed.read(self._most, with_data=self._loads_all)
            except StorageError as error:
                ready.append(FailedFeed(feed, feed.explained(error)))
                return True
            except TopicNotFound as error:
                self._active.remove(feed)
                ready.append(FailedFeed(feed, error))
                return True
            self._active.remove(feed)
            self._active.append(feed)
            if self._loads_all or self.data_selector is None:
                taken = [MofkaEvent(batch, index) for index in range(batch.count)]
                ready += taken
                feed.next_id = batch.first + batch.count
                return True
            self._opened = 0
            feed.next_id = batch.first + batch.count
            self._current = batch
            return self._open_next()
        if not self._active or self._watch is None:
            ready.append(NoMoreEvents(self.topic.generation.metadata_text))
            return True
        return False

    def _load(self, batch: ReceivedBatch) -> list[Event]:
        """Run selector and allocator for events of a batch, and load what they ask for."""
        assert self.data_selector is not None
        assert self.data_allocator is not None
        start, events, places, targets, selected = choose(
            batch, self._opened, self.data_selector, self.data_allocator
        )
        wanted = selected.requests()
        feed: Feed = batch.feed
        try:
            found = feed.reader.read_data(wanted)
        except StorageError:
            found = []
        for n, (place, request) in enumerate(zip(places, wanted, strict=True)):
            try:
                _spread(found[n] if found else feed.reader.read_data([request])[0], targets[n])
            except StorageError as error:
                failure = _told(feed, request[0], error)
                events[place - start] = FailedEvent(batch, place, failure)
        return events

    def give_back(self, event: Any) -> None:
        """Take the event of a future that was dropped; it is the next one handed out."""
        self._ready.appendleft(event)
        if self._waiting:
            self.notify()

    def __iter__(self) -> Iterator[Event]:
        """Yield events until there is none for the consumer's ``iteration_timeout_ms``, or no more."""
        while (
            event := self.pull().wait(self._iteration_timeout_ms)
        ) is not None and event.event_id is not None:
            yield event

    def __next__(self) -> Event:
        """Return the next event, as a ``for`` loop does."""
        for event in self:
            return event
        raise StopIteration

    def unsubscribe(self) -> None:
        """Read no more; what is here may still be pulled."""
        self._check_open()
        self._active = []
        self._unwatch()
        self.notify()

    def close(self) -> None:
        """Read no more, and drop what is here; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        self.notify()
        if not self._lock.is_mine():
            with self._lock:
                self._ready.clear()
                for feed in self._feeds:
                    feed.reader.close()


def _let_go(readers: Sequence[Reader]) -> None:
    """Have the files of a dropped consumer closed by another thread: a finalizer runs anywhere, under any lock."""
    for reader in readers:
        WRITING.do(reader.close)


def _spread(content: memoryview, targets: Sequence[memoryview]) -> None:
    """Copy what was read into the buffers that an allocator gave."""
    position = 0
    for target in targets:
        target[:] = content[position : position + len(target)]
        position += len(target)


def _told(feed: Feed, event_id: int, error: StorageError) -> DiasporaError:
    where = f"the data of event {event_id}, {feed.partition}"
    if isinstance(error, DamagedEvents):
        return EventsDamaged(where, event_id, event_id + 1, str(error))
    return DiasporaError(f"{where}: {error}")
