"""Feeds: what one partition sends to one consumer.

The server sends batches ahead, as far as credit reaches. A feed receives them into pooled memory and puts them into
the consumer's `arrived`; what receives frames never takes the consumer's lock, which is held while data is loaded.

Invariants
----------
1. Events arrive in order, each once: `next` is the first that has not, and what another subscription than the last
   one brings is passed over.
2. Subscribing is done by one thread at a time, of its own, where Ctrl-C does not strike. A partition that does not
   answer is looked for until the service's time-out; then a failure takes its place in `arrived`, and the search
   goes on when that is handed out.
3. After a change of epoch the feed goes on from the consumer's cursor; events of before stay good, and are
   acknowledged in their own epoch. Events that are lost, expired or damaged, are told as a failure. The feed asks for
   those behind them before that is handed out, and what is then found to be lost as well is told by the same failure.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from diaspora_stream.errors import DiasporaError, EventsLost
from diaspora_stream.serializer import DefaultSerializer
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE
from mochi.margo import rpc
from mochi.margo.bulk import BufferPool, BufferPoolConfig
from mochi.margo.errors import ConnectionLost, DeadlineExceeded, MargoError
from mochi.margo.link import Link, PendingCall
from mochi.margo.owned_lock import OwnedLock
from mochi.margo.wire import Frame, Kind
from mochi.mofka.client.event import FailedFeed, ReceivedBatch
from mochi.mofka.client.loading import Selected
from mochi.mofka.client.refusals import EpochChanged, PartitionInfo, is_away, refusal
from mochi.mofka.client.search import Search
from mochi.mofka.client.service import deadline_after
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    MAX_NUMBER,
    MAX_PIECES,
    REQUEST_DATA,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Acknowledge,
    Events,
    Grant,
    RequestData,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Where,
    raw,
    split_sizes,
)

if TYPE_CHECKING:
    from mochi.mofka.client.consumer import MofkaConsumer
    from mochi.mofka.client.topic import MofkaTopic

log = logging.getLogger(__name__)

MIN_BATCHES = 2
"""Batches that each server may send ahead at least: one to work on, one on its way."""

_POOL = BufferPool(BufferPoolConfig(first_size=256 << 10, num_tiers=5))
"""Memory of received batches: 256 KiB to 64 MiB a buffer, reused once no event of the batch is held any more."""


class _Subscription:
    """Receives the notices of one subscription, over one link."""

    __slots__ = ("feed", "link", "stream")

    def __init__(self, feed: "Feed", link: Link) -> None:
        self.feed = feed
        self.link = link
        self.stream = link.open_stream(self)

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return [_POOL.lease(segment.length) for segment in frame.segments]

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT:
            self.feed.ended(self, rpc.unpack_fault(frame.message))
        else:
            self.feed.received(self, frame)

    def lost(self, error: MargoError) -> None:
        self.feed.ended(self, error)


class _Answer(PendingCall):
    """Receives the answer to one subscription, before the first events."""

    __slots__ = ("_subscription",)

    def __init__(self, subscription: _Subscription) -> None:
        super().__init__()
        self._subscription = subscription

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.RESPONSE:
            subscription, answer = self._subscription, rpc.unpack(frame.message, Subscribed)
            if answer.takes_arrays:
                subscription.feed._takes_arrays = subscription.link.instance
            subscription.feed.begun(subscription, answer)
        super().receive(frame)


class Feed:
    """What one partition sends to one consumer.

    Attributes
    ----------
    deserialize : callable or None
        Turns metadata into a value; None stands for the default serializer.
    show : callable or None
        Turns metadata into what ``event.metadata`` is, if that is not what `deserialize` gives.
    """

    def __init__(
        self, consumer: "MofkaConsumer", topic: "MofkaTopic", partition: PartitionInfo, credit: int
    ) -> None:
        self._consumer = weakref.ref(consumer)
        self._service = consumer.service
        self._takes_arrays: bytes | None = None
        self.partition = consumer.service.current(partition)
        self._topic = topic.name
        serializer = topic.serializer
        self.deserialize = None if isinstance(serializer, DefaultSerializer) else serializer.deserialize
        self.show = serializer.deserialize_text if topic.generation.metadata_text else self.deserialize
        self._name = consumer.name
        adaptive = consumer.batch_size == ADAPTIVE_BATCH_SIZE
        self._batch_size = 0 if adaptive else min(consumer.batch_size, MAX_NUMBER)
        self._batches = min(max(consumer.max_num_batches, MIN_BATCHES), MAX_NUMBER)
        self._credit = credit
        self._with_data = consumer.loads_all
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, from the acknowledged events on."""
        self.next: int | None = None
        self._epoch = 0
        self._subscription: _Subscription | None = None
        self._is_subscribed = False
        self._is_searching = False
        self._search: Search | None = None
        self._cause: MargoError | None = None
        self._untold: FailedFeed | None = None
        self._lock = OwnedLock()
        self._held_batches = 0
        self._held_bytes = 0

    @property
    def link(self) -> Link | None:
        """The link that events come over; None while the partition is looked for."""
        subscription = self._subscription
        return subscription.link if subscription is not None and self._is_subscribed else None

    @property
    def is_missing(self) -> bool:
        """Whether the partition is looked for, and was not found at once."""
        search = self._search
        return search is not None and search.failures > 0

    def holds_back(self, failed: FailedFeed) -> bool:
        """Tell whether `failed` waits for the answer of a partition that is asked for what comes behind lost events."""
        asks = self._is_searching and not self.is_missing
        return asks and failed.is_due and isinstance(failed.error, EventsLost)

    def go_on(self, failed: FailedFeed) -> bool:
        """Ask for what comes behind `failed`, the next to be handed out; tell whether it can be."""
        if not failed.is_due:
            failed.is_due = True
            self.subscribe()
        with self._lock:
            if self.holds_back(failed):
                return False
            if self._untold is failed:
                self._untold = None
            return True

    def subscribe(self) -> None:
        """Ask for events, in a thread of its own, unless that is under way or done."""
        with self._lock:
            if not self._is_searching and not self._is_subscribed:
                self._is_searching = True
                self._service.jobs.put(self._subscribe)
        self._service.jobs.begin()

    def _subscribe(self) -> None:
        """Look for the partition until it sends events; or tell the consumer why it does not."""
        search = self._search = Search(self._service, self._topic)
        cause, self._cause = self._cause, None
        failure: DiasporaError | None = None
        while failure is None and self._is_wanted() and not self._has_begun():
            self._cause = None
            try:
                self._ask(*search.connect(self.partition, cause))
                cause = self._cause
            except MargoError as error:
                cause = error.with_traceback(None)
            except DiasporaError as error:
                failure = error
            if cause is not None and (search.is_over or not is_away(cause)):
                failure = self._failure(cause)
                if self._joins(failure):
                    failure = cause = None
                    search = self._search = Search(self._service, self._topic)
        search.end("found again" if failure is None and self.link is not None else "given up")
        self._search = None
        if failure is not None:
            self._is_searching = False
            self._tell(failure)
        elif not self._is_wanted():
            self._is_searching = False
            with suppress(MargoError):
                self.unsubscribe()
        self._service.client.notify()

    def _has_begun(self) -> bool:
        with self._lock:
            if self._subscription is None:
                return False
            self._is_subscribed = True
            self._is_searching = False
            return True

    def _failure(self, error: MargoError) -> DiasporaError:
        """Return what to tell of a partition that has failed, and note where to go on.

        That is the cursor if it is in another epoch, and the first event behind those that are lost.
        """
        failure = refusal(error, f"topic {self._topic!r}", self.partition, self._epoch)
        if isinstance(failure, EpochChanged):
            self.next, self._epoch = None, 0
        elif isinstance(failure, EventsLost):
            first = failure.first if self.next is None else max(failure.first, self.next)
            failure = failure.over(first, max(failure.next, first + 1))
            self.next = failure.next
            self._cause = None
        return failure

    def _joins(self, failure: DiasporaError) -> bool:
        """Tell of lost events by the failure that tells of those right before them, if it is not handed out yet."""
        with self._lock:
            untold = self._untold
            if untold is None or not isinstance(failure, EventsLost):
                return False
            before = untold.error
            if type(before) is not type(failure) or before.next != failure.first:
                return False
            untold.error = before.over(before.first, failure.next)
            return True

    def _tell(self, failure: DiasporaError) -> None:
        consumer = self._consumer()
        if consumer is not None:
            failed = FailedFeed(self, failure)
            with self._lock:
                self._untold = failed if isinstance(failure, EventsLost) else None
            consumer.feed_failed(failed)

    def _is_wanted(self) -> bool:
        consumer = self._consumer()
        return consumer is not None and consumer.wants(self)

    def _ask(self, partition: PartitionInfo, link: Link) -> None:
        """Subscribe over `link`; `MargoError` if the partition refuses."""
        subscription = _Subscription(self, link)
        answer = _Answer(subscription)
        with self._lock:
            asked = Subscribe(
                self._where(self._epoch),
                self._name,
                subscription.stream,
                self._batch_size,
                max(self._batches - self._held_batches, 0),
                max(self._credit - self._held_bytes, 0),
                self._with_data,
                self.next,
            )
            self.partition = partition
            self._subscription = subscription
        try:
            timeout = self._service.timeout
            call = link.request(SUBSCRIBE, partition.provider_id, rpc.pack(asked), answer, timeout=timeout)
            self._await(link, call, answer, SUBSCRIBE, timeout)
        except MargoError:
            self._subscription = None
            link.close_stream(subscription.stream)
            raise

    def begun(self, subscription: _Subscription, answer: Subscribed) -> None:
        """Take note of where a subscription begins."""
        with self._lock:
            if subscription is self._subscription:
                self._epoch = answer.epoch
                self.next = answer.first

    def _await(self, link: Link, call: int, answer: PendingCall, name: str, timeout: float) -> None:
        whom = f"topic {self._topic!r}, {self.partition}, to answer {name}"
        if not self._service.client.wait_for_server(
            answer.is_done, lambda: (link,), deadline_after(timeout), lambda: whom
        ):
            link.cancel(call)
            raise DeadlineExceeded(f"{name} at {link.address} has not answered within {timeout:g} s")
        if answer.error is not None:
            raise answer.error

    def unsubscribe(self) -> None:
        """Ask the partition to send no more."""
        subscription, self._subscription = self._subscription, None
        self._is_subscribed = False
        if subscription is None or subscription.link.is_lost:
            return
        link = subscription.link
        link.close_stream(subscription.stream)
        answer = PendingCall()
        message = rpc.pack(Unsubscribe(subscription.stream))
        call = link.request(UNSUBSCRIBE, self.partition.provider_id, message, answer)
        self._await(link, call, answer, UNSUBSCRIBE, self._service.timeout)

    def drop(self) -> None:
        """Have the partition send no more, without waiting for the answer; for a consumer that is gone."""
        subscription = self._subscription
        if subscription is not None:
            link = subscription.link
            link.close_stream(subscription.stream)
            with suppress(ConnectionLost):
                message = rpc.pack(Unsubscribe(subscription.stream))
                link.request(UNSUBSCRIBE, self.partition.provider_id, message, None)

    def ask(self) -> PendingCall | None:
        """Have the partition answer, for a sign of life; None while it is looked for. Stream 0 is never in use."""
        link = self.link
        if link is not None:
            with suppress(ConnectionLost):
                answer = PendingCall()
                message = rpc.pack(Unsubscribe(0))
                link.request(UNSUBSCRIBE, self.partition.provider_id, message, answer)
                return answer
        return None

    def _where(self, epoch: int) -> Where:
        return Where(self.partition.key, epoch)

    def received(self, subscription: _Subscription, frame: Frame) -> None:
        """Take a batch."""
        consumer = self._consumer()
        if consumer is None:
            return
        events = rpc.unpack(frame.message, Events)
        if not events.count:
            consumer.feed_ended(self)
            return
        sizes, metadata, *data = (view for view in frame.bulk if view is not None)
        metadata_sizes, data_sizes = split_sizes(sizes, events.count)
        batch = ReceivedBatch(
            self, self._epoch, events.first, metadata_sizes, metadata, data_sizes, data[0] if data else None
        )
        arrived = consumer.arrived
        with self._lock:
            if subscription is self._subscription:
                arrived += (batch,)
                self._untold = None
                self.next = events.first + events.count
                self._held_batches += 1
                self._held_bytes += batch.size

    def ended(self, subscription: _Subscription, error: MargoError) -> None:
        """Take note that a subscription brings no more; asks again, from the first event not received."""
        with self._lock:
            if subscription is not self._subscription:
                return
            self._cause = error
            self._subscription = None
            self._is_subscribed = False
            if self._is_searching:
                return
        consumer = self._consumer()
        if consumer is None or not consumer.wants(self):
            return
        if is_away(error):
            log.info("topic %r, %s: %s; looking for it", self._topic, self.partition, error)
            self.subscribe()
            return
        failure = self._failure(error)
        if self._joins(failure):
            self.subscribe()
        else:
            self._tell(failure)

    def give_back(self, batch: ReceivedBatch) -> None:
        """Return a batch's credit to the server; on a lost connection it counts for the next subscription.

        What Ctrl-C interrupts may be done again, and at worst grants a batch too many.
        """
        with self._lock:
            if batch.is_held:
                batch.is_held = False
                self._held_batches -= 1
                self._held_bytes -= batch.size
            subscription = self._subscription
        if subscription is None:
            return
        message = rpc.pack(Grant(subscription.stream, 1, batch.size))
        try:
            subscription.link.request(GRANT, self.partition.provider_id, message, None)
        except ConnectionLost:
            log.debug("no credit to give back to %s", self.partition)

    def acknowledge(self, event_id: int, epoch: int) -> None:
        """Move the consumer's cursor behind an event of `epoch`; blocks for the answer."""
        message = rpc.pack(Acknowledge(self._where(epoch), self._name, event_id))
        what = f"acknowledging event {event_id} of topic {self._topic!r}"
        self._request(ACKNOWLEDGE, lambda link: (message, []), PendingCall, what, epoch)

    def load(self, selected: Selected, targets: list[memoryview], epoch: int) -> None:
        """Load pieces of events' data into `targets`, one after another; `DiasporaError` if it cannot be had."""
        count = len(selected.events)
        if count <= MAX_PIECES:
            self._load(selected, targets, epoch)
            return
        content = memoryview(bytearray(int(selected.lengths.sum())))
        at = 0
        for begin in range(0, count, MAX_PIECES):
            part = selected.part(begin, begin + MAX_PIECES)
            size = int(part.lengths.sum())
            self._load(part, [content[at : at + size]], epoch)
            at += size
        _scatter(content, targets)

    def _load(self, selected: Selected, targets: list[memoryview], epoch: int) -> None:
        where = self._where(epoch)

        def asked_at(link: Link) -> tuple[bytes, list[list[memoryview]]]:
            if link.instance == self._takes_arrays:
                message = rpc.pack(RequestData(where, [], len(selected.events)))
                return message, [[raw(numbers) for numbers in selected]]
            return rpc.pack(RequestData(where, selected.requests())), []

        what = f"data of topic {self._topic!r}"
        self._request(REQUEST_DATA, asked_at, lambda: _DataReceiver(targets), what, epoch)

    def _request(
        self,
        name: str,
        asked_at: Callable[[Link], tuple[bytes, list[list[memoryview]]]],
        receiver: Callable[[], PendingCall],
        what: str,
        epoch: int,
    ) -> None:
        """Make a request that may be repeated; where the partition is away, looks for it within the time-out."""
        service = self._service
        search = Search(service, self._topic)
        partition = self.partition
        cause: MargoError | None = None
        while True:
            try:
                partition, link = search.connect(partition, cause)
                answer = receiver()
                timeout = search.seconds_left
                message, bulk = asked_at(link)
                call = link.request(name, partition.provider_id, message, answer, bulk=bulk, timeout=timeout)
                self._await(link, call, answer, name, timeout)
                search.end("found again")
                return
            except MargoError as error:
                if search.is_over or service.is_closed or not is_away(error):
                    raise refusal(error, what, partition, epoch) from error
                cause = error


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
        source = frame.bulk[0] if frame.bulk else None
        if frame.kind is Kind.RESPONSE and not (len(self._targets) == 1 and source is self._targets[0]):
            assert source is not None
            _scatter(source, self._targets)
        super().receive(frame)


def _scatter(source: memoryview, targets: Sequence[memoryview]) -> None:
    at = 0
    for target in targets:
        end = at + len(target)
        target[:] = source[at:end]
        at = end
