"""What every producer does with its lanes: choose one, flush all, end. `push` is each driver's own: the hot path.

A failure that no future has told yet is raised by the next flush, or by `close`.
"""

import logging
import operator
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, SupportsIndex, TypeVar

from diaspora_stream.arguments import options_of
from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError, DiasporaError, NoPartition
from diaspora_stream.future import FutureFlushed
from diaspora_stream.integers import unsigned
from diaspora_stream.partition_selector import DefaultPartitionSelector, PartitionSelector
from diaspora_stream.producer import Producer
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import TopicHandle
from diaspora_stream.validator import Validator
from mochi.mofka.client.encoding import Encoder
from mochi.mofka.client.lane import LaneOptions

L = TypeVar("L")

log = logging.getLogger(__name__)


class LaneProducer(Producer, Generic[L]):
    """A producer with a lane to each partition; see `diaspora_stream.producer.Producer`.

    Who subclasses it makes the lanes, with `_options`, and hands them to `_begin`.
    """

    def __init__(
        self,
        topic: TopicHandle,
        validator: Validator,
        partition_selector: PartitionSelector,
        serializer: Serializer,
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        options: Mapping[str, Any],
    ) -> None:
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self._selector = partition_selector
        chosen = choices(options)
        self._encoder = Encoder(validator, serializer, is_finite=chosen["not_finite"] == "raise")
        self._options = LaneOptions(
            topic.name, batch_size, max_num_batches, chosen["when_full"], self._encoder.prefixed
        )

    def _begin(self, lanes: Sequence[L]) -> None:
        """Take events for these lanes."""
        self._lanes = lanes
        one = len(lanes) == 1 and type(self._selector) is DefaultPartitionSelector
        self._only: L | None = lanes[0] if one else None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Producer {self.name!r} of topic {self.topic.name!r}>"

    def _select(self, metadata: Any, partition: SupportsIndex | None) -> L:
        """Return the lane of an event."""
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

    @abstractmethod
    def _flush(self) -> FutureFlushed:
        """Begin to have what is pending stored."""

    @property
    def is_closed(self) -> bool:
        """Whether the producer takes no more events."""
        return self._closed

    def close(self) -> None:
        """Flush, and take no more events; idempotent. A failure that a future has told is not raised again."""
        if self._closed:
            return
        self.stop()
        if self._options.failed is self._options.told:
            self._options.failed = None
        self._end()

    @abstractmethod
    def _end(self) -> None:
        """Flush, and let go of the lanes."""

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
