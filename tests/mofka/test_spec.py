"""Configurations of services chosen at random: within their bounds, and such that bedrock can use them."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.config import parse
from mochi.bedrock.spec import World
from mochi.margo.errors import ConfigError
from mochi.mofka.spec import MofkaServiceSpec, Storage


def ranges(least: int, most: int) -> Any:
    return st.tuples(st.integers(least, most), st.integers(least, most)).map(lambda pair: tuple(sorted(pair)))


STORAGE = st.builds(Storage, st.just(("/a", "/b")), st.booleans())
SPECS = st.builds(
    MofkaServiceSpec,
    address=st.just("na+sm"),
    num_servers=ranges(1, 3),
    num_metadata_db_per_proc=ranges(0, 3),
    num_data_storage_per_proc=ranges(0, 3),
    master_db=STORAGE,
    metadata_db=STORAGE,
    data_storage=STORAGE,
    num_pools_in_servers=ranges(1, 4),
    num_xstreams_in_servers=ranges(1, 4),
    allow_more_pools_than_xstreams=st.booleans(),
)


@given(SPECS, st.integers())
def test_what_is_chosen_is_within_its_bounds_and_can_be_used(spec: MofkaServiceSpec, seed: int) -> None:
    if (
        not spec.allow_more_pools_than_xstreams
        and spec.num_pools_in_servers[0] > spec.num_xstreams_in_servers[1]
    ):
        with pytest.raises(ConfigError, match="num_pools_in_servers"):
            spec.sample(random.Random(seed))
        return
    document = spec.sample(random.Random(seed))
    argobots = document["margo"]["argobots"]
    pools = [pool["name"] for pool in argobots["pools"]]
    served = [xstream["scheduler"]["pools"] for xstream in argobots["xstreams"]]
    assert {name for names in served for name in names} == set(pools)
    assert all(served)
    assert spec.num_pools_in_servers[0] <= len(pools) <= spec.num_pools_in_servers[1]
    assert spec.num_xstreams_in_servers[0] <= len(served) <= spec.num_xstreams_in_servers[1]
    assert spec.allow_more_pools_than_xstreams or len(pools) <= len(served)
    conditions = {provider.get("__if__") for provider in document["providers"]} - {None}
    servers = len(conditions) or 1
    paths = [
        section["config"]["path"]
        for provider in document["providers"]
        for section in provider["config"].values()
        if isinstance(section, dict) and "path" in section.get("config", {})
    ]
    assert len(set(paths)) == len(paths)
    for rank in range(servers):
        config = parse(document, World.unknown(rank, servers))
        tags = [tag for provider in config.providers for tag in provider.tags]
        assert tags.count("mofka:master") == (rank == 0)
        least, most = spec.num_metadata_db_per_proc
        assert least <= tags.count("mofka:metadata") <= most or not conditions
        least, most = spec.num_data_storage_per_proc
        assert least <= tags.count("mofka:data") <= most or not conditions
