"""The configuration of `diaspora-ctl forward`, checked before anything is opened. No I/O but that of imports."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from diaspora_stream.console.hints import hint
from diaspora_stream.consumer import byte_array_allocator, full_data_selector
from diaspora_stream.errors import ConfigError
from diaspora_stream.topic import WHOLE

_ENTRY: Final = ("from", "to", "data_selector", "data_allocator")


class Place(NamedTuple):
    """A topic of a driver, by their names."""

    driver: str
    topic: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.topic}"


class Route(NamedTuple):
    """What is copied where; `data_selector` and `data_allocator` are as a consumer takes them."""

    source: Place
    target: Place
    data_selector: Any
    data_allocator: Any

    def __str__(self) -> str:
        return f"{self.source}->{self.target}"


class DriverSpec(NamedTuple):
    """How to make a driver."""

    type: str
    options: Any


class ForwardConfig(NamedTuple):
    """A whole configuration."""

    drivers: Mapping[str, DriverSpec]
    routes: tuple[Route, ...]


def parse(text: bytes) -> ForwardConfig:
    """Return the configuration of a YAML text; imports the functions that it names.

    Raises
    ------
    ConfigError
        Says which field cannot be used, and what would be right.
    """
    import yaml  # at this place, for the sake of the other commands

    try:
        whole = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("configuration", f"not YAML: {' '.join(str(error).split())}") from None
    config = _fields(whole, "configuration", ("drivers", "forward"), ("drivers", "forward"))
    drivers = {
        str(name): _driver(spec, f"drivers.{name}")
        for name, spec in _fields(config["drivers"], "drivers").items()
    }
    entries = config["forward"]
    if entries is None:
        entries = []
    if not isinstance(entries, list):
        raise ConfigError("forward", f"must be a list, found {entries!r}")
    routes = tuple(_route(entry, f"forward[{index}]", drivers) for index, entry in enumerate(entries))
    names = [str(route) for route in routes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("forward", f"{name} is there twice; both would have the same cursors")
    return ForwardConfig(drivers, routes)


def _fields(
    value: Any, where: str, known: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(where, f"must be an object, found {value!r}")
    for key in value:
        if known and key not in known:
            raise ConfigError(f"{where}.{key}", f"unknown field{hint(key, known)}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{where}.{key}", f"missing{hint(key, map(str, value))}")
    return value


def _driver(value: Any, where: str) -> DriverSpec:
    fields = _fields(value, where, ("type", "options"), ("type",))
    if not isinstance(fields["type"], str) or not fields["type"]:
        raise ConfigError(f"{where}.type", f"must be the name of a driver, found {fields['type']!r}")
    options = fields.get("options")
    return DriverSpec(fields["type"], {} if options is None else options)


def _route(value: Any, where: str, drivers: Mapping[str, DriverSpec]) -> Route:
    fields = _fields(value, where, _ENTRY, ("from", "to"))
    source, target = (_place(fields[key], f"{where}.{key}", drivers) for key in ("from", "to"))
    if source == target:
        raise ConfigError(f"{where}.to", f"{target} is where the events come from")
    selector, allocator = (
        _function(fields.get(key), f"{where}.{key}") for key in ("data_selector", "data_allocator")
    )
    if selector is None and allocator is None:
        return Route(source, target, WHOLE, WHOLE)
    return Route(source, target, selector or full_data_selector, allocator or byte_array_allocator)


def _place(value: Any, where: str, drivers: Mapping[str, DriverSpec]) -> Place:
    driver, _, topic = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not driver or not topic:
        raise ConfigError(where, f"must be '<driver>/<topic>', found {value!r}")
    if driver not in drivers:
        raise ConfigError(where, f"driver {driver!r} is not among the drivers{hint(driver, drivers)}")
    return Place(driver, topic)


def _function(value: Any, where: str) -> Callable[..., Any] | None:
    """Import what ``module:function`` means; None for none."""
    if value is None or value == "":
        return None
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if ".so" in module:
        raise ConfigError(
            where,
            f"{value!r} is of a C++ library, which cannot be used here; write the function in Python, and name it as "
            "'module:function'",
        )
    if not module or not name:
        raise ConfigError(where, f"must be 'module:function', found {value!r}")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(where, f"{value!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ConfigError(where, f"{value!r} is {found!r}, and must be a function")
    function: Callable[..., Any] = found
    return function
