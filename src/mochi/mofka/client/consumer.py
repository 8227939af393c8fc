"""The consumer of the ``mofka`` driver: feeds of partitions, events handed out in the order of the pulls.

How an event comes: the server sends batches ahead, as far as credit reaches. Whoever reads the connection (a thread
that waits for an event, else the background thread) puts them into `_arrived`. The thread that finds no event ready
opens the next batch; an event is then two slots, and handing one out is one operation on a deque.

Invariants
----------
1. An event is in a batch that arrived, in `_ready`, in a future, or with the application. A future that is dropped
   gives its event back, to the front.
2. Futures get events in the order of the pulls: while `_waiting` has a living future, no pull takes an event past it.
3. A batch's credit goes back when its last event is handed out. Not more than `MAX_CREDIT` bytes, and one batch for
   each partition, are here ahead of the application.
"""

import logging
import threading
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from diaspora_stream.consumer import ITERATION_TIMEOUT_MS, Consumer, DataAllocator, DataSelector, FutureEvent
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import DiasporaError
from diaspora_stream.event import Event
from diaspora_stream.future import Completed, seconds
from diaspora_stream.serializer import DefaultSerializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE, WHOLE
from mochi.margo import rpc
from mochi.margo.bulk import BufferPool, BufferPoolConfig
from mochi.margo.errors import ConnectionLost, DeadlineExceeded, MargoError
from mochi.margo.link import Link, PendingCall
from mochi.margo.wire import Frame, Kind
from mochi.mofka.client.event import MofkaEvent, NoMoreEvents, ReceivedBatch
from mochi.mofka.client.service import PartitionInfo, Service, as_diaspora_error, deadline_after
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    REQUEST_DATA,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Acknowledge,
    Done,
    Events,
    Grant,
    RequestData,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Where,
    split_sizes,
)

if TYPE_CHECKING:
    from mochi.mofka.client.topic import MofkaTopic

log = logging.getLogger(__name__)

MAX_CREDIT = 64 << 20
"""Bytes that the servers may send ahead of the application, all partitions together."""

MIN_BATCHES = 2
"""Batches that each server may send ahead at least: one to work on, one on its way."""

_POOL = BufferPool(BufferPoolConfig(first_size=256 << 10, num_tiers=5))
"""Memory of received batches: 256 KiB to 64 MiB a buffer, reused once no event of the batch is held any more."""


