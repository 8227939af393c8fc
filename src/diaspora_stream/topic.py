"""Topics: a name, a list of partitions, and the makers of producers and consumers."""

import enum
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from diaspora_stream.consumer import Consumer, DataAllocator, DataSelector
from diaspora_stream.generations import Generation
from diaspora_stream.handle import Handle
from diaspora_stream.producer import Producer
from diaspora_stream.thread_pool import ThreadPool

if TYPE_CHECKING:
    from diaspora_stream.driver import Driver

ADAPTIVE_BATCH_SIZE = 2**64 - 1
"""Stands for "as many events as there are when a batch can go"; `AdaptiveBatchSize` in the public API."""

WHOLE: Any = object()
"""Default of the two callables of a consumer: neither given means that all data is loaded."""


class Ordering(enum.IntEnum):
    """How events of one producer are ordered; both keep them in the order of the pushes, per partition."""

    Loose = 0
    Strict = 1


class TopicHandle(Handle):
    """An open topic; a backend subclasses it. Made by `Driver.open_topic`, usable from any thread.

    Pickled, it is the driver's options and its name: who unpickles it opens the topic anew. `copy.copy` and
    `copy.deepcopy` give the handle itself, and so they do for producers and consumers.

    Attributes
    ----------
    name : str
    partitions : list of dict
        As they were when the topic was opened.
    driver : Driver
    """

    name: str
    partitions: list[dict[str, Any]]
    driver: "Driver"

    @property
    def generation(self) -> Generation:
        """What the program relies on that made the driver."""
        return self.driver.generation

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.driver.reopening(self.name)

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
        """Make a producer.

        Older programs give `name`, `batch_size`, `thread_pool` and `ordering` by position, and say ``max_batch`` for
        `max_num_batches`.

        Parameters
        ----------
        batch_size : int
            Events a batch; 0 means adaptive. A batch also goes when it has 8 MiB, at a flush, and when one of its
            events is waited for.
        max_num_batches : int
            Batches that may wait behind the one on its way, for each partition; 0 counts as 1.
        options : mapping
            ``when_full``: with ``"block"`` (the default), a push for which there is no room waits up to the driver's
            time-out, with ``"raise"`` it raises at once. ``not_finite``: with ``"null"`` (the default), NaN and the
            infinities in metadata are stored as null, with ``"raise"`` they are refused.
        """
        raise NotImplementedError

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
        """Make a consumer, which starts after the last event acknowledged under this name.

        Parameters
        ----------
        data_selector, data_allocator : callable or None
            Give both or neither. Neither: all data is loaded. Both None: none is. Older programs say ``data_broker``
            for `data_allocator`; those of the oldest generation may give one: the other is then `FullDataSelector`, or
            `ByteArrayAllocator`.
        batch_size : int
            Events a batch at most.
        max_num_batches : int
            Batches that the servers send ahead of the application, for each partition.
        targets : iterable of int, optional
            Partitions to consume; None or empty stands for all.
        options : mapping
            ``{"iteration_timeout_ms": 5000}`` (the default): how long a ``for`` loop waits for the next event before
            it ends; 0 and -1 stand for ever.

        Raises
        ------
        TypeError
            One callable without the other, or a number out of its range.
        Exception
            A partition cannot be reached, or a target does not exist.
        """
        raise NotImplementedError

    def mark_as_complete(self) -> None:
        """Flush what producers of this handle have pushed.

        In older generations this ended the topic. Consumers are not told of an end yet: a line in the log says so,
        once.

        Raises
        ------
        Exception
            Something could not be stored.
        """
        raise NotImplementedError
