"""Events as a consumer gets them."""

from copy import deepcopy
from pickle import PickleBuffer
from typing import Any

from diaspora_stream.errors import DiasporaError
from diaspora_stream.handle import Handle

Metadata = Any


class Event(Handle):
    """One event; a backend subclasses it.

    An event may be kept for as long as one likes, and used from any thread; it keeps the memory of the batch it came
    with alive. Pickled, it is its metadata, its data and its place: a `CopiedEvent`. With pickle's protocol 5, data can
    go out of band.
    """

    __slots__ = ()

    @property
    def metadata(self) -> Any:
        """The metadata, as a Python value; decoded anew at each access. JSON text in the oldest generation."""
        raise NotImplementedError

    @property
    def data(self) -> list[Any]:
        """The data: a list of buffers, ``[memoryview]`` unless an allocator gave others, empty if none was loaded."""
        raise NotImplementedError

    @property
    def event_id(self) -> int | None:
        """Position in its partition, from 0; None marks the end of a topic that will have no more events."""
        raise NotImplementedError

    @property
    def partition(self) -> dict[str, Any]:
        """The partition it came from, like the entry of ``topic.partitions``."""
        raise NotImplementedError

    def acknowledge(self) -> None:
        """Have the next consumer of this name start after this event, in its partition.

        Blocks until the server has taken note. Cursors only move forward.

        Raises
        ------
        Exception
            The server cannot be reached in time, or this is no real event.
        """
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> tuple[object, tuple[object, ...]]:
        data = [_picklable(buffer, protocol) for buffer in self.data]
        return CopiedEvent, (self.metadata, data, self.event_id, self.partition)


class CopiedEvent(Event):
    """An event that came from another process, by value."""

    __slots__ = ("_data", "_event_id", "_metadata", "_partition")

    def __init__(
        self, metadata: Any, data: list[Any], event_id: int | None, partition: dict[str, Any]
    ) -> None:
        self._metadata = metadata
        self._data = data
        self._event_id = event_id
        self._partition = partition

    @property
    def metadata(self) -> Any:
        return deepcopy(self._metadata)

    @property
    def data(self) -> list[Any]:
        return list(self._data)

    @property
    def event_id(self) -> int | None:
        return self._event_id

    @property
    def partition(self) -> dict[str, Any]:
        return dict(self._partition)

    def acknowledge(self) -> None:
        """Refuse: the consumer is in the process that pulled the event."""
        raise DiasporaError(
            f"event {self._event_id} is a copy from another process, which cannot be acknowledged here; acknowledge it "
            "where it was pulled"
        )

    def __repr__(self) -> str:
        return f"<copy of event {self._event_id} of partition {self._partition.get('uuid')}>"


def _picklable(buffer: Any, protocol: int) -> Any:
    """Return a buffer, or the bytes of a memory view, which is the only one that cannot be pickled itself."""
    if not isinstance(buffer, memoryview):
        return buffer
    return _View(PickleBuffer(buffer) if protocol >= 5 else bytearray(buffer))


class _View:
    """Stands for a memory view in a pickle."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce__(self) -> tuple[object, tuple[object]]:
        return memoryview, (self.buffer,)
