"""The configuration of a server: decoded JSON to a checked `ServerConfig`. Pure: nothing is opened or started.

Every fault is a `ConfigError` of one line that names the field, what was found there, and what is allowed.
What is checked here needs no component: types, names, provider ids, pools. The ``config`` of a provider is
left to its component, its ``dependencies`` to `mochi.bedrock.server`.

An expanded configuration, saved from a query, is a valid input.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from diaspora_stream.console.hints import nearest
from mochi.bedrock import older
from mochi.bedrock.conditions import CONDITION, applied, unknown_names
from mochi.bedrock.spec import AUTOMATIC, ProviderSpec, World
from mochi.margo import deployment
from mochi.margo.config import MargoConfig, convert, unknown_field
from mochi.margo.errors import ConfigError

__all__ = ["ServerConfig", "assign_ids", "parse", "parse_provider"]

_SECTIONS = ("margo", "bedrock", "libraries", "providers")

_FLOCK = "libflock-bedrock-module.so"

log = logging.getLogger(__name__)


FileMode: TypeAlias = Literal["owner", "umask"]


class ServerConfig(Struct, frozen=True, kw_only=True):
    """A checked configuration.

    Invariants: the providers' names are unique, and so are their ids, none of which is `provider_id`.
    """

    margo: MargoConfig
    address: str | None
    """``margo.mercury.address``: where to listen if the command line does not say, or where a saved
    configuration did listen."""
    pool: str
    """Pool of bedrock's own RPCs."""
    provider_id: int
    """Provider id of bedrock's own RPCs."""
    dependency_resolution_timeout: float | None
    """Seconds to wait for a provider of another server; None where nothing is said."""
    file_mode: FileMode | None
    """Who may use the files that providers make: their owner alone, or whom the umask lets; None is the former."""
    libraries: tuple[str, ...]
    providers: tuple[ProviderSpec, ...]


class _Bedrock(Struct, frozen=True, forbid_unknown_fields=True):
    pool: str | int | UnsetType = UNSET
    provider_id: Annotated[int, Meta(ge=0, lt=AUTOMATIC)] = 0
    dependency_resolution_timeout: Annotated[float, Meta(ge=0)] | None = None
    file_mode: FileMode | UnsetType = UNSET


def parse(value: Any, world: World | None = None) -> ServerConfig:
    """Check a decoded configuration.

    A key ``a.b`` stands for nested objects, in every object that is not inside an array. Then conditions are applied,
    as `mochi.bedrock.conditions` has it. Sections that bedrock no longer has are dropped, with one warning each.

    Parameters
    ----------
    value : Any
        One object; or an array of them, of which the conditions leave one, or one for each process.
    world : World, optional
        The processes started together; none without MPI.

    Raises
    ------
    ConfigError
        At the first field that is unknown or wrong.
    """
    try:
        for where, name in unknown_names(value):
            deployment.log.warning("%s: nothing defines %s, which is null", where, name)
        return _checked(_own(value, world))
    except RecursionError:
        raise ConfigError("configuration", "nested too deeply") from None


def _own(value: Any, world: World | None) -> dict[str, Any]:
    """Return the object that is meant for this process, with its conditions applied."""
    if isinstance(value, list):
        left = applied([_nested(item, "") if isinstance(item, dict) else item for item in value], world)
        if len(left) != 1 and (world is None or len(left) != world.size):
            problem = f"expected an object, or one for each process; found an array with {len(left)}"
            raise ConfigError("configuration", problem)
        value = left[0] if world is None or len(left) == 1 else left[world.rank]
    elif isinstance(value, dict):
        value = applied(_nested(value, ""), world)
        if value is None:
            raise ConfigError(CONDITION, "false for this process, which leaves nothing to deploy")
    if not isinstance(value, dict):
        raise ConfigError("configuration", f"expected an object; found {json.dumps(value)[:80]}")
    return value


def _checked(document: dict[str, Any]) -> ServerConfig:
    root = {name: item for name, item in document.items() if item is not None}
    groups = older.groups(root.pop("ssg", []))
    for name, instead in older.INSTEAD.items():
        if root.pop(name, None):
            log.warning("%s: obsolete section, ignored; %s", name, instead)
    root = _known(root, _SECTIONS, "")
    engines = root.get("margo")
    engines = engines if isinstance(engines, list) else [engines]
    margo_section = _first(engines)
    margo = MargoConfig.parse(margo_section)
    address = (margo_section or {}).get("mercury", {}).get("address")
    bedrock = convert(root.get("bedrock", {}), _Bedrock, "bedrock")
    libraries = root.get("libraries", [])
    if isinstance(libraries, dict):
        libraries = list(libraries.values())
    libraries = convert(libraries, list[str], "libraries") + [_FLOCK] * bool(groups)
    providers = convert(root.get("providers", []), list[Any], "providers") + groups
    specs = [
        parse_provider(_on_first(entry, len(engines)), f"providers[{index}]")
        for index, entry in enumerate(providers)
    ]
    return ServerConfig(
        margo=margo,
        address=None if address is None else convert(address, str, "margo.mercury.address"),
        pool=margo.rpc_pool
        if bedrock.pool is UNSET
        else margo.served_pool_name(bedrock.pool, "bedrock.pool"),
        provider_id=bedrock.provider_id,
        dependency_resolution_timeout=bedrock.dependency_resolution_timeout,
        file_mode=None if bedrock.file_mode is UNSET else bedrock.file_mode,
        libraries=tuple(dict.fromkeys(libraries)),
        providers=tuple(assign_ids(specs, {bedrock.provider_id: "bedrock itself"}, (), "providers[{}]")),
    )


