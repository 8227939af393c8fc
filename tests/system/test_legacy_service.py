"""Legacy partitions as a deployment has them: databases and targets of the configuration, or added by a client."""

import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import ConfigError, DiasporaError
from mochi.mofka.client.driver import MofkaDriver
from mochi.mofka.testing import configuration
from mochi.yokan.config import open_database
from tests.system.real_service import Machine, spread


def with_stores(settings: dict[str, Any], directory: Path, ranks: int = 1) -> dict[str, Any]:
    """Return a configuration with its topics on disk, and for each server a database and a target on disk."""
    settings = with_library(settings)
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(directory / "master")},
    }
    for rank in range(ranks):
        database = {"type": "rocksdb", "config": {"path": str(directory / f"metadata{rank}")}}
        target = {
            "type": "abtio",
            "config": {"path": str(directory / f"data{rank}"), "create_if_missing": True},
        }
        own = {"__if__": f"$MPI_COMM_WORLD.rank == {rank}"} if ranks > 1 else {}
        settings["providers"] += [
            {
                "name": "metadata",
                "type": "yokan",
                "tags": ["mofka:metadata"],
                "config": {"database": database},
                **own,
            },
            {"name": "data", "type": "warabi", "tags": ["mofka:data"], "config": {"target": target}, **own},
        ]
    return settings


def with_library(settings: dict[str, Any]) -> dict[str, Any]:
    settings = copy.deepcopy(settings)
    settings["libraries"].insert(2, "libwarabi-bedrock-module.so")
    return settings


def push(driver: Driver, topic: str, first: int, count: int) -> None:
    with driver.open_topic(topic).producer("p", batch_size=7) as producer:
        for number in range(first, first + count):
            producer.push({"n": number}, b"data %d" % number * (number % 3), partition=0)


def pulled(driver: Driver, topic: str, consumer: str, count: int) -> list[tuple[int, bytes]]:
    found = []
    with driver.open_topic(topic).consumer(consumer) as reader:
        for _ in range(count):
            event = reader.pull().wait(20000)
            assert event is not None
            found.append((event.metadata["n"], bytes(event.data[0])))
            event.acknowledge()
    return found


def expected(first: int, count: int) -> list[tuple[int, bytes]]:
    return [(number, b"data %d" % number * (number % 3)) for number in range(first, first + count)]


def test_events_cursors_and_topics_survive_a_kill(machine: Machine, tmp_path: Path) -> None:
    settings = with_stores(configuration(), tmp_path)
    server = machine.serve(settings)
    driver = machine.driver(server)
    driver.create_topic("t", options={"num_partitions": 1, "config": {"type": "legacy"}})
    with pytest.raises(DiasporaError, match=r"config\.partition\.path: unknown"):
        driver.create_topic(
            "u", options={"num_partitions": 1, "config": {"type": "legacy", "partition": {"path": "/tmp"}}}
        )
    push(driver, "t", 0, 100)
    assert pulled(driver, "t", "c", 30) == expected(0, 30)
    server.kill()
    server = machine.serve(settings)
    driver = machine.driver(server)
    push(driver, "t", 100, 20)
    assert pulled(driver, "t", "c", 90) == expected(30, 90)
    driver.delete_topic("t")
    assert driver.list_topics() == {}
    driver.create_topic("t", options={"num_partitions": 1, "config": {"type": "legacy"}})
    push(driver, "t", 7, 1)
    assert pulled(driver, "t", "c", 1) == expected(7, 1)


def test_a_partition_is_removed_that_was_deleted_while_its_server_was_down(
    machine: Machine, tmp_path: Path
) -> None:
    service = machine.servers(2, json.dumps(with_stores(spread(), tmp_path, 2)), "na+sm")
    driver = machine.driver(service)
    driver.create_topic("t", options={"num_partitions": 2, "config": {"type": "legacy"}})
    push(driver, "t", 0, 10)
    os.kill(service.pids[1], signal.SIGKILL)
    driver.delete_topic("t")
    machine.again(service, 1, "na+sm")
    driver.create_topic("t", options={"num_partitions": 2, "config": {"type": "legacy"}})
    push(driver, "t", 5, 1)
    assert pulled(driver, "t", "c", 1) == expected(5, 1)


