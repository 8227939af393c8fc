"""Servers of a running service that are killed, stopped and started again while others stream through them.

Workers are processes of their own. They check that every event that was acknowledged is there once, in the order of its
producer, and none besides.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_service import Machine, Service, spread

EVENTS = 1200
"""Of each producer, to each partition."""


def persistent(directory: Path) -> str:
    """Return the configuration of a service of several servers that remembers its topics."""
    settings = spread()
    section = {"type": "rocksdb", "config": {"path": str(directory / "master")}}
    settings["providers"][1]["config"]["database"] = section
    return json.dumps(settings)


def on_disk(directory: Path, partitions: int) -> dict[str, Any]:
    section = {"path": str(directory / "data"), "max_events_per_chunk": 500}
    return {"num_partitions": partitions, "config": {"type": "default", "partition": section}}


class Load:
    """Two producers and a consumer of a topic with one synced partition on each server."""

    def __init__(self, machine: Machine, service: Service, events: int) -> None:
        size = len(service.addresses)
        self._driver = machine.driver(service)
        self._driver.create_topic("topic", options=on_disk(machine.directory, size))
        names = ("first", "second")
        self.producers = [machine.worker(service, "produce", "topic", name, events) for name in names]
        self.consumer = machine.worker(service, "consume", "topic", "c", events * size * len(names))
        self.expected = {f"{name}/{index}": events for name in names for index in range(size)}

    def reach(self, number: int) -> None:
        """Wait until both producers have their events up to `number` acknowledged by all partitions."""
        last = len(self.expected) // len(self.producers) - 1
        for producer in self.producers:
            producer.expect(rf"^stored {last} {number}\b", timeout=60)

    def check(self) -> None:
        """Wait for the end, and check what has come."""
        for producer in self.producers:
            producer.expect("^done", timeout=60)
            assert producer.end() == 0
        assert self.consumer.end(60) == 0, self.consumer.output
        summary = json.loads(self.consumer.lines[-1])
        assert summary == {"dense": True, "numbers": self.expected, "wrong": []}


def kill(machine: Machine, service: Service, rank: int) -> None:
    os.kill(service.pids[rank], signal.SIGKILL)
    service.expect(f"the server of rank {rank} was killed by SIGKILL")
    again = machine.again(service, rank, "tcp://127.0.0.1")
    service.pids[rank] = again.pid


def stop(machine: Machine, service: Service, rank: int) -> None:
    os.kill(service.pids[rank], signal.SIGSTOP)
    time.sleep(1.5)  # what it is stopped for
    os.kill(service.pids[rank], signal.SIGCONT)


def start_again(machine: Machine, service: Service, rank: int) -> None:
    os.kill(service.pids[rank], signal.SIGTERM)
    again = machine.again(service, rank, "tcp://127.0.0.1")
    service.pids[rank] = again.pid


Harm = Callable[[Machine, Service, int], None]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "harms",
    [
        [(kill, 2), (stop, 1), (start_again, 3)],
        [(kill, 0), (stop, 0)],
    ],
    ids=["others", "the one with the topics"],
)
def test_events_are_neither_lost_nor_doubled_nor_reordered(
    machine: Machine, harms: list[tuple[Harm, int]]
) -> None:
    service = machine.servers(4, persistent(machine.directory), "tcp://127.0.0.1")
    load = Load(machine, service, EVENTS)
    for step, (harm, rank) in enumerate(harms):
        load.reach(99 + 200 * step)
        harm(machine, service, rank)
    load.check()


@pytest.mark.timeout(120)
def test_one_server_down_stops_its_partitions_alone(machine: Machine) -> None:
    service = machine.servers(3, persistent(machine.directory), "tcp://127.0.0.1")
    driver = machine.driver(service)
    driver.create_topic("topic", options=on_disk(machine.directory, 3))
    topic = driver.open_topic("topic")
    down = [p["address"] for p in topic.partitions].index(service.members()[1]["address"])
    producer = topic.producer()
    futures = [producer.push({"n": 0}, partition=index) for index in range(3)]
    assert [future.wait(10000) for future in futures] == [0, 0, 0]
    os.kill(service.pids[1], signal.SIGKILL)
    service.expect("the server of rank 1 was killed")
    alive = [index for index in range(3) if index != down]
    late = producer.push({"n": 1}, partition=down)
    for number in range(1, 50):
        pushed = [producer.push({"n": number}, partition=index) for index in alive]
        assert [future.wait(10000) for future in pushed] == [number, number]
    machine.again(service, 1, "tcp://127.0.0.1")
    assert late.wait(20000) == 1
    assert producer.push({"n": 2}, partition=down).wait(10000) == 2
