"""A server that is started again has its topics, partitions and events back, and finishes what was cut short."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, TopicHandle
from diaspora_stream.errors import DiasporaError, TopicExists, TopicNotFound
from mochi.mofka.testing import Service, configuration
from tests.addresses import ADDRESSES
from tests.system.real_service import Machine, spread


def persistent(machine: Machine, **database: Any) -> dict[str, Any]:
    """Return a configuration whose master database is on disk."""
    settings = configuration()
    (master,) = (each for each in settings["providers"] if each["type"] == "yokan")
    section = {"path": str(machine.directory / "master"), **database}
    master["config"]["database"] = {"type": "rocksdb", "config": section}
    return settings


def on_disk(machine: Machine, partitions: int = 1, **fields: Any) -> dict[str, Any]:
    section = {"path": str(machine.directory / "data"), "max_events_per_chunk": 50, **fields}
    return {"num_partitions": partitions, "config": {"type": "default", "partition": section}}


def serve(machine: Machine, address: str = "na+sm") -> Service:
    return machine.serve(persistent(machine), address=address)


def end(server: Service, how: str) -> None:
    if how == "killed":
        server.kill()
    else:
        server.signal(signal.SIGTERM)
        assert server.end() == 0


def push(topic: TopicHandle, numbers: range, partition: int) -> list[int | None]:
    with topic.producer() as producer:
        futures = [producer.push({"n": n}, b"%d" % n * 100, partition=partition) for n in numbers]
        producer.flush().wait(10000)
        return [future.wait(10000) for future in futures]


def pull(topic: TopicHandle, events: int, partition: int) -> list[tuple[int | None, int]]:
    """Pull events of a partition, and check their data; return ids and numbers."""
    found = []
    with topic.consumer("reader", targets=[partition]) as consumer:
        for _ in range(events):
            event = consumer.pull().wait(10000)
            assert event is not None
            number = event.metadata["n"]
            assert b"".join(event.data) == b"%d" % number * 100
            found.append((event.event_id, number))
    return found


def acknowledge(topic: TopicHandle, event_id: int, partition: int) -> None:
    """Pull one event, which must be the next one of this consumer, and acknowledge it."""
    with topic.consumer("acknowledges", targets=[partition]) as consumer:
        event = consumer.pull().wait(10000)
        assert event is not None
        assert event.event_id == event_id
        event.acknowledge()


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_a_partition_on_a_read_only_file_system_is_served_for_reading(machine: Machine, how: str) -> None:
    server = serve(machine)
    driver = machine.driver(server)
    driver.create_topic("t", options=on_disk(machine))
    assert push(driver.open_topic("t"), range(120), 0) == list(range(120))
    end(server, how)
    data = machine.directory / "data"
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    within = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(data)]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only the superuser can mount a directory read-only")
    text = json.dumps(persistent(machine))
    server = machine.bedrock(text, "na+sm", "-c", "config.json", within=within)
    assert "its file system is read-only" in server.output
    topic = machine.driver(server).open_topic("t")
    assert pull(topic, 120, 0) == [(n, n) for n in range(120)]
    with topic.producer() as producer:
        future = producer.push({})
        with pytest.raises(DiasporaError, match=r"takes no more events: .* read-only"):
            future.wait(10000)
    with pytest.raises(DiasporaError, match="read-only"):
        acknowledge(topic, 0, 0)
    end(server, how)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert pull(machine.driver(serve(machine)).open_topic("t"), 120, 0) == [(n, n) for n in range(120)]


def push_until_refused(topic: TopicHandle, refusals: list[DiasporaError]) -> None:
    producer = topic.producer(batch_size=10)
    try:
        while True:
            for _ in range(100):
                producer.push({"n": 0}, b"0" * 100, partition=1)
            producer.flush().wait(10000)
    except DiasporaError as error:
        refusals.append(error)


def directories(machine: Machine) -> list[str]:
    return sorted(path.name for path in (machine.directory / "data").glob("*"))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_server_that_is_started_again_has_topics_partitions_and_events_back(
    machine: Machine, address: str
) -> None:
    server = serve(machine, address)
    driver = machine.driver(server)
    driver.create_topic("kept", options=on_disk(machine, 2))
    driver.create_topic("lost", options={"num_partitions": 1})
    driver.create_topic("empty")
    before = driver.list_topics()
    for index in range(2):
        assert push(driver.open_topic("kept"), range(120), index) == list(range(120))
    assert push(driver.open_topic("lost"), range(10), 0) == list(range(10))
    acknowledge(driver.open_topic("kept"), 0, 0)
    for life, how in enumerate(("stopped", "killed")):
        end(server, how)
        server = serve(machine, address)
        driver = machine.driver(server)
        after = driver.list_topics()
        assert [*after] == [*before]
        for name, shown in after.items():
            assert shown["validator"] == before[name]["validator"]
            uuids = [partition["uuid"] for partition in before[name]["partitions"]]
            assert [partition["uuid"] for partition in shown["partitions"]] == uuids
            assert {partition["address"] for partition in shown["partitions"]} <= {server.address}
        first = 120 + life
        kept, lost = driver.open_topic("kept"), driver.open_topic("lost")
        acknowledge(kept, life + 1, 0)
        for index in range(2):
            assert push(kept, range(first, first + 1), index) == [first]
            assert pull(kept, first + 1, index) == [(n, n) for n in range(first + 1)]
        assert push(lost, range(5), 0) == list(range(5))
        assert pull(lost, 5, 0) == [(n, n) for n in range(5)]
    with pytest.raises(TopicExists):
        driver.create_topic("kept", options=on_disk(machine))


def test_what_cannot_be_opened_says_so_and_the_rest_is_served(machine: Machine) -> None:
    server = serve(machine)
    driver = machine.driver(server)
    for name in ("good", "moved", "damaged"):
        driver.create_topic(name, options=on_disk(machine))
        push(driver.open_topic(name), range(120), 0)
    end(server, "stopped")
    (moved,) = (machine.directory / "data").glob("moved-*")
    moved.rename(machine.directory / "elsewhere")
    (damaged,) = (machine.directory / "data").glob("damaged-*")
    journal = bytearray((damaged / "mofka.journal").read_bytes())
    journal[8] = journal[4096 + 8] = 99  # the version in either head
    (damaged / "mofka.journal").write_bytes(journal)
    server = serve(machine)
    server.expect("serves 1 partition of 1 topic again")
    driver = machine.driver(server)
    assert sorted(driver.list_topics()) == ["damaged", "good", "moved"]
    assert pull(driver.open_topic("good"), 120, 0) == [(n, n) for n in range(120)]
    for name, reason in (("moved", "is missing"), ("damaged", r"mofka\.journal is of version 99")):
        server.expect(rf"\[error\] topic '{name}', partition .* cannot be opened.*{reason}")
        topic = driver.open_topic(name)
        with pytest.raises(DiasporaError, match=reason):
            topic.producer().push({"n": 0}, b"").wait(10000)
        with pytest.raises(DiasporaError, match=reason), topic.consumer("c") as consumer:
            consumer.pull().wait(10000)
    shown = json.loads(server.run("bedrock-query na+sm -f mofka.json").stdout)[server.address]
    failed = {
        each["config"]["topic"]: each["config"].get("failed", "")
        for each in shown["providers"]
        if each["type"] == "mofka"
    }
    assert failed["good"] == ""
    assert "is missing" in failed["moved"]
    assert not moved.exists()
    assert "Traceback" not in server.output
    (machine.directory / "elsewhere").rename(moved)
    end(server, "killed")
    driver = machine.driver(serve(machine))
    assert pull(driver.open_topic("moved"), 120, 0) == [(n, n) for n in range(120)]


def test_a_master_database_that_cannot_be_had_is_one_line(machine: Machine) -> None:
    server = serve(machine)
    for database, problem in (
        ({}, "is open in another process or provider"),
        ({"path": str(machine.directory / "no" / "master")}, "make it with: mkdir -p"),
    ):
        (server.directory / "second.json").write_text(json.dumps(persistent(machine, **database)))
        second = server.run("bedrock na+sm -c second.json")
        assert second.returncode != 0
        (line,) = second.stderr.splitlines()
        assert problem in line
        assert "config.database.config.path" in line
    assert list(machine.driver(server).list_topics()) == []


def test_a_partition_of_the_configuration_is_not_taken_back_twice(machine: Machine) -> None:
    server = serve(machine)
    driver = machine.driver(server)
    driver.create_topic("topic", options=on_disk(machine))
    push(driver.open_topic("topic"), range(5), 0)
    (uuid,) = (partition["uuid"] for partition in driver.list_topics()["topic"]["partitions"])
    end(server, "killed")
    settings = persistent(machine)
    settings["providers"].append(
        {
            "name": "by_hand",
            "type": "mofka",
            "provider_id": 42,
            "config": {
                "topic": "topic",
                "type": "default",
                "uuid": uuid,
                "partition": on_disk(machine)["config"]["partition"],
            },
            "dependencies": {"io_controller": "io_controller"},
        }
    )
    server = machine.serve(settings)
    driver = machine.driver(server)
    (partition,) = driver.list_topics()["topic"]["partitions"]
    assert partition == {"address": server.address, "provider_id": 42, "uuid": uuid}
    assert pull(driver.open_topic("topic"), 5, 0) == [(n, n) for n in range(5)]
    driver.delete_topic("topic")
    assert directories(machine) == []


def test_a_topic_is_deleted_with_all_its_files_and_its_name_is_free(machine: Machine) -> None:
    server = serve(machine)
    driver = machine.driver(server)
    driver.create_topic("other", options=on_disk(machine))
    driver.create_topic("topic", options=on_disk(machine, 2))
    kept = directories(machine)[0]
    topic = driver.open_topic("topic")
    push(topic, range(120), 0)
    (directory,) = (machine.directory / "data").glob(f"topic-{topic.partitions[0]['uuid']}")
    (directory / "quarantine-000000-meta-0").write_bytes(b"torn")
    consumer, producer = topic.consumer("c", targets=[0]), topic.producer()
    refusals: list[DiasporaError] = []
    busy = threading.Thread(target=push_until_refused, args=(topic, refusals))
    busy.start()
    for _ in range(120):
        assert consumer.pull().wait(10000) is not None
    waiting = consumer.pull()
    done = server.run("diaspora-ctl topic delete --driver mofka --driver.group_file mofka.json --name topic")
    assert done.returncode == 0, done.stderr
    assert "quarantine-000000-meta-0 is left" in done.stderr
    with pytest.raises(DiasporaError, match="topic 'topic' was deleted"):
        waiting.wait(10000)
    busy.join(20)
    assert len(refusals) == 1
    assert "topic 'topic'" in str(refusals[0])
    with pytest.raises(DiasporaError, match="topic"):
        producer.push({"n": 0}).wait(10000)
    aside = directory.with_name(f".deleted-{directory.name[-36:]}")
    assert directories(machine) == [aside.name, kept]
    assert [path.name for path in aside.iterdir()] == ["quarantine-000000-meta-0"]
    shutil.rmtree(aside)
    with pytest.raises(TopicNotFound):
        driver.open_topic("topic")
    with pytest.raises(TopicNotFound, match="did you mean 'other'"):
        driver.delete_topic("othr")
    driver.create_topic("topic", options=on_disk(machine))
    assert push(driver.open_topic("topic"), range(3), 0) == [0, 1, 2]
    end(server, "killed")
    driver = machine.driver(serve(machine))
    assert sorted(driver.list_topics()) == ["other", "topic"]
    driver.delete_topic("topic")
    assert directories(machine) == [kept]
    failed = server.run(
        "diaspora-ctl topic delete --driver mofka --driver.group_file mofka.json --name topic"
    )
    assert failed.returncode == 1
    assert "topic 'topic' does not exist" in failed.stderr


@contextmanager
def killed_when(server: Service, machine: Machine, condition: Callable[[list[str]], bool]) -> Iterator[None]:
    """Kill the server in the body as soon as the directories of a topic are as `condition` wants them."""

    def watch() -> None:
        while not condition([name for name in directories(machine) if not name.startswith("first-")]):
            pass
        server.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with suppress(DiasporaError):
        yield
    watcher.join(30)
    assert not watcher.is_alive()


def counted(in_suite: set[int]) -> list[Any]:
    """Return numbers of directories at which to kill, all but some of them for a soak."""
    return [pytest.param(n, marks=() if n in in_suite else pytest.mark.soak) for n in range(9)]


@pytest.mark.parametrize("number", counted({1, 5}))
def test_a_topic_whose_creation_is_cut_short_leaves_nothing_and_can_be_created_after_a_restart(
    machine: Machine, number: int
) -> None:
    server = serve(machine)
    driver = machine.driver(server, timeout_ms=1000)
    driver.create_topic("first", options=on_disk(machine))
    kept = directories(machine)
    with killed_when(server, machine, lambda there: len(there) >= number):
        driver.create_topic("topic", options=on_disk(machine, 8))
    driver = machine.driver(serve(machine))
    if "topic" in driver.list_topics():
        assert number == 8
        driver.delete_topic("topic")
    assert sorted(driver.list_topics()) == ["first"]
    assert directories(machine) == kept
    driver.create_topic("topic", options=on_disk(machine, 2))
    assert push(driver.open_topic("topic"), range(3), 1) == [0, 1, 2]


@pytest.mark.parametrize("number", counted({4, 7}))
def test_a_topic_whose_deletion_is_cut_short_is_gone_after_a_restart(machine: Machine, number: int) -> None:
    server = serve(machine)
    driver = machine.driver(server, timeout_ms=1000)
    driver.create_topic("first", options=on_disk(machine))
    kept = directories(machine)
    driver.create_topic("topic", options=on_disk(machine, 8))
    push(driver.open_topic("topic"), range(120), 0)
    with killed_when(server, machine, lambda there: len(there) <= number):
        driver.delete_topic("topic")
    driver = machine.driver(serve(machine))
    if "topic" in driver.list_topics():
        assert number == 8
        assert pull(driver.open_topic("topic"), 120, 0) == [(n, n) for n in range(120)]
        driver.delete_topic("topic")
    assert sorted(driver.list_topics()) == ["first"]
    assert directories(machine) == kept
    driver.create_topic("topic", options=on_disk(machine))


def several(machine: Machine) -> str:
    settings = spread()
    (master,) = (each for each in settings["providers"] if each["type"] == "yokan")
    section = {"path": str(machine.directory / "master")}
    master["config"]["database"] = {"type": "rocksdb", "config": section}
    return json.dumps(settings)


def check_events(topic: TopicHandle, events: int) -> None:
    for index in range(len(topic.partitions)):
        assert pull(topic, events, index) == [(n, n) for n in range(events)]


def test_servers_of_one_service_are_started_again_alone_and_together(machine: Machine) -> None:
    text = several(machine)
    service = machine.servers(2, text, "tcp://127.0.0.1")
    driver = machine.driver(service)
    driver.create_topic("topic", options=on_disk(machine, 4))
    topic = driver.open_topic("topic")
    addresses = [member["address"] for member in service.members()]
    owners = [addresses.index(partition["address"]) for partition in topic.partitions]
    assert sorted(owners) == [0, 0, 1, 1]
    for index in range(4):
        push(topic, range(60), index)
    for rank in (1, 0):
        os.kill(service.pids[rank], signal.SIGKILL)
        again = machine.again(service, rank, "tcp://127.0.0.1")
        addresses[rank] = again.address
        topic = machine.driver(service).open_topic("topic")
        assert [partition["address"] for partition in topic.partitions] == [addresses[o] for o in owners]
        check_events(topic, 60)
    machine.kill_all()
    service = machine.servers(2, text, "tcp://127.0.0.1")
    driver = machine.driver(service)
    topic = driver.open_topic("topic")
    assert {partition["address"] for partition in topic.partitions} == set(service.addresses)
    check_events(topic, 60)
    os.kill(service.pids[1], signal.SIGKILL)
    service.expect("the server of rank 1 was killed")
    driver.delete_topic("topic")
    assert len(directories(machine)) == 2
    machine.again(service, 1, "tcp://127.0.0.1")
    assert directories(machine) == []
    machine.driver(service).create_topic("topic", options=on_disk(machine, 2))


def test_changes_of_the_topics_survive_a_kill_after_the_disk_of_the_master_database_was_full(
    machine: Machine, small_disk: Path
) -> None:
    settings = persistent(machine, path=str(small_disk / "master"))
    server = machine.serve(settings)
    driver = machine.driver(server)
    for name in ("kept", "deleted"):
        driver.create_topic(name, options=on_disk(machine))
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    large = {"type": "object", "description": "x" * 50_000}
    for name in ("large", "refused"):
        with pytest.raises(DiasporaError, match="No space left on device"):
            driver.create_topic(name, options=on_disk(machine), schema=large)
    with pytest.raises(DiasporaError, match="No space left on device"):
        driver.delete_topic("deleted")
    assert sorted(driver.list_topics()) == ["deleted", "kept"]
    ballast.unlink()
    driver.list_topics()
    other = machine.driver(server)
    other.create_topic("large", options=on_disk(machine), schema=large)
    other.create_topic("later", options=on_disk(machine))
    push(other.open_topic("later"), range(100), 0)
    other.delete_topic("deleted")
    server.kill()
    server = machine.serve(settings)
    server.expect("serves 3 partitions of 3 topics again")
    driver = machine.driver(server)
    assert sorted(driver.list_topics()) == ["kept", "large", "later"]
    assert pull(driver.open_topic("later"), 100, 0) == [(n, n) for n in range(100)]
    assert [name.partition("-")[0] for name in directories(machine)] == ["kept", "large", "later"]
    assert "Traceback" not in server.output


def test_a_server_starts_for_reading_on_a_full_disk_and_goes_on_once_there_is_space(
    machine: Machine, small_disk: Path
) -> None:
    settings = persistent(machine, path=str(small_disk / "master"))
    settings["providers"][0]["config"]["file"] = str(small_disk / "mofka.json")
    section = {"path": str(small_disk / "data")}
    partitions = {"num_partitions": 2, "config": {"type": "default", "partition": section}}

    def serve_again() -> Driver:
        server = machine.serve(settings, address="tcp://127.0.0.1")
        server.group_file = small_disk / "mofka.json"
        servers.append(server)
        return machine.driver(server)

    servers: list[Service] = []
    driver = serve_again()
    for name in ("first", "second"):
        driver.create_topic(name, options=partitions)
    driver.delete_topic("first")
    topic = driver.open_topic("second")
    assert [push(topic, range(100), index) for index in range(2)] == [[*range(100)]] * 2
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    for _ in range(2):
        servers[-1].kill()
        driver = serve_again()
        servers[-1].expect("can be read alone, until it can be written again: .*No space left on device")
        topic = driver.open_topic("second")
        assert [pull(topic, 100, index) for index in range(2)] == [[(n, n) for n in range(100)]] * 2
        with pytest.raises(DiasporaError, match="No space left on device"):
            driver.create_topic("third", options={"num_partitions": 1})
    ballast.unlink()
    driver.create_topic("third", options={"num_partitions": 1})
    assert push(topic, range(3), 0) == [100, 101, 102]
    servers[-1].kill()
    driver = serve_again()
    assert sorted(driver.list_topics()) == ["second", "third"]
    assert {each["address"] for each in driver.list_topics()["second"]["partitions"]} == {servers[-1].address}
