"""What a provider's ``dependencies`` mean: names in JSON to pools, providers and handles.

A value is a name or an index for a pool or an xstream. For a provider it is ``name`` or ``type:id``, of this
server, and must come before the one that depends on it; or one of these with ``@`` and the server: ``local`` for this
one, an address, or digits for the rank of a process that was started with this one. The type is checked in every case,
and a handle means a provider that was seen to exist.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec import Struct

from diaspora_stream.console.hints import nearest, suggestion
from mochi.bedrock.modules import Provider
from mochi.bedrock.spec import UNKNOWN, DependencyValue, ProviderHandle, ProviderSpec, World
from mochi.margo.address import canonical
from mochi.margo.config import unknown_field
from mochi.margo.engine import Engine
from mochi.margo.errors import ConfigError, MargoError

__all__ = ["Dependencies", "Running", "find", "is_remote", "or_which", "resolve"]


log = logging.getLogger(__name__)


class Dependencies(Struct):
    """Dependencies of one provider."""

    resolved: dict[str, Any] = {}
    """As the module gets them."""
    shown: dict[str, str | list[str]] = {}
    """As an expanded configuration shows them."""
    providers: "dict[str, Provider]" = {}
    """The providers of this server among them, by name."""
    pools: set[str] = set()
    xstreams: set[str] = set()


class Running(Struct):
    """A provider of this server."""

    spec: ProviderSpec
    provider: Provider
    dependencies: Dependencies


def find(what: str, running: Mapping[str, Running]) -> Running | None:
    """Return the provider that ``name`` or ``type:id`` means. Any thread, also while providers come and
    go."""
    kind, colon, number = what.partition(":")
    if not colon:
        return running.get(what)
    for candidate in list(running.values()):
        if candidate.spec.type == kind and str(candidate.spec.provider_id) == number:
            return candidate
    return None


def or_which(what: str, running: Mapping[str, Running]) -> str:
    """End of a message about a provider that is not there: the nearest that is, or all of them."""
    names = [*running, *(f"{other.spec.type}:{other.spec.provider_id}" for other in list(running.values()))]
    return suggestion(nearest(what, names)) or (
        f"; there is {', '.join(running)}" if running else "; there is none"
    )


def resolve(
    spec: ProviderSpec,
    declared: Mapping[str, tuple[str, bool]],
    where: str,
    *,
    engine: Engine,
    running: Mapping[str, Running],
    own_names: Collection[str],
    world: World,
    look_up: Callable[[str, str], ProviderHandle],
) -> Dependencies:
    """Resolve all dependencies of a provider.

    Parameters
    ----------
    declared : Mapping
        From `mochi.bedrock.modules.Module.dependencies`.
    where : str
        JSON path of the provider.
    running : Mapping
        The providers of this server so far, by name.
    own_names : collection of str
        What may stand behind ``@`` and means this server; addresses in their one form.
    world : World
        The processes that were started together.
    look_up : callable
        Given ``name`` or ``type:id`` and an address, asks that server.

    Raises
    ------
    ConfigError
        A dependency is missing, or nearly a declared one, or means nothing, or something of another kind.
    """

    def resolve_one(value: str | int, kind: str, path: str) -> tuple[Any, str]:
        if kind == "pool":
            name = engine.config.served_pool_name(value, path)
            dependencies.pools.add(name)
            return engine.pool(name), name
        if kind == "xstream":
            name = engine.config.xstream_name(value, path)
            dependencies.xstreams.add(name)
            return name, name
        if isinstance(value, int):
            raise ConfigError(path, f"expected a provider of type {kind}; found the number {value}")
        what, at, address = value.partition("@")
        if address.isdecimal():
            address = _ranked(value, int(address), world, path)
        if at and canonical(address) not in own_names:
            try:
                handle = look_up(what, address)
            except MargoError as error:
                raise ConfigError(path, f'"{value}" cannot be found: {error}') from error
            check_type(value, handle.type, kind, path)
            return handle, str(handle)
        local = find(what, running)
        if local is None:
            raise ConfigError(path, f'no provider "{what}" comes before this one{or_which(what, running)}')
        check_type(value, local.spec.type, kind, path)
        dependencies.providers[local.spec.name] = local.provider
        if not at:
            return local.provider, local.spec.name
        handle = ProviderHandle(engine.address, local.spec.provider_id, kind)
        return handle, str(handle)

    dependencies = Dependencies()
    for name in spec.dependencies:
        if name not in declared:
            if nearest(name, declared):
                raise ConfigError(f"{where}.dependencies.{name}", unknown_field(name, declared))
            log.warning("%s.dependencies.%s: ignored, the type %s has no such one", where, name, spec.type)
    for name, (kind, required) in declared.items():
        path = f"{where}.dependencies.{name}"
        if name not in spec.dependencies:
            if required:
                raise ConfigError(path, f"missing; the type {spec.type} needs a {kind}")
            continue
        given = spec.dependencies[name]
        pairs = [resolve_one(item, kind.removesuffix("[]"), path) for item in _items(given)]
        if kind.endswith("[]"):
            dependencies.resolved[name] = [resolved for resolved, _ in pairs]
            dependencies.shown[name] = [shown for _, shown in pairs]
        elif len(pairs) == 1:
            ((dependencies.resolved[name], dependencies.shown[name]),) = pairs
        else:
            raise ConfigError(path, f"expected one {kind}; found an array of {len(pairs)}")
    return dependencies


def check_type(value: str, found: str, expected: str, path: str) -> None:
    """Refuse a provider of another type than the one declared."""
    if found != expected:
        raise ConfigError(path, f'expected a provider of type {expected}; found "{value}", of type {found}')


def is_remote(value: DependencyValue) -> bool:
    """Whether a dependency may mean a provider of another server, which is asked for it."""
    return any(isinstance(item, str) and "@" in item for item in _items(value))


def _ranked(value: str, rank: int, world: World, path: str) -> str:
    """What a rank behind ``@`` stands for: an address, or ``local``."""
    if rank == world.rank:
        return "local"
    if world.size == 1:
        raise ConfigError(path, f'"{value}" names rank {rank}; this server was started alone, as rank 0')
    if rank >= world.size:
        raise ConfigError(path, f'"{value}" names rank {rank}; ranks are 0 to {world.size - 1}')
    address = world.addresses[rank]
    if address == UNKNOWN:
        raise ConfigError(path, f'"{value}" names rank {rank}, whose address is not known yet')
    return address


def _items(value: DependencyValue) -> list[str | int]:
    return value if isinstance(value, list) else [value]
