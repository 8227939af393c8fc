"""The producer of the ``mofka`` driver.

`push` encodes the metadata and appends to the open batch of a partition's lane, in the application's thread, with no
lock; see `mochi.mofka.client.lane` for what happens then. A producer that is dropped leaves its lanes to the
service, which flushes them in a thread of its own. For a finalizer runs wherever the garbage collector strikes,
under any lock.
"""

import logging
import operator
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

from diaspora_stream.arguments import options_of
from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError, DiasporaError, NoPartition, TimeoutExpired
from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.integers import unsigned
from diaspora_stream.json_value import encode, encode_fast
from diaspora_stream.partition_selector import DefaultPartitionSelector, PartitionSelector
from diaspora_stream.producer import Producer
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import TopicHandle
from diaspora_stream.validator import Validator
from mochi.mofka.client.encoding import Encoder, as_data
from mochi.mofka.client.lane import Flush, Lane, LaneOptions
from mochi.mofka.client.refusals import PartitionInfo
from mochi.mofka.client.service import Service

log = logging.getLogger(__name__)


class MofkaProducer(Producer):
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
        self._service = service
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self._selector = partition_selector
        chosen = choices(options)
        self._encoder = Encoder(validator, serializer, is_finite=chosen["not_finite"] == "raise")
        self._plain = self._encoder.plain
        self._options = LaneOptions(
            topic.name, batch_size, max_num_batches, chosen["when_full"], self._encoder.prefixed
        )
        self._lanes = [Lane(service, self._options, partition) for partition in partitions]
        one = len(self._lanes) == 1 and type(self._selector) is DefaultPartitionSelector
        self._only = self._lanes[0] if one else None
        self._closed = False
        service.adopt(self._lanes)
        service.watch(self)
        weakref.finalize(self, service.let_go, self._lanes).atexit = False

    def __repr__(self) -> str:
        return f"<Producer {self.name!r} of topic {self.topic.name!r}>"

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

    def _select(self, metadata: Any, partition: SupportsIndex | None) -> Lane:
        if self._closed:
            raise DiasporaError(f"{self!r} is closed")
        requested = None if partition is None else unsigned("partition", partition)
        chosen = self._selector.select(metadata, requested)
        return self._lanes[place_of(chosen, len(self._lanes), self.topic.name)]

    def flush(self) -> FutureFlushed:
        """Send what is pending, see `diaspora_stream.producer.Producer.flush`."""
        if self._closed:
            raise DiasporaError(f"{self!r} is closed")
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

    def close(self) -> None:
        """Flush, and take no more events; idempotent. A failure that a future has told is not raised again."""
        if self._closed:
            return
        self.stop()
        if self._options.failed is self._options.told:
            self._options.failed = None
        try:
            if not self._flush().wait(self._service.timeout * 1000):
                missing = ", ".join(str(lane.partition) for lane in self._lanes if lane.has_pending)
                raise TimeoutExpired(
                    f"{self!r}: not all events are stored within {self._service.timeout:g} s; waiting for {missing}"
                )
        finally:
            self._service.let_go(self._lanes)

    def stop(self) -> None:
        """Take no more events."""
        self._closed = True
        self._only = None


_CHOICES = {"when_full": ("block", "raise"), "not_finite": ("null", "raise")}
"""What a producer's options may be; the first of each is the default."""


def place_of(chosen: Any, count: int, topic: str) -> int:
    """Return what a partition selector chose of `count` partitions; `NoPartition` if it is none."""
    try:
        index = operator.index(chosen)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise NoPartition(
            f"the partition selector chose {chosen!r}, and topic {topic!r} has partitions 0 to {count - 1}"
        )
    return index


def choices(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what a producer's options choose; `ConfigError` names the one at fault."""
    chosen = {name: allowed[0] for name, allowed in _CHOICES.items()}
    for key, value in options_of(options).items():
        if key == "ack_early":
            log.warning("producer option ack_early has no effect: an event is acknowledged once it is stored")
            continue
        if key not in _CHOICES:
            raise ConfigError(
                f"options.{key}", f"unknown producer option{hint(key, (*_CHOICES, 'ack_early'))}"
            )
        if value not in _CHOICES[key]:
            first, second = _CHOICES[key]
            raise ConfigError(f"options.{key}", f"found {value!r}, allowed are {first!r} and {second!r}")
        chosen[key] = value
    return chosen
