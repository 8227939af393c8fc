"""The plain data that bedrock, its modules and its clients hand to each other."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

__all__ = ["AUTOMATIC", "UNKNOWN", "DependencyValue", "ProviderHandle", "ProviderId", "ProviderSpec", "World"]

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


class ProviderSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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
