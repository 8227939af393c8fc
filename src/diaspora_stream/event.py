"""Events as a consumer gets them."""

from typing import Any

Metadata = Any


class Event:
    """One event; a backend subclasses it.

    An event may be kept for as long as one likes, and used from any thread; it keeps the memory of the batch it came
    with alive.
    """

    __slots__ = ()

    @property
    def metadata(self) -> Any:
        """The metadata, as a Python value; decoded anew at each access."""
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
