"""Consumers of partitions whose files are damaged, over real servers."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Consumer, TopicHandle
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import EventsDamaged
from tests.client.cluster import Cluster

Damage = Callable[[Path], None]
Told = list[tuple[int, int]]

SIZE = 1000
COUNT = 40


def flip(event: int, kind: str = "data") -> Damage:
    """Change a byte of an event."""

    def change(directory: Path) -> None:
        path = directory / f"chunk-000000.{kind}"
        content = bytearray(path.read_bytes())
        content[event * len(content) // COUNT + 1] ^= 0xFF
        path.write_bytes(content)

    return change


def cut(directory: Path) -> None:
    """Take the last bytes of all data away."""
    path = directory / "chunk-000000.data"
    os.truncate(path, path.stat().st_size - 10)


def lose_seals(directory: Path) -> None:
    (directory / "mofka-000000.seals").unlink()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TopicHandle]]:
    """Gives a topic with partitions of 40 events, each five of them a commit, that are then damaged."""
    clusters: list[Cluster] = []

    def start(*damages: Damage, partitions: int = 1) -> TopicHandle:
        cluster = Cluster(tmp_path, 1, partitions=partitions, kind="default")
        clusters.append(cluster)
        topic = cluster.topic()
        with topic.producer(batch_size=5) as producer:
            for number in range(COUNT):
                for partition in range(partitions):
                    producer.push({"n": 1000 + number}, b"%04d" % number * (SIZE // 4), partition=partition)
                if number % 5 == 4:
                    producer.flush().wait(20000)
        cluster.end(0)
        for directory in (tmp_path / "data").iterdir():
            for damage in damages:
                damage(directory)
        cluster.start_again(0)
        return cluster.topic()

    yield start
    for cluster in clusters:
        cluster.close()


def pulled(consumer: Consumer, partitions: int = 1) -> dict[str, tuple[list[int], Told]]:
    """Pull until each event of each partition has come or was told as damaged; give ids and ranges by partition."""
    found: dict[str, tuple[list[int], Told]] = {each["uuid"]: ([], []) for each in consumer.topic.partitions}
    left = COUNT * partitions
    while left > 0:
        try:
            event = consumer.pull().wait(20000)
        except EventsDamaged as error:
            (uuid,) = (uuid for uuid in found if uuid in error.where)
            found[uuid][1].append((error.first, error.next))
            left -= error.next - error.first
        else:
            assert event is not None
            assert event.event_id is not None
            assert event.metadata == {"n": 1000 + event.event_id}
            assert b"".join(event.data) == b"%04d" % event.event_id * (SIZE // 4)
            found[event.partition["uuid"]][0].append(event.event_id)
            left -= 1
    assert left == 0
    return found


@pytest.mark.parametrize(
    ("damages", "told"),
    [
        ([flip(12)], [(10, 15)]),
        ([flip(12, "meta")], [(10, 15)]),
        ([flip(0)], [(0, 5)]),
        ([flip(0), flip(39, "meta")], [(0, 5), (35, 40)]),
        ([cut], [(35, 40)]),
        ([lose_seals], []),
    ],
    ids=["data", "metadata", "the first", "the first and the last", "a short file", "lost seals"],
)
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_damaged_range_is_told_once_and_the_events_behind_it_come(
    start: Callable[..., TopicHandle], damages: list[Damage], told: Told, partitions: int
) -> None:
    with start(*damages, partitions=partitions).consumer("c") as consumer:
        lost = [event_id for first, following in told for event_id in range(first, following)]
        expected = ([event_id for event_id in range(COUNT) if event_id not in lost], told)
        assert list(pulled(consumer, partitions).values()) == [expected] * partitions


def test_each_range_is_told_from_the_first_event_that_was_wanted(start: Callable[..., TopicHandle]) -> None:
    topic = start(flip(12), flip(16))
    with topic.consumer("c") as consumer:
        events = [consumer.pull().wait(20000) for _ in range(10)]
        assert events[-1] is not None
        events[-1].acknowledge()
    with topic.consumer("c") as consumer:
        told: list[Any] = []
        while (event := _next(consumer, told)) is None:
            pass
        assert event == 20
        assert told[0][0] == 10
        assert told[-1][1] == 20
        assert [following for _, following in told[:-1]] == [first for first, _ in told[1:]]


def _next(consumer: Consumer, told: Told) -> int | None:
    try:
        event = consumer.pull().wait(20000)
    except EventsDamaged as error:
        told.append((error.first, error.next))
        return None
    assert event is not None
    return event.event_id


def test_a_loop_over_a_consumer_may_be_entered_again_after_a_damage(
    start: Callable[..., TopicHandle],
) -> None:
    found: list[int | None] = []
    with start(flip(0), flip(20)).consumer("c") as consumer:
        for _ in range(2):
            with pytest.raises(EventsDamaged, match=r"chunk-000000.data.*do not match their checksum"):
                found.extend(event.event_id for event in consumer)
        found.extend(event.event_id for event in islice(consumer, COUNT - 25))
    assert found == [*range(5, 20), *range(25, COUNT)]


def test_damaged_data_that_a_selector_asks_for_fails_its_events_alone(
    start: Callable[..., TopicHandle],
) -> None:
    def select(metadata: Any, whole: DataDescriptor) -> DataDescriptor:
        return whole

    def allocate(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
        return [bytearray(descriptor.size)]

    found, failed = [], []
    with start(flip(12)).consumer("c", data_selector=select, data_allocator=allocate) as consumer:
        for _ in range(COUNT):
            try:
                event = consumer.pull().wait(20000)
            except EventsDamaged as error:
                failed.append((error.first, error.next))
            else:
                assert event is not None
                found.append(event.event_id)
    assert found == [*range(10), *range(15, COUNT)]
    assert failed == [(10, 15)] * 5
