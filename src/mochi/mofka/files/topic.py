"""Topics of the embedded drivers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from diaspora_stream.consumer import DataAllocator, DataSelector
from diaspora_stream.driver import Driver
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.validator import Validator
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.client.topic import CheckedTopic
from mochi.mofka.files.consumer import EmbeddedConsumer, Watching
from mochi.mofka.files.cursors import CursorKeeper
from mochi.mofka.files.lane import Lane
from mochi.mofka.files.partition import EmbeddedPartition
from mochi.mofka.files.producer import EmbeddedProducer


class Host(Protocol):
    """The driver of a topic.

    Attributes
    ----------
    timeout : float
        Seconds that calls wait at most where they name no time-out.
    """

    timeout: float

    def check_open(self) -> None:
        """Raise an error if the driver is closed."""

    def watch(self, member: EmbeddedProducer | EmbeddedConsumer) -> None:
        """Have a producer or consumer closed with the driver."""

    def lane(self, topic: str, partition: EmbeddedPartition, options: LaneOptions) -> Lane:
        """Make the way to a partition of a topic."""

    def cursors(self, topic: str) -> CursorKeeper:
        """Return the cursors of a topic."""

    @property
    def watching(self) -> Watching | None:
        """How consumers learn of new events."""


class EmbeddedTopic(CheckedTopic[EmbeddedPartition]):
    """See `diaspora_stream.topic.TopicHandle`."""

    def __init__(
        self,
        driver: Driver,
        host: Host,
        name: str,
        partitions: Sequence[EmbeddedPartition],
        descriptions: Mapping[str, dict[str, Any]],
        thread_pool: ThreadPool,
    ) -> None:
        super().__init__(
            driver,
            name,
            partitions,
            Validator.described(descriptions["Validator"]),
            PartitionSelector.described(descriptions["PartitionSelector"]),
            Serializer.described(descriptions["Serializer"]),
            thread_pool,
        )
        self._host = host

    def check_open(self) -> None:
        self._host.check_open()

    def make_producer(
        self,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        options: Mapping[str, Any],
    ) -> EmbeddedProducer:
        def make_lane(index: int, lane_options: LaneOptions) -> Lane:
            return self._host.lane(self.name, self.partition_infos[index], lane_options)

        producer = EmbeddedProducer(
            self, name, batch_size, max_num_batches, thread_pool, options, make_lane, self._host.timeout
        )
        self._host.watch(producer)
        return producer

    def make_consumer(
        self,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        targets: Sequence[EmbeddedPartition],
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
        iteration_timeout_ms: float,
    ) -> EmbeddedConsumer:
        consumer = EmbeddedConsumer(
            self,
            name,
            batch_size,
            max_num_batches,
            thread_pool,
            targets,
            data_selector,
            data_allocator,
            iteration_timeout_ms,
            self._host.cursors(self.name),
            self._host.watching,
        )
        self._host.watch(consumer)
        return consumer
