"""Processes that make, extend and delete the same topics: then names, providers and directories agree."""

import json
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import TopicExists
from mochi.bedrock.client import BedrockClient
from mochi.margo.client import Client
from mochi.mofka.testing import Process, Service
from tests.system.real_service import Machine, spread

WORKER = Path(__file__).with_name("topic_worker.py")


def several(machine: Machine) -> Service:
    settings = spread()
    (master,) = (each for each in settings["providers"] if each["type"] == "yokan")
    section = {"path": str(machine.directory / "master")}
    master["config"]["database"] = {"type": "rocksdb", "config": section}
    return machine.servers(3, json.dumps(settings), "tcp://127.0.0.1")


def start_worker(machine: Machine, service: Service, seed: int, changes: int) -> Process:
    data = machine.directory / "data"
    return machine.start(sys.executable, WORKER, service.group_file, data, str(seed), str(changes))


def check_agreement(machine: Machine, service: Service, driver: Driver) -> None:
    """Check that topics, providers and directories are the same, and that all partitions take events."""
    topics = driver.list_topics()
    recorded = sorted(each["uuid"] for topic in topics.values() for each in topic["partitions"])
    client = Client()
    token = bytes.fromhex(json.loads(service.group_file.read_text())["metadata"]["__token__"])
    served: list[Any] = []
    for member in service.members():
        client.set_token(member["address"], token)
        providers = BedrockClient(client).config(member["address"])["providers"]
        served += [each["config"] for each in providers if each["type"] == "mofka"]
    client.close()
    assert sorted(each["uuid"] for each in served) == recorded
    on_disk = sorted(f"{each['topic']}-{each['uuid']}" for each in served if each["type"] == "default")
    assert sorted(path.name for path in (machine.directory / "data").glob("*")) == on_disk
    for name, topic in topics.items():
        with driver.open_topic(name).producer() as producer:
            for index in range(len(topic["partitions"])):
                assert producer.push({}, partition=index).wait(10000) is not None


@pytest.mark.parametrize(
    "changes", [12, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_after_any_race_topics_providers_and_directories_agree(machine: Machine, changes: int) -> None:
    service = several(machine)
    workers = [start_worker(machine, service, seed, changes) for seed in range(6)]
    for worker in workers:
        assert worker.end(60 + 10 * changes) == 0
    said = Counter(line for worker in workers for line in worker.lines if line != "ready")
    assert sum(said.values()) == 6 * changes
    assert not [line for line in said if line.startswith("failed")]
    assert said["create done"] >= said["delete done"]
    check_agreement(machine, service, machine.driver(service))


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_clients_that_are_killed_while_topics_are_changed_leave_topics_whole_or_gone(
    machine: Machine, rounds: int
) -> None:
    service = several(machine)
    driver = machine.driver(service)
    chance = random.Random(rounds)
    for each in range(rounds):
        workers = [start_worker(machine, service, 10 * each + seed, 1000) for seed in range(4)]
        for worker in workers:
            worker.expect("done", nth=chance.randint(1, 8))
        for worker in workers:
            worker.kill()
        for name in ("one", "two", "three"):  # is told once nobody is at it any more
            with suppress(TopicExists):
                driver.create_topic(name, options={"num_partitions": 2})
        check_agreement(machine, service, driver)
        for name in driver.list_topics():
            driver.delete_topic(name)
        check_agreement(machine, service, driver)
