"""The consuming side of a topic."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future as PoolFuture
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.event import Event
from diaspora_stream.future import Future
from diaspora_stream.handle import Handle
from diaspora_stream.thread_pool import ThreadPool

if TYPE_CHECKING:
    from diaspora_stream.topic import TopicHandle

DataSelector: TypeAlias = Callable[[Any, DataDescriptor], DataDescriptor | None]
DataAllocator: TypeAlias = Callable[[Any, DataDescriptor], Sequence[Any]]

ITERATION_TIMEOUT_MS = 5000
"""How long a ``for`` loop over a consumer waits for the next event before it ends, as in the original; a backend may
have an option for it."""


class FutureEvent(Future[Event | None]):
    """The next event. `wait` returns None when its time is over; the event is then kept for the next wait.

    Without a time-out it waits for ever: an event may be long in coming.
    A future that is dropped gives its event back to the consumer, to the front.
    """

    __slots__ = ()


class StopEventProcessor(Exception):
    """Raised by a processor to end `Consumer.process`."""


def full_data_selector(metadata: Any, descriptor: DataDescriptor) -> DataDescriptor:
    """Select all of an event's data; `FullDataSelector` in the public API."""
    return descriptor


def byte_array_allocator(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
    """Return one bytearray of the size selected; `ByteArrayAllocator` in the public API."""
    return [bytearray(descriptor.size)]


class Consumer(Handle):
    """Pulls events out of a topic; a backend subclasses it. Made by `TopicHandle.consumer`.

    Any thread may pull. In a forked child the same object subscribes anew, from the acknowledged events on.
    Pickled, it is its topic and what it was made with: who unpickles it subscribes, from the acknowledged events on.

    Attributes
    ----------
    name : str
        Its cursors are kept under this name, on the servers.
    topic : TopicHandle
    thread_pool : ThreadPool
    batch_size, max_num_batches : int
        Events a batch, and batches that the servers send ahead.
    data_selector, data_allocator : callable or None
        The very objects given.
    made_with : dict
        The arguments of `TopicHandle.consumer` that make it anew.
    """

    name: str
    topic: "TopicHandle"
    thread_pool: ThreadPool
    batch_size: int
    max_num_batches: int
    data_selector: DataSelector | None
    data_allocator: DataAllocator | None
    made_with: dict[str, Any]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _make_consumer, (self.topic, self.made_with)

    def pull(self) -> Future[Event | None]:
        """Return a future of the next event. Never blocks; futures get events in the order of the pulls."""
        raise NotImplementedError

    def unsubscribe(self) -> None:
        """Have the servers send no more; events that are here already may still be pulled."""
        raise NotImplementedError

    def close(self) -> None:
        """Unsubscribe, and drop the events not pulled."""
        raise NotImplementedError

    def process(
        self,
        processor: Callable[[Event | None], None],
        *,
        timeout_ms: float = -1,
        max_events: int = 2**64 - 1,
        thread_pool: ThreadPool | None = None,
    ) -> None:
        """Call `processor` with each event, or with None for each wait of `timeout_ms` that brought none.

        Returns after `max_events` calls, at the end of the topic, or once `processor` raises `StopEventProcessor`;
        in all cases after the calls that run in the pool are done. Another exception ends it too, and is raised.

        Parameters
        ----------
        thread_pool : ThreadPool, optional
            Where the calls run; the consumer's own pool if not given. At most twice as many calls as the pool has
            threads are under way at a time.
        """
        pool = self.thread_pool if thread_pool is None else thread_pool
        running: list[PoolFuture[None]] = []
        try:
            for _ in range(max_events):
                event = self.pull().wait(timeout_ms)
                if event is not None and event.event_id is None:
                    return
                running.append(pool.submit(partial(processor, event)))
                if len(running) > 2 * pool.thread_count:
                    running.pop(0).result()
        except StopEventProcessor:
            pass
        finally:
            _finish(running)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event; the iteration ends after 5 seconds without one, or at the end of the topic."""
        event = self.pull().wait(ITERATION_TIMEOUT_MS)
        if event is None or event.event_id is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _finish(running: list["PoolFuture[None]"]) -> None:
    """Wait for all; raise the first error that is not a wish to stop."""
    failures = [failure for call in running if (failure := call.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, StopEventProcessor):
            raise failure


def _make_consumer(topic: "TopicHandle", arguments: Mapping[str, Any]) -> Consumer:
    return topic.consumer(**arguments)
