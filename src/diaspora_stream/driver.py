"""The entrance to a backend."""

from collections.abc import Mapping
from typing import Any, Self

from diaspora_stream.errors import DiasporaError
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.plugins import load_driver
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import TopicHandle
from diaspora_stream.validator import Validator


class Driver:
    """Access to the topics of a backend; a backend subclasses it.

    Parameters
    ----------
    backend : str
        Name of an installed driver such as ``mofka``, or ``name:module``.
    options : JSON value
        For the driver.

    Raises
    ------
    Exception
        No such driver, or options that it cannot use.

    Notes
    -----
    ``Driver(backend=...)`` gives an object of the driver's own class. Usable from any thread, and in a forked child.
    """

    def __new__(cls, *, backend: str = "", options: Any = None, **own_options: Any) -> Self:
        if cls is not Driver:
            return super().__new__(cls)
        if not backend:
            raise TypeError(
                "Driver() needs the name of a backend, such as Driver(backend='mofka', options={...})"
            )
        found: Any = load_driver(backend)
        made: Self = super().__new__(found)
        return made

    def __init__(self, *, backend: str = "", options: Any = None, **own_options: Any) -> None:
        self._open(own_options if options is None else options)

    def _open(self, options: Any) -> None:
        """Connect, given the driver's options."""
        raise NotImplementedError

    def create_topic(
        self,
        name: str,
        *,
        options: Mapping[str, Any] = {},
        validator: Validator | None = None,
        partition_selector: PartitionSelector | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        """Create a topic.

        Raises
        ------
        Exception
            The topic exists, or its options cannot be used; then nothing was created.
        """
        raise NotImplementedError

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its events; who still reads or writes it gets an error.

        Raises
        ------
        Exception
            There is no topic of this name, or the backend cannot delete it.
        """
        raise NotImplementedError

    def attach_topic(self, name: str, path: str, *, server_rank: int = 0) -> None:
        """Take over what another service has stored of a topic; nothing of it is removed.

        Raises
        ------
        Exception
            There is no such topic, nothing to take over, or the backend cannot do this.
        """
        raise DiasporaError(f"a {type(self).__name__} cannot attach topics")

    def open_topic(self, name: str) -> TopicHandle:
        """Return a new handle of a topic; `Exception` if there is none of this name."""
        raise NotImplementedError

    def topic_exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name; `Exception` if nobody can tell."""
        raise NotImplementedError

    def list_topics(self) -> dict[str, dict[str, Any]]:
        """Return all topics by name, with what the backend knows of each."""
        raise NotImplementedError

    def make_thread_pool(self, count: int) -> ThreadPool:
        """Return a new pool of `count` threads; 0 runs work in the caller."""
        return ThreadPool(count)

    @property
    def default_thread_pool(self) -> ThreadPool:
        """The pool of producers and consumers that are given none."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all that was made through this driver."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
