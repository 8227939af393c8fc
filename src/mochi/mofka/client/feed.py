"""Feeds: what one partition sends to one consumer.

The server sends batches ahead, as far as credit reaches. A feed receives them into pooled memory and puts them into
the consumer's `arrived`; what receives frames never takes the consumer's lock, which is held while data is loaded.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from diaspora_stream.serializer import DefaultSerializer
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE
from mochi.margo import rpc
from mochi.margo.bulk import BufferPool, BufferPoolConfig
from mochi.margo.errors import ConnectionLost, DeadlineExceeded, MargoError
from mochi.margo.link import Link, PendingCall
from mochi.margo.wire import Frame, Kind
from mochi.mofka.client.event import ReceivedBatch
from mochi.mofka.client.service import PartitionInfo, as_diaspora_error, deadline_after
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
    from mochi.mofka.client.consumer import MofkaConsumer
    from mochi.mofka.client.topic import MofkaTopic

log = logging.getLogger(__name__)

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
        self._service = consumer.service
        self._name = consumer.name
        self._batch_size = 0 if consumer.batch_size == ADAPTIVE_BATCH_SIZE else consumer.batch_size
        self._batches = max(consumer.max_num_batches, MIN_BATCHES)
        self._credit = credit
        self._with_data = consumer.loads_all
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, from the acknowledged events on."""
        self.next: int | None = None
        self.link: Link | None = None
        self._epoch = 0
        self._stream = 0
        self._lock = threading.Lock()
        self._is_subscribing = False
        self._held_batches = 0
        self._held_bytes = 0

    def begin_subscribing(self) -> bool:
        """Have the next `subscribe` be the caller's; False if it is another thread's already."""
        with self._lock:
            was, self._is_subscribing = self._is_subscribing, True
        return not was

    def subscribe(self, connect: Callable[[str], Link]) -> None:
        """Ask the partition for events, after `begin_subscribing`; `MargoError` if it does not answer."""
        link: Link | None = None
        timeout = self._service.timeout
        try:
            link = connect(self.partition.address)
            stream = link.open_stream(self)
            answer = PendingCall()
            with self._lock:
                asked = Subscribe(
                    self._where(),
                    self._name,
                    stream,
                    self._batch_size,
                    max(self._batches - self._held_batches, 0),
                    max(self._credit - self._held_bytes, 0),
                    self._with_data,
                    self.next,
                )
                self._stream = stream
                self.link = link
                call = link.request(
                    SUBSCRIBE, self.partition.provider_id, rpc.pack(asked), answer, timeout=timeout
                )
            self._await(link, call, answer, SUBSCRIBE)
            assert answer.frame is not None
            self._epoch = rpc.unpack(answer.frame.message, Subscribed).epoch
            with self._lock:
                if self.link is not link:
                    raise ConnectionLost(f"the connection to {self.partition.address} is lost")
                self._is_subscribing = False
        except BaseException:
            with self._lock:
                self._is_subscribing = False
                self.link = None
            if link is not None:
                link.close_stream(self._stream)
            raise

    def _await(self, link: Link, call: int, answer: PendingCall, name: str) -> None:
        timeout = self._service.timeout
        if not self._service.client.wait(answer.is_done, lambda: (link,), deadline_after(timeout)):
            link.cancel(call)
            raise DeadlineExceeded(f"{name} at {link.address} has not answered within {timeout:g} s")
        if answer.error is not None:
            raise answer.error

    def unsubscribe(self) -> None:
        """Ask the partition to send no more."""
        link, self.link = self.link, None
        if link is None or link.error is not None:
            return
        link.close_stream(self._stream)
        answer = PendingCall()
        message = rpc.pack(Unsubscribe(self._stream))
        call = link.request(UNSUBSCRIBE, self.partition.provider_id, message, answer)
        self._await(link, call, answer, UNSUBSCRIBE)

    def drop(self, link: Link) -> None:
        """Have the partition send no more, without waiting for the answer; for a consumer that is gone."""
        link.close_stream(self._stream)
        try:
            link.request(UNSUBSCRIBE, self.partition.provider_id, rpc.pack(Unsubscribe(self._stream)), None)
        except ConnectionLost:
            log.debug("nothing to unsubscribe from at %s", self.partition)

    def nudge(self) -> None:
        """Have the server answer, which wakes the thread that reads the connection; stream 0 is never in use."""
        link = self.link
        if link is not None:
            with suppress(ConnectionLost):
                message = rpc.pack(Unsubscribe(0))
                link.request(UNSUBSCRIBE, self.partition.provider_id, message, PendingCall())

    def _where(self) -> Where:
        return Where(self.partition.key, self._epoch)

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return [_POOL.lease(segment.length) for segment in frame.segments]

    def receive(self, frame: Frame) -> None:
        consumer = self._consumer()
        if consumer is None:
            return
        if frame.kind is Kind.FAULT:
            self.link = None
            consumer.feed_failed(self, rpc.unpack_fault(frame.message))
            return
        events = rpc.unpack(frame.message, Events)
        if not events.count:
            consumer.feed_ended(self)
            return
        sizes, metadata, *data = (view for view in frame.bulk if view is not None)
        metadata_sizes, data_sizes = split_sizes(sizes, events.count)
        batch = ReceivedBatch(
            self, events.first, metadata_sizes, metadata, data_sizes, data[0] if data else None
        )
        arrived = consumer.arrived
        with self._lock:
            arrived += (batch,)
            self.next = events.first + events.count
            self._held_batches += 1
            self._held_bytes += batch.size

    def lost(self, error: MargoError) -> None:
        with self._lock:
            had_link = self.link is not None
            self.link = None
        consumer = self._consumer()
        if consumer is not None and had_link and not self._is_subscribing:
            consumer.feed_lost(self, error)

    def give_back(self, batch: ReceivedBatch) -> None:
        """Return a batch's credit to the server; on a lost connection it counts for the next subscription."""
        with self._lock:
            self._held_batches -= 1
            self._held_bytes -= batch.size
            link, stream = self.link, self._stream
        if link is None:
            return
        try:
            link.request(GRANT, self.partition.provider_id, rpc.pack(Grant(stream, 1, batch.size)), None)
        except ConnectionLost:
            log.debug("no credit to give back to %s", self.partition)

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
        self._await(link, call, receiver, REQUEST_DATA)


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
