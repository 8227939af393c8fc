"""Producers and consumers in processes of their own, at the same time."""

import json
import signal
from typing import Any

import pytest

from mochi.mofka.testing import configuration
from tests.addresses import ADDRESSES
from tests.system.real_service import Machine

PRODUCERS = ("one", "two", "three")
COUNT = 1500


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["memory", "default"])
def test_every_byte_of_many_producers_reaches_every_consumer_in_order(
    machine: Machine, address: str, kind: str
) -> None:
    threads = {"rpc_thread_count": 2} if address == "na+sm" else {}
    server = machine.serve(configuration(margo=threads), address=address)
    section = {"path": str(machine.directory), "sync": False, "max_events_per_chunk": 1000}
    options = {"num_partitions": 3, "config": {"type": kind, "partition": section}}
    machine.driver(server).create_topic("topic", options=options)
    total = len(PRODUCERS) * COUNT * 3
    consumers = [machine.worker(server, "consume", "topic", name, total) for name in ("early", "second")]
    producers = [machine.worker(server, "produce", "topic", name, COUNT) for name in PRODUCERS]
    for producer in producers:
        assert producer.end() == 0, producer.output
    consumers.append(machine.worker(server, "consume", "topic", "late", total))
    for consumer in consumers:
        assert consumer.end() == 0, consumer.output
        assert json.loads(consumer.lines[-1]) == {
            "dense": True,
            "numbers": {f"{name}/{index}": COUNT for name in PRODUCERS for index in range(3)},
            "wrong": [],
        }
    assert "error" not in server.output.lower()


def stored(lines: list[str]) -> int:
    """Return how many events a producer was told to be stored in partition 0."""
    return max((int(line.split()[2]) + 1 for line in lines if line.startswith("stored 0")), default=0)


@pytest.mark.parametrize("kind", ["memory", "default"])
def test_a_producer_that_is_killed_leaves_whole_events_in_order_and_nothing_else(
    machine: Machine, kind: str
) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    section = {"path": str(machine.directory), "sync": False}
    driver.create_topic(
        "topic", options={"num_partitions": 1, "config": {"type": kind, "partition": section}}
    )
    killed = machine.worker(server, "produce", "topic", "killed", 10**9)
    killed.expect("stored 0 499")
    killed.kill()
    machine.worker(server, "produce", "topic", "heir", 100).expect("done")
    topic = driver.open_topic("topic")
    numbers: dict[str, list[int]] = {"killed": [], "heir": []}
    with topic.consumer("check") as consumer:
        while len(numbers["heir"]) < 100:
            event = consumer.pull().wait(10000)
            assert event is not None
            numbers[event.metadata["by"]].append(event.metadata["number"])
    for found in numbers.values():
        assert found == list(range(len(found)))
    assert len(numbers["killed"]) >= stored(killed.lines)
    assert "error" not in server.output.lower()


def test_a_consumer_that_is_killed_has_its_successor_start_behind_the_last_acknowledged_event(
    machine: Machine,
) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    driver.create_topic("topic", options={"num_partitions": 1})
    topic = driver.open_topic("topic")
    with topic.producer() as producer:
        for number in range(100):
            producer.push({"number": number})
    for acknowledged, following in ((-1, 0), (29, 30), (9, 40)):
        killed = machine.worker(server, "hold", "topic", "name", acknowledged, 60)
        killed.expect("holding")
        killed.kill()
        with topic.consumer("name") as consumer:
            event = consumer.pull().wait(10000)
            assert event is not None
            assert event.metadata == {"number": following}
    with topic.consumer("another") as consumer:
        event = consumer.pull().wait(10000)
        assert event is not None
        assert event.metadata == {"number": 0}


@pytest.fixture
def push_many() -> Any:
    def push(topic: Any, count: int, data: bytes = b"") -> None:
        with topic.producer(batch_size=4096) as producer:
            for number in range(count):
                producer.push({"number": number}, data)
            producer.flush().wait(30000)

    return push


def test_a_default_partition_holds_nothing_in_memory_for_each_event(machine: Machine, push_many: Any) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    section = {"path": str(machine.directory), "sync": False, "max_events_per_chunk": 50000}
    driver.create_topic(
        "topic", options={"num_partitions": 1, "config": {"type": "default", "partition": section}}
    )
    topic = driver.open_topic("topic")
    push_many(topic, 200000, bytes(100))  # more than is kept of the newest events
    before = server.memory()
    push_many(topic, 300000, bytes(100))
    assert server.memory() - before < 300000 * 8


def test_a_consumer_that_stops_reading_costs_the_server_its_credit_and_no_more(
    machine: Machine, push_many: Any
) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    section = {"path": str(machine.directory), "sync": False}
    driver.create_topic(
        "topic", options={"num_partitions": 1, "config": {"type": "default", "partition": section}}
    )
    topic = driver.open_topic("topic")
    push_many(topic, 3000, bytes(10000))
    stopped = machine.worker(server, "hold", "topic", "stopped", -1, 1)
    stopped.expect("holding")
    stopped.signal(signal.SIGSTOP)
    before = server.memory()
    push_many(topic, 10000, bytes(10000))
    assert server.memory() - before < 30 << 20
    with topic.consumer("quick") as consumer:
        for _ in range(13000):
            assert consumer.pull().wait(10000) is not None


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["memory", "default"])
def test_producers_that_are_killed_one_after_another_leave_whole_events_in_order(
    machine: Machine, kind: str
) -> None:
    server = machine.serve(configuration(margo={"rpc_thread_count": 2}))
    driver = machine.driver(server)
    section = {"path": str(machine.directory), "sync": False}
    driver.create_topic(
        "topic", options={"num_partitions": 1, "config": {"type": kind, "partition": section}}
    )
    killed = [machine.worker(server, "produce", "topic", f"p{n}", 10**9) for n in range(3)]
    for n in range(3, 30):
        killed.append(machine.worker(server, "produce", "topic", f"p{n}", 10**9))
        killed[n - 3].expect(f"stored 0 {n % 5 + 1}99")
        killed[n - 3].kill()
    for worker in killed[-3:]:
        worker.kill()
    machine.worker(server, "produce", "topic", "last", 1).expect("done")
    numbers: dict[str, list[int]] = {}
    with driver.open_topic("topic").consumer("check") as consumer:
        while "last" not in numbers:
            event = consumer.pull().wait(10000)
            assert event is not None
            numbers.setdefault(event.metadata["by"], []).append(event.metadata["number"])
    for n, worker in enumerate(killed):
        found = numbers.get(f"p{n}", [])
        assert found == list(range(len(found)))
        assert len(found) >= stored(worker.lines)
