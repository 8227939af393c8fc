"""Configuration of a flock provider: what may be written, and its expanded form.

The expanded form shows `bootstrap`, which the original leaves out, so that an expanded configuration loads
again. Built in are all bootstraps, and the group ``static``. The original's other names are known, and refused as such.
"""

import difflib
import logging
from collections.abc import Collection
from typing import Any, Final

import msgspec

from mochi.flock.errors import ConfigError
from mochi.flock.group_file import GroupView
from mochi.margo.paths import expand_home

BOOTSTRAPS: Final = ("self", "mpi", "join", "file", "view")
GROUPS: Final = ("static", "centralized", "swim")
GATEWAYS: Final = ("default", "pinggy")

_log = logging.getLogger(__name__)


class Component(msgspec.Struct, frozen=True):
    """A part of the provider that comes in several types."""

    type: str
    config: dict[str, Any] = {}


class FlockConfig(msgspec.Struct, frozen=True):
    """A valid configuration of a flock provider.

    Attributes
    ----------
    bootstrap : str or list of str
        How the first view is built; several ways are tried in order until one works.
    group : Component
        How the view changes later on.
    gateway : Component
        How the members are reached.
    file : str, optional
        Group file to write, relative to the working directory of the process.
    mpi_ranks : list of int, optional
        Ranks of MPI_COMM_WORLD to which an ``mpi`` group is restricted.
    view : GroupView, optional
        The group of the bootstrap ``view``.
    """

    bootstrap: str | list[str]
    group: Component
    gateway: Component = Component("default")
    file: str | None = None
    mpi_ranks: list[int] | None = None
    view: GroupView | None = None

    def expand(self) -> dict[str, Any]:
        """Return the configuration as a query shows it; `parse` of it gives this configuration again."""
        return {field: value for field, value in msgspec.to_builtins(self).items() if value is not None}


def parse(config: dict[str, Any]) -> FlockConfig:
    """Check a provider's configuration.

    Raises
    ------
    ConfigError
        A field is unknown, missing, of a wrong type, or asks for what is not built in.
    """
    _check_fields(config, FlockConfig, "config")
    for name in ("group", "gateway"):
        if isinstance(config.get(name), dict):
            _check_fields(config[name], Component, f"config.{name}")
    try:
        parsed = msgspec.convert(config, FlockConfig)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise ConfigError(f"config{path.rstrip('`')}", problem) from None
    ways = [parsed.bootstrap] if isinstance(parsed.bootstrap, str) else parsed.bootstrap
    if not ways:
        raise ConfigError(
            "config.bootstrap", "found an empty array; expected one or more of " + _list(BOOTSTRAPS)
        )
    for way in ways:
        _check_known("config.bootstrap", way, BOOTSTRAPS)
    for name, known in (("group", GROUPS), ("gateway", GATEWAYS)):
        component: Component = getattr(parsed, name)
        _check_type(f"config.{name}.type", component.type, known)
        for field in component.config:
            raise ConfigError(
                f"config.{name}.config.{field}", f"{name} type {component.type!r} has no such field"
            )
    if parsed.file is not None:
        parsed = msgspec.structs.replace(parsed, file=expand_home(parsed.file, "config.file"))
    if parsed.mpi_ranks is not None and "mpi" not in ways:
        _log.warning("flock: config.mpi_ranks has no effect on the bootstrap %r", parsed.bootstrap)
    return parsed


def _check_fields(config: dict[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    for field in config:
        if field not in struct.__struct_fields__:
            raise ConfigError(
                f"{where}.{field}", f"unknown field; {_expected(field, struct.__struct_fields__)}"
            )


def _check_known(where: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(where, f"{name!r} is unknown; {_expected(name, known)}")


def _check_type(where: str, name: str, known: tuple[str, ...]) -> None:
    """Accept the first of `known`, the one that is built in, and tell later ones from unknown ones."""
    _check_known(where, name, known)
    if name != known[0]:
        raise ConfigError(where, f"{name!r} is not built in at this stage; {known[0]!r} is")


def _expected(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else "expected one of " + _list(known)


def _list(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
