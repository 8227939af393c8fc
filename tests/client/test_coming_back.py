"""Servers that die and come back: who has a topic open goes on, in order, with nothing lost and nothing twice."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Exception
from mochi.mofka.client.refusals import EpochChanged
from tests.client.cluster import Cluster

Start = Callable[..., Cluster]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    clusters: list[Cluster] = []

    def start(servers: int = 1, **options: Any) -> Cluster:
        clusters.append(Cluster(tmp_path, servers, **options))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


def pulled(consumer: Any, count: int) -> list[Any]:
    return [consumer.pull().wait(20000).metadata for _ in range(count)]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_partition_on_disk_that_comes_back_costs_nothing(start: Start, elsewhere: bool) -> None:
    cluster = start(2, kind="default")
    topic = cluster.topic()
    producer, consumer = topic.producer(batch_size=10), topic.consumer("c", targets=[1])
    futures = [producer.push(n, b"x" * n, partition=1) for n in range(200)]
    assert producer.flush().wait(20000) is True
    events = [consumer.pull().wait(20000) for _ in range(100)]
    for life in range(2):
        first = len(futures)
        killer = threading.Timer(0.02, cluster.kill, (1,))
        killer.start()
        futures += [producer.push(n, b"x" * n, partition=1) for n in range(first, first + 40)]
        killer.join()
        restarter = threading.Timer(0.3, cluster.start_again, (1,), {"elsewhere": elsewhere})
        restarter.start()
        futures += [producer.push(n, b"x" * n, partition=1) for n in range(first + 40, first + 60)]
        events[-1].acknowledge()
        assert producer.flush().wait(20000) is True
        events += [consumer.pull().wait(20000) for _ in range(30 * (life + 1))]
        restarter.join()
    count = len(futures)
    assert [future.wait(20000) for future in futures] == list(range(count))
    events += [consumer.pull().wait(20000) for _ in range(count - len(events))]
    assert [(event.event_id, event.metadata, len(event.data[0])) for event in events] == [
        (n, n, n) for n in range(count)
    ]
    assert consumer.pull().wait(50) is None


def test_a_pull_and_an_iteration_wait_while_the_server_is_away(start: Start) -> None:
    cluster = start(kind="default")
    topic = cluster.topic()
    producer, consumer = topic.producer(), topic.consumer("c", options={"iteration_timeout_ms": 50})
    producer.push(["before"]).wait(5000)
    assert pulled(consumer, 1) == [["before"]]
    cluster.kill(0)
    assert consumer.pull().wait(100) is None
    restarter = threading.Timer(0.3, cluster.start_again, (0,))
    restarter.start()
    assert list(consumer) == []
    restarter.join(timeout=0)
    assert not restarter.is_alive()
    cluster.kill(0)
    pull = consumer.pull()
    restarter = threading.Timer(0.3, cluster.start_again, (0,))
    restarter.start()
    pushed = topic.producer().push(["after"])
    assert pull.wait(20000).metadata == ["after"]
    assert pushed.wait(20000) == 1
    restarter.join()


def test_a_memory_partition_that_comes_back_empty_is_told_once_and_gone_on_with(start: Start) -> None:
    cluster = start(2)
    topic = cluster.topic()
    producer, consumer = topic.producer(batch_size=10), topic.consumer("c", targets=[1])
    for number in range(20):
        producer.push(number, partition=1)
    producer.flush().wait(20000)
    held = [consumer.pull().wait(20000) for _ in range(20)][-1]
    cluster.kill(1)
    lost = producer.push(["lost"], partition=1)
    cluster.start_again(1)
    with pytest.raises(EpochChanged) as caught:
        lost.wait(20000)
    assert caught.value.partition.index == 1
    assert caught.value.old != caught.value.new
    assert str(caught.value.new) in str(caught.value)
    with pytest.raises(EpochChanged):
        producer.flush().wait(20000)
    with pytest.raises(EpochChanged):
        held.acknowledge()
    with pytest.raises(EpochChanged):
        consumer.pull().wait(20000)
    assert producer.push(["new"], partition=1).wait(20000) == 0
    event = consumer.pull().wait(20000)
    assert (event.event_id, event.metadata) == (0, ["new"])
    event.acknowledge()
    assert producer.flush().wait(20000) is True


@pytest.mark.alone
def test_a_dead_server_stops_its_own_partitions_alone(start: Start) -> None:
    cluster = start(2)
    topic = cluster.topic(timeout_ms=700)
    producer = topic.producer(batch_size=2, max_num_batches=1)
    consumer = cluster.topic().consumer("c")
    for index in (0, 1):
        producer.push(["first"], partition=index)
    producer.flush().wait(20000)
    pulled(consumer, 2)
    cluster.kill(1)
    refused: list[Exception] = []
    healthy = []
    for number in range(30):
        try:
            producer.push(number, partition=1)
        except Exception as error:
            refused.append(error)
        begin = time.monotonic()
        healthy.append(producer.push(number, partition=0))
        assert time.monotonic() - begin < 0.5
        if len(refused) == 2:
            break
    uuid, address = topic.partitions[1]["uuid"], cluster.addresses[1]
    assert len(refused) == 2
    assert all(f"partition 1 ({uuid}" in str(error) and address in str(error) for error in refused)
    with pytest.raises(Exception, match="partition 1"):
        producer.flush().wait(20000)
    assert all(future.completed for future in healthy)
    assert pulled(consumer, len(healthy)) == list(range(len(healthy)))
    cluster.start_again(1)
    with pytest.raises(EpochChanged):
        consumer.pull().wait(20000)
    assert producer.push(["again"], partition=1).wait(20000) == 0
    assert pulled(consumer, 1) == [["again"]]


def test_with_the_master_database_down_open_topics_go_on(start: Start) -> None:
    cluster = start(3)
    topic = cluster.topic()
    producer, consumer = topic.producer(), topic.consumer("c", targets=[1, 2])
    cluster.kill(0)
    for number in range(10):
        producer.push(number, partition=1 + number % 2).wait(20000)
    assert sorted(pulled(consumer, 10)) == list(range(10))


def test_a_driver_opens_while_other_servers_than_the_master_s_are_dead(start: Start) -> None:
    cluster = start(3)
    cluster.kill(2)
    topic = cluster.topic()
    consumer = topic.consumer("c")
    assert topic.producer().push(["there"], partition=1).wait(20000) == 0
    assert pulled(consumer, 1) == [["there"]]
    cluster.start_again(2, elsewhere=True)
    assert topic.producer().push(["back"], partition=2).wait(20000) == 0
    assert pulled(consumer, 1) == [["back"]]


def test_one_connection_serves_all_partitions_of_a_server(start: Start) -> None:
    cluster = start(2, partitions=20)
    topic = cluster.topic()
    producer, consumer = topic.producer(), topic.consumer("c")
    for index in range(40):
        producer.push(index, partition=index)
    producer.flush().wait(20000)
    assert sorted(pulled(consumer, 40)) == list(range(40))
    assert len(topic._service.client._by_descriptor) == 2  # type: ignore[attr-defined]


def test_threads_share_a_producer_and_a_consumer_over_restarts(start: Start) -> None:
    cluster = start(kind="default")
    topic = cluster.topic()
    producer, consumer = topic.producer(batch_size=20), topic.consumer("c")
    each, pushers = 300, 8
    found: list[tuple[int | None, Any]] = []
    futures: list[Any] = []

    def push(by: int) -> None:
        for number in range(each):
            futures.append(producer.push([by, number]))
            time.sleep(0.001)

    def pull() -> None:
        while (event := consumer.pull().wait(3000)) is not None:
            found.append((event.event_id, event.metadata))

    threads = [threading.Thread(target=push, args=(by,)) for by in range(pushers)]
    threads += [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        cluster.kill(0)
        cluster.start_again(0)
    for thread in threads:
        thread.join(60)
    assert producer.flush().wait(20000) is True
    while (event := consumer.pull().wait(500)) is not None:
        found.append((event.event_id, event.metadata))
    assert sorted(future.wait(1000) for future in futures) == list(range(each * pushers))
    found.sort()
    assert [event_id for event_id, _ in found] == list(range(each * pushers))
    for by in range(pushers):
        assert [number for _, (who, number) in found if who == by] == list(range(each))


def test_a_dropped_consumer_and_a_closed_driver_end_what_looks_for_a_dead_server(start: Start) -> None:
    cluster = start(2)
    driver = cluster.driver()
    topic = driver.open_topic("topic")
    dropped, closed = topic.consumer("dropped"), topic.consumer("closed")
    before = {thread.ident for thread in threading.enumerate()}
    cluster.kill(1)
    assert dropped.pull().wait(100) is None
    del dropped
    closed.close()
    driver.close()
    deadline = time.monotonic() + 10
    while {thread.ident for thread in threading.enumerate()} - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {thread.ident for thread in threading.enumerate()} - before == set()
