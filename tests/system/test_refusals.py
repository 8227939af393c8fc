"""What cannot be done: a clear error at the caller, nothing half made, and a server that lives on."""

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, TopicHandle
from diaspora_stream.errors import ConfigError, DiasporaError, TopicExists, TopicNotFound
from mochi.bedrock.client import Client
from mochi.mofka.chunks import PartitionDirectory
from mochi.mofka.testing import Service, configuration
from tests.chunks.chunk_events import events_of
from tests.system.real_service import Machine


def options(path: Path | str, **fields: Any) -> dict[str, Any]:
    return {"num_partitions": 1, "config": {"type": "default", "partition": {"path": str(path), **fields}}}


def lives_on(driver: Driver) -> None:
    """Check that another topic can be made and used."""
    driver.create_topic("another", options={"num_partitions": 1})
    topic = driver.open_topic("another")
    with topic.producer() as producer:
        assert producer.push({"alive": True}).wait(10000) == 0
    with topic.consumer("c") as consumer:
        event = consumer.pull().wait(10000)
        assert event is not None
        assert event.metadata == {"alive": True}


def partitions_of(machine: Machine, server: Service) -> list[dict[str, Any]]:
    """Return the providers of partitions, as ``bedrock-query`` shows them."""
    answer = server.run("bedrock-query na+sm -f mofka.json")
    assert answer.returncode == 0, answer.stderr
    (shown,) = json.loads(answer.stdout).values()
    return [provider for provider in shown["providers"] if provider["type"] == "mofka"]


def fill(topic: TopicHandle) -> tuple[list[int | None], DiasporaError]:
    """Push until it fails; return the ids of the events that were stored, and the error."""
    producer = topic.producer()
    ids: list[int | None] = []
    with pytest.raises(DiasporaError) as raised:
        ids.extend(producer.push({"number": n}, b"%d" % n * 3000).wait(10000) for n in range(1000))
    return ids, raised.value


def check_full(machine: Machine, server: Service, path: Path, problem: str) -> None:
    driver = machine.driver(server)
    driver.create_topic("topic", options=options(path))
    topic = driver.open_topic("topic")
    ids, error = fill(topic)
    assert ids == list(range(len(ids)))
    assert len(ids) > 10
    assert problem in str(error)
    assert "topic" in str(error)
    server.expect(f"takes no more events.*{problem}")
    again, error = fill(topic)
    assert again == []
    assert "takes no more events" in str(error)
    (shown,) = partitions_of(machine, server)
    assert problem in shown["config"]["failed"]
    with topic.consumer("c") as consumer:
        for event_id in ids:
            event = consumer.pull().wait(10000)
            assert event is not None
            assert (event.event_id, b"".join(event.data)) == (event_id, b"%d" % (event_id or 0) * 3000)
    lives_on(driver)
    assert "Traceback" not in server.output


