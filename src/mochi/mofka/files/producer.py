"""The producer of the embedded drivers."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, SupportsIndex

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.integers import unsigned
from diaspora_stream.partition_selector import DefaultPartitionSelector
from diaspora_stream.producer import Producer
from diaspora_stream.thread_pool import ThreadPool
from mochi.mofka.client.encoding import Encoder, as_data
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.client.producer import choices, place_of
from mochi.mofka.files.lane import Lane
from mochi.mofka.files.writing import WRITING

if TYPE_CHECKING:
    from mochi.mofka.files.topic import EmbeddedTopic


class EmbeddedProducer(Producer):
    """See `diaspora_stream.producer.Producer`.

    It writes a partition from its first event there until it is closed or dropped; meanwhile no other process can.

    Parameters
    ----------
    make_lane : callable
        Makes the lane to the partition of this number.
    timeout : float
        Seconds that calls wait at most where they name no time-out.
    """

    def __init__(
        self,
        topic: "EmbeddedTopic",
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        options: Mapping[str, Any],
        make_lane: Callable[[int, LaneOptions], Lane],
        timeout: float,
    ) -> None:
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self._timeout = timeout
        self._selector = topic.partition_selector
        chosen = choices(options)
        self._encoder = Encoder(topic.validator, topic.serializer, is_finite=chosen["not_finite"] == "raise")
        self._options = LaneOptions(
            topic.name, batch_size, max_num_batches, chosen["when_full"], self._encoder.prefixed
        )
        self._lanes = [make_lane(index, self._options) for index in range(len(topic.partitions))]
        one = len(self._lanes) == 1 and type(self._selector) is DefaultPartitionSelector
        self._only = self._lanes[0] if one else None
        self._closed = False
        weakref.finalize(self, _let_go, self._lanes).atexit = False

    def __repr__(self) -> str:
        return f"<Producer {self.name!r} of topic {self.topic.name!r}>"

    def push(self, metadata: Any, data: Any = b"", *, partition: SupportsIndex | None = None) -> FutureUint:
        """Push one event, see `diaspora_stream.producer.Producer.push`."""
        text = self._encoder.text(metadata)
        if type(data) is not bytes:
            data = as_data(data)
        lane = self._only
        if lane is None or partition is not None:
            lane = self._select(metadata, partition)
        if len(text) + len(data) > lane.small:
            future = FutureUint(None)
            lane.push_counted(text, data, future)
            return future
        batch = lane.open
        future = FutureUint(batch)
        entries = batch.entries
        entries.extend((text, data, future))
        if len(entries) >= batch.limit:
            lane.filled(batch, text, data, future)
        elif not lane.is_told:
            lane.tell()
        return future

    def _select(self, metadata: Any, partition: SupportsIndex | None) -> Lane:
        self._check_open()
        requested = None if partition is None else unsigned("partition", partition)
        chosen = self._selector.select(metadata, requested)
        return self._lanes[place_of(chosen, len(self._lanes), self.topic.name)]

    def _check_open(self) -> None:
        if self._closed:
            raise DiasporaError(f"{self!r} is closed")

    def flush(self) -> FutureFlushed:
        """Have what is pending stored, see `diaspora_stream.producer.Producer.flush`."""
        self._check_open()
        flushed = self._flush()
        if self.topic.generation.blocking_flush:
            flushed.wait()
        return flushed

    @property
    def is_closed(self) -> bool:
        """Whether the producer takes no more events."""
        return self._closed

    def _flush(self) -> FutureFlushed:
        failed, self._options.failed = self._options.failed, None
        marks = [(lane, lane.begin_flush()) for lane in self._lanes]

        def is_done() -> bool:
            return all(lane.is_flushed(mark) for lane, mark in marks)

        def wait(timeout: float | None) -> bool:
            deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
            done = all(lane.wait_flushed(mark, deadline) for lane, mark in marks)
            if not done and timeout is None:
                raise TimeoutExpired(f"{self!r}: not all events are stored within {self._timeout:g} s")
            failure = failed or self._options.failed
            if done and failure is not None:
                self._options.failed = None
                raise failure.with_traceback(None)
            return done

        return FutureFlushed(wait, is_done)

    def close(self) -> None:
        """Flush, and take no more events; idempotent. A failure that a future has told is not raised again."""
        if self._closed:
            return
        self.stop()
        if self._options.failed is self._options.told:
            self._options.failed = None
        try:
            self._flush().wait()
        finally:
            let_go = Event()
            for lane in self._lanes:
                WRITING.do(lane.close)
            WRITING.do(let_go.set)
            if not WRITING.is_writing():
                let_go.wait(self._timeout)
        failed, self._options.failed = self._options.failed, None
        if failed is not None:
            raise failed.with_traceback(None)

    def stop(self) -> None:
        """Take no more events."""
        self._closed = True
        self._only = None


def _let_go(lanes: Sequence[Lane]) -> None:
    """Have what a dropped producer has pending written, by the thread that writes: a finalizer runs anywhere."""
    for lane in lanes:
        WRITING.do(lane.close)