class Feed:
    """What one partition sends to one consumer; the receiver of its notices, and of the answer to its request.

    Attributes
    ----------
    deserialize : callable or None
        Turns metadata into a value; None stands for the default serializer.
    """

    def __init__(
        self, consumer: "MofkaConsumer", topic: "MofkaTopic", partition: PartitionInfo, credit: int
    ) -> None:
        self._consumer = weakref.ref(consumer)
        self.partition = partition
        serializer = topic.serializer
        self.deserialize = None if isinstance(serializer, DefaultSerializer) else serializer.deserialize
        self.next: int | None = None
        self.link: Link | None = None
        self._service = consumer.service
        self._name = consumer.name
        self._batch_size = 0 if consumer.batch_size == ADAPTIVE_BATCH_SIZE else consumer.batch_size
        self._batches = max(consumer.max_num_batches, MIN_BATCHES)
        self._credit = credit
        self._with_data = consumer.loads_all
        self._epoch = 0
        self._stream = 0

    def reset(self) -> None:
        """Begin anew in a forked child, from the acknowledged events on."""
        self.next = None
        self.link = None
        self._epoch = 0

    def subscribe(self, timeout: float) -> None:
        """Ask the partition for events; `MargoError` if it does not answer."""
        link = self._service.client.link(self.partition.address, timeout)
        self._stream = link.open_stream(self)
        asked = Subscribe(
            self._where(),
            self._name,
            self._stream,
            self._batch_size,
            self._batches,
            self._credit,
            self._with_data,
            self.next,
        )
        self.link = link
        answer = self._service.client.call(
            self.partition.address,
            SUBSCRIBE,
            asked,
            Subscribed,
            provider_id=self.partition.provider_id,
            timeout=timeout,
        )
        self._epoch = answer.epoch

    def unsubscribe(self) -> None:
        """Ask the partition to send no more."""
        link, self.link = self.link, None
        if link is None or link.error is not None:
            return
        link.close_stream(self._stream)
        self._service.client.call(
            self.partition.address,
            UNSUBSCRIBE,
            Unsubscribe(self._stream),
            Done,
            provider_id=self.partition.provider_id,
        )

    def drop(self, link: Link) -> None:
        """Have the partition send no more, without waiting for the answer; for a consumer that is gone."""
        link.close_stream(self._stream)
        try:
            link.request(UNSUBSCRIBE, self.partition.provider_id, rpc.pack(Unsubscribe(self._stream)), None)
        except ConnectionLost:
            log.debug("nothing to unsubscribe from at %s", self.partition)

    def _where(self) -> Where:
        return Where(self.partition.key, self._epoch)

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return [_POOL.lease(segment.length) for segment in frame.segments]

    def receive(self, frame: Frame) -> None:
        consumer = self._consumer()
        if consumer is None:
            return
        if frame.kind is Kind.FAULT:
            consumer.feed_failed(self, rpc.unpack_fault(frame.message))
            return
        events = rpc.unpack(frame.message, Events)
        if not events.count:
            consumer.feed_ended(self)
            return
        sizes, metadata, *data = (view for view in frame.bulk if view is not None)
        metadata_sizes, data_sizes = split_sizes(sizes, events.count)
        self.next = events.first + events.count
        consumer.arrived(
            ReceivedBatch(self, events.first, metadata_sizes, metadata, data_sizes, data[0] if data else None)
        )

    def lost(self, error: MargoError) -> None:
        consumer = self._consumer()
        if consumer is not None and self.link is not None:
            self.link = None
            consumer.feed_lost(self, error)

    def give_back(self, batch: ReceivedBatch) -> None:
        """Return a batch's credit to the server; on a lost connection there is nothing to return."""
        link = self.link
        if link is None:
            return
        try:
            message = rpc.pack(Grant(self._stream, 1, batch.size))
            link.request(GRANT, self.partition.provider_id, message, None)
        except ConnectionLost:
            pass

    def acknowledge(self, event_id: int) -> None:
        """Move the consumer's cursor behind an event; blocks for the answer."""
        try:
            self._service.client.call(
                self.partition.address,
                ACKNOWLEDGE,
                Acknowledge(self._where(), self._name, event_id),
                Done,
                provider_id=self.partition.provider_id,
            )
        except MargoError as error:
            raise as_diaspora_error(error, f"acknowledging event {event_id} of {self.partition}") from error

    def load(self, wanted: list[tuple[int, list[tuple[int, int]]]], targets: list[memoryview]) -> None:
        """Load pieces of events' data into `targets`, one after another; `MargoError` if it cannot be had."""
        service = self._service
        link = service.client.link(self.partition.address)
        receiver = _DataReceiver(targets)
        message = rpc.pack(RequestData(self._where(), wanted))
        call = link.request(
            REQUEST_DATA, self.partition.provider_id, message, receiver, timeout=service.timeout
        )
        if not service.client.wait(receiver.is_done, lambda: (link,), deadline_after(service.timeout)):
            link.cancel(call)
            raise DeadlineExceeded(f"data of {len(wanted)} events has not come within {service.timeout:g} s")
        if receiver.error is not None:
            raise receiver.error


class _DataReceiver(PendingCall):
    """Receives the data of many events straight into the memory it was allocated."""

    __slots__ = ("_targets",)

    def __init__(self, targets: list[memoryview]) -> None:
        super().__init__()
        self._targets = targets

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        """Give one buffer where there is one target, else memory that is then scattered to the targets."""
        if len(self._targets) == 1 and len(self._targets[0]) == frame.segments[0].length:
            return self._targets
        return super().allocate(frame)

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.RESPONSE and len(self._targets) != 1:
            source = frame.bulk[0]
            assert source is not None
            at = 0
            for target in self._targets:
                target[:] = source[at : at + len(target)]
                at += len(target)
        super().receive(frame)


class _Failed(MofkaEvent):
    """Stands in the place of an event whose selector or allocator raised."""

    error: Exception


class PulledEvent(FutureEvent):
    """The future of a pull, see `diaspora_stream.consumer.FutureEvent`."""

    __slots__ = ("__weakref__", "_consumer", "_taken", "event")

    def __init__(self, consumer: "MofkaConsumer", event: Event | None) -> None:
        self._consumer = consumer
        self._taken = False
        self.event = event

    def wait(self, timeout_ms: float = -1) -> Event | None:
        """Wait for the event, at most `timeout_ms` milliseconds; zero and negative wait for ever."""
        event = self.event
        if event is None:
            event = self._consumer.wait_for(self, seconds(timeout_ms))
            if event is None:
                return None
        self._taken = True
        if type(event) is _Failed:
            raise event.error
        return event

    @property
    def completed(self) -> Completed:
        """Whether `wait` would not wait."""
        if self.event is None:
            self._consumer.fulfil()
        return Completed(self.event is not None)

    def __del__(self) -> None:
        if not self._taken and self.event is not None:
            self._consumer.give_back(self.event)