def test_a_partition_whose_stores_could_not_be_opened_is_removed_once_they_can(
    machine: Machine, tmp_path: Path
) -> None:
    settings = with_stores(configuration(), tmp_path)
    without = copy.deepcopy(settings)
    without["providers"] = [
        each for each in settings["providers"] if each["name"] not in ("metadata", "data")
    ]
    server = machine.serve(settings)
    driver = machine.driver(server)
    driver.create_topic("t", options={"num_partitions": 1, "config": {"type": "legacy"}})
    push(driver, "t", 0, 20)
    server.kill()
    assert stored(tmp_path)
    server = machine.serve(without)
    driver = machine.driver(server)
    with pytest.raises(DiasporaError, match="metadata"):
        driver.open_topic("t").producer("p", batch_size=1).push({}).wait(20000)
    for _ in range(2):
        with pytest.raises(DiasporaError, match=r"'t' is deleted, but what is stored .* not yet: .*metadata"):
            driver.delete_topic("t")
        assert driver.list_topics() == {}
    with pytest.raises(DiasporaError, match="cannot be removed yet"):
        driver.create_topic("t")
    server.kill()
    assert stored(tmp_path)
    server = machine.serve(settings)
    driver = machine.driver(server)
    driver.create_topic("u", options={"num_partitions": 1, "config": {"type": "legacy"}})
    push(driver, "u", 7, 1)
    assert pulled(driver, "u", "c", 1) == expected(7, 1)
    driver.create_topic("t")
    server.kill()
    assert stored(tmp_path) == []


def stored(directory: Path) -> list[bytes]:
    """Return the keys of topic ``t`` in the database of a server that does not run."""
    config = {"database": {"type": "rocksdb", "config": {"path": str(directory / "metadata0")}}}
    database = open_database(config)[0]
    try:
        return database.list_keys(b"", b"t--", 100)
    finally:
        database.close()


def test_databases_and_targets_are_added_by_a_client_and_used_from_another_server(
    machine: Machine, tmp_path: Path
) -> None:
    service = machine.servers(2, json.dumps(with_library(spread())), "na+sm")
    driver = MofkaDriver(group_file=str(service.group_file))
    metadata = driver.add_metadata_provider(0)
    data = driver.add_data_provider(1, "abtio", {"path": str(tmp_path / "blobs"), "create_if_missing": True})
    assert metadata.partition("@")[2] in service.addresses
    driver.create_topic("t")
    driver.add_legacy_partition("t", 1, metadata, data)
    push(driver, "t", 0, 50)
    assert pulled(driver, "t", "c", 50) == expected(0, 50)
    driver.create_topic("u")
    driver.add_default_partition("u", 0, metadata_provider=metadata, data_provider=data)
    push(driver, "u", 0, 5)
    assert pulled(driver, "u", "c", 5) == expected(0, 5)
    driver.close()


def test_without_a_store_the_error_says_which_is_missing(machine: Machine) -> None:
    server = machine.serve(configuration())
    driver = MofkaDriver(group_file=str(server.group_file))
    with pytest.raises(ConfigError, match=r"dependencies\.metadata.*yokan provider tagged 'mofka:metadata'"):
        driver.create_topic("t", options={"num_partitions": 1, "config": {"type": "legacy"}})
    with pytest.raises(DiasporaError, match="server_rank 3 does not exist"):
        driver.add_data_provider(3)
    with pytest.raises(DiasporaError, match="database"):
        driver.add_metadata_provider(0, "mapp")
    assert driver.list_topics() == {}
    driver.close()
