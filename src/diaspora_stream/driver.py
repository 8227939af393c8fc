"""The entrance to a backend."""

from collections.abc import Mapping
from typing import Any, Final, Self

from diaspora_stream.arguments import check_name
from diaspora_stream.errors import DiasporaError
from diaspora_stream.generations import SECOND, TODAY, Generation, as_before
from diaspora_stream.handle import Handle
from diaspora_stream.json_value import encode
from diaspora_stream.partition_selector import DefaultPartitionSelector, PartitionSelector
from diaspora_stream.plugins import load_driver
from diaspora_stream.serializer import DefaultSerializer, Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import TopicHandle
from diaspora_stream.validator import DefaultValidator, SchemaValidator, Validator


class Driver(Handle):
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
    Pickled, it is what makes it anew; `copy.copy` and `copy.deepcopy` give the driver itself.

    Attributes
    ----------
    generation : Generation
        What the program that made it relies on.
    options : JSON value
        What makes it anew; a backend may put it into the form that does so from any directory.
    """

    generation: Generation = TODAY
    options: Any

    def __new__(cls, *older: Any, backend: str = "", options: Any = None, **own_options: Any) -> Self:
        if cls is not Driver:
            return super().__new__(cls)
        if older:
            raise TypeError(
                "Driver() takes keywords, such as Driver(backend='mofka', options={...}); older programs say "
                "Driver.new('mofka', {...})"
            )
        if not backend:
            raise TypeError(
                "Driver() needs the name of a backend, such as Driver(backend='mofka', options={...})"
            )
        found: Any = load_driver(backend)
        made: Self = super().__new__(found)
        return made

    def __init__(self, *, backend: str = "", options: Any = None, **own_options: Any) -> None:
        self._begin(TODAY, own_options if options is None else options)

    def _begin(self, generation: Generation, options: Any) -> None:
        self.generation = generation
        self.options = options
        self._open(options)

    @classmethod
    def new(cls, name: str, metadata: Any = None) -> "Driver":
        """Make a driver as programs of the second generation do; `flush` of its producers blocks."""
        return make_driver(load_driver(name), SECOND, {} if metadata is None else metadata)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return make_driver, (type(self), self.generation, self.options)

    def reopening(self, name: str) -> tuple[object, tuple[object, ...]]:
        """Return what makes a topic anew in another process: a function and its arguments.

        All topics of a driver that are made anew in a process share one.
        """
        return _open_topic, (type(self), self.generation, self.options, name)

    def _open(self, options: Any) -> None:
        """Connect, given the driver's options."""
        raise NotImplementedError

    @as_before(
        "name",
        "validator",
        "partition_selector",
        "serializer",
        topic_name="name",
        selector="partition_selector",
    )
    def create_topic(
        self,
        name: str,
        *,
        options: Mapping[str, Any] = {},
        validator: Validator | None = None,
        partition_selector: PartitionSelector | None = None,
        serializer: Serializer | None = None,
        schema: Any = None,
    ) -> None:
        """Create a topic.

        Parameters
        ----------
        name : str
            Its name, of 256 characters at most.
        options : mapping
            What the backend takes, such as ``num_partitions``.
        validator, partition_selector, serializer : optional
            Its components; the default ones if not given.
        schema : JSON Schema, optional
            Short for a ``schema`` validator.

        Raises
        ------
        Exception
            The topic exists, or its options cannot be used; then nothing was created.
        """
        if schema is not None:
            if validator is not None:
                raise TypeError("give a validator or a schema, not both")
            validator = SchemaValidator(schema=schema)
        self._create_topic(
            check_name(name), options, descriptions_of(validator, partition_selector, serializer)
        )

    def _create_topic(
        self, name: str, options: Mapping[str, Any], descriptions: Mapping[str, dict[str, Any]]
    ) -> None:
        """Create a topic, given the descriptions of its components by the names of their classes."""
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


def descriptions_of(
    validator: Validator | None, partition_selector: PartitionSelector | None, serializer: Serializer | None
) -> dict[str, dict[str, Any]]:
    """Return the descriptions of a new topic's components, by the name of the class; None stands for the default.

    Raises
    ------
    TypeError
        One of them is something else.
    """
    components: dict[type, Any] = {
        Validator: DefaultValidator() if validator is None else validator,
        PartitionSelector: DefaultPartitionSelector() if partition_selector is None else partition_selector,
        Serializer: DefaultSerializer() if serializer is None else serializer,
    }
    for base, component in components.items():
        if not isinstance(component, base):
            raise TypeError(f"{component!r} is no {base.__name__}; {base.__name__}.from_metadata makes one")
    return {base.__name__: component.to_metadata() for base, component in components.items()}


def make_driver(kind: type[Driver], generation: Generation, options: Any) -> Driver:
    """Make a driver for programs of a generation."""
    driver = kind.__new__(kind)
    driver._begin(generation, options)
    return driver


_shared: Final[dict[tuple[type[Driver], Generation, bytes], Driver]] = {}
"""Drivers of topics that came from other processes; nobody else has them, so that nobody closes one."""


def _open_topic(kind: type[Driver], generation: Generation, options: Any, name: str) -> TopicHandle:
    key = (kind, generation, encode(options))
    driver = _shared.get(key)
    if driver is None:
        driver = _shared.setdefault(key, make_driver(kind, generation, options))
    return driver.open_topic(name)
