"""Consumers of topics with a retention, over real servers."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Consumer, TopicHandle
from diaspora_stream.ctl.main import main
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import DiasporaError, EventsExpired
from mochi.bedrock.client import BedrockClient
from tests.client.client_server import Server


def trimmed_topic(server: Server, kind: str, tmp_path: Path, **fields: Any) -> TopicHandle:
    """A topic whose only partition keeps two or three blocks of ten events."""
    section: dict[str, Any] = {"retention": {"max_bytes": 25000}, **fields}
    if kind == "default":
        section |= {"path": str(tmp_path), "max_events_per_chunk": 10}
    driver = server.driver()
    name = f"{kind}_{tmp_path.name}"
    driver.create_topic(name, options={"num_partitions": 1, "config": {"type": kind, "partition": section}})
    topic: TopicHandle = driver.open_topic(name)
    return topic


def push(topic: TopicHandle, numbers: range) -> None:
    """Push events in batches of ten, of 10 kB each."""
    with topic.producer(batch_size=10) as producer:
        for first in numbers[::10]:
            for number in range(first, first + 10):
                producer.push({"n": number}, b"%04d" % number * 250)
            producer.flush().wait(20000)


def pulled(consumer: Consumer, count: int) -> list[int]:
    """Pull events, check that ids, metadata and data are those of one event, and return the ids."""
    found = []
    for _ in range(count):
        event = consumer.pull().wait(20000)
        assert event is not None
        assert event.event_id is not None
        assert event.metadata == {"n": event.event_id}
        assert b"".join(event.data) == b"%04d" % event.event_id * 250
        found.append(event.event_id)
    return found


def provider_of(server: Server, topic: TopicHandle) -> Any:
    """The configuration of the topic's partition, as a query shows it."""
    with closing(server.client()) as client:
        providers = BedrockClient(client).config(server.address)["providers"]
    (found,) = (each["config"] for each in providers if each["config"].get("topic") == topic.name)
    return found


def wait_for_trim(server: Server, topic: TopicHandle, least: int) -> int:
    """Wait until so many events, or more, have expired, and return how many."""
    deadline = time.monotonic() + 30
    while (expired := provider_of(server, topic).get("expired", 0)) < least:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(expired)


@pytest.mark.parametrize("kind", ["memory", "default"])
def test_a_consumer_that_was_overtaken_is_told_once_and_goes_on(
    server: Server, kind: str, tmp_path: Path
) -> None:
    topic = trimmed_topic(server, kind, tmp_path)
    push(topic, range(10))
    with topic.consumer("c", batch_size=1) as consumer:
        event = consumer.pull().wait(20000)
        assert event is not None
        event.acknowledge()
        push(topic, range(10, 100))
        wait_for_trim(server, topic, 80)
        late = topic.consumer("c")
        found: list[int] = []
        errors: list[EventsExpired] = []
        while len(found) + sum(error.next - error.first for error in errors) < 99:
            try:
                found += pulled(consumer, 1)
            except EventsExpired as told:
                errors.append(told)
        (error,) = errors
        gone = range(error.first, error.next)
        first = error.next
        assert first >= 80
        assert found == [number for number in range(1, 100) if number not in gone]
        assert topic.partitions[0]["uuid"] in str(error)
        assert f"events {error.first} to {error.next - 1} have expired" in str(error)
        event.acknowledge()

        with pytest.raises(EventsExpired) as raised:
            late.pull().wait(20000)
        assert (raised.value.first, raised.value.next) == (1, first)
        assert pulled(late, 100 - first) == list(range(first, 100))
        late.close()
    new = topic.consumer("new")
    assert pulled(new, 100 - first) == list(range(first, 100))
    push(topic, range(100, 110))
    assert pulled(new, 10) == list(range(100, 110))
    new.close()


@pytest.mark.parametrize("kind", ["memory", "default"])
def test_events_that_expire_before_the_pull_that_tells_are_told_with_the_others(
    server: Server, kind: str, tmp_path: Path
) -> None:
    topic = trimmed_topic(server, kind, tmp_path)
    push(topic, range(10))
    with topic.consumer("c", batch_size=1) as consumer:
        assert pulled(consumer, 1) == [0]
        push(topic, range(10, 100))
        wait_for_trim(server, topic, 80)
        assert pulled(consumer, 1) == [
            1
        ]  # grants the credit of event 0 again, whereupon the server says what is lost
        push(topic, range(100, 200))
        gone = wait_for_trim(server, topic, 180)
        with pytest.raises(EventsExpired) as raised:
            consumer.pull().wait(20000)
        assert (raised.value.first, raised.value.next) == (2, gone)
        assert pulled(consumer, 200 - gone) == list(range(gone, 200))


