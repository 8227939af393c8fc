"""The ``margo`` section of a server configuration: checked in full, then expanded.

`MargoConfig.parse` turns what the user wrote into what the engine needs: every pool and xstream, by name, and
which pools run the network loop and the RPC handlers. Invariants of a `MargoConfig`:

- a pool ``__primary__`` exists, and an xstream ``__primary__`` whose first pool it is;
- names are unique; every xstream's pools, ``progress_pool`` and ``rpc_pool`` are names of ``pools``;
- an xstream serves ``progress_pool``, one serves ``rpc_pool``, and no more than one serves a pool whose access
  promises a single consumer;
- ``MargoConfig.parse(config.expand(address)) == config``.

The rules, the generated names and the shape of the expansion are those of margo 0.24's JSON configuration.
Two things differ. An unknown field is an error. ``__rpc__`` and ``__progress__``, names that margo once
generated, are accepted wherever a pool is named.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from diaspora_stream.console.hints import hint
from mochi.margo.errors import ConfigError

__all__ = ["MargoConfig", "MercuryOptions", "PoolSpec", "XstreamSpec", "convert", "unknown_field"]

T = TypeVar("T")

PRIMARY = "__primary__"
MARGO_VERSION = "0.24.0"
MERCURY_VERSION = "2.4.1"
EAGER_SIZE = 4080
"""Bytes of an RPC's arguments that travel in its first message, as Mercury reports them for shared memory."""

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*\Z")]
Count = Annotated[int, Meta(ge=0)]
PoolRef = str | int
PoolKind = Literal["fifo_wait", "fifo", "prio_wait", "earliest_first"]
PoolAccess = Literal["mpmc", "private", "spsc", "mpsc", "spmc"]
SchedulerType = Literal["basic_wait", "default", "basic", "prio", "randws"]

_OBSOLETE = ("enable_profiling", "enable_diagnostics", "profile_sparkline_timeslice_msec")
_SINGLE_CONSUMER = ("private", "spsc", "mpsc")
_OUTPUT_ONLY = {
    "mercury": ("address", "listening", "version", "input_eager_size", "output_eager_size"),
    "argobots": ("lazy_stack_alloc", "version"),
}

log = logging.getLogger(__name__)


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Problem of a `ConfigError` for the field `name`, with the nearest of the `known` ones.

    >>> unknown_field("kinds", ["name", "kind"])
    "unknown field; did you mean 'kind'?"
    """
    return f"unknown field{hint(name, known)}"


def convert(value: Any, kind: type[T], where: str) -> T:
    """Convert decoded JSON to the type `kind`, strictly.

    Parameters
    ----------
    value : Any
        Decoded JSON.
    kind : type
        A `msgspec.Struct`; give it ``forbid_unknown_fields=True``.
    where : str
        JSON path of `value` in the user's configuration.

    Raises
    ------
    ConfigError
        Its ``where`` is the path of the field at fault, its ``problem`` what was found and what is allowed.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).removesuffix("`").partition(" - at `$")
    node: Any = msgspec.inspect.type_info(kind)
    for step in re.findall(r"[^.\[\]]+", path):
        value = value[int(step)] if isinstance(value, Sequence) else value[step]
        if isinstance(node, msgspec.inspect.StructType):
            node = next(field.type for field in node.fields if field.encode_name == step)
        if isinstance(node, msgspec.inspect.UnionType):
            node = next((t for t in node.types if hasattr(t, "fields") or hasattr(t, "item_type")), node)
        elif step.isdecimal():
            node = node.item_type
    where += path
    if match := re.fullmatch(
        r"Object (contains unknown|missing required) field `(.*)", problem.removesuffix("`")
    ):
        fault, field = match.groups()
        known = [f.encode_name for f in node.fields]
        required = f"required field is missing, found only {', '.join(value) or 'an empty object'}"
        raise ConfigError(f"{where}.{field}", unknown_field(field, known) if "unknown" in fault else required)
    if isinstance(node, msgspec.inspect.LiteralType):
        problem = f"expected one of {', '.join(map(str, node.values))}"
    else:
        problem = problem.partition(", got ")[0].replace("Expected", "expected").replace("`", "")
    found = msgspec.json.encode(value).decode()
    raise ConfigError(where, f"{problem}; found {found if len(found) <= 80 else found[:77] + '...'}")


class PoolSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A queue of work; `mochi.margo.pools` says what the kinds mean.

    The access, in Argobots' words, is a promise about who uses the pool: ``private``, ``spsc`` and ``mpsc`` allow one
    xstream to serve it. Any thread may put work into any pool.
    """

    name: Name = ""
    kind: PoolKind = "fifo_wait"
    access: PoolAccess = "mpmc"


class XstreamSpec(Struct, frozen=True):
    """A thread of execution and the names of the pools that it serves, the first one first."""

    name: str
    scheduler_type: SchedulerType
    pools: tuple[str, ...]
    cpubind: int = -1
    """Core to run on, -1 for any."""
    affinity: tuple[int, ...] = ()
    """Cores to run on, empty for any."""

    @property
    def cores(self) -> tuple[int, ...]:
        """Cores to run on, empty for any; ``affinity`` wins over ``cpubind``."""
        return self.affinity or ((self.cpubind,) if self.cpubind >= 0 else ())

    def expand(self) -> dict[str, Any]:
        """JSON form; ``cpubind`` and ``affinity`` are shown when they are set."""
        pinned: dict[str, Any] = {"cpubind": self.cpubind} if self.cpubind >= 0 else {}
        if self.affinity:
            pinned["affinity"] = self.affinity
        return {"name": self.name, "scheduler": {"type": self.scheduler_type, "pools": self.pools}, **pinned}


class MercuryOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the network layer; fields that default to UNSET are shown only where they are set."""

    request_post_init: Count = 256
    request_post_incr: Count = 256
    auto_sm: bool = False
    no_bulk_eager: bool = False
    no_loopback: bool = False
    stats: bool = False
    na_no_block: bool = False
    na_no_retry: bool = False
    na_max_unexpected_size: Count = 0
    na_max_expected_size: Count = 0
    na_request_mem_device: bool = False
    na_addr_format: Literal["unspec", "ipv4", "ipv6", "native"] = "unspec"
    checksum_level: Literal["none", "rpc_headers", "rpc_payload"] = "none"
    max_contexts: Count = 0
    log_level: str = "warning"
    log_subsys: str = "hg,na"
    ip_subnet: str | UnsetType = UNSET
    auth_key: str | UnsetType = UNSET
    sm_info_string: str | UnsetType = UNSET


class ArgobotsOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of Argobots; they have no effect on threads of Python and are kept for the expansion."""

    abt_mem_max_num_stacks: Count = 8
    abt_thread_stacksize: Count = 2097152
    profiling_dir: str = "."


class PlumberOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How a network card is chosen where a node has several."""

    bucket_policy: Literal["package", "numa", "all", "passthrough"] = "package"
    nic_policy: Literal["roundrobin", "random", "bycore", "byset", "passthrough"] = "roundrobin"


class StatisticsOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Counters of the monitoring."""

    disable: bool = False
    precision: Count = 9
    sample_progress_every: Count = 1
    pretty_json: bool = False


class TimeSeriesOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Time series of the monitoring, one point every ``time_interval_sec`` seconds."""

    disable: bool = False
    precision: Count = 9
    time_interval_sec: Annotated[float, Meta(gt=0)] = 1.0
    pretty_json: bool = False


class MonitoringConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What is monitored, and the beginning of the names of the files it is written to."""

    filename_prefix: str = "margo"
    statistics: StatisticsOptions = StatisticsOptions()
    time_series: TimeSeriesOptions = TimeSeriesOptions()


class MonitoringOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The monitoring section; the name is always that of the default monitor."""

    name: Literal["default"] = "default"
    config: MonitoringConfig = MonitoringConfig()


class _Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the input and the expansion have in common."""

    mercury: MercuryOptions = MercuryOptions()
    plumber: PlumberOptions = PlumberOptions()
    monitoring: MonitoringOptions | UnsetType = UNSET
    progress_timeout_ub_msec: Count = 100
    progress_spindown_msec: Count = 10
    handle_cache_size: Count = 256
    enable_abt_profiling: bool = False


class _Scheduler(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: SchedulerType = "basic_wait"
    pools: Annotated[list[PoolRef], Meta(min_length=1)]


class _Xstream(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name = ""
    scheduler: _Scheduler
    cpubind: Annotated[int, Meta(ge=-1)] = -1
    affinity: tuple[Count, ...] = ()


class _Argobots(ArgobotsOptions, frozen=True, forbid_unknown_fields=True):
    pools: tuple[PoolSpec, ...] = ()
    xstreams: tuple[_Xstream, ...] = ()


class _Section(_Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The section as the user writes it."""

    argobots: _Argobots = _Argobots()
    progress_pool: PoolRef | UnsetType = UNSET
    rpc_pool: PoolRef | UnsetType = UNSET
    use_progress_thread: bool = False
    rpc_thread_count: int = 0


