"""The producing side of a topic."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from diaspora_stream.future import FutureFlushed, FutureUint
from diaspora_stream.handle import Handle
from diaspora_stream.thread_pool import ThreadPool

if TYPE_CHECKING:
    from diaspora_stream.topic import TopicHandle


class Producer(Handle):
    """Pushes events into a topic; a backend subclasses it. Made by `TopicHandle.producer`.

    Any thread may push. A forked child has a producer of its own in the same object: it never sends what its parent
    had pending. Pickled, it is its topic and what it was made with: who unpickles it has a producer of its own.

    Attributes
    ----------
    name : str
    topic : TopicHandle
    thread_pool : ThreadPool
    batch_size : int
        Events a batch, or `AdaptiveBatchSize`.
    max_num_batches : int
        Batches that may wait behind the one on its way, for each partition.
    made_with : dict
        The arguments of `TopicHandle.producer` that make it anew.
    """

    name: str
    topic: "TopicHandle"
    thread_pool: ThreadPool
    batch_size: int
    max_num_batches: int
    made_with: dict[str, Any]

    @property
    def is_closed(self) -> bool:
        """Whether the producer takes no more events."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _make_producer, (self.topic, self.made_with)

    def push(self, metadata: Any, data: Any = b"", *, partition: SupportsIndex | None = None) -> FutureUint:
        """Push one event.

        Parameters
        ----------
        metadata : JSON value, or JSON text
            A str, bytes or bytearray is JSON text; anything else is a value that becomes JSON. Copied.
        data : buffer, sequence of buffers, or None
            The segments are concatenated. **Not copied**: leave it unchanged until the event is stored, or a flush is
            done. All bytes count, whatever the type of the elements.
        partition : int, optional
            Asks the topic's partition selector for this partition.

        Returns
        -------
        FutureUint
            The event's id, once it is stored.

        Raises
        ------
        Exception
            Metadata that is not JSON or that the validator refuses, data that is not contiguous, or no room for the
            event within the time-out. The event is then not in the topic, and others are not affected.
        TypeError
            Metadata or data of a type that cannot be sent.
        """
        raise NotImplementedError

    def flush(self) -> FutureFlushed:
        """Send what is pending; the future is done when all of it is stored.

        For programs of the older generations it returns when that is so.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Flush, wait for it, and let go of what the producer holds on the servers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def segments_of(data: Any) -> Sequence[Any]:
    """Return the segments of what was given as data."""
    return data if isinstance(data, list | tuple) else () if data is None else (data,)


def _make_producer(topic: "TopicHandle", arguments: Mapping[str, Any]) -> Producer:
    return topic.producer(**arguments)
