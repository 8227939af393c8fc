"""Feeds: what one partition sends to one consumer.

The server sends batches ahead, as far as credit reaches. A feed receives them into pooled memory, and puts them in the
consumer's line. What it does about its partition is decided by `mochi.mofka.client.core.feed_state`.

Searching is done by threads of their own, where Ctrl-C does not strike. What receives frames never waits for whoever
changes the feed: it leaves to them what it has to say.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

import msgspec

from diaspora_stream.errors import DiasporaError
from diaspora_stream.serializer import DefaultSerializer, Serializer
from mochi.margo import rpc
from mochi.margo.bulk import BufferPool, BufferPoolConfig
from mochi.margo.errors import ConnectionLost, DeadlineExceeded, MargoError
from mochi.margo.link import Link, PendingCall
from mochi.margo.wire import Frame, Kind
from mochi.mofka.client.core.feed_state import (
    Action,
    Deliver,
    FeedState,
    Grant,
    Leave,
    Look,
    State,
    Tell,
    Wake,
    Widen,
)
from mochi.mofka.client.core.machine import Machine
from mochi.mofka.client.event import EndedFeed, FailedFeed, ReceivedBatch
from mochi.mofka.client.loading import Selected
from mochi.mofka.client.refusals import PartitionInfo, is_away, refusal
from mochi.mofka.client.search import Search
from mochi.mofka.client.service import Service, deadline_after
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    MAX_PIECES,
    REQUEST_DATA,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Acknowledge,
    Events,
    RequestData,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Where,
    raw,
    split_sizes,
)
from mochi.mofka.protocol import Grant as GrantMessage

log = logging.getLogger(__name__)

_POOL = BufferPool(BufferPoolConfig(first_size=256 << 10, num_tiers=5))
"""Memory of received batches: 256 KiB to 64 MiB a buffer, reused once no event of the batch is held any more."""


class Wish(msgspec.Struct, frozen=True):
    """What a consumer asks of each of its partitions.

    Attributes
    ----------
    topic, consumer : str
    serializer : Serializer
    shows_text : bool
        Whether ``event.metadata`` is JSON text.
    batch_size : int
        Events a batch at most; 0 leaves it to the server.
    max_batches, max_bytes : int
        What a partition may send ahead.
    with_data : bool
        Whether data comes with the events.
    """

    topic: str
    consumer: str
    serializer: Serializer
    shows_text: bool
    batch_size: int
    max_batches: int
    max_bytes: int
    with_data: bool


class _Subscription:
    """Receives the notices of one subscription, over one link.

    Attributes
    ----------
    epoch : int
        Of the partition, once it has answered.
    error : MargoError or None
        Why nothing comes any more.
    """

    __slots__ = ("epoch", "error", "feed", "link", "provider_id", "stream")

    def __init__(self, feed: "Feed", link: Link, provider_id: int) -> None:
        self.feed = feed
        self.link = link
        self.provider_id = provider_id
        self.epoch = 0
        self.error: MargoError | None = None
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
            subscription.epoch = answer.epoch
            if answer.takes_arrays:
                subscription.feed.takes_arrays = subscription.link.instance
            subscription.feed.post(FeedState.begun, subscription, answer.epoch, answer.first)
        super().receive(frame)


class Feed(Machine[FeedState]):
    """What one partition sends to one consumer.

    Parameters
    ----------
    line : deque
        Where it puts what came.

    Attributes
    ----------
    deserialize : callable or None
        Turns metadata into a value; None stands for the default serializer.
    show : callable or None
        Turns metadata into what ``event.metadata`` is, if that is not what `deserialize` gives.
    takes_arrays : bytes or None
        The server's start that takes requests for data as arrays.
    """

    def __init__(self, service: Service, wish: Wish, partition: PartitionInfo, line: deque[Any]) -> None:
        self._service = service
        self._wish = wish
        self.takes_arrays: bytes | None = None
        self.partition = service.current(partition)
        serializer = wish.serializer
        self.deserialize = None if isinstance(serializer, DefaultSerializer) else serializer.deserialize
        self.show = serializer.deserialize_text if wish.shows_text else self.deserialize
        self._line = line
        self._put = 0
        self._farewell: tuple[Link, PendingCall] | None = None
        self.begin(FeedState(max_batches=wish.max_batches, max_bytes=wish.max_bytes))

    def __repr__(self) -> str:
        return f"<Feed of topic {self._wish.topic!r}, {self.partition}>"

    def reset(self) -> None:
        """Begin anew in a forked child, from the acknowledged events on."""
        self.begin(self.now.in_child())

    @property
    def link(self) -> Link | None:
        """The link that events come over; None where none come."""
        now = self.now
        if now.at is not State.SUBSCRIBED:
            return None
        link: Link = now.subscription.link
        return link

    @property
    def is_missing(self) -> bool:
        """Whether the partition is looked for, and was not found at once."""
        return self.now.at is State.MISSING

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.now.at is State.ENDED

    def holds_back(self, failed: FailedFeed) -> bool:
        """Tell whether `failed` waits for the answer of a partition that is asked for what comes behind lost events."""
        return self.now.holds_back(failed.number)

    def may_tell(self, failed: FailedFeed) -> bool:
        """Ask for what comes behind `failed`, the next to be handed out; tell whether it can be."""
        self.tell(FeedState.due, failed.number)
        return not self.now.is_untold(failed.number)

    def subscribe(self) -> None:
        """Ask for events, unless that is under way or done."""
        self.tell(FeedState.wanted)

    def give_back(self, batch: ReceivedBatch) -> None:
        """Return a batch's credit to the server."""
        self.tell(FeedState.gives_back, batch.number, batch.size)

    def stop(self) -> None:
        """Have the partition send no more; never waits."""
        self.post(FeedState.stopped)

    def await_farewell(self) -> None:
        """Wait for the partition to say that it sends no more; `MargoError` if it does not."""
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            self._await(*farewell, UNSUBSCRIBE, self._service.timeout)

    def in_background(self, work: Callable[[], object]) -> None:
        self._service.jobs.put(work)

    def perform(self, action: Action) -> None:
        """Do what the state asks for; may be repeated."""
        match action:
            case Grant(subscription, batches, size):
                message = rpc.pack(GrantMessage(subscription.stream, batches, size))
                try:
                    subscription.link.request(GRANT, subscription.provider_id, message, None)
                except ConnectionLost:
                    log.debug("no credit to give back to %s", self.partition)
            case Deliver(number, None):
                self._put_in_line(number, EndedFeed())
                self._service.client.rouse()
            case Deliver(number, batch):
                batch.number = number
                self._put_in_line(number, batch)
                if batch.reader != get_ident():  # who looks by itself whether it is done
                    self._service.client.rouse()
            case Tell(number, error):
                self._put_in_line(number, FailedFeed(self, error, number))
                self._service.client.rouse()
            case Widen(number, error):
                for item in list(self._line):
                    if isinstance(item, FailedFeed) and item.feed is self and item.number == number:
                        item.error = error
            case Look(search, cause):
                if cause is not None:
                    log.info("topic %r, %s: %s; looking for it", self._wish.topic, self.partition, cause)
                self._service.jobs.put(partial(self._search, search, cause))
            case Leave(subscription):
                self._leave(subscription)
            case Wake():
                self._service.client.rouse()

    def _leave(self, subscription: _Subscription) -> None:
        link, answer = subscription.link, PendingCall()
        link.close_stream(subscription.stream)
        with suppress(ConnectionLost):
            message = rpc.pack(Unsubscribe(subscription.stream))
            link.request(UNSUBSCRIBE, subscription.provider_id, message, answer)
            self._farewell = link, answer

    def _put_in_line(self, number: int, item: Any) -> None:
        line = self._line
        if number > self._put:
            self._put = number  # no call from here on
            line += (item,)

    def _search(self, number: int, cause: MargoError | None) -> None:
        """Look for the partition until it sends events; or tell the consumer why it does not."""
        search = Search(self._service, self._wish.topic, lambda: self.tell(FeedState.missed, number))
        failure: DiasporaError | None = None
        while failure is None and self.now.is_searching(number):
            try:
                self._ask(number, *search.connect(self.partition, cause))
            except MargoError as error:
                cause = error.with_traceback(None)
                if search.is_over or not is_away(cause):
                    failure = self._refusal(cause, self.now.epoch)
            except DiasporaError as error:
                failure = error
        search.end("given up" if failure or self.link is None else "found again")
        if failure is not None:
            self.tell(FeedState.given_up, number, failure)

    def _ask(self, number: int, partition: PartitionInfo, link: Link) -> None:
        """Subscribe over `link`; `MargoError` if the partition refuses."""
        subscription = _Subscription(self, link, partition.provider_id)
        wish, timeout = self._wish, self._service.timeout
        self.tell(FeedState.asks, number, subscription)
        now = self.now
        terms = now.terms
        if now.subscription is not subscription or terms is None:
            link.close_stream(subscription.stream)
            return
        self.partition = partition
        asked = Subscribe(
            Where(partition.key, terms.epoch),
            wish.consumer,
            subscription.stream,
            wish.batch_size,
            terms.batches,
            terms.size,
            wish.with_data,
            terms.start,
        )
        answer = _Answer(subscription)
        try:
            call = link.request(SUBSCRIBE, partition.provider_id, rpc.pack(asked), answer, timeout=timeout)
            self._await(link, answer, SUBSCRIBE, timeout, call)
        except MargoError as error:
            link.close_stream(subscription.stream)
            self.tell(FeedState.cut, subscription, error)
            raise
        self.tell(FeedState.wanted)  # changes nothing, but comes after what the receiver has left to others
        if self.now.is_searching(number):
            raise subscription.error or ConnectionLost(f"{link.address} sends nothing")

    def _refusal(self, error: MargoError, epoch: int) -> DiasporaError:
        return refusal(error, f"topic {self._wish.topic!r}", self.partition, epoch)

    def _await(
        self, link: Link, answer: PendingCall, name: str, timeout: float, call: int | None = None
    ) -> None:
        whom = f"topic {self._wish.topic!r}, {self.partition}, to answer {name}"
        if not self._service.client.wait_for_server(
            answer.is_done, lambda: (link,), deadline_after(timeout), lambda: whom
        ):
            if call is not None:
                link.cancel(call)
            raise DeadlineExceeded(f"{name} at {link.address} has not answered within {timeout:g} s")
        if answer.error is not None:
            raise answer.error

    def received(self, subscription: _Subscription, frame: Frame) -> None:
        """Take a batch."""
        events = rpc.unpack(frame.message, Events)
        if not events.count:
            self.post(FeedState.finished, subscription)
            return
        sizes, metadata, *data = (view for view in frame.bulk if view is not None)
        metadata_sizes, data_sizes = split_sizes(sizes, events.count)
        batch = ReceivedBatch(
            self,
            subscription.epoch,
            events.first,
            metadata_sizes,
            metadata,
            data_sizes,
            data[0] if data else None,
        )
        batch.reader = get_ident()
        self.post(FeedState.received, subscription, events.first + events.count, batch.size, batch)

    def ended(self, subscription: _Subscription, error: MargoError) -> None:
        """Take note that a subscription brings no more; asks again, from the first event not received."""
        subscription.error = error
        if is_away(error):
            self.post(FeedState.cut, subscription, error)
        else:
            self.post(FeedState.refused, subscription, self._refusal(error, subscription.epoch))

    def sign_of_life(self) -> PendingCall | None:
        """Have the partition answer; None while it is looked for. Stream 0 is never in use."""
        link = self.link
        if link is not None:
            with suppress(ConnectionLost):
                answer = PendingCall()
                message = rpc.pack(Unsubscribe(0))
                link.request(UNSUBSCRIBE, self.partition.provider_id, message, answer)
                return answer
        return None

    def acknowledge(self, event_id: int, epoch: int) -> None:
        """Move the consumer's cursor behind an event of `epoch`; blocks for the answer."""
        wish = self._wish
        message = rpc.pack(Acknowledge(Where(self.partition.key, epoch), wish.consumer, event_id))
        what = f"acknowledging event {event_id} of topic {wish.topic!r}"
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
        where = Where(self.partition.key, epoch)

        def asked_at(link: Link) -> tuple[bytes, list[list[memoryview]]]:
            if link.instance == self.takes_arrays:
                message = rpc.pack(RequestData(where, [], len(selected.events)))
                return message, [[raw(numbers) for numbers in selected]]
            return rpc.pack(RequestData(where, selected.requests())), []

        what = f"data of topic {self._wish.topic!r}"
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
        search = Search(service, self._wish.topic)
        partition = self.partition
        cause: MargoError | None = None
        while True:
            try:
                partition, link = search.connect(partition, cause)
                answer = receiver()
                timeout = search.seconds_left
                message, bulk = asked_at(link)
                call = link.request(name, partition.provider_id, message, answer, bulk=bulk, timeout=timeout)
                self._await(link, answer, name, timeout, call)
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
        """Return one buffer where there is one target, else memory that is then scattered to the targets."""
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