def parse_provider(value: Any, where: str) -> ProviderSpec:
    """Check one provider entry, by itself. The field ``pool`` of old is dropped, and what nobody knows, with a warning.

    Raises
    ------
    ConfigError
        A field is missing, wrong, or nearly one that is known.
    """
    if isinstance(value, dict):
        if "pool" in value:
            log.warning("%s.pool: obsolete field, ignored; use dependencies.pool", where)
        given = {name: item for name, item in value.items() if name != "pool"}
        value = _known(given, ProviderSpec.__struct_fields__, f"{where}.")
    return convert(value, ProviderSpec, where)


def assign_ids(
    specs: Iterable[ProviderSpec], ids: Mapping[int, str], names: Iterable[str], where: str
) -> list[ProviderSpec]:
    """Choose an id, the lowest free one, for each provider that asks for none.

    Parameters
    ----------
    specs : iterable of ProviderSpec
        New providers.
    ids : Mapping
        Ids that are taken, and by whom.
    names : iterable of str
        Names that are taken.
    where : str
        JSON path of the new provider number ``{}``.

    Raises
    ------
    ConfigError
        A name or an id is taken.
    """
    specs = list(specs)
    owners = dict(ids)
    taken = set(names)
    for index, spec in enumerate(specs):
        if spec.name in taken:
            raise ConfigError(f"{where.format(index)}.name", f'"{spec.name}" is the name of another provider')
        taken.add(spec.name)
        if spec.provider_id == AUTOMATIC:
            continue
        if (owner := owners.get(spec.provider_id)) is not None:
            problem = f"{spec.provider_id} is the id of {owner}; ids are unique whatever the type"
            raise ConfigError(f"{where.format(index)}.provider_id", problem)
        owners[spec.provider_id] = spec.name
    numbered = []
    for spec in specs:
        if spec.provider_id == AUTOMATIC:
            free = next(number for number in range(AUTOMATIC + 1) if number not in owners)
            owners[free] = spec.name
            spec = msgspec.structs.replace(spec, provider_id=free)
        numbered.append(spec)
    return numbered


def _nested(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn dotted keys into nested objects, and merge these with their siblings."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        inner = _nested(item, f"{where}.{key}") if isinstance(item, dict) else item
        first, *rest = key.split(".")
        for part in reversed(rest):
            inner = {part: inner}
        _merge(result, {first: inner}, where)
    return result


def _merge(target: dict[str, Any], source: dict[str, Any], where: str) -> None:
    for key, item in source.items():
        path = f"{where}.{key}"
        if key not in target:
            target[key] = item
        elif isinstance(item, dict) and isinstance(target[key], dict):
            _merge(target[key], item, path)
        else:
            raise ConfigError(path.lstrip("."), "given twice, once by a dotted key")


def _known(value: dict[str, Any], known: Collection[str], prefix: str) -> dict[str, Any]:
    """Leave out what nobody knows, such as remarks, with a warning; what is nearly known is a slip of the pen."""
    for name in value:
        if name not in known:
            if nearest(name, known):
                raise ConfigError(f"{prefix}{name}", unknown_field(name, known))
            log.warning("%s%s: unknown, ignored", prefix, name)
    return {name: item for name, item in value.items() if name in known}


def _first(engines: list[Any]) -> Any:
    """Return the section of the engine that there is: the first, on which all providers are."""
    if not engines:
        raise ConfigError("margo", "expected an engine; found an empty array")
    if len(engines) > 1:
        log.warning("margo: %d engines, of which the first one is made, and has all providers", len(engines))
    return engines[0]


def _on_first(provider: Any, engines: int) -> Any:
    """Return an entry of ``providers`` with an engine that there is."""
    if not isinstance(provider, dict):
        return provider
    engine = provider.get("engine", 0)
    is_other = isinstance(engine, int) and 0 < engine < engines
    return {**provider, "engine": 0} if is_other else provider
