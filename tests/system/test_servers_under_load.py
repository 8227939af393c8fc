"""Servers of a running service that are killed, stopped and started again while others stream through them.

Workers are processes of their own. They check that every event that was acknowledged is there once, in the order of its
producer, and none besides.
"""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from diaspora_stream.errors import DiasporaError
from mochi.mofka.testing import Service
from tests.system.real_service import Machine, spread

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
        self.consumer = machine.worker(service, "consume", "topic", "c", events * size * len(names))
        self.consumer.expect("^open")
        self.producers = [machine.worker(service, "produce", "topic", name, events) for name in names]
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


def end(service: Service, rank: int, number: int) -> None:
    """Send a signal to a server, and wait for its end."""
    descriptor = os.pidfd_open(service.pids[rank])
    os.kill(service.pids[rank], number)
    assert select.select([descriptor], [], [], 30)[0] == [descriptor]
    os.close(descriptor)


def kill(machine: Machine, service: Service, rank: int) -> None:
    end(service, rank, signal.SIGKILL)
    service.pids[rank] = machine.again(service, rank, "tcp://127.0.0.1").pid


def start_again(machine: Machine, service: Service, rank: int) -> None:
    end(service, rank, signal.SIGTERM)
    service.pids[rank] = machine.again(service, rank, "tcp://127.0.0.1").pid


def stop(machine: Machine, service: Service, rank: int) -> None:
    os.kill(service.pids[rank], signal.SIGSTOP)
    time.sleep(1.5)  # what it is stopped for
    os.kill(service.pids[rank], signal.SIGCONT)


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


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_one_harm_after_another_loses_nothing(machine: Machine, seed: int) -> None:
    random = Random(seed)
    service = machine.servers(4, persistent(machine.directory), "tcp://127.0.0.1")
    load = Load(machine, service, 5000)
    for step in range(20):
        load.reach(99 + 200 * step)
        random.choice((kill, stop, start_again))(machine, service, random.randrange(4))
    load.check()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_topic_whose_creation_is_cut_short_by_one_of_its_servers_can_be_created_once_that_is_back(
    machine: Machine, rank: int
) -> None:
    service = machine.servers(2, persistent(machine.directory), "tcp://127.0.0.1")
    driver = machine.driver(service, timeout_ms=2000)
    data = machine.directory / "data"

    def kill_in_the_middle() -> None:
        while len(list(data.glob("topic-*"))) < 3:
            pass
        end(service, rank, signal.SIGKILL)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    with pytest.raises(DiasporaError):
        driver.create_topic("topic", options=on_disk(machine.directory, 64))
    killer.join(30)
    machine.again(service, rank, "tcp://127.0.0.1")
    driver = machine.driver(service)
    if driver.topic_exists("topic"):
        driver.delete_topic("topic")
    assert list((machine.directory / "data").glob("topic-*")) == []
    driver.create_topic("topic", options=on_disk(machine.directory, 4))
    with driver.open_topic("topic").producer() as producer:
        futures = [producer.push({}, partition=index) for index in range(4)]
        assert [future.wait(10000) for future in futures] == [0] * 4
