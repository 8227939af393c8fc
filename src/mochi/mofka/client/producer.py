"""The producer of the ``mofka`` driver.

`push` encodes the metadata and appends to the open batch of a partition's lane, in the application's thread, with no
lock; see `mochi.mofka.client.lane` for what happens then. A producer that is dropped leaves its lanes to the
service, which flushes them in a thread of its own. For a finalizer runs wherever the garbage collector strikes,
under any lock.
"""

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.json_value import encode, encode_fast
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import TopicHandle
from diaspora_stream.validator import Validator
from mochi.mofka.client.encoding import as_data
from mochi.mofka.client.lane import Flush, Lane
from mochi.mofka.client.pushing import LaneProducer
from mochi.mofka.client.refusals import PartitionInfo
from mochi.mofka.client.service import Service

log = logging.getLogger(__name__)


class MofkaProducer(LaneProducer[Lane]):
    """See `diaspora_stream.producer.Producer`. A push costs about half a microsecond beside the encoding."""

    def __init__(
        self,
        service: Service,
        topic: TopicHandle,
        partitions: Sequence[PartitionInfo],
        validator: Validator,
        partition_selector: PartitionSelector,
        serializer: Serializer,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(
            topic,
            validator,
            partition_selector,
            serializer,
            name,
            batch_size,
            max_num_batches,
            thread_pool,
            options,
        )
        self._service = service
        self._plain = self._encoder.plain
        self._begin([Lane(service, self._options, partition) for partition in partitions])
        service.adopt(self._lanes)
        service.watch(self)
        weakref.finalize(self, service.let_go, self._lanes).atexit = False

    def push(self, metadata: Any, data: Any = b"", *, partition: SupportsIndex | None = None) -> FutureUint:
        """Push one event, see `diaspora_stream.producer.Producer.push`."""
        if self._plain and type(metadata) is dict:
            try:
                text = encode_fast(metadata)
            except Exception:
                text = encode(metadata)
        else:
            text = self._encoder.text(metadata)
        if type(data) is not bytes:
            data = as_data(data)
        lane = self._only
        if lane is None or partition is not None:
            lane = self._select(metadata, partition)
        now = lane.now
        if len(text) + len(data) > now.small:
            future = FutureUint(None)
            lane.push_counted(text, data, future)
            return future
        batch = now.open
        future = FutureUint(batch)
        entries = batch.entries
        entries.extend((text, data, future))
        if len(entries) >= batch.limit:
            lane.filled(text, data, future)
        return future

    def _flush(self) -> FutureFlushed:
        failed, self._options.failed = self._options.failed, None
        flush = Flush(lane for lane in self._lanes if lane.has_pending)

        def wait(timeout: float | None) -> bool:
            try:
                done = flush.wait_until(self._service.deadline(timeout))
                if not done and timeout is None:
                    raise flush.not_in_time()
            except DiasporaError as error:
                if self._options.failed is error:
                    self._options.failed = None
                raise
            if done and failed is not None:
                raise failed.with_traceback(None)
            return done

        return FutureFlushed(wait, flush.is_done)

    def _end(self) -> None:
        try:
            if not self._flush().wait(self._service.timeout * 1000):
                missing = ", ".join(str(lane.partition) for lane in self._lanes if lane.has_pending)
                raise TimeoutExpired(
                    f"{self!r}: not all events are stored within {self._service.timeout:g} s; waiting for {missing}"
                )
        finally:
            self._service.let_go(self._lanes)
