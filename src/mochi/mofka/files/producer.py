"""The producer of the embedded drivers."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, SupportsIndex

from diaspora_stream.errors import TimeoutExpired
from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.thread_pool import ThreadPool
from mochi.mofka.client.encoding import as_data
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.client.pushing import LaneProducer
from mochi.mofka.files.lane import Lane
from mochi.mofka.files.writing import WRITING

if TYPE_CHECKING:
    from mochi.mofka.files.topic import EmbeddedTopic


class EmbeddedProducer(LaneProducer[Lane]):
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
        super().__init__(
            topic,
            topic.validator,
            topic.partition_selector,
            topic.serializer,
            name,
            batch_size,
            max_num_batches,
            thread_pool,
            options,
        )
        self._timeout = timeout
        self._begin([make_lane(index, self._options) for index in range(len(topic.partitions))])
        weakref.finalize(self, _let_go, self._lanes).atexit = False

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

    def _end(self) -> None:
        try:
            self._flush().wait()
        finally:
            # Where no lane was opened, there may be no thread that does jobs.
            opened = [lane for lane in self._lanes if lane.is_open]
            let_go = Event()
            for lane in opened:
                WRITING.do(lane.close)
            if opened:
                WRITING.do(let_go.set)
            if opened and not WRITING.is_writing():
                let_go.wait(self._timeout)
        failed, self._options.failed = self._options.failed, None
        if failed is not None:
            raise failed.with_traceback(None)


def _let_go(lanes: Sequence[Lane]) -> None:
    """Have what a dropped producer has pending written, by the thread that writes: a finalizer runs anywhere."""
    for lane in lanes:
        WRITING.do(lane.close)
