"""Many producers at once, and many idle connections: no time-out, nothing dropped, and memory stays within credit."""

import json
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from mochi.margo.client import Client
from mochi.mofka.testing import Service
from tests.client.cluster import Cluster
from tests.client.fan_in_worker import data_of

WORKER = Path(__file__).with_name("fan_in_worker.py")
SPARE = 96 << 20
"""Bytes that a server may hold beside its events and what it held at first: what is on its way, and fragments."""


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def check_fan_in(cluster: Cluster, processes: int, events: int) -> None:
    before = [resident(cluster.pid(server)) for server in range(len(cluster.addresses))]
    done = subprocess.run(
        [sys.executable, WORKER, cluster.group_file, "topic", str(processes), str(events)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("failed 0\n", "")
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    size = 0
    with cluster.topic().consumer("check") as consumer:
        for _ in range(processes * events):
            event = consumer.pull().wait(20000)
            by, number = event.metadata["by"], event.metadata["number"]
            found[event.partition["uuid"], by].append(number)
            assert bytes(event.data[0]) == data_of(by, number)
            size += len(event.data[0]) + 64
    for numbers in found.values():
        assert numbers == sorted(numbers)
    for by in range(processes):
        assert sorted(n for (_, who), each in found.items() if who == by for n in each) == list(range(events))
    for server, held in enumerate(before):
        assert resident(cluster.pid(server)) - held < size + SPARE


@pytest.mark.parametrize("scheme", ["na+sm", "tcp"])
def test_producers_in_many_processes_lose_nothing(tmp_path: Path, scheme: str) -> None:
    cluster = Cluster(tmp_path, 2, partitions=2, scheme=scheme)
    try:
        check_fan_in(cluster, 16, 500)
    finally:
        cluster.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["na+sm", "tcp"])
def test_128_producers_on_four_servers_lose_nothing(tmp_path: Path, scheme: str) -> None:
    cluster = Cluster(tmp_path, 4, partitions=2, scheme=scheme)
    try:
        check_fan_in(cluster, 128, 2000)
    finally:
        cluster.close()


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A server that was started with a soft limit of 128 open files: its process id, and its group file."""
    with Service(tmp_path, within=("sh", "-c", 'ulimit -Sn 128; exec "$@"', "sh")) as service:
        yield service.pid, str(service.group_file)


@pytest.mark.parametrize("connections", [300, pytest.param(1000, marks=pytest.mark.soak)])
def test_idle_connections_cost_the_others_nothing(limited: tuple[int, str], connections: int) -> None:
    pid, group_file = limited
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[Any] = []
    try:
        view = json.loads(Path(group_file).read_text())
        address = view["members"][0]["address"]
        client = Client(timeout=20)
        client.set_token(address, bytes.fromhex(view["metadata"]["__token__"]))
        before = resident(pid)
        idle += [client._connect(address, 20) for _ in range(connections)]
        with Driver(backend="mofka", options={"group_file": group_file}) as driver:
            driver.create_topic("topic", options={"num_partitions": 1})
            topic = driver.open_topic("topic")
            with topic.producer() as producer, topic.consumer("c") as consumer:
                for number in range(1000):
                    producer.push(number)
                assert producer.flush().wait(20000) is True
                assert [consumer.pull().wait(20000).metadata for _ in range(1000)] == list(range(1000))
        assert resident(pid) - before < connections * (512 << 10) + (32 << 20)
    finally:
        for peer, *_ in idle:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