def test_data_that_has_expired_fails_its_events_and_no_other(server: Server, tmp_path: Path) -> None:
    topic = trimmed_topic(server, "default", tmp_path)
    push(topic, range(20))
    selected: list[int] = []

    def select(metadata: Any, whole: DataDescriptor) -> DataDescriptor:
        if not selected:
            push(topic, range(20, 30))
            wait_for_trim(server, topic, 10)
        selected.append(metadata["n"])
        return whole

    def allocate(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
        return [bytearray(descriptor.size)]

    with topic.consumer("c", data_selector=select, data_allocator=allocate) as consumer:
        for _ in range(10):
            with pytest.raises(EventsExpired) as raised:
                consumer.pull().wait(20000)
            assert (raised.value.first, raised.value.next) == (0, 10)
        assert pulled(consumer, 10) == list(range(10, 20))


def test_old_events_go_while_the_server_is_idle_and_stay_gone_after_a_restart(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    topic = trimmed_topic(server, "default", tmp_path, retention={"max_age": 1.5})
    memory = trimmed_topic(server, "memory", tmp_path, retention={"max_age": 1.5})
    push(topic, range(25))
    push(memory, range(20))
    (directory,) = (path for path in tmp_path.iterdir() if path.name.startswith("default"))
    assert wait_for_trim(server, topic, 20) == 20
    assert sorted(path.name for path in directory.glob("chunk-*.data")) == ["chunk-000002.data"]
    assert "original Mofka" in (directory / "mofka.trimmed").read_text()
    assert wait_for_trim(server, memory, 20) == 20
    section = provider_of(server, topic)
    assert section["expired"] == 20
    assert section["partition"]["retention"] == {"max_age": 1.5}
    server.kill()
    server = start_server()
    driver = server.driver()
    uuid = section["uuid"]
    options = {
        "num_partitions": 1,
        "config": {"type": "default", "uuid": uuid, "partition": section["partition"]},
    }
    driver.create_topic(topic.name, options=options)
    again = driver.open_topic(topic.name)
    with again.consumer("c") as consumer:
        assert pulled(consumer, 5) == list(range(20, 25))
    with again.consumer("c") as consumer:
        push(again, range(30, 40))
        events = [consumer.pull().wait(20000) for _ in range(15)]
        assert [event.event_id for event in events if event] == list(range(20, 35))


@pytest.mark.parametrize(
    ("retention", "where", "problem"),
    [
        ({"max_bytes": 0}, "max_bytes", ">= 1"),
        ({"max_bytes": 1.5}, "max_bytes", "int"),
        ({"max_age": 0}, "max_age", "> 0"),
        ({"max_age": "1h"}, "max_age", "float"),
        ({"max_bites": 1}, "max_bites", "max_bytes"),
        (17, "", "object"),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "default"])
def test_a_retention_that_cannot_be_is_refused_with_its_field(
    server: Server, kind: str, tmp_path: Path, retention: Any, where: str, problem: str
) -> None:
    with pytest.raises(DiasporaError, match=rf"retention.?{where}.*{problem}"):
        trimmed_topic(server, kind, tmp_path, retention=retention)


def test_the_fields_may_be_given_on_the_command_line_and_at_the_top_of_a_file(
    server: Server, tmp_path: Path
) -> None:
    config = tmp_path / "topic.json"
    config.write_text(json.dumps({"num_partitions": 1, "retention": {"max_bytes": 5, "max_age": 60}}))
    driver = ["--driver", "mofka", "--driver.group_file", str(server.group_file)]
    flags = ["--topic.num_partitions", "1", "--topic.config.partition.retention.max_bytes", "1000000000"]
    for name, options, expected in (
        ("by_flags", flags, {"max_bytes": 1000000000}),
        ("by_file", ["--topic-config", str(config)], {"max_bytes": 5, "max_age": 60}),
    ):
        assert main(["topic", "create", *driver, "--name", name, *options]) == 0
        topic = server.driver().open_topic(name)
        assert provider_of(server, topic)["partition"] == {"retention": expected}
