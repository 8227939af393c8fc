"""The plain data that bedrock, its modules and its clients hand to each other.

`ProcSpec` is an expanded configuration as objects: what scripts that look at a service, or put one together, work with.
All that is in it has ``from_dict``, ``to_dict`` and ``to_json``.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, SupportsIndex, TypeVar, get_args, overload

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mochi.margo.config import ArgobotsOptions, MercuryOptions, PoolAccess, PoolKind, SchedulerType
from mochi.margo.errors import ConfigError

__all__ = [
    "AUTOMATIC",
    "UNKNOWN",
    "ArgobotsSpec",
    "BedrockSpec",
    "DependencyValue",
    "MargoSpec",
    "MercurySpec",
    "PoolSpec",
    "ProcSpec",
    "ProviderHandle",
    "ProviderId",
    "ProviderSpec",
    "SchedulerSpec",
    "SpecList",
    "World",
    "XstreamSpec",
]

S = TypeVar("S", bound="_Spec")
N = TypeVar("N", bound="_Named")

AUTOMATIC = 65535
"""Provider id that stands for the lowest free one; no provider ever bears it."""

UNKNOWN = "<uninitialized>"
"""Address of a process of which it is not known."""

ProviderId = Annotated[int, Meta(ge=0, le=AUTOMATIC)]
DependencyValue = str | int | list[str | int]


class ProviderHandle(Struct, frozen=True):
    """A provider on some server, as seen from anywhere; prints as ``type:id@address``."""

    address: str
    provider_id: int
    type: str

    def __str__(self) -> str:
        return f"{self.type}:{self.provider_id}@{self.address}"


class _Named(Protocol):
    @property
    def name(self) -> str:
        """What it is found by."""


class SpecList(list[N]):
    """A list whose items are also found by their names."""

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> N: ...
    @overload
    def __getitem__(self, key: slice) -> list[N]: ...
    def __getitem__(self, key: SupportsIndex | str | slice) -> N | list[N]:
        """Return an item by index or name, or items by slice; `KeyError` for a name that nothing bears."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        for item in self:
            if item.name == key:
                return item
        raise KeyError(
            f"no item is named {key!r}; there is {', '.join(item.name for item in self) or 'none'}"
        )

    def __contains__(self, key: object) -> bool:
        """Whether an item, or one of this name, is in the list."""
        return any(item.name == key for item in self) if isinstance(key, str) else super().__contains__(key)


def _decode(kind: type, value: Any) -> Any:
    (item,) = get_args(kind)
    return SpecList(msgspec.convert(value, list[item], dec_hook=_decode))  # type: ignore[valid-type]


class _Spec:
    __slots__ = ()

    @classmethod
    def from_dict(cls: type[S], value: dict[str, Any]) -> S:
        """Build from decoded JSON; `ConfigError` names the field that is wrong."""
        try:
            return msgspec.convert(value, cls, dec_hook=_decode)
        except msgspec.ValidationError as error:
            raise ConfigError(cls.__name__, str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def to_json(self) -> str:
        """Return the JSON form as text."""
        return json.dumps(self.to_dict())


class ProviderSpec(_Spec, Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of ``providers``."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*\Z")]
    type: Annotated[str, Meta(min_length=1)]
    provider_id: ProviderId = AUTOMATIC
    config: dict[str, Any] = {}
    tags: list[str] = []
    dependencies: dict[str, DependencyValue] = {}
    engine: Literal[0] = 0
    """Index of the engine that the provider belongs to; a server has one."""


class World(Struct, frozen=True):
    """What a process knows of those that were started with it; ``$MPI_COMM_WORLD`` to conditions and scripts."""

    rank: int
    size: int
    addresses: list[str]
    """One for each process, in the order of their ranks; `UNKNOWN` before they are."""

    @classmethod
    def unknown(cls, rank: int, size: int) -> "World":
        """Return what is known before anybody listens."""
        return cls(rank, size, [UNKNOWN] * size)

    def having(self, addresses: Mapping[int, str]) -> "World":
        """Return the same with these addresses, by rank."""
        size = max([self.size, *(rank + 1 for rank in addresses)])
        known = dict(enumerate(self.addresses)) | dict(addresses)
        return World(self.rank, size, [known.get(rank, UNKNOWN) for rank in range(size)])

    def rank_of(self, address: str) -> int | None:
        """Return the rank of the process at `address`; None if none of these is there."""
        return next((rank for rank, known in enumerate(self.addresses) if known == address), None)


class PoolSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of ``argobots.pools``."""

    name: str
    kind: PoolKind = "fifo_wait"
    access: PoolAccess = "mpmc"


class SchedulerSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """Which pools an xstream serves, and how."""

    type: SchedulerType = "basic_wait"
    pools: list[str | int]


class XstreamSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of ``argobots.xstreams``."""

    name: str
    scheduler: SchedulerSpec
    cpubind: int | UnsetType = UNSET
    affinity: list[int] | UnsetType = UNSET


class ArgobotsSpec(_Spec, ArgobotsOptions, frozen=True, kw_only=True):
    """The ``argobots`` section of a margo configuration."""

    lazy_stack_alloc: bool = False
    pools: SpecList[PoolSpec] = msgspec.field(default_factory=SpecList)
    xstreams: SpecList[XstreamSpec] = msgspec.field(default_factory=SpecList)


class MercurySpec(_Spec, MercuryOptions, frozen=True, kw_only=True):
    """The ``mercury`` section of a margo configuration."""

    address: str | UnsetType = UNSET
    listening: bool | UnsetType = UNSET
    version: str | UnsetType = UNSET
    input_eager_size: int | UnsetType = UNSET
    output_eager_size: int | UnsetType = UNSET


class MargoSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """The ``margo`` section."""

    argobots: ArgobotsSpec = msgspec.field(default_factory=ArgobotsSpec)
    mercury: MercurySpec = msgspec.field(default_factory=MercurySpec)
    progress_pool: str | int | UnsetType = UNSET
    rpc_pool: str | int | UnsetType = UNSET
    use_progress_thread: bool | UnsetType = UNSET
    rpc_thread_count: int | UnsetType = UNSET
    progress_timeout_ub_msec: int = 100
    progress_spindown_msec: int = 10
    handle_cache_size: int = 256
    enable_abt_profiling: bool = False
    plumber: dict[str, str] | UnsetType = UNSET
    monitoring: dict[str, Any] | UnsetType = UNSET
    version: str | UnsetType = UNSET


class BedrockSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """The ``bedrock`` section."""

    pool: str | int = "__rpc__"
    provider_id: int = 0


class ProcSpec(_Spec, Struct, forbid_unknown_fields=True, kw_only=True):
    """A whole configuration."""

    margo: MargoSpec = msgspec.field(default_factory=MargoSpec)
    bedrock: BedrockSpec = msgspec.field(default_factory=BedrockSpec)
    libraries: list[str] = []
    providers: SpecList[ProviderSpec] = msgspec.field(default_factory=SpecList)
