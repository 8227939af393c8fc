"""Clients of a service of several servers, some of which are away, or have moved, or are on hosts that are gone."""

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import ConnectionFailed
from mochi.mofka.testing import Service
from tests.system.real_service import Machine, spread


@pytest.fixture
def service(machine: Machine, tmp_path: Path) -> Service:
    """Two servers, the first of which has the topics; they outlive it."""
    settings = spread()
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(tmp_path / "db")},
    }
    return machine.servers(2, json.dumps(settings), "tcp://127.0.0.1")


def stored(tmp_path: Path, partitions: int) -> dict[str, Any]:
    """Options of a topic whose events outlive the servers."""
    return {
        "num_partitions": partitions,
        "config": {"type": "default", "partition": {"path": str(tmp_path / "data")}},
    }


def kill(service: Service, rank: int) -> None:
    os.kill(service.pids[rank], signal.SIGKILL)
    service.expect(f"rank {rank} was killed")


def test_all_calls_wait_for_the_server_of_the_master_database(machine: Machine, service: Service) -> None:
    driver = machine.driver(service, timeout_ms=60000)
    driver.create_topic("t", options={"num_partitions": 1})
    kill(service, 0)
    waiting = threading.Semaphore(0)

    def begun(call: Callable[[], Any]) -> Any:
        waiting.release()
        return call()

    calls: list[Callable[[], Any]] = [
        lambda: machine.driver(service, timeout_ms=60000).topic_exists("t"),
        lambda: driver.open_topic("t").name,
        lambda: driver.create_topic("new", options={"num_partitions": 2}),
        lambda: driver.topic_exists("t"),
        lambda: "t" in driver.list_topics(),
    ]
    command = ["diaspora-ctl", "topic", "list", "--driver", "mofka", "--driver.group_file", "mofka.json"]
    with ThreadPoolExecutor() as threads:
        outcomes = [threads.submit(begun, call) for call in calls]
        listed = threads.submit(service.run, " ".join(command))
        for _ in calls:
            waiting.acquire()
        machine.again(service, 0, "tcp://127.0.0.1")
        assert [outcome.result(120) for outcome in outcomes] == [True, "t", None, True, True]
        assert "t" in listed.result(120).stdout.split()


def test_a_wait_ends_with_the_reason_for_each_server(machine: Machine, service: Service) -> None:
    driver = machine.driver(service, timeout_ms=300)
    addresses = [member["address"] for member in service.members()]
    service.kill()
    for call in (driver.list_topics, lambda: driver.open_topic("t"), lambda: driver.topic_exists("t")):
        with pytest.raises(ConnectionFailed) as caught:
            call()
        assert all(address in str(caught.value) for address in addresses)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_copy_of_the_group_file_leads_to_a_server_that_has_moved(
    machine: Machine, service: Service, tmp_path: Path, rank: int
) -> None:
    machine.driver(service).create_topic("t", options=stored(tmp_path, 2))
    copy = tmp_path / "copy.json"
    shutil.copy(service.group_file, copy)
    with Driver(backend="mofka", options={"group_file": copy}) as driver:
        producer = driver.open_topic("t").producer(batch_size=1)
        for partition in (0, 1):
            assert producer.push({}, partition=partition).wait(30000) == 0
        kill(service, rank)
        moved = machine.again(service, rank, "tcp://127.0.0.1")
        assert moved.address not in copy.read_text()
        for partition in (0, 1):
            assert producer.push({}, partition=partition).wait(30000) == 1
        driver.create_topic("after", options={"num_partitions": 2})
        assert moved.address in {partition["address"] for partition in driver.open_topic("after").partitions}
    with Driver(backend="mofka", options={"group_file": copy}) as late:
        consumer = late.open_topic("t").consumer("c")
        assert sorted(consumer.pull().wait(30000).event_id or 0 for _ in range(4)) == [0, 0, 1, 1]
        late.create_topic("later", options={"num_partitions": 2})
        assert moved.address in {partition["address"] for partition in late.open_topic("later").partitions}


def test_commands_find_a_server_that_has_moved_by_a_copy_of_the_group_file(
    machine: Machine, service: Service
) -> None:
    shutil.copy(service.group_file, service.directory / "copy.json")
    kill(service, 1)
    moved = machine.again(service, 1, "tcp://127.0.0.1")
    answer = service.run("bedrock-query tcp -f copy.json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert moved.address in json.loads(answer.stdout)
    one = service.run("bedrock-query tcp -f copy.json --rank 1")
    assert list(json.loads(one.stdout)) == [moved.address]
    done = service.run("bedrock-shutdown tcp -f copy.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert moved.end() == 0


def test_who_waits_for_a_partition_is_told_why_nobody_finds_it(
    machine: Machine, service: Service, tmp_path: Path
) -> None:
    driver = machine.driver(service, timeout_ms=1500)
    driver.create_topic("t", options=stored(tmp_path, 2))
    producer = driver.open_topic("t").producer(batch_size=1)
    for partition in (0, 1):
        assert producer.push({}, partition=partition).wait(30000) == 0
    master, other = (member["address"] for member in service.members())
    service.kill()
    with pytest.raises(ConnectionFailed) as caught:
        producer.push({}, partition=1).wait(30000)
    assert other in str(caught.value)
    assert f"nobody tells where it is now: group file {service.group_file}" in str(caught.value)
    assert master in str(caught.value)


class Mute:
    """Something that takes connections and says nothing, as a host that has vanished does."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"ofi+tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0

    def accept(self) -> socket.socket:
        peer, _ = self.listener.accept()
        self.connections += 1
        return peer


@pytest.fixture
def mutes() -> Iterator[list[Mute]]:
    mutes = [Mute() for _ in range(3)]
    yield mutes
    for mute in mutes:
        mute.listener.close()


def test_members_are_asked_side_by_side(machine: Machine, mutes: list[Mute], tmp_path: Path) -> None:
    server = machine.serve(address="tcp://127.0.0.1")
    group = json.loads(server.group_file.read_text())
    away = [{"address": mute.address, "provider_id": 1, "rank": 5 + i} for i, mute in enumerate(mutes)]
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps({**group, "members": [*away, *group["members"]]}))
    together = threading.Barrier(len(mutes))

    def is_there_with_the_others(mute: Mute) -> bool:
        with mute.accept() as peer:
            peer.settimeout(60)
            greeting = peer.recv(1 << 16)
            together.wait(60)
            peer.setblocking(False)
            try:
                return bool(greeting) and peer.recv(1) != b""
            except BlockingIOError:
                return True

    with ThreadPoolExecutor() as threads:
        connected = [threads.submit(is_there_with_the_others, mute) for mute in mutes]
        with Driver(backend="mofka", options={"group_file": copy}) as driver:
            assert driver.list_topics() == {}
        assert [each.result(60) for each in connected] == [True] * len(mutes)