class MargoConfig(_Options, frozen=True, kw_only=True):
    """A checked and expanded margo configuration; build one with `parse`."""

    argobots: ArgobotsOptions
    pools: tuple[PoolSpec, ...]
    xstreams: tuple[XstreamSpec, ...]
    progress_pool: str
    """Pool that the network loop runs in."""
    rpc_pool: str
    """Pool that RPC handlers run in, unless their provider has another."""

    @classmethod
    def parse(cls, value: dict[str, Any] | None, where: str = "margo") -> "MargoConfig":
        """Check a margo section and expand it.

        Pools come in this order: the user's, ``__primary__`` if missing, the one of ``use_progress_thread``,
        the one of ``rpc_thread_count``; xstreams likewise. Obsolete fields are dropped with one warning each,
        fields that only an expansion has are dropped silently.

        Parameters
        ----------
        value : dict or None
            Decoded JSON; None stands for an empty section.
        where : str
            JSON path of the section, for errors.

        Raises
        ------
        ConfigError
            An unknown field, a value that is not allowed, a name that is taken or that nothing bears.
        """
        section = convert(_without_ignored(value, where), _Section, where)
        if section.monitoring is not UNSET:
            log.warning("%s.monitoring: accepted, but no statistics are written", where)
        if section.enable_abt_profiling:
            log.warning("%s.enable_abt_profiling: accepted, but nothing is profiled", where)
        pools, progress, rpc, threads = _place_pools(section, where)
        aliases = {"__progress__": progress, "__rpc__": rpc}
        xstreams = _place_xstreams(section, [pool.name for pool in pools], aliases, threads, where)
        for index, pool in enumerate(pools):
            _check_access(pool, xstreams, f"{where}.argobots.pools[{index}].access")
        for field, name in (("progress_pool", progress), ("rpc_pool", rpc)):
            _check_served(name, xstreams, f"{where}.{field}")
        _warn_of_odd_pools(pools, xstreams, progress)
        kept = (*_Options.__struct_fields__, "argobots")
        fields: dict[str, Any] = {name: getattr(section, name) for name in kept}
        fields["argobots"] = ArgobotsOptions(
            *(getattr(section.argobots, name) for name in ArgobotsOptions.__struct_fields__)
        )
        return cls(**fields, pools=pools, xstreams=xstreams, progress_pool=progress, rpc_pool=rpc)

    def pool_name(self, ref: PoolRef, where: str = "pool") -> str:
        """Name of the pool that `ref` means: a name, an index, ``__rpc__`` or ``__progress__``.

        Raises
        ------
        ConfigError
            There is no such pool; `where` is the path it reports.
        """
        aliases = {"__progress__": self.progress_pool, "__rpc__": self.rpc_pool}
        return _resolve(ref, [pool.name for pool in self.pools], aliases, where, "pool")

    def served_pool_name(self, ref: PoolRef, where: str = "pool") -> str:
        """Name of the pool that `ref` means, which something is about to depend on.

        Raises
        ------
        ConfigError
            There is no such pool, or no xstream serves it, so that work would wait in it for ever.
        """
        name = self.pool_name(ref, where)
        _check_served(name, self.xstreams, where)
        return name

    @property
    def progress_xstream(self) -> XstreamSpec:
        """The xstream whose thread drives the event loop: the first one that serves the progress pool first."""
        serving = [xstream for xstream in self.xstreams if self.progress_pool in xstream.pools]
        return next((xstream for xstream in serving if xstream.pools[0] == self.progress_pool), serving[0])

    def with_pool(self, value: Any, where: str = "pool") -> "MargoConfig":
        """Return this configuration with one more pool, such as ``argobots.pools`` holds.

        Raises
        ------
        ConfigError
            It is none, or its name is taken.
        """
        names = [pool.name for pool in self.pools]
        spec = convert(value, PoolSpec, where)
        if spec.name in names:
            raise ConfigError(f"{where}.name", f'"{spec.name}" is the name of an earlier pool')
        spec = msgspec.structs.replace(spec, name=spec.name or _next_name("pool", names))
        return msgspec.structs.replace(self, pools=(*self.pools, spec))

    def with_xstream(self, value: Any, where: str = "xstream") -> "MargoConfig":
        """Return this configuration with one more xstream, such as ``argobots.xstreams`` holds.

        Raises
        ------
        ConfigError
            It is none, its name is taken, or it serves a pool that is not there or allows no further xstream.
        """
        names = [xstream.name for xstream in self.xstreams]
        given = convert(value, _Xstream, where)
        if given.name in names:
            raise ConfigError(f"{where}.name", f'"{given.name}" is the name of an earlier xstream')
        path = f"{where}.scheduler.pools"
        spec = _placed(
            given,
            given.name or _next_name("xstream", names),
            lambda ref, index: self.pool_name(ref, f"{path}[{index}]"),
        )
        xstreams = (*self.xstreams, spec)
        for pool in self.pools:
            if pool.name in spec.pools:
                _check_access(pool, xstreams, path)
        return msgspec.structs.replace(self, xstreams=xstreams)

    def without_pool(self, name: str) -> "MargoConfig":
        """Return this configuration without a pool that it has, and that nothing in it names."""
        return msgspec.structs.replace(self, pools=tuple(p for p in self.pools if p.name != name))

    def without_xstream(self, name: str) -> "MargoConfig":
        """Return this configuration without an xstream that it has, and does not need."""
        return msgspec.structs.replace(self, xstreams=tuple(x for x in self.xstreams if x.name != name))

    def xstream_name(self, ref: str | int, where: str = "xstream") -> str:
        """Name of the xstream that `ref`, a name or an index, means.

        Raises
        ------
        ConfigError
            There is no such xstream; `where` is the path it reports.
        """
        return _resolve(ref, [xstream.name for xstream in self.xstreams], {}, where, "xstream")

    def expand(self, address: str, *, listening: bool = True) -> dict[str, Any]:
        """Full JSON form with every default, keys sorted, for an engine that has this `address`."""
        eager = EAGER_SIZE if self.mercury.checksum_level == "none" else EAGER_SIZE - 4
        document: dict[str, Any] = {
            name: value for name in _Options.__struct_fields__ if (value := getattr(self, name)) is not UNSET
        }
        document["mercury"] = msgspec.to_builtins(self.mercury) | {
            "address": address,
            "listening": listening,
            "version": MERCURY_VERSION,
            "input_eager_size": eager,
            "output_eager_size": eager,
        }
        document["argobots"] = msgspec.to_builtins(self.argobots) | {
            "lazy_stack_alloc": False,
            "pools": self.pools,
            "xstreams": [xstream.expand() for xstream in self.xstreams],
        }
        names = {"progress_pool": self.progress_pool, "rpc_pool": self.rpc_pool, "version": MARGO_VERSION}
        expanded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document | names, order="sorted"))
        return expanded


