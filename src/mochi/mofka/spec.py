"""Whole services as objects: the specifications of `mochi.bedrock.spec`, and `MofkaServiceSpec`."""

import random
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from mochi.bedrock.spec import (
    ArgobotsSpec,
    BedrockSpec,
    MargoSpec,
    MercurySpec,
    PoolSpec,
    ProcSpec,
    ProviderSpec,
    SchedulerSpec,
    SpecList,
    XstreamSpec,
)
from mochi.margo.errors import ConfigError
from mochi.mofka.hosting import DATA_TAG, MASTER_TAG, METADATA_TAG

__all__ = [
    "ArgobotsSpec",
    "BedrockSpec",
    "MargoSpec",
    "MercurySpec",
    "MofkaServiceSpec",
    "PoolSpec",
    "ProcSpec",
    "ProviderSpec",
    "SchedulerSpec",
    "SpecList",
    "Storage",
    "XstreamSpec",
]

_LIBRARIES = [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "warabi", "abt-io", "mofka")]
_PRIMARY = "__primary__"


class Storage(Struct, frozen=True):
    """Where databases or targets are: in memory, or below one of some directories, which exist."""

    prefixes: Sequence[str] = ("/tmp/mofka",)
    needs_persistence: bool = False


class MofkaServiceSpec(Struct, frozen=True, kw_only=True):
    """What a service may be like; `sample` chooses one.

    Numbers are from the first to the second of a pair, both included.
    """

    address: str
    """Where servers listen: a protocol such as ``na+sm``, or an address."""
    num_servers: tuple[int, int] = (1, 1)
    num_metadata_db_per_proc: tuple[int, int] = (1, 1)
    num_data_storage_per_proc: tuple[int, int] = (1, 1)
    master_db: Storage = Storage()
    metadata_db: Storage = Storage()
    data_storage: Storage = Storage()
    num_pools_in_servers: tuple[int, int] = (1, 1)
    num_xstreams_in_servers: tuple[int, int] = (1, 1)
    allow_more_pools_than_xstreams: bool = False
    group_file: str = "mofka.json"

    def sample(self, chance: random.Random | None = None) -> dict[str, Any]:
        """Return the configuration of a service, which all of its servers are started with.

        Parameters
        ----------
        chance : random.Random, optional
            What chooses.

        Raises
        ------
        ConfigError
            There cannot be as few pools as there are xstreams.
        """
        chance = chance or random.Random()
        servers = chance.randint(*self.num_servers)
        pools = self._pools(chance)
        providers: list[dict[str, Any]] = []

        def add(rank: int | None, name: str, kind: str, config: dict[str, Any], *tags: str) -> None:
            entry = ProviderSpec(
                name=name,
                type=kind,
                config=config,
                tags=list(tags),
                dependencies={"pool": chance.choice(pools["pools"])["name"]},
                provider_id=len(providers) + 1,
            ).to_dict()
            if rank is not None and servers > 1:
                entry["__if__"] = f"$MPI_COMM_WORLD.rank == {rank}"
            providers.append(entry)

        group = {
            "bootstrap": "self" if servers == 1 else "mpi",
            "file": self.group_file,
            "group": {"type": "static"},
        }
        add(None, "group_manager", "flock", group)
        add(0, "master_database", "yokan", _database(self.master_db, "master", chance), MASTER_TAG)
        add(None, "io_controller", "abt_io", {})
        for rank in range(servers):
            for index in range(chance.randint(*self.num_metadata_db_per_proc)):
                config = _database(self.metadata_db, f"metadata_{rank}_{index}", chance)
                add(rank, f"metadata_{index}", "yokan", config, METADATA_TAG)
            for index in range(chance.randint(*self.num_data_storage_per_proc)):
                config = _target(self.data_storage, f"data_{rank}_{index}", chance)
                add(rank, f"data_{index}", "warabi", config, DATA_TAG)
        margo = {"mercury": {"address": self.address}, "argobots": pools}
        return {"margo": margo, "libraries": _LIBRARIES, "providers": providers}

    def _pools(self, chance: random.Random) -> dict[str, Any]:
        """Return pools, and xstreams of which each serves one of them at least; none is left unserved."""
        least, most = self.num_pools_in_servers
        xstreams = self.num_xstreams_in_servers
        if not self.allow_more_pools_than_xstreams:
            if least > xstreams[1]:
                raise ConfigError(
                    "num_pools_in_servers",
                    f"{least} or more, and there are {xstreams[1]} xstreams at most; allow more pools than xstreams, "
                    "or ask for more xstreams",
                )
            xstreams = (max(least, xstreams[0]), xstreams[1])
        count = chance.randint(*xstreams)
        if not self.allow_more_pools_than_xstreams:
            most = min(most, count)
        names = [_PRIMARY, *(f"pool_{index}" for index in range(1, chance.randint(least, most)))]
        served: list[list[str | int]] = [[] for _ in range(count)]
        for index, name in enumerate(names):
            served[index % count].append(name)
        for pools in served:
            if not pools:
                pools.append(chance.choice(names))
        return {
            "pools": [PoolSpec(name=name).to_dict() for name in names],
            "xstreams": [
                XstreamSpec(
                    name=f"xstream_{index}" if index else _PRIMARY, scheduler=SchedulerSpec(pools=pools)
                ).to_dict()
                for index, pools in enumerate(served)
            ],
        }


def _database(storage: Storage, name: str, chance: random.Random) -> dict[str, Any]:
    if not storage.needs_persistence:
        return {"database": {"type": "map", "config": {}}}
    path = f"{chance.choice(storage.prefixes)}/{name}"
    return {"database": {"type": "rocksdb", "config": {"create_if_missing": True, "path": path}}}


def _target(storage: Storage, name: str, chance: random.Random) -> dict[str, Any]:
    if not storage.needs_persistence:
        return {"target": {"type": "memory", "config": {}}}
    path = f"{chance.choice(storage.prefixes)}/{name}"
    return {"target": {"type": "abtio", "config": {"create_if_missing": True, "path": path}}}
