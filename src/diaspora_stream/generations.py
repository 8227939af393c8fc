"""Generations of the API: what older programs may rely on, in one table, and the names that they use.

How a driver was made tells which generation a program is of: ``MofkaDriver("mofka.json")`` by position is the oldest,
``Driver.new(name, metadata)`` the second, keywords are today's. Names and positions of older generations are taken
everywhere; what they do differently depends on the `Generation` of the driver.
"""

import importlib
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

import msgspec

from diaspora_stream.errors import ConfigError

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Generation(msgspec.Struct, frozen=True):
    """What the programs of one generation rely on.

    Attributes
    ----------
    metadata_text : bool
        ``event.metadata`` is JSON text, not a value.
    blocking_flush : bool
        ``producer.flush()`` returns once everything is stored.
    callable_sizes : bool
        ``batch_size`` and ``max_num_batches`` are methods as well.
    lone_callables : bool
        A consumer may have a data selector or a data allocator without the other.
    older_names : bool
        Its documentation uses the older names.
    """

    name: str
    metadata_text: bool = False
    blocking_flush: bool = False
    callable_sizes: bool = False
    lone_callables: bool = False
    older_names: bool = False

    @property
    def is_older(self) -> bool:
        """Whether this is not today's."""
        return self.name != TODAY.name

    def size(self, number: int) -> int:
        """Return a batch size, or a number of batches, as programs of this generation read it."""
        return CallableSize(number) if self.callable_sizes else number


OLDEST: Final = Generation(
    "oldest",
    metadata_text=True,
    blocking_flush=True,
    callable_sizes=True,
    lone_callables=True,
    older_names=True,
)
SECOND: Final = Generation("second", blocking_flush=True)
TODAY: Final = Generation("today")


class CallableSize(int):
    """A number that serves as a property and as a method: ``producer.batch_size``, ``producer.batch_size()``."""

    def __call__(self) -> int:
        return int(self)


_told: Final[dict[str, object]] = {}


def tell_once(name: str, level: int, text: str) -> None:
    """Write a line to the log, once for each `name` and process."""
    mine = object()
    if _told.setdefault(name, mine) is mine:
        log.log(level, "%s", text)


def compiled(module: str) -> Any:
    """Import a module that has the name of a compiled one of the original; `ImportError` says how to have it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is in the distribution mofka-compat, which is not installed") from error


def as_before(*order: str, **renamed: str) -> Callable[[F], F]:
    """Let a method be called as older programs call it.

    Parameters
    ----------
    *order : str
        Parameters that may be given by position, in their order.
    **renamed : str
        Older names of parameters, and what they are called today.

    Raises
    ------
    TypeError
        By the method: too many arguments, or one twice. What it raises of one with an older name gets a note which
        says that today's name is meant.
    """

    def decorate(method: F) -> F:
        kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
        own = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)

        @wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            found = renamed.keys() & named.keys()
            if not found and len(given) <= own:
                return method(*given, **named)
            this, *values = given
            if len(values) > len(order):
                raise TypeError(
                    f"{method.__name__}() takes at most {len(order)} arguments by position "
                    f"({', '.join(order)}), {len(values)} were given"
                )
            pairs = [*zip(order, values, strict=False), *named.items()]
            modern: dict[str, Any] = {}
            for name, value in pairs:
                today = renamed.get(name, name)
                if today in modern:
                    raise TypeError(f"{method.__name__}() got {today} twice{_called(name, today)}")
                modern[today] = value
            older = getattr(this, "generation", OLDEST).older_names
            for name in found:
                tell_once(
                    f"{method.__name__}({name}=)",
                    logging.DEBUG if older else logging.WARNING,
                    f"{method.__name__}(): {name} is called {renamed[name]} today",
                )
            try:
                return method(this, **modern)
            except (TypeError, ConfigError) as error:
                for name in found:
                    error.add_note(f"{name} is what {renamed[name]} was called")
                raise

        return cast("F", call)

    return decorate


def _called(name: str, today: str) -> str:
    return f": {name} is what it was called" if name != today else ""
