"""Scripts such as users and services write: queries over a configuration, and generated configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from mochi.bedrock.config import parse
from mochi.bedrock.jx9.interpreter import run
from mochi.bedrock.sources import from_jx9

DATA = Path(__file__).parent.parent / "data" / "bedrock"

MASTERS = """
$found = [];
foreach ($__config__.providers as $provider) {
    if ($provider.type != "yokan") continue;
    foreach ($provider.tags as $tag) {
        if ($tag != "mofka:master") { continue; }
        array_push($found, $provider.provider_id);
    }
}
return $found;
"""
MASTERS_IN_ONE_LINE = (
    "$ids = []; foreach($__config__.providers as $q) { if($q.type == \"yokan\" && in_array('mofka:master', $q.tags)) "
    "{ array_push($ids, $q.provider_id); } } return $ids;"
)
FIRST_ABT_IO = """
$answer = {};                       // filled key by key
$answer["address"] = $__config__.margo.mercury.address;
foreach ($__config__.providers as $provider) {
    if ($provider.type == "abt_io") {
        $answer["io_controller"] = $provider.name;
        break;
    }
}
return $answer;
"""
STORES = """
$answer = {address: $__config__.margo.mercury.address};
foreach ($__config__.providers as $provider) {
    $tags = $provider.tags;
    if (!is_array($tags)) { continue; }
    if ($provider.type == "yokan" && in_array("mofka:metadata", $tags)) {
        $answer["metadata"] = sprintf("%s:%d", $provider.type, $provider.provider_id);
    } elseif ($provider.type == "warabi" && in_array("mofka:data", $tags)) {
        $answer["data"] = sprintf("%s:%d", $provider.type, $provider.provider_id);
    }
}
return $answer
"""
NAMES = "$names = []; foreach ($__config__.providers as $p) { array_push($names, $p.name); } return $names;"
GENERATOR = """
$c = {
    margo: {argobots: {pools: [{name: "__primary__"}], xstreams: []}},
    libraries: ["libyokan-bedrock-module.so"],
    providers: []
};
for ($i = 0; $i < $count; $i++) {
    $pool = "pool_$i";
    array_push($c.margo.argobots.pools, {name: $pool, kind: "fifo_wait"});
    array_push($c.margo.argobots.xstreams, {name: "es_$i", scheduler: {type: "basic_wait", pools: [$pool]}});
    $c.providers[] = {
        name: sprintf("database_%02d", $i),
        type: "yokan",
        provider_id: $i + 1,
        config: {database: {type: $MPI_COMM_WORLD.rank == 0 ? "map" : "null"}},
        dependencies: {"pool": $pool},
    };
}
return $c;
"""


def expanded() -> dict[str, Any]:
    """What the original printed for a server."""
    ((_, config),) = json.loads((DATA / "expanded-query.json").read_text()).items()
    found: dict[str, Any] = config
    return found


@pytest.mark.parametrize("script", [MASTERS, MASTERS_IN_ONE_LINE])
def test_the_master_databases_are_found_by_their_tag(script: str) -> None:
    config = expanded()
    masters = [p["provider_id"] for p in config["providers"] if "mofka:master" in p["tags"]]
    assert masters
    assert run(script, {"__config__": config}) == masters
    assert run(script, {"__config__": {"providers": []}}) == []


def test_the_first_abt_io_is_found_with_the_address() -> None:
    config = expanded()
    address = config["margo"]["mercury"]["address"]
    first = next(p["name"] for p in config["providers"] if p["type"] == "abt_io")
    assert run(FIRST_ABT_IO, {"__config__": config}) == {"address": address, "io_controller": first}
    config["providers"].clear()
    assert run(FIRST_ABT_IO, {"__config__": config}) == {"address": address}


def test_stores_are_found_by_type_and_tag() -> None:
    providers: list[dict[str, Any]] = [
        {"type": "yokan", "provider_id": 1, "tags": ["mofka:master"]},
        {"type": "yokan", "provider_id": 2, "tags": None},
        {"type": "yokan", "provider_id": 3, "tags": ["x", "mofka:metadata"]},
        {"type": "warabi", "provider_id": 4, "tags": ["mofka:data"]},
    ]
    config = {"margo": {"mercury": {"address": "na+sm://1-0"}}, "providers": providers}
    answer = {"address": "na+sm://1-0", "metadata": "yokan:3", "data": "warabi:4"}
    assert run(STORES, {"__config__": config}) == answer


def test_the_names_of_providers_are_listed() -> None:
    config = expanded()
    assert run(NAMES, {"__config__": config}) == [provider["name"] for provider in config["providers"]]


def test_a_generated_configuration_is_a_configuration() -> None:
    config = parse(from_jx9(GENERATOR.encode(), "c.jx9", {"count": 3}))
    assert [spec.name for spec in config.providers] == ["database_00", "database_01", "database_02"]
    assert [spec.dependencies["pool"] for spec in config.providers] == ["pool_0", "pool_1", "pool_2"]
    assert [spec.config["database"]["type"] for spec in config.providers] == ["map"] * 3
    assert [pool.name for pool in config.margo.pools] == ["__primary__", "pool_0", "pool_1", "pool_2"]