def _without_ignored(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return {} if value is None else value
    for name in _OBSOLETE:
        if name in value:
            log.warning("%s.%s: obsolete field, ignored", where, name)
    section = {name: v for name, v in value.items() if name not in (*_OBSOLETE, "version")}
    for name, ignored in _OUTPUT_ONLY.items():
        if isinstance(section.get(name), dict):
            section[name] = {key: v for key, v in section[name].items() if key not in ignored}
    return section


def _next_name(kind: str, names: Sequence[str], taken: Iterable[str] = ()) -> str:
    """Name that margo generates for the next pool or xstream after those of `names`."""
    number = len(names)
    while (name := f"__{kind}_{number}__") in names or name in taken:
        number += 1
    return name


def _named(kind: str, given: Sequence[str], where: str) -> list[str]:
    """The names of the user's pools or xstreams; those that have none get one."""
    names: list[str] = []
    for index, name in enumerate(given):
        if name in names:
            raise ConfigError(
                f"{where}.argobots.{kind}s[{index}].name", f'"{name}" is the name of an earlier {kind}'
            )
        names.append(name or _next_name(kind, names, given))
    return names


def _place_pools(
    section: _Section, where: str
) -> tuple[tuple[PoolSpec, ...], str, str, list[tuple[str, int]]]:
    """All pools, the progress pool, the RPC pool, and how many xstreams each generated pool is to have."""
    given = section.argobots.pools
    names = _named("pool", [pool.name for pool in given], where)
    if PRIMARY not in names:
        if any(xstream.name == PRIMARY for xstream in section.argobots.xstreams):
            found = ", ".join(names) or "none"
            problem = f"the xstream {PRIMARY} needs a pool of that name; found {found}"
            raise ConfigError(f"{where}.argobots.pools", problem)
        names.append(PRIMARY)
    threads: list[tuple[str, int]] = []

    def choose(field: str, ref: PoolRef | UnsetType, shortcut: str, count: int) -> PoolRef:
        if ref is not UNSET:
            if count > 0:
                log.warning("%s.%s: ignored, because %s is given", where, shortcut, field)
            return ref
        if count <= 0:
            return PRIMARY if count == 0 else "__progress__"
        names.append(_next_name("pool", names))
        threads.append((names[-1], count))
        return names[-1]

    progress_count = int(section.use_progress_thread)
    progress = choose("progress_pool", section.progress_pool, "use_progress_thread", progress_count)
    rpc = choose("rpc_pool", section.rpc_pool, "rpc_thread_count", section.rpc_thread_count)
    aliases = {"__progress__": progress, "__rpc__": rpc}
    progress_name = _resolve(progress, names, aliases, f"{where}.progress_pool", "pool")
    rpc_name = _resolve(rpc, names, aliases, f"{where}.rpc_pool", "pool")
    specs = (*given, *(PoolSpec() for _ in names[len(given) :]))
    pools = tuple(msgspec.structs.replace(spec, name=name) for spec, name in zip(specs, names, strict=True))
    return pools, progress_name, rpc_name, threads


def _place_xstreams(
    section: _Section,
    pools: Sequence[str],
    aliases: dict[str, str],
    threads: list[tuple[str, int]],
    where: str,
) -> tuple[XstreamSpec, ...]:
    given = section.argobots.xstreams
    names = _named("xstream", [xstream.name for xstream in given], where)
    xstreams: list[XstreamSpec] = []
    for index, (name, xstream) in enumerate(zip(names, given, strict=True)):
        path = f"{where}.argobots.xstreams[{index}].scheduler.pools"

        def resolve(ref: PoolRef, i: int, path: str = path) -> str:
            return _resolve(ref, pools, aliases, f"{path}[{i}]", "pool")

        spec = _placed(xstream, name, resolve)
        if name == PRIMARY and spec.pools[0] != PRIMARY:
            problem = f"the first pool of the xstream {PRIMARY} must be {PRIMARY}; found {spec.pools[0]}"
            raise ConfigError(f"{path}[0]", problem)
        xstreams.append(spec)
    if PRIMARY not in names:
        names.append(PRIMARY)
        xstreams.append(XstreamSpec(PRIMARY, "basic_wait", (PRIMARY,)))
    for pool, count in threads:
        for _ in range(count):
            names.append(_next_name("xstream", names))
            xstreams.append(XstreamSpec(names[-1], "basic_wait", (pool,)))
    return tuple(xstreams)


def _placed(xstream: _Xstream, name: str, resolve: Callable[[PoolRef, int], str]) -> XstreamSpec:
    pools = tuple(resolve(ref, index) for index, ref in enumerate(xstream.scheduler.pools))
    return XstreamSpec(name, xstream.scheduler.type, pools, xstream.cpubind, xstream.affinity)


def _check_access(pool: PoolSpec, xstreams: Iterable[XstreamSpec], where: str) -> None:
    serving = [xstream.name for xstream in xstreams if pool.name in xstream.pools]
    if pool.access in _SINGLE_CONSUMER and len(serving) > 1:
        problem = (
            f"{pool.access} allows one xstream to serve the pool {pool.name}; found {', '.join(serving)}"
        )
        raise ConfigError(where, problem)


def _check_served(name: str, xstreams: Iterable[XstreamSpec], where: str) -> None:
    served = dict.fromkeys(pool for xstream in xstreams for pool in xstream.pools)
    if name not in served:
        served_ones = ", ".join(served)
        problem = (
            f'no xstream serves the pool "{name}", whose work would wait for ever; served: {served_ones}'
        )
        raise ConfigError(where, problem)


def _resolve(
    ref: PoolRef, names: Sequence[str], aliases: Mapping[str, PoolRef], where: str, kind: str
) -> str:
    if isinstance(ref, int):
        if 0 <= ref < len(names):
            return names[ref]
        raise ConfigError(where, f"expected the index of a {kind}, 0 to {len(names) - 1}; found {ref}")
    if ref in names:
        return ref
    if ref in aliases:
        return _resolve(aliases[ref], names, {k: v for k, v in aliases.items() if k != ref}, where, kind)
    raise ConfigError(where, f'no {kind} is named "{ref}"{hint(ref, names)}')


def _warn_of_odd_pools(pools: Iterable[PoolSpec], xstreams: Iterable[XstreamSpec], progress: str) -> None:
    for name in (pool.name for pool in pools):
        served = [xstream.pools for xstream in xstreams if name in xstream.pools]
        if not served:
            log.warning("pool %s: no xstream serves it", name)
        elif all(names[0] != name for names in served):
            log.warning("pool %s: no xstream serves it first", name)
        if name != progress and any(progress in names for names in served):
            log.warning("pool %s: shares an xstream with the progress pool %s", name, progress)
