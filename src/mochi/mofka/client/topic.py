"""Topics of the ``mofka`` driver."""

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

from diaspora_stream.consumer import (
    ITERATION_TIMEOUT_MS,
    DataAllocator,
    DataSelector,
    byte_array_allocator,
    full_data_selector,
)
from diaspora_stream.driver import Driver
from diaspora_stream.errors import ConfigError, DiasporaError, hint
from diaspora_stream.generations import as_before, tell_once
from diaspora_stream.integers import unsigned
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE, WHOLE, Ordering, TopicHandle
from diaspora_stream.validator import Validator
from mochi.mofka.client.consumer import MofkaConsumer
from mochi.mofka.client.options import check_text, milliseconds, options_of
from mochi.mofka.client.producer import MofkaProducer
from mochi.mofka.client.service import PartitionInfo, Service
from mochi.mofka.protocol import MAX_CONSUMER_NAME

T = TypeVar("T")


def _of_type(name: str, value: T, kind: type) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value


def _iteration_timeout_ms(options: Mapping[str, Any]) -> float:
    known = "iteration_timeout_ms"
    options = options_of(options)
    for key in options:
        if key != known:
            raise ConfigError(f"options.{key}", f"unknown consumer option{hint(key, (known,))}")
    return milliseconds(f"options.{known}", options.get(known, ITERATION_TIMEOUT_MS))


class MofkaTopic(TopicHandle):
    """See `diaspora_stream.topic.TopicHandle`."""

    def __init__(
        self,
        driver: Driver,
        service: Service,
        name: str,
        partitions: Sequence[PartitionInfo],
        validator: Validator,
        partition_selector: PartitionSelector,
        serializer: Serializer,
        thread_pool: ThreadPool,
    ) -> None:
        self.driver = driver
        self.name = name
        self.partition_infos = list(partitions)
        self.partitions = [partition.as_dict() for partition in partitions]
        self.validator = validator
        self.partition_selector = partition_selector
        self.serializer = serializer
        self._service = service
        self._thread_pool = thread_pool
        self._producers: weakref.WeakSet[MofkaProducer] = weakref.WeakSet()
        partition_selector.set_partitions(self.partitions)

    def __repr__(self) -> str:
        return f"<TopicHandle {self.name!r}, {len(self.partitions)} partitions>"

    @as_before("name", "batch_size", "thread_pool", "ordering", max_batch="max_num_batches")
    def producer(
        self,
        name: str = "",
        *,
        batch_size: int = ADAPTIVE_BATCH_SIZE,
        max_num_batches: int = 2,
        ordering: Ordering = Ordering.Strict,
        thread_pool: ThreadPool | None = None,
        options: Mapping[str, Any] = {},
    ) -> MofkaProducer:
        """Make a producer, see `diaspora_stream.topic.TopicHandle.producer`."""
        self._service.check_open()
        if not isinstance(ordering, Ordering):
            raise TypeError(f"ordering must be an Ordering, not {ordering!r}")
        producer = MofkaProducer(
            self._service,
            self,
            check_text("the name of a producer", name),
            unsigned("batch_size", batch_size) or ADAPTIVE_BATCH_SIZE,
            unsigned("max_num_batches", max_num_batches),
            _of_type("thread_pool", thread_pool or self._thread_pool, ThreadPool),
            options,
        )
        self._producers.add(producer)
        return producer

    @as_before(
        "name",
        "batch_size",
        "thread_pool",
        "data_allocator",
        "data_selector",
        "targets",
        data_broker="data_allocator",
    )
    def consumer(
        self,
        name: str,
        *,
        data_selector: DataSelector | None = WHOLE,
        data_allocator: DataAllocator | None = WHOLE,
        batch_size: int = ADAPTIVE_BATCH_SIZE,
        max_num_batches: int = 2,
        thread_pool: ThreadPool | None = None,
        targets: Iterable[SupportsIndex] | None = None,
        options: Mapping[str, Any] = {},
    ) -> MofkaConsumer:
        """Make a consumer, see `diaspora_stream.topic.TopicHandle.consumer`."""
        self._service.check_open()
        if self.generation.lone_callables:
            if data_selector in (WHOLE, None) and data_allocator not in (WHOLE, None):
                data_selector = full_data_selector
            elif data_allocator in (WHOLE, None) and data_selector not in (WHOLE, None):
                data_allocator = byte_array_allocator
        if (data_selector is WHOLE) != (data_allocator is WHOLE):
            raise TypeError("give both data_selector and data_allocator, or neither")
        if (data_selector is None) != (data_allocator is None):
            raise TypeError("data_selector and data_allocator are both callables, or both None")
        for given in (data_selector, data_allocator):
            if given not in (WHOLE, None) and not callable(given):
                raise TypeError(f"data_selector and data_allocator must be callables, not {given!r}")
        if len(check_text("the name of a consumer", name)) > MAX_CONSUMER_NAME:
            raise DiasporaError(
                f"the name of a consumer has at most {MAX_CONSUMER_NAME} characters, and this one has {len(name)}"
            )
        return MofkaConsumer(
            self._service,
            self,
            name,
            unsigned("batch_size", batch_size),
            unsigned("max_num_batches", max_num_batches),
            _of_type("thread_pool", thread_pool or self._thread_pool, ThreadPool),
            self._targets(targets),
            data_selector,
            data_allocator,
            _iteration_timeout_ms(options),
            options,
        )

    def _targets(self, targets: Iterable[SupportsIndex] | None) -> list[PartitionInfo]:
        if targets is None:
            return self.partition_infos
        if isinstance(targets, str | bytes | bytearray) or not isinstance(targets, Iterable):
            raise TypeError(f"targets must be an iterable of integers, not {targets!r}")
        chosen = {unsigned("target", target) for target in targets}
        for target in chosen:
            if target >= len(self.partition_infos):
                raise DiasporaError(
                    f"target {target} does not exist, topic {self.name!r} has partitions 0 to "
                    f"{len(self.partition_infos) - 1}"
                )
        return [self.partition_infos[target] for target in sorted(chosen)] or self.partition_infos

    def mark_as_complete(self) -> None:
        """Flush, see `diaspora_stream.topic.TopicHandle.mark_as_complete`."""
        flushes = [producer.flush() for producer in list(self._producers) if not producer.is_closed]
        for flush in flushes:
            flush.wait()
        tell_once(
            "mark_as_complete",
            logging.WARNING,
            "mark_as_complete() has flushed what this topic's producers had pushed; consumers are not told of an end: "
            "have them stop at an event that says so, or when there is none for a while",
        )
