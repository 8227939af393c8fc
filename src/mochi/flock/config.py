"""Configuration of a flock provider: what may be written, and its expanded form.

The expanded form shows `bootstrap`, which the original leaves out, so that an expanded configuration loads
again. Built in are all bootstraps and groups. The original's other gateway is known, and refused as such.
"""

import logging
from collections.abc import Collection
from typing import Annotated, Any, Final

import msgspec

from diaspora_stream.console.hints import hint
from mochi.flock.errors import ConfigError
from mochi.flock.group_file import CONFIG_KEY, PRIMARY, TYPE_KEY, GroupView
from mochi.margo.paths import expand_home

BOOTSTRAPS: Final = ("self", "mpi", "join", "file", "view")
GATEWAYS: Final = ("default", "pinggy")

_log = logging.getLogger(__name__)


class Component(msgspec.Struct, frozen=True):
    """A part of the provider that comes in several types."""

    type: str
    config: dict[str, Any] = {}


Duration = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
"""Milliseconds; an integer is a number as well."""


class StaticConfig(msgspec.Struct, frozen=True):
    """A group whose members are not watched."""


class CentralizedConfig(msgspec.Struct, frozen=True):
    """A group that its primary watches.

    Attributes
    ----------
    ping_timeout_ms : float
        How long a member has to answer a ping.
    ping_interval_ms : float or [float, float]
        From the beginning of one ping of a member to the next: fixed, or drawn from a range.
    ping_max_num_timeouts : int
        Pings without an answer, in a row, after which a member is dead.
    primary_address : str, optional
        The primary; the member of the lowest rank when None.
    primary_provider_id : int, optional
        Its provider id, to be checked.
    """

    ping_timeout_ms: Duration = 1000.0
    ping_interval_ms: Duration | Annotated[list[Duration], msgspec.Meta(min_length=2, max_length=2)] = 1000.0
    ping_max_num_timeouts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 3
    primary_address: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    primary_provider_id: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None

    def __post_init__(self) -> None:
        """Check what a type does not say."""
        if self.intervals[0] > self.intervals[1]:
            raise ValueError(
                f"ping_interval_ms: {self.ping_interval_ms} is no range; the smaller one comes first"
            )

    @property
    def ping_timeout(self) -> float:
        """In seconds."""
        return self.ping_timeout_ms / 1000

    @property
    def intervals(self) -> tuple[float, float]:
        """The range that intervals are drawn from, in seconds."""
        given = self.ping_interval_ms
        shortest, longest = given if isinstance(given, list) else (given, given)
        return shortest / 1000, longest / 1000

    @property
    def longest_interval(self) -> float:
        """In seconds."""
        return self.intervals[1]


class SwimConfig(msgspec.Struct, frozen=True):
    """A group whose members watch each other.

    Attributes
    ----------
    protocol_period_ms : float
        From one ping that a member sends to its next.
    ping_timeout_ms : float
        How long a member has to answer a ping.
    ping_req_timeout_ms : float
        How long others have to ping one that has not answered.
    ping_req_members : int
        How many others are asked to.
    suspicion_timeout_ms : float
        How long a member is suspect before it is dead.
    """

    protocol_period_ms: Duration = 1000.0
    ping_timeout_ms: Duration = 200.0
    ping_req_timeout_ms: Duration = 500.0
    ping_req_members: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 3
    suspicion_timeout_ms: Duration = 5000.0

    @property
    def protocol_period(self) -> float:
        """In seconds."""
        return self.protocol_period_ms / 1000

    @property
    def ping_timeout(self) -> float:
        """In seconds."""
        return self.ping_timeout_ms / 1000

    @property
    def ping_req_timeout(self) -> float:
        """In seconds."""
        return self.ping_req_timeout_ms / 1000

    @property
    def suspicion_timeout(self) -> float:
        """In seconds."""
        return self.suspicion_timeout_ms / 1000


GroupConfig = StaticConfig | CentralizedConfig | SwimConfig

_GROUPS: Final[dict[str, type[GroupConfig]]] = {
    "static": StaticConfig,
    "centralized": CentralizedConfig,
    "swim": SwimConfig,
}


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
    state : dict, optional
        What a query shows beside the configuration, of a group that is watched; without effect where it is given.
    """

    bootstrap: str | list[str]
    group: Component
    gateway: Component = Component("default")
    file: str | None = None
    mpi_ranks: list[int] | None = None
    view: GroupView | None = None
    state: dict[str, Any] | None = None

    @property
    def watching(self) -> GroupConfig:
        """How the members are watched."""
        return group_config(self.group.type, self.group.config)

    def of_group(self, view: GroupView | None) -> "FlockConfig":
        """Return the configuration with that of the group, which a group file has: that wins.

        Raises
        ------
        ConfigError
            The group is of another type.
        """
        metadata = {} if view is None else view.metadata
        kind, text = metadata.get(TYPE_KEY), metadata.get(CONFIG_KEY)
        if kind not in (None, self.group.type):
            raise ConfigError(
                "config.group.type", f"this is a group of type {kind!r}, not {self.group.type!r}"
            )
        if kind is None or text is None:
            return self
        try:
            found = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ConfigError("config.file", f"metadata.{CONFIG_KEY} in the group file: {error}") from None
        for field in (PRIMARY, "primary_provider_id"):  # where that is now, the file says
            found.pop(field, None)
            if field in self.group.config:
                found[field] = self.group.config[field]
        return msgspec.structs.replace(self, group=_expanded(Component(self.group.type, found)))

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
    _check_known("config.group.type", parsed.group.type, tuple(_GROUPS))
    parsed = msgspec.structs.replace(parsed, group=_expanded(parsed.group))
    _check_type("config.gateway.type", parsed.gateway.type, GATEWAYS)
    for field in parsed.gateway.config:
        raise ConfigError(
            f"config.gateway.config.{field}", f"gateway type {parsed.gateway.type!r} has no such field"
        )
    if parsed.file is not None:
        parsed = msgspec.structs.replace(parsed, file=expand_home(parsed.file, "config.file"))
    if parsed.mpi_ranks is not None and "mpi" not in ways:
        _log.warning("flock: config.mpi_ranks has no effect on the bootstrap %r", parsed.bootstrap)
    return parsed


def group_config(kind: str, config: dict[str, Any]) -> GroupConfig:
    """Return the configuration of a group type, with what it leaves out.

    Raises
    ------
    ConfigError
        A field is unknown, of a wrong type, or out of range.
    """
    struct, where = _GROUPS[kind], "config.group.config"
    for field in config:
        if field not in struct.__struct_fields__:
            raise ConfigError(
                f"{where}.{field}",
                f"group type {kind!r} has no such field{hint(field, struct.__struct_fields__)}",
            )
    try:
        return msgspec.convert(config, struct)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise ConfigError(f"{where}{path.rstrip('`')}", problem) from None


def _expanded(group: Component) -> Component:
    fields = msgspec.to_builtins(group_config(group.type, group.config))
    return Component(group.type, {field: value for field, value in fields.items() if value is not None})


def _check_fields(config: dict[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    for field in config:
        if field not in struct.__struct_fields__:
            raise ConfigError(f"{where}.{field}", f"unknown field{hint(field, struct.__struct_fields__)}")


def _check_known(where: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(where, f"{name!r} is unknown{hint(name, known)}")


def _check_type(where: str, name: str, known: tuple[str, ...]) -> None:
    """Accept the first of `known`, the one that is built in, and tell later ones from unknown ones."""
    _check_known(where, name, known)
    if name != known[0]:
        raise ConfigError(where, f"{name!r} is not built in at this stage; {known[0]!r} is")


def _list(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
