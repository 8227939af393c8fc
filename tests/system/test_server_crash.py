"""kill -9 of a server in the middle of a stream: what was acknowledged is there, and nobody waits for ever."""

import itertools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import TopicHandle
from diaspora_stream.errors import DiasporaError
from diaspora_stream.serializer import DefaultSerializer
from mochi.mofka.chunks import PartitionDirectory
from mochi.mofka.testing import Service
from tests.addresses import ADDRESSES
from tests.chunks.chunk_events import events_of
from tests.system.real_service import Machine
from tests.system.stream_worker import data_of

Acknowledged = list[tuple[int, int]]
"""Numbers and ids of the events of a partition that were acknowledged."""

deserialize = DefaultSerializer().deserialize


def options(path: Path, count: int = 1, **fields: Any) -> dict[str, Any]:
    section = {"path": str(path), "max_events_per_chunk": 500, **fields}
    return {"num_partitions": count, "config": {"type": "default", "partition": section}}


def push_until_killed(
    topic: TopicHandle, server: Service, after: float, event_of: Callable[[int, int], tuple[Any, bytes]]
) -> list[Acknowledged]:
    """Push to all partitions until the server, killed `after` seconds, is gone; return what it acknowledged.

    `event_of` gives metadata and data of an event by partition and number.
    """
    producer = topic.producer("p")
    futures: list[list[Any]] = [[] for _ in topic.partitions]
    killer = threading.Timer(after, server.kill)
    killer.start()

    def push_and_flush() -> None:
        for number in itertools.count():
            for index, pushed in enumerate(futures):
                pushed.append(producer.push(*event_of(index, number), partition=index))
            if not killer.is_alive():
                producer.flush().wait(10000)

    with pytest.raises(DiasporaError):
        push_and_flush()
    acknowledged: list[Acknowledged] = []
    for pushed in futures:
        acknowledged.append([])
        for number, future in enumerate(pushed):
            with suppress(DiasporaError):
                acknowledged[-1].append((number, future.wait(5000)))
    return acknowledged


def event_with_data(partition: int, number: int) -> tuple[Any, bytes]:
    return {"by": "p", "number": number}, data_of("p", partition, number)


def numbered_from(first: int, partition: int, number: int) -> tuple[Any, bytes]:
    return {"number": first + number}, b""


def check(directory: Path, index: int, acknowledged: Acknowledged) -> int:
    """Check that a directory holds what was acknowledged, and whole events alone; return their number."""
    with PartitionDirectory.open(directory) as store:
        events = events_of(store)
    numbers = [deserialize(metadata)["number"] for metadata, _ in events]
    assert numbers == list(range(len(events)))
    assert [data for _, data in events] == [data_of("p", index, number) for number in numbers]
    assert all(number == event_id for number, event_id in acknowledged)
    assert 0 < len(acknowledged) <= len(events)
    return len(events)


def directory_of(topic: TopicHandle, index: int, path: Path) -> Path:
    return path / f"topic-{topic.partitions[index]['uuid']}"


@pytest.mark.parametrize("sync", [True, False])
def test_every_acknowledged_event_is_in_the_directory_of_its_partition(machine: Machine, sync: bool) -> None:
    server = machine.serve()
    driver = machine.driver(server, timeout_ms=1000)
    driver.create_topic("topic", options=options(machine.directory, 2, sync=sync))
    topic = driver.open_topic("topic")
    acknowledged = push_until_killed(topic, server, 0.3, event_with_data)
    for index in range(2):
        check(directory_of(topic, index, machine.directory), index, acknowledged[index])


def test_a_new_server_attaches_the_directory_of_a_killed_one_and_serves_all_of_it(machine: Machine) -> None:
    server = machine.serve()
    driver = machine.driver(server, timeout_ms=1000)
    driver.create_topic("topic", options=options(machine.directory))
    topic = driver.open_topic("topic")
    acknowledged = push_until_killed(topic, server, 0.2, event_with_data)
    uuid = topic.partitions[0]["uuid"]
    count = check(directory_of(topic, 0, machine.directory), 0, acknowledged[0])
    driver = machine.driver(machine.serve(name="second"))
    attached = options(machine.directory)
    attached["config"]["uuid"] = uuid
    driver.create_topic("topic", options=attached)
    topic = driver.open_topic("topic")
    assert topic.partitions[0]["uuid"] == uuid
    with topic.producer() as producer:
        assert producer.push({"by": "p", "number": count}, data_of("p", 0, count)).wait(10000) == count
    with topic.consumer("check") as consumer:
        for number in range(count + 1):
            event = consumer.pull().wait(10000)
            assert event is not None
            assert (event.event_id, event.metadata["number"]) == (number, number)
            assert b"".join(event.data) == data_of("p", 0, number)


@pytest.mark.parametrize("address", ADDRESSES)
def test_whoever_waits_for_a_server_that_dies_is_told_promptly(machine: Machine, address: str) -> None:
    server = machine.serve(address=address)
    driver = machine.driver(server, timeout_ms=1000)
    driver.create_topic("topic", options={"num_partitions": 1})
    topic = driver.open_topic("topic")
    consumer = topic.consumer("c")
    producer = topic.producer(batch_size=1000)
    producer.push({})
    told: dict[str, float] = {}

    def wait(name: str, call: Callable[[], Any]) -> None:
        with pytest.raises(DiasporaError):
            call()
        told[name] = time.monotonic()

    waits: dict[str, Callable[[], Any]] = {
        "pull": lambda: consumer.pull().wait(),
        "push": lambda: producer.push({}).wait(),
        "flush": lambda: producer.flush().wait(),
    }
    server.signal(signal.SIGSTOP)  # it takes requests, and answers none
    threads = [threading.Thread(target=wait, args=item) for item in waits.items()]
    for thread in threads:
        thread.start()
    server.kill()
    killed = time.monotonic()
    for thread in threads:
        thread.join(20)
    assert sorted(told) == ["flush", "pull", "push"]
    assert max(told.values()) - killed < 8
    with pytest.raises(DiasporaError):
        driver.open_topic("topic")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_partition_survives_one_crash_after_another(machine: Machine) -> None:
    attached = options(machine.directory)
    attached["config"]["uuid"] = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"
    count = 0
    for life in range(200):
        server = machine.serve(name=f"life-{life}")
        driver = machine.driver(server, timeout_ms=1000)
        driver.create_topic("topic", options=attached)
        topic = driver.open_topic("topic")
        with topic.consumer("check") as consumer:
            for number in range(count):
                event = consumer.pull().wait(10000)
                assert event is not None
                assert (event.event_id, event.metadata["number"]) == (number, number)
        (acknowledged,) = push_until_killed(topic, server, 0.02 * (life % 5), partial(numbered_from, count))
        assert acknowledged == [(n, count + n) for n in range(len(acknowledged))]
        with PartitionDirectory.open(directory_of(topic, 0, machine.directory)) as store:
            numbers = [deserialize(metadata)["number"] for metadata, _ in events_of(store)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= count + len(acknowledged)
        count = len(numbers)
