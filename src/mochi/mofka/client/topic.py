"""Topics of the ``mofka`` driver."""

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, SupportsIndex, TypeVar

from diaspora_stream.arguments import check_text, options_of
from diaspora_stream.console.hints import hint
from diaspora_stream.consumer import (
    ITERATION_TIMEOUT_MS,
    Consumer,
    DataAllocator,
    DataSelector,
    byte_array_allocator,
    full_data_selector,
)
from diaspora_stream.driver import Driver
from diaspora_stream.errors import ConfigError, DiasporaError
from diaspora_stream.generations import as_before, tell_once
from diaspora_stream.integers import unsigned
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.producer import Producer
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE, WHOLE, Ordering, TopicHandle
from diaspora_stream.validator import Validator
from mochi.mofka.client.consumer import MofkaConsumer
from mochi.mofka.client.options import milliseconds
from mochi.mofka.client.producer import MofkaProducer
from mochi.mofka.client.refusals import PartitionInfo
from mochi.mofka.client.service import Service
from mochi.mofka.protocol import MAX_CONSUMER_NAME


def _iteration_timeout_ms(options: Mapping[str, Any]) -> float:
    known = "iteration_timeout_ms"
    options = options_of(options)
    for key in options:
        if key != known:
            raise ConfigError(f"options.{key}", f"unknown consumer option{hint(key, (known,))}")
    return milliseconds(f"options.{known}", options.get(known, ITERATION_TIMEOUT_MS))


class Partition(Protocol):
    """A partition, as a topic knows it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of ``topic.partitions``."""


P = TypeVar("P", bound=Partition)


class CheckedTopic(TopicHandle, Generic[P]):
    """What is checked of a topic's producers and consumers before they are made, by whichever driver."""

    def __init__(
        self,
        driver: Driver,
        name: str,
        partitions: Sequence[P],
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
        self._thread_pool = thread_pool
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        partition_selector.set_partitions(self.partitions)

    def check_open(self) -> None:
        """Raise an error if the driver is closed."""
        raise NotImplementedError

    def make_producer(
        self,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        options: Mapping[str, Any],
    ) -> Producer:
        """Make a producer of arguments that were checked, but for the options."""
        raise NotImplementedError

    def make_consumer(
        self,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        targets: Sequence[P],
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
        iteration_timeout_ms: float,
    ) -> Consumer:
        """Make a consumer of arguments that were checked."""
        raise NotImplementedError

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
    ) -> Producer:
        """Make a producer, see `diaspora_stream.topic.TopicHandle.producer`."""
        self.check_open()
        if not isinstance(ordering, Ordering):
            raise TypeError(f"ordering must be an Ordering, not {ordering!r}")
        size = unsigned("batch_size", batch_size) or ADAPTIVE_BATCH_SIZE
        batches = unsigned("max_num_batches", max_num_batches)
        producer = self.make_producer(
            check_text("the name of a producer", name),
            size,
            batches,
            self._pool(thread_pool),
            options,
        )
        producer.batch_size = self.generation.size(size)
        producer.max_num_batches = self.generation.size(batches)
        producer.made_with = {
            "name": name,
            "batch_size": size,
            "max_num_batches": batches,
            "ordering": ordering,
            "thread_pool": thread_pool,
            "options": options,
        }
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
    ) -> Consumer:
        """Make a consumer, see `diaspora_stream.topic.TopicHandle.consumer`."""
        self.check_open()
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
        size = unsigned("batch_size", batch_size)
        batches = unsigned("max_num_batches", max_num_batches)
        chosen = self._targets(targets)
        consumer = self.make_consumer(
            name,
            size,
            batches,
            self._pool(thread_pool),
            [self.partition_infos[target] for target in chosen] or self.partition_infos,
            data_selector,
            data_allocator,
            _iteration_timeout_ms(options),
        )
        consumer.batch_size = self.generation.size(size)
        consumer.max_num_batches = self.generation.size(batches)
        consumer.made_with = {
            "name": name,
            "batch_size": size,
            "max_num_batches": batches,
            "thread_pool": thread_pool,
            "targets": chosen,
            "options": options,
        }
        if data_selector is not WHOLE:
            consumer.made_with |= {"data_selector": data_selector, "data_allocator": data_allocator}
        return consumer

    def _pool(self, given: ThreadPool | None) -> ThreadPool:
        if given is None:
            return self._thread_pool
        if not isinstance(given, ThreadPool):
            raise TypeError(f"thread_pool must be a ThreadPool, not {given!r}")
        return given

    def _targets(self, targets: Iterable[SupportsIndex] | None) -> list[int]:
        if targets is None:
            return []
        if isinstance(targets, str | bytes | bytearray) or not isinstance(targets, Iterable):
            raise TypeError(f"targets must be an iterable of integers, not {targets!r}")
        chosen = {unsigned("target", target) for target in targets}
        for target in chosen:
            if target >= len(self.partition_infos):
                raise DiasporaError(
                    f"target {target} does not exist, topic {self.name!r} has partitions 0 to "
                    f"{len(self.partition_infos) - 1}"
                )
        return sorted(chosen)

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


class MofkaTopic(CheckedTopic[PartitionInfo]):
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
        super().__init__(driver, name, partitions, validator, partition_selector, serializer, thread_pool)
        self._service = service

    def check_open(self) -> None:
        self._service.check_open()

    def make_producer(self, *arguments: Any) -> MofkaProducer:
        return MofkaProducer(
            self._service,
            self,
            self.partition_infos,
            self.validator,
            self.partition_selector,
            self.serializer,
            *arguments,
        )

    def make_consumer(self, *arguments: Any) -> MofkaConsumer:
        return MofkaConsumer(self._service, self, self.serializer, *arguments)
