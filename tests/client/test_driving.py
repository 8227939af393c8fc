"""Drivers and topics: options, group files, names, partitions added later, closing."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, Exception
from mochi.mofka.client import MofkaDriver
from tests.client.client_server import Server


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "group_file"),
        ({"group_file": ""}, "group_file"),
        ({"group_file": "nowhere.json", "group_file_timeout_ms": 0}, "nowhere.json"),
        ({"group_fil": "x"}, "group_file"),
        ({"group_file": "x", "margo": 5}, "options.margo"),
        ({"group_file": "x", "timeout_ms": 0}, "timeout_ms"),
        ([], "options"),
        ("text", "options"),
    ],
)
def test_driver_options_that_cannot_be_used_are_named(options: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        Driver(backend="mofka", options=options)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(Exception, match="did you mean 'mofka'"):
        Driver(backend="mofak")
    with pytest.raises(TypeError):
        Driver()


def test_an_obsolete_option_is_accepted_with_one_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        server.driver(use_progress_thread=True).close()
    assert [record.message for record in caplog.records if "use_progress_thread" in record.message] != []
    assert len(caplog.records) == 1


def test_a_group_file_without_members_or_json_is_refused(tmp_path: Path) -> None:
    for text in ("", "{", "{}", '{"members": []}'):
        path = tmp_path / "group.json"
        path.write_text(text)
        with pytest.raises(Exception, match=r"group\.json"):
            MofkaDriver(group_file=str(path))


def test_a_dead_server_and_a_wrong_token_are_told_apart(start_server: Any) -> None:
    server = start_server()
    group = json.loads(server.group_file.read_text())
    os.chmod(server.group_file, 0o600)
    metadata = {**group["metadata"], "__token__": "00" * 32}
    server.group_file.write_text(json.dumps({**group, "metadata": metadata}))
    with pytest.raises(Exception, match="token"):
        server.driver(timeout_ms=3000)
    server.group_file.write_text(json.dumps(group))
    server.driver().close()
    server.kill()
    with pytest.raises(ConnectionError, match="is the service running"):
        server.driver(timeout_ms=300)


def test_drivers_are_instances_of_their_own_class_whichever_way_they_are_made(server: Server) -> None:
    one = Driver(backend="mofka", options={"group_file": str(server.group_file)})
    two = MofkaDriver(group_file=str(server.group_file))
    for driver in (one, two):
        with driver:
            assert type(driver) is MofkaDriver
            assert driver.num_servers == 1
            assert str(server.group_file) in repr(driver)
            assert driver.make_thread_pool(2).thread_count == 2
            assert driver.default_thread_pool.thread_count == 0
            driver.start_progress_thread()


def test_topics_are_created_once_listed_and_found_by_their_nearest_name(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("temperature", options={"num_partitions": 2}, schema={"type": "object"})
    with pytest.raises(Exception, match="'temperature' already exists"):
        driver.create_topic("temperature")
    with pytest.raises(Exception, match="did you mean 'temperature'"):
        driver.open_topic("temprature")
    assert driver.topic_exists("temperature")
    assert not driver.topic_exists("temprature")
    listed = driver.list_topics()["temperature"]
    assert listed["num_partitions"] == 2
    topic = driver.open_topic("temperature")
    assert topic.partitions == listed["partitions"]
    assert repr(topic) == "<TopicHandle 'temperature', 2 partitions>"
    with pytest.raises(Exception):
        topic.producer().push([])


@pytest.mark.parametrize("component", ["validator", "partition_selector", "serializer"])
def test_a_component_of_a_wrong_type_is_a_type_error_that_says_how_to_make_one(
    server: Server, component: str
) -> None:
    driver = server.driver()
    with pytest.raises(TypeError, match=r"'schema' is no .*\.from_metadata"):
        driver.create_topic("wrong", options={"num_partitions": 1}, **{component: "schema"})
    assert not driver.topic_exists("wrong")


def test_a_topic_that_cannot_be_made_leaves_nothing(server: Server) -> None:
    driver = server.driver()
    with pytest.raises(Exception, match="path"):
        driver.create_topic("broken", options={"num_partitions": 1, "config": {"type": "default"}})
    with pytest.raises(Exception, match="max_chunk_size"):
        driver.create_topic("broken", options={"num_partitions": 1, "max_chunk_siz": 1})
    assert not driver.topic_exists("broken")
    driver.create_topic("broken", options={"num_partitions": 1})
    assert len(driver.open_topic("broken").partitions) == 1


def test_servers_that_have_ended_get_no_partitions_and_are_not_counted(
    server: Server, tmp_path: Path
) -> None:
    group = json.loads(server.group_file.read_text())
    (member,) = group["members"]
    ended = [
        {"address": f"{prefix}-ended", "provider_id": 1, "rank": rank, "ended": True}
        for rank, prefix in enumerate(("na+sm://0", member["address"]), 1)
    ]
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps({**group, "members": [ended[0], {**member, "rank": 0}, ended[1]]}))
    with Driver(backend="mofka", options={"group_file": str(copy)}) as driver:
        assert driver.num_servers == 1  # type: ignore[attr-defined]
        driver.create_topic("spread", options={"num_partitions": 3})
        driver.add_memory_partition("spread", 0)  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="servers 0 to 0"):
            driver.add_memory_partition("spread", 1)  # type: ignore[attr-defined]
        places = {partition["address"] for partition in driver.open_topic("spread").partitions}
        assert places == {member["address"]}


@pytest.mark.parametrize("options", [{"partitions": 2}, {"partitions": 2, "num_partitions": 2}])
def test_partitions_is_what_num_partitions_was_called(server: Server, options: dict[str, Any]) -> None:
    driver = server.driver()
    name = f"alias{len(options)}"
    driver.create_topic(name, options=options)
    assert len(driver.open_topic(name).partitions) == 2
    for wrong in ({"partitions": 0}, {"partitions": "2"}, {"partitions": 2, "num_partitions": 3}):
        with pytest.raises(Exception, match=r"^options\.partitions: "):
            driver.create_topic("never", options=wrong)


def test_whoever_gives_a_path_for_a_partition_in_memory_is_warned_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    driver = server.driver()
    driver.create_topic(
        "pathless", options={"num_partitions": 2, "path": "/data", "retention": {"max_bytes": 1}}
    )
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "options.config.partition.path"
    ]


def test_partitions_can_be_added_to_a_topic(server: Server, tmp_path: Path) -> None:
    driver = server.driver()
    driver.create_topic("growing")
    driver.add_memory_partition("growing", 0)
    driver.add_memory_partition(topic_name="growing", server_rank=0, pool_name="__primary__")
    driver.add_default_partition("growing", 0, partition_config={"path": str(tmp_path), "sync": False})
    driver.add_default_partition("growing", 0, "io_controller", {"path": str(tmp_path)}, "__primary__")
    driver.add_custom_partition("growing", 0)
    driver.add_custom_partition("growing", 0, "memory", {}, {"pool": "__primary__"})
    driver.add_custom_partition("growing", 0, dependencies={"pool": ["__primary__"]})
    topic = driver.open_topic("growing")
    assert len({partition["uuid"] for partition in topic.partitions}) == 7
    with topic.producer() as producer:
        assert [producer.push(n, partition=n).wait(10000) for n in range(7)] == [0] * 7
    with topic.consumer("c") as consumer:
        events = [consumer.pull().wait(10000) for _ in range(7)]
    assert {event.metadata: event.partition for event in events} == dict(enumerate(topic.partitions))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("steady", 1), "server_rank 1 .* servers 0 to 0"),
        (("stead", 0), "did you mean 'steady'"),
        (("steady", 0, "no_such_type"), "no_such_type"),
        (("steady", 0, "memory", {}, {"pool": "no_such_pool"}), "no_such_pool"),
        (("steady", 0, "memory", {}, {"pool": 5}), "dependencies.pool"),
    ],
)
def test_a_partition_that_cannot_be_added_leaves_the_topic_as_it_was(
    server: Server, arguments: tuple[Any, ...], message: str
) -> None:
    driver = server.driver()
    if not driver.topic_exists("steady"):
        driver.create_topic("steady", options={"num_partitions": 1})
    with pytest.raises(Exception, match=message):
        driver.add_custom_partition(*arguments)
    assert len(driver.open_topic("steady").partitions) == 1


def test_closing_a_driver_stores_what_is_pending_and_closes_what_it_made(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("closing", options={"num_partitions": 1})
    topic = driver.open_topic("closing")
    producer, consumer = topic.producer(batch_size=100), topic.consumer("c")
    pending = [producer.push(n) for n in range(5)]
    driver.close()
    driver.close()
    assert [future.wait() for future in pending] == list(range(5))
    with pytest.raises(Exception, match="closed"):
        producer.push(5)
    with pytest.raises(Exception, match="closed"):
        consumer.pull().wait()
    with server.driver().open_topic("closing").consumer("other") as other:
        assert [other.pull().wait(10000).metadata for _ in range(5)] == list(range(5))
        assert other.pull().wait(20) is None
