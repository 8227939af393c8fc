"""Plugins: drivers, validators, partition selectors and serializers, found by name.

A name is looked for among the classes of this library, then among the entry points of the group
``diaspora_stream.<kind>s``. ``name:module`` also imports the module and takes its attribute of that name.

Invariant: what a component says of itself (`Component.to_metadata`) makes an equal one in any process that
can import the same modules (`Component.from_metadata`).
"""

import importlib
from abc import ABC
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError, DiasporaError, UnknownName

if TYPE_CHECKING:
    from diaspora_stream.driver import Driver

T = TypeVar("T")

_named: Final[dict[tuple[str, str], type]] = {}


def load(kind: str, name: str, base: type[T]) -> type[T]:
    """Return the class that a name means.

    Parameters
    ----------
    kind : str
        ``driver``, ``validator``, ``partition_selector`` or ``serializer``.
    name : str
        ``name`` or ``name:module``; the module does not matter when the name is known without it.
    base : type
        What the class must be a subclass of.

    Raises
    ------
    UnknownName
        Nothing provides the name; says which is nearest.
    ConfigError
        The plugin cannot be imported, or is no subclass of `base`.
    TypeError
        The name is no str.
    """
    from importlib.metadata import entry_points  # a command that only shows its help does without

    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} must be a str, not {name!r}")
    short, _, module = name.partition(":")
    installed = {entry.name: entry for entry in entry_points(group=f"diaspora_stream.{kind}s")}
    known = {*installed, *(own for its_kind, own in _named if its_kind == kind)}
    try:
        if short in known:
            found = _named.get((kind, short)) or installed[short].load()
        elif module:
            found = _from_module(kind, short, importlib.import_module(module))
        else:
            raise UnknownName(kind, f"nothing is installed under the name {name!r}{hint(name, known)}")
    except DiasporaError:
        raise
    except Exception as error:
        problem = f"{name!r} cannot be imported: {type(error).__name__}: {error}{hint(short, known)}"
        raise ConfigError(kind, problem) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(kind, f"{name!r} means {found!r}, which is no subclass of {base.__name__}")
    return found


def _from_module(kind: str, name: str, module: ModuleType) -> Any:
    if (kind, name) in _named:
        return _named[kind, name]
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UnknownName(kind, f"module {module.__name__!r} has no {name!r}{hint(name, classes)}")
    return getattr(module, name)


def load_driver(name: str) -> "type[Driver]":
    """Return the class of a driver; see `load`."""
    from diaspora_stream.driver import Driver

    return load("driver", name, Driver)


def required(where: str, config: Mapping[str, Any], field: str) -> Any:
    """Return a field of a configuration; `ConfigError` when it is not there."""
    if field not in config:
        raise ConfigError(f"{where}.{field}", f"missing{hint(field, config)}")
    return config[field]


class Component(ABC):
    """Base of validators, partition selectors and serializers: they describe themselves, and are made again.

    A subclass is made by calling it with its options as keywords, and ignores those it does not know. One
    that is defined with a name, ``class Limits(Validator, name="limits")``, is found by that name once its
    module is imported. Pickled, it is its description.
    """

    kind: ClassVar[str]
    _options: Mapping[str, Any] = {}

    def __init__(self, **options: Any) -> None:
        self._options = options

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            _named[cls.kind, name] = cls

    @classmethod
    def from_metadata(cls, *description: str | Mapping[str, Any], **options: Any) -> Self:
        """Make a component from its description.

        Parameters
        ----------
        *description : str or Mapping
            Older forms: the type, the options, or both.
        **options
            ``type`` is ``name`` or ``name:module``, ``default`` if not given; the others are for the
            component. Older forms: an object ``metadata`` beside nothing but ``type``, and ``__type__`` in an object.

        Raises
        ------
        ConfigError
            The type is no str or unknown, or the options cannot be used.
        TypeError
            The description is neither.
        """
        parts = list(description)
        if isinstance(options.get("metadata"), Mapping) and options.keys() <= {"type", "metadata"}:
            parts.append(options.pop("metadata"))
        for part in parts:
            if not isinstance(part, str | Mapping):
                raise TypeError(
                    f"{cls.__name__}.from_metadata takes keywords, such as type='default', not {part!r}"
                )
            own = {"type": part} if isinstance(part, str) else dict(part)
            if "__type__" in own:
                own.setdefault("type", own.pop("__type__"))
            options = {**own, **options}
        return cls.described(options)

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> Self:
        """Make a component from its description, an object that is as `to_metadata` writes it."""
        options = dict(description)
        name = options.pop("type", "default")
        if not isinstance(name, str):
            raise ConfigError(f"{cls.kind}.type", f"must be a str, found {name!r}")
        component = load(cls.kind, name, cls)(**options)
        component._options = options
        return component

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _described, (type(self), self.to_metadata())

    def to_metadata(self) -> dict[str, Any]:
        """Return the description, a JSON object.

        By default the class, as ``name:module``, and the options that it was made with.
        """
        return {**self._options, "type": f"{type(self).__qualname__}:{type(self).__module__}"}


def _described(kind: type[Component], description: Mapping[str, Any]) -> Component:
    return kind.described(description)
