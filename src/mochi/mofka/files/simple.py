"""The ``simple`` driver: topics in the memory of one process, for tests of applications.

A push stores its event before it returns. A consumer comes to its end when it has had all events: `pull` then gives
the event without an id that marks the end, as the original's driver of this name does.
"""

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from diaspora_stream.arguments import options_of, partition_count
from diaspora_stream.errors import TopicExists, TopicNotFound
from diaspora_stream.generations import as_before
from mochi.mofka.chunks import Batch, DataRequest, EventRange, OutOfRange
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.client.options import timeout_of
from mochi.mofka.files.embedded import EmbeddedDriver
from mochi.mofka.files.lane import Lane
from mochi.mofka.files.partition import EmbeddedPartition
from mochi.mofka.files.storage import FlushBehavior
from mochi.mofka.files.topic import EmbeddedTopic
from mochi.mofka.files.writing import Writer

log = logging.getLogger(__name__)


class MemoryPartition:
    """A partition in memory: a `mochi.mofka.files.storage.Store` and `Reader`; one thread at a time appends."""

    is_durable = True
    first_id = 0

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._batches: list[EventRange] = []
        self.event_count = 0

    def append(self, batch: Batch) -> int:
        """Store a copy of a batch; return the id of its first event."""
        first = self.event_count
        if batch.count:
            stored = EventRange(
                first,
                batch.metadata_sizes.astype(np.uint32),
                memoryview(bytearray().join(batch.metadata)),
                batch.data_sizes.astype(np.uint32),
                memoryview(bytearray().join(batch.data)),
            )
            self._batches.append(stored)
            self._firsts.append(first)
            self.event_count = first + batch.count
        return first

    def refresh(self) -> int:
        """Return the number of events."""
        return self.event_count

    def read_range(self, first: int, max_events: int, max_bytes: int, *, with_data: bool) -> EventRange:
        """Read events of one batch, however large."""
        batch, begin = self._find(first)
        count = min(max_events, batch.count - begin)
        metadata = _part(batch.metadata, batch.metadata_sizes, begin, count)
        assert batch.data is not None
        data = bytearray(_part(batch.data, batch.data_sizes, begin, count)) if with_data else None
        return EventRange(
            first,
            batch.metadata_sizes[begin : begin + count],
            metadata,
            batch.data_sizes[begin : begin + count],
            None if data is None else memoryview(data),
        )

    def read_data(self, requests: Sequence[DataRequest]) -> list[memoryview]:
        """Read pieces of the data of events."""
        found = []
        for event_id, pieces in requests:
            batch, index = self._find(event_id)
            assert batch.data is not None
            data = _part(batch.data, batch.data_sizes, index, 1)
            found.append(memoryview(b"".join(data[offset : offset + size] for offset, size in pieces)))
        return found

    def _find(self, event_id: int) -> tuple[EventRange, int]:
        """Return the batch of an event, and its place there."""
        place = bisect_right(self._firsts, event_id) - 1
        if place < 0 or event_id >= self.event_count:
            raise OutOfRange(
                f"event {event_id} of a partition of {self.event_count} events", operation="read"
            )
        return self._batches[place], event_id - self._firsts[place]

    def sync(self) -> None:
        """There is nothing to do."""

    def close(self) -> None:
        """The events stay."""


def _part(content: memoryview, sizes: Any, begin: int, count: int) -> memoryview:
    start = int(sizes[:begin].sum(dtype=np.int64))
    return content[start : start + int(sizes[begin : begin + count].sum(dtype=np.int64))]


class _Cursors:
    """The cursors of a topic."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}
        self._lock = Lock()

    def get(self, consumer: str, partition: int) -> int:
        return self._next.get((consumer, partition), 0)

    def advance(self, consumer: str, partition: int, next_id: int) -> None:
        with self._lock:
            self._next[consumer, partition] = max(next_id, self.get(consumer, partition))


class _Topic:
    """What is kept of a topic."""

    def __init__(self, count: int, descriptions: Mapping[str, dict[str, Any]]) -> None:
        self.descriptions = descriptions
        self.stores = [MemoryPartition() for _ in range(count)]
        self.writers = [Writer(f"partition {index}") for index in range(count)]
        self.cursors = _Cursors()


class SimpleDriver(EmbeddedDriver):
    """Topics in memory, see `diaspora_stream.driver.Driver`; each driver has its own.

    Options
    -------
    timeout_ms : int or float
        Milliseconds that blocking calls take at most, 30000 by default. All other options are without effect.
    """

    def _open(self, options: Any) -> None:
        options = options_of(options)
        self._start(timeout_of(options))
        self._topics: dict[str, _Topic] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<SimpleDriver, {len(self._topics)} topics>"

    def _create_topic(
        self, name: str, options: Mapping[str, Any], descriptions: Mapping[str, dict[str, Any]]
    ) -> None:
        """Create a topic of ``num_partitions``, 1 by default; other options are without effect."""
        self.check_open()
        made = _Topic(partition_count(options_of(options)) or 1, descriptions)
        with self._lock:
            if name in self._topics:
                raise TopicExists(name)
            self._topics[name] = made

    def delete_topic(self, name: str) -> None:
        """Delete a topic; who still writes it gets an error."""
        topic = self._topic(name)
        with self._lock:
            self._topics.pop(name, None)
        for writer in topic.writers:
            writer.end(TopicNotFound(name))

    def _topic(self, name: str) -> _Topic:
        self.check_open()
        found = self._topics.get(name)
        if found is None:
            raise TopicNotFound(name, tuple(self._topics))
        return found

    @as_before("name", topic_name="name")
    def open_topic(self, name: str) -> EmbeddedTopic:
        """Open a topic, see `diaspora_stream.driver.Driver.open_topic`."""
        topic = self._topic(name)

        def partition(index: int) -> EmbeddedPartition:
            return EmbeddedPartition(index, "", lambda: topic.stores[index])

        partitions = [partition(index) for index in range(len(topic.stores))]
        return EmbeddedTopic(self, self, name, partitions, topic.descriptions, self._thread_pool)

    @as_before("name", topic_name="name")
    def topic_exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name."""
        self.check_open()
        return name in self._topics

    def list_topics(self) -> dict[str, dict[str, Any]]:
        """Return all topics: name, number of partitions, components."""
        self.check_open()
        return {
            name: {
                "name": name,
                "num_partitions": len(topic.stores),
                "partition_selector": topic.descriptions["PartitionSelector"],
                "serializer": topic.descriptions["Serializer"],
                "validator": topic.descriptions["Validator"],
            }
            for name, topic in sorted(self._topics.items())
        }

    def cursors(self, topic: str) -> _Cursors:
        """Return the cursors of a topic."""
        return self._topic(topic).cursors

    def lane(self, topic: str, partition: EmbeddedPartition, options: LaneOptions) -> Lane:
        """Make the way to a partition of a topic."""
        kept = self._topic(topic)
        return Lane(
            options,
            kept.writers[partition.index],
            lambda: kept.stores[partition.index],
            FlushBehavior.BUFFERED,
            self.timeout,
            is_direct=True,
        )

    @property
    def watching(self) -> None:
        """Whatever there will be is there already."""
        return None