def test_a_full_disk_fails_events_until_there_is_space_again(machine: Machine, small_disk: Path) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    driver.create_topic("topic", options=options(small_disk))
    topic = driver.open_topic("topic")
    ids, error = fill(topic)
    assert ids == list(range(len(ids)))
    assert len(ids) > 10
    assert "No space left on device" in str(error)
    server.expect("cannot store events now.*No space left on device")
    (shown,) = partitions_of(machine, server)
    assert "failed" not in shown["config"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert topic.producer().push({"number": 0}, b"again").wait(10000) == len(ids)
    server.expect("takes events again")
    with topic.consumer("c") as consumer:
        for event_id in range(len(ids) + 1):
            event = consumer.pull().wait(10000)
            assert event is not None
            assert event.event_id == event_id
    assert "Traceback" not in server.output


def test_a_file_at_its_size_limit_ends_a_partition_whose_events_stay(
    machine: Machine, tmp_path: Path
) -> None:
    server = machine.serve()
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    check_full(machine, server, tmp_path, "File too large")
    server.kill()
    (directory,) = tmp_path.glob("topic-*")
    with PartitionDirectory.open(directory) as store:
        for event_id, (_, data) in enumerate(events_of(store)):
            assert data == b"%d" % event_id * 3000


@pytest.mark.parametrize("path", ["/proc/nobody/may/write/here", "/dev/null", ""])
def test_a_path_that_cannot_be_used_leaves_no_topic_behind(
    machine: Machine, tmp_path: Path, path: str
) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    with pytest.raises(DiasporaError, match="path") as raised:
        driver.create_topic("topic", options={**options(path), "num_partitions": 3})
    assert path in str(raised.value)
    assert not driver.topic_exists("topic")
    assert driver.list_topics() == {}
    assert partitions_of(machine, server) == []
    driver.create_topic("topic", options=options(tmp_path))
    assert driver.topic_exists("topic")
    lives_on(driver)


def test_a_directory_in_use_is_not_taken_twice(machine: Machine, tmp_path: Path) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    held = options(tmp_path)
    held["config"]["uuid"] = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"
    driver.create_topic("first", options=held)
    uuid = held["config"]["uuid"]
    (tmp_path / f"second-{uuid}").symlink_to(tmp_path / f"first-{uuid}")
    with pytest.raises(DiasporaError, match=f"locked by process {server.pid}"):
        driver.create_topic("second", options=held)
    assert list(driver.list_topics()) == ["first"]
    assert len(partitions_of(machine, server)) == 1
    lives_on(driver)


@pytest.mark.parametrize(
    ("change", "where", "hint"),
    [
        ({"config": {"type": "defualt"}}, "type", "'default'"),
        ({"config": {"type": "default", "partition": {"path": "/tmp", "synch": True}}}, "synch", "sync"),
        ({"config": {"type": "default", "partition": {"path": "/tmp", "sync": 5}}}, "sync", "bool"),
        ({"dependencies": {"pool": "__primry__"}}, "pool", "__primary__"),
        ({"dependencies": {"io_controler": "x"}}, "io_controler", "io_controller"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(
    machine: Machine, change: dict[str, Any], where: str, hint: str
) -> None:
    server = machine.serve()
    driver = machine.driver(server)
    with pytest.raises(DiasporaError) as raised:
        driver.create_topic("topic", options={"num_partitions": 1, **change})
    assert where in str(raised.value)
    assert hint in str(raised.value)
    assert driver.list_topics() == {}
    assert partitions_of(machine, server) == []
    lives_on(driver)


def test_a_topic_is_made_once_and_one_that_is_not_there_is_not_opened(machine: Machine) -> None:
    driver = machine.driver(machine.serve())
    driver.create_topic("topic", options={"num_partitions": 1})
    with pytest.raises(TopicExists, match="topic"):
        driver.create_topic("topic", options={"num_partitions": 1})
    with pytest.raises(TopicNotFound, match="did you mean 'topic'"):
        driver.open_topic("topik")
    with pytest.raises(ConfigError, match="a/b"):
        driver.create_topic("a/b", options={"num_partitions": 1})
    lives_on(driver)


def test_a_server_whose_only_rpc_thread_also_does_the_io_creates_and_serves_partitions(
    machine: Machine, tmp_path: Path
) -> None:
    settings = configuration(margo={"rpc_thread_count": 1})
    settings["providers"][2]["dependencies"]["pool"] = "__rpc__"
    server = machine.serve(settings)
    driver = machine.driver(server)
    driver.create_topic("topic", options=options(tmp_path))
    topic = driver.open_topic("topic")
    ids = []
    with topic.producer() as producer:
        ids = [producer.push({}).wait(10000) for _ in range(5)]
    assert ids == [0, 1, 2, 3, 4]
    server.signal(15)
    assert server.end(10) == 0


def test_topics_are_made_by_a_server_that_is_told_of_topics_later_on(machine: Machine) -> None:
    settings = configuration()
    (library,) = (name for name in settings["libraries"] if "mofka" in name)
    settings["libraries"].remove(library)
    server = machine.serve(settings)
    driver = machine.driver(server, timeout_ms=500)
    with pytest.raises(DiasporaError, match=f"needs the library {library}"):
        driver.create_topic("topic", options={"num_partitions": 1})
    client = Client("na+sm").make_service_group_handle_from_flock(server.group_file)
    client[0].load_module(library)
    lives_on(machine.driver(server))