class MofkaConsumer(Consumer):
    """See `diaspora_stream.consumer.Consumer`."""

    def __init__(
        self,
        service: Service,
        topic: "MofkaTopic",
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        targets: Sequence[PartitionInfo],
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
    ) -> None:
        self.service = service
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self.loads_all = data_selector is WHOLE
        self.data_selector = None if data_selector is WHOLE else data_selector
        self.data_allocator = None if data_allocator is WHOLE else data_allocator
        credit = MAX_CREDIT // max(len(targets), 1)
        self._feeds = [Feed(self, topic, partition, credit) for partition in targets]
        self._begin()
        service.watch(self)
        try:
            self._subscribe_all()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of topic {self.topic.name!r}>"

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._arrived: deque[ReceivedBatch] = deque()
        self._ready: deque[Event] = deque()
        self._waiting: deque[weakref.ref[PulledEvent]] = deque()
        self._current: ReceivedBatch | None = None
        self._error: DiasporaError | None = None
        self._active = {id(feed) for feed in self._feeds}
        self._closed = False
        self._stale = False

    def reset(self) -> None:
        """Begin anew in a forked child: subscribe again at the next pull."""
        self._begin()
        self._stale = True
        for feed in self._feeds:
            feed.reset()

    def _subscribe_all(self) -> None:
        self._stale = False
        for feed in self._feeds:
            try:
                feed.subscribe(self.service.timeout)
            except MargoError as error:
                raise as_diaspora_error(error, f"topic {self.topic.name!r}, {feed.partition}") from error

    def pull(self) -> PulledEvent:
        """Return a future of the next event. Costs about half a microsecond when one is ready."""
        if not self._waiting:
            try:
                return PulledEvent(self, self._ready.popleft())
            except IndexError:
                pass
        future = PulledEvent(self, None)
        with self._lock:
            self._waiting.append(weakref.ref(future))
        return future

    def __iter__(self) -> Iterator[Event]:
        """Yield events until there is none for `ITERATION_TIMEOUT_MS`, or no more."""
        take = self._ready.popleft
        while True:
            try:
                while not self._waiting:
                    event = take()
                    if type(event) is not MofkaEvent:
                        self._ready.appendleft(event)
                        break
                    yield event
            except IndexError:
                pass
            following = self.pull().wait(ITERATION_TIMEOUT_MS)
            if following is None or following.event_id is None:
                return
            yield following

    def wait_for(self, future: PulledEvent, timeout: float | None) -> Event | None:
        """Wait until `future` has its event; None when the time is over."""
        if self._stale:
            self._subscribe_all()
        deadline = deadline_after(timeout)
        while True:
            self.fulfil()
            if future.event is not None:
                return future.event
            with self._lock:
                if self._closed:
                    raise DiasporaError(f"{self!r} is closed")
                if self._error is not None and not self._arrived:
                    error, self._error = self._error, None
                    self._revive()
                    raise error
            if not self.service.client.wait(lambda: self._has_news(future), self._links, deadline):
                return None

    def _has_news(self, future: PulledEvent) -> bool:
        return bool(
            future.event is not None
            or self._arrived
            or self._ready
            or self._error is not None
            or not self._active
            or self._closed
        )

    def _links(self) -> Collection[Link]:
        return {link for feed in self._feeds if (link := feed.link) is not None}

    def fulfil(self) -> None:
        """Give the events that are here to the futures that wait, in their order; may load data."""
        with self._lock:
            while self._waiting:
                future = self._waiting[0]()
                if future is None:
                    self._waiting.popleft()
                    continue
                if not self._ready and not self._open_next():
                    return
                future.event = self._ready.popleft()
                self._waiting.popleft()

    def _open_next(self) -> bool:
        """Make the events of the next batch ready; the caller holds the lock. False if there is none."""
        finished, self._current = self._current, None
        if finished is not None:
            finished.feed.give_back(finished)
        if not self._arrived:
            if not self._active:
                self._ready.append(NoMoreEvents())
                return True
            return False
        batch = self._current = self._arrived.popleft()
        if batch.data is None and self.data_selector is not None:
            self._ready.extend(self._load(batch))
        else:
            self._ready.extend(map(MofkaEvent, repeat(batch), range(batch.count)))
        return True

    def _load(self, batch: ReceivedBatch) -> list[Event]:
        """Run selector and allocator for each event of a batch, and load what they ask for by one request."""
        events: list[Event] = []
        loaded: list[Any] = []
        wanted: list[tuple[int, list[tuple[int, int]]]] = []
        targets: list[memoryview] = []
        for index in range(batch.count):
            buffers: list[Any] = []
            event: Event = MofkaEvent(batch, index)
            try:
                metadata = batch.metadata_of(index)
                descriptor = self._select(metadata, batch.descriptor_of(index))
                if descriptor is not None:
                    buffers, views = self._allocate(metadata, descriptor)
                    if descriptor.size:
                        wanted.append((batch.first + index, descriptor.flatten()))
                        targets.extend(views)
            except Exception as error:
                event = _Failed(batch, index, error)
            events.append(event)
            loaded.append(buffers)
        batch.loaded = loaded
        if wanted:
            try:
                batch.feed.load(wanted, targets)
            except MargoError as error:
                failure = as_diaspora_error(error, f"data of {batch.feed.partition}")
                return [_Failed(batch, index, failure) for index in range(batch.count)]
        return events

    def _select(self, metadata: Any, whole: DataDescriptor) -> DataDescriptor | None:
        assert self.data_selector is not None
        selected = self.data_selector(metadata, whole)
        if selected is not None and not isinstance(selected, DataDescriptor):
            raise DiasporaError(
                f"a data selector returns a DataDescriptor or None, not {type(selected).__name__}"
            )
        return selected

    def _allocate(self, metadata: Any, descriptor: DataDescriptor) -> tuple[list[Any], list[memoryview]]:
        assert self.data_allocator is not None
        given = self.data_allocator(metadata, descriptor)
        if not isinstance(given, list | tuple):
            raise DiasporaError(f"a data allocator returns a list of buffers, not {type(given).__name__}")
        views = [_writable(buffer) for buffer in given]
        size = sum(map(len, views))
        if size != descriptor.size:
            raise DiasporaError(
                f"a data allocator gave {size} bytes of memory for the {descriptor.size} bytes selected"
            )
        return list(given), [view for view in views if len(view)]

    def arrived(self, batch: ReceivedBatch) -> None:
        """Take a batch from a feed."""
        self._arrived.append(batch)

    def feed_ended(self, feed: Feed) -> None:
        """Take note that a partition will send no more."""
        self._active.discard(id(feed))

    def feed_failed(self, feed: Feed, error: Exception) -> None:
        """Take note that a feed cannot go on; the next wait that finds no event raises."""
        self._error = as_diaspora_error(error, f"topic {self.topic.name!r}, {feed.partition}")
        self.service.client.notify()

    def feed_lost(self, feed: Feed, error: MargoError) -> None:
        """Take note that a connection is lost; subscribes again, from the first event not received."""
        if not self._closed:
            log.info("topic %r, %s: %s; connecting again", self.topic.name, feed.partition, error)
            self.service.in_background(partial(self._resubscribe, feed))

    def _resubscribe(self, feed: Feed) -> None:
        try:
            self.service.reconnect(feed.partition.address)
            feed.subscribe(self.service.timeout)
        except MargoError as error:
            self.feed_failed(feed, error)
        self.service.client.notify()

    def _revive(self) -> None:
        """Try feeds that have failed once more, for those who wait on."""
        for feed in self._feeds:
            if feed.link is None:
                self.service.in_background(partial(self._resubscribe, feed))

    def give_back(self, event: Event) -> None:
        """Take the event of a future that was dropped; it is the next one handed out."""
        self._ready.appendleft(event)
        if self._waiting:
            self.service.client.notify()

    def unsubscribe(self) -> None:
        """Have the servers send no more; what is here may still be pulled."""
        for feed in self._feeds:
            try:
                feed.unsubscribe()
            except MargoError as error:
                raise as_diaspora_error(error, f"topic {self.topic.name!r}, {feed.partition}") from error
        self._active.clear()

    def close(self) -> None:
        """Unsubscribe, and drop what is here; idempotent. A server that is gone is no error."""
        if self._closed:
            return
        self._closed = True
        for feed in self._feeds:
            try:
                feed.unsubscribe()
            except MargoError as error:
                log.info("closing %r: %s", self, error)
        self._arrived.clear()
        self._ready.clear()
        self.service.client.notify()

    def __del__(self) -> None:
        for feed in getattr(self, "_feeds", ()):
            link = feed.link
            if link is not None and link.error is None:
                self.service.in_background(partial(feed.drop, link))


def _writable(buffer: Any) -> memoryview:
    """Return a buffer as writable bytes."""
    view = memoryview(buffer)
    if view.readonly:
        raise DiasporaError(f"a data allocator returns writable buffers, and {type(buffer).__name__} is not")
    if not view.c_contiguous:
        if not view.f_contiguous:
            raise DiasporaError("a data allocator returns contiguous buffers")
        view = np.asarray(view).T.data
    return view.cast("B")
