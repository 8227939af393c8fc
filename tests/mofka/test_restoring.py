"""Servers of one group that are started again, each with the partitions of its ordinal; all in this process."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import (
    ConfigError,
    DiasporaError,
    TimeoutExpired,
    TopicExists,
    TopicNotFound,
)
from mochi.bedrock import config as bedrock_config
from mochi.bedrock.server import Deployment
from mochi.flock import group_file
from mochi.flock.group_file import GroupView, Member
from mochi.margo.errors import AddressError, ConnectionLost, MargoError
from mochi.margo.peer import Gate, Seat
from mochi.mofka.client import MofkaDriver
from mochi.mofka.deletion import Removal
from mochi.mofka.registry import PartitionRecord, Registry
from mochi.mofka.restoring import Restoration
from mochi.mofka.topics import Topics, TopicServer

TOKEN = b"t" * 32


class Ranked:
    """A server as the module sees it, with an ordinal and a view of its group that the test gives it."""

    def __init__(self, server: Deployment, rank: int, view: GroupView) -> None:
        self.server = server
        self.rank = rank
        self.view = view
        self.address = server.address
        self.dependency_resolution_timeout: float | None = 0.2
        self.speaks = True
        self.rest = server.rest
        self.engine = server.engine
        self.config = server.config
        self.start_provider = server.start_provider
        self.stop_provider = server.stop_provider
        self.topics = TopicServer(self)

    def provider(self, name: str) -> Any:
        return SimpleNamespace(view=self.view) if name == "group" else self.server.provider(name)


class TwoServers:
    """A service of two servers, of which the first has the master database on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.group_file = directory / "mofka.json"
        self._ids = [uuid4().hex, uuid4().hex]
        self._running: dict[int, tuple[Deployment, threading.Thread]] = {}
        self.ranked: dict[int, Ranked] = {}

    @property
    def view(self) -> GroupView:
        """The ranks are not in the order of the addresses."""
        members = [Member(f"na+sm://{name}", 1, rank) for rank, name in enumerate(self._ids)]
        return group_file.parse(group_file.serialize(GroupView(tuple(members), {"__token__": TOKEN.hex()})))

    def start(self, rank: int, *, moved: bool = False) -> Ranked:
        """Start a server, perhaps at another address, without what it had before."""
        if moved:
            self._ids[rank] = uuid4().hex
        group_file.write(self.group_file, self.view)
        settings: dict[str, Any] = {
            "libraries": [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "abt-io", "mofka")],
            "providers": [
                {
                    "name": "group",
                    "type": "flock",
                    "config": {"bootstrap": "self", "group": {"type": "static"}},
                },
                {"name": "io", "type": "abt_io", "config": {}, "dependencies": {"pool": "__primary__"}},
            ],
        }
        if rank == 0:
            database = {"type": "rocksdb", "config": {"path": str(self.directory / "master")}}
            master = {
                "name": "master",
                "type": "yokan",
                "tags": ["mofka:master"],
                "config": {"database": database},
            }
            settings["providers"].append(master)
        server = Deployment(bedrock_config.parse(settings), f"na+sm://{self._ids[rank]}")
        server.engine.gate = Gate()  # of the service that the view describes
        server.engine.gate.admit(Seat(TOKEN, rank))
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(ready.set,))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mochi.mofka.module.MofkaModule.restore", lambda module, server: None)
            thread.start()
            assert ready.wait(20)
        ranked = Ranked(server, rank, self.view)
        self._running[rank] = (server, thread)
        self.ranked[rank] = ranked
        for other in self.ranked.values():
            other.view = self.view
        for running, _ in self._running.values():
            for address in self.view.ranks:
                running._client.set_token(address, TOKEN)
        return ranked

    def restart(self, *ranks: int) -> None:
        """Stop servers, and have each taken back what is its own, the last one first."""
        for rank in ranks:
            self.stop(rank)
        started = [self.start(rank, moved=True) for rank in ranks]
        for ranked in started[::-1]:
            Restoration(ranked, _unopened_of(ranked), ranked.topics.topics).run()

    def stop(self, rank: int) -> None:
        server, thread = self._running.pop(rank)
        server.finalize()
        thread.join(20)
        assert not thread.is_alive()

    def driver(self, **options: Any) -> Driver:
        options = {"group_file": str(self.group_file), "timeout_ms": 10000, **options}
        return Driver(backend="mofka", options=options)

    def close(self) -> None:
        for rank in list(self._running):
            self.stop(rank)


def _unopened_of(ranked: Ranked) -> Any:
    return ranked.server._modules["mofka"]._unopened  # type: ignore[attr-defined]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TwoServers]:
    service = TwoServers(tmp_path)
    service.start(0)
    service.start(1)
    yield service
    service.close()


def on_disk(service: TwoServers, partitions: int) -> dict[str, Any]:
    section = {"path": str(service.directory / "data")}
    return {"num_partitions": partitions, "config": {"type": "default", "partition": section}}


def directories(service: TwoServers) -> list[str]:
    return sorted(path.name for path in (service.directory / "data").glob("*"))


@pytest.mark.parametrize("restarted", [(0,), (1,), (0, 1)])
def test_each_server_takes_back_the_partitions_of_its_ordinal(
    service: TwoServers, restarted: tuple[int, ...]
) -> None:
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 4))
        before = driver.list_topics()["topic"]["partitions"]
        with driver.open_topic("topic").producer() as producer:
            for index in range(4):
                producer.push({"partition": index}, partition=index).wait(10000)
    ranks = [service.view.ranks[partition["address"]] for partition in before]
    assert sorted(ranks) == [0, 0, 1, 1]
    service.restart(*restarted)
    with service.driver() as driver:
        after = driver.list_topics()["topic"]["partitions"]
        assert [partition["uuid"] for partition in after] == [partition["uuid"] for partition in before]
        assert [service.view.ranks[partition["address"]] for partition in after] == ranks
        topic = driver.open_topic("topic")
        for index in range(4):
            with topic.consumer("c", targets=[index]) as consumer:
                event = consumer.pull().wait(10000)
                assert event is not None
                assert event.metadata == {"partition": index}


@pytest.mark.parametrize("verb", ["names", "load", "update"])
def test_a_server_goes_on_when_that_of_the_master_database_goes_away_meanwhile(
    service: TwoServers, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 4))
    losses = [ConnectionLost("the server has gone"), AddressError("nobody answers")]
    method = getattr(Registry, verb)

    def interrupted(registry: Registry, *args: Any) -> Any:
        if losses:
            raise losses.pop()
        return method(registry, *args)

    monkeypatch.setattr(Registry, verb, interrupted)
    service.restart(1)
    assert losses == []
    with service.driver() as driver, driver.open_topic("topic").producer() as producer:
        assert [producer.push({}, partition=index).wait(10000) for index in range(4)] == [0] * 4


def test_a_topic_is_deleted_while_a_server_is_down_which_removes_its_files_when_it_comes_back(
    service: TwoServers, caplog: pytest.LogCaptureFixture
) -> None:
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 2))
        ranks = {
            f"topic-{partition['uuid']}": service.view.ranks[partition["address"]]
            for partition in driver.list_topics()["topic"]["partitions"]
        }
        service.stop(1)
        driver.delete_topic("topic")
        assert "is removed when that server starts again" in caplog.text
        assert driver.list_topics() == {}
        assert [ranks[name] for name in directories(service)] == [1]
        with pytest.raises(DiasporaError, match="interrupted"):
            driver.create_topic("topic", options=on_disk(service, 1))
    service.start(1)
    service.restart(1)
    assert directories(service) == []
    with service.driver() as driver:
        with pytest.raises(TopicNotFound):
            driver.delete_topic("topic")
        driver.create_topic("topic", options=on_disk(service, 1))


def test_the_server_of_the_master_database_clears_away_what_others_hold_of_an_interrupted_creation(
    service: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.driver() as driver:
        monkeypatch.setattr("mochi.mofka.topics.Topics._take_back", lambda *arguments: None)
        monkeypatch.setattr("mochi.mofka.registry.Registry.publish", _fail)
        with pytest.raises(DiasporaError, match="the server is gone"):
            driver.create_topic("topic", options=on_disk(service, 2))
    monkeypatch.undo()
    assert len(directories(service)) == 2
    service.restart(0)
    assert directories(service) == []
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 2))


def _fail(*arguments: Any) -> None:
    raise MargoError("the server is gone")


def test_an_attached_directory_with_events_outlives_a_creation_that_fails(service: TwoServers) -> None:
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 1))
        topic = driver.open_topic("topic")
        with topic.producer() as producer:
            producer.push({"n": 1}).wait(10000)
        uuid = topic.partitions[0]["uuid"]
        kept = service.directory / "kept"
        (service.directory / "data" / f"topic-{uuid}").rename(kept)
        driver.delete_topic("topic")
        kept.rename(service.directory / "data" / f"topic-{uuid}")
        attached = on_disk(service, 1)
        attached["config"]["uuid"] = uuid
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mochi.mofka.registry.Registry.publish", _fail)
            with pytest.raises(DiasporaError, match="the server is gone"):
                driver.create_topic("topic", options=attached)
        assert directories(service) == [f"topic-{uuid}"]
        driver.create_topic("topic", options=attached)
        with driver.open_topic("topic").consumer("c") as consumer:
            event = consumer.pull().wait(10000)
            assert event is not None
            assert event.metadata == {"n": 1}


def test_a_server_that_cannot_know_its_partitions_says_so_after_the_time_out(service: TwoServers) -> None:
    ranked = service.ranked[1]
    service.stop(0)
    began = time.monotonic()
    with pytest.raises(MargoError, match="master database, which knows the partitions of this server"):
        Restoration(ranked, {}, ranked.topics.topics).run()
    assert time.monotonic() - began >= 0.2


def test_a_service_without_a_master_database_restores_nothing_at_once(tmp_path: Path) -> None:
    service = TwoServers(tmp_path)
    try:
        ranked = service.start(1)
        ranked.view = GroupView((Member(ranked.address, 1),))
        ranked.dependency_resolution_timeout = 1000
        Restoration(ranked, {}, ranked.topics.topics).run()
    finally:
        service.close()


class Mortal:
    """Lets the changes of topics end as with their process, at the n-th of their calls of a server or the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadly: int, after: bool) -> None:
        self.calls = 0
        self._deadly = deadly
        self._after = after
        for target in (
            "mochi.mofka.topics.Topics._start",
            "mochi.mofka.deletion.Removal.remove",
            *(f"mochi.mofka.registry.Registry.{name}" for name in self._CHANGES),
        ):
            self._patch(monkeypatch, target)
        monkeypatch.setattr("mochi.mofka.topics.Topics._take_back", lambda *arguments: None)

    _CHANGES = (
        "reserve",
        "publish",
        "begin_adding",
        "add_partition",
        "end_adding",
        "update",
        "withdraw",
        "forget",
    )

    def _patch(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        module, kind, name = target.rsplit(".", 2)
        function = getattr(getattr(sys.modules[module], kind), name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls > self._deadly or (self.calls == self._deadly and not self._after):
                raise MargoError("this server is dead")
            result = function(*arguments, **options)
            if self.calls == self._deadly:
                raise MargoError("this server dies")
            return result

        monkeypatch.setattr(target, call)


def serving(service: TwoServers) -> list[str]:
    """Return the uuids of the partitions that are served, by both servers."""
    return sorted(
        provider["config"]["uuid"]
        for ranked in service.ranked.values()
        for provider in ranked.config()["providers"]
        if provider["type"] == "mofka"
    )


def check_agreement(service: TwoServers, driver: Driver) -> list[str]:
    """Check that topics, directories and providers are the same; return the names of the topics."""
    topics = driver.list_topics()
    partitions = [
        (name, partition["uuid"]) for name, topic in topics.items() for partition in topic["partitions"]
    ]
    assert directories(service) == sorted(f"{name}-{uuid}" for name, uuid in partitions)
    assert serving(service) == sorted(uuid for _, uuid in partitions)
    for name in topics:
        with driver.open_topic(name).producer() as producer:
            for index in range(len(topics[name]["partitions"])):
                producer.push({}, partition=index).wait(10000)
    return sorted(topics)


CHANGES: dict[str, Callable[[TwoServers, Driver], None]] = {
    "create": lambda service, driver: driver.create_topic("topic", options=on_disk(service, 3)),
    "delete": lambda service, driver: driver.delete_topic("before"),
    "extend": lambda service, driver: cast(MofkaDriver, driver).add_default_partition(
        "before",
        list(service.view.ranks.values()).index(1),
        partition_config={"path": str(service.directory / "data")},
    ),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_wherever_the_server_of_the_master_database_dies_in_a_change_all_agree_once_it_is_back(
    tmp_path: Path, change: str, after: bool
) -> None:
    for deadly in count(1):
        (tmp_path / str(deadly)).mkdir()
        service = TwoServers(tmp_path / str(deadly))
        try:
            service.start(0)
            service.start(1)
            with service.driver() as driver:
                driver.create_topic("before", options=on_disk(service, 2))
                with pytest.MonkeyPatch.context() as patch:
                    mortal = Mortal(patch, deadly, after)
                    with suppress(DiasporaError):
                        CHANGES[change](service, driver)
                service.restart(0)
            with service.driver() as driver:
                topics = check_agreement(service, driver)
                assert set(topics) - {"topic"} == ({"before"} if "before" in topics else set())
                with suppress(DiasporaError):
                    CHANGES[change](service, driver)
                again = check_agreement(service, driver)
                assert (
                    again
                    == {
                        "create": ["before", "topic"],
                        "delete": [],
                        "extend": ["before"],
                    }[change]
                )
        finally:
            service.close()
        if mortal.calls < deadly:
            assert deadly > 4
            return


@pytest.mark.parametrize("change", ["create", "extend"])
def test_a_server_that_dies_while_it_is_given_a_partition_has_what_the_others_know_once_it_is_back(
    service: TwoServers, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Topics._start
    deaths: list[Any] = []

    def dying(topics: Topics, topic: str, partition: PartitionRecord, providers: Any) -> PartitionRecord:
        started = start(topics, topic, partition, providers)
        if partition.rank == 1 and not deaths:
            deaths.append(partition)
            service.stop(1)
        return started

    with service.driver() as driver:
        driver.create_topic("before", options=on_disk(service, 2))
        monkeypatch.setattr(Topics, "_start", dying)
        with suppress(DiasporaError):
            CHANGES[change](service, driver)
    assert deaths
    service.start(1)
    service.restart(1)
    with service.driver() as driver:
        topics = check_agreement(service, driver)
        if "topic" not in topics:
            driver.create_topic("topic", options=on_disk(service, 2))
        assert check_agreement(service, driver) == ["before", "topic"]


def test_whoever_asks_for_a_name_that_is_being_changed_waits_at_most_its_own_time(
    service: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    publish = Registry.publish

    def slow(registry: Registry, topic: str, descriptions: Any) -> None:
        if topic == "topic":
            begun.set()
            assert go_on.wait(30)
        publish(registry, topic, descriptions)

    monkeypatch.setattr(Registry, "publish", slow)
    outcomes: dict[str, Any] = {}

    def attempt(name: str, call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                outcomes[name] = call()
            except DiasporaError as error:
                outcomes[name] = type(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with service.driver() as driver, service.driver() as other, service.driver(timeout_ms=300) as hasty:
        making = attempt("making", lambda: driver.create_topic("topic", options=on_disk(service, 2)))
        assert begun.wait(10)
        waiting = [
            attempt("second", lambda: other.create_topic("topic", options=on_disk(service, 1))),
            attempt("hasty", lambda: hasty.create_topic("topic")),
            attempt("hasty deletion", lambda: hasty.delete_topic("topic")),
        ]
        for thread in waiting[1:]:
            thread.join(20)
        assert outcomes == {"hasty": TimeoutExpired, "hasty deletion": TimeoutExpired}
        assert not driver.topic_exists("topic")
        other.create_topic("elsewhere")
        go_on.set()
        for thread in (making, *waiting):
            thread.join(20)
        assert outcomes["making"] is None
        assert outcomes["second"] is TopicExists
        assert check_agreement(service, driver) == ["elsewhere", "topic"]


def test_a_topic_whose_creation_fails_is_made_by_whoever_waited(
    service: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, failures = Registry.publish, iter([MargoError("the disk is full")])

    def fail_once(*arguments: Any) -> None:
        for failure in failures:
            raise failure
        publish(*arguments)

    monkeypatch.setattr(Registry, "publish", fail_once)
    with service.driver() as driver, service.driver() as other, ThreadPoolExecutor(2) as threads:
        made = [
            threads.submit(each.create_topic, "topic", options=on_disk(service, 2))
            for each in (driver, other)
        ]
        errors = [future.exception() for future in made]
        assert sorted(error is None for error in errors) == [False, True]
        assert check_agreement(service, driver) == ["topic"]


def test_names_that_cannot_be_directories_are_refused_when_a_topic_is_made(service: TwoServers) -> None:
    with service.driver() as driver:
        for name in ("y" * 218, "\u00e9" * 109):
            driver.create_topic(name, options=on_disk(service, 1))
            driver.delete_topic(name)
        driver.create_topic("y" * 219)
        with pytest.raises(ConfigError, match=r"219 bytes.*at most 218"):
            cast(MofkaDriver, driver).add_default_partition("y" * 219, 0, partition_config={"path": "/data"})
        for name in ("y" * 220, "\u00e9" * 110, ".deleted"):
            with pytest.raises(ConfigError, match=r"^topic name: "):
                driver.create_topic(name, options=on_disk(service, 1))
        assert directories(service) == []
        assert sorted(driver.list_topics()) == ["y" * 219]


def test_a_bad_record_costs_its_topic_and_not_the_start(
    service: TwoServers, caplog: pytest.LogCaptureFixture
) -> None:
    with service.driver() as driver:
        for name in ("good", "bad", "path"):
            driver.create_topic(name, options=on_disk(service, 2))
        topics = service.ranked[0].topics.topics()
        assert topics is not None
        database = topics.database.database
        database.put(b"MOFKA:GLOBAL:bad:validator", b"\xff{")
        database.put(b"MOFKA:GLOBAL:\xff:validator", b"{}")
        record = PartitionRecord("na+sm://a", 7, str(uuid4()), 0, "default", {"path": 7})
        odd = PartitionRecord("na+sm://a", 7, "../odd", 1, "default", {"path": str(service.directory)})
        documents = [msgspec.json.encode(each) for each in (record, odd)]
        database.doc_store(b"MOFKA:GLOBAL:path:partitions", documents)
    service.restart(0, 1)
    assert "topic 'bad': its record in the master database cannot be read: validator: " in caplog.text
    assert "a name that is no text: \\xff" in caplog.text
    assert "config.partition.path: must be a path, found 7" in caplog.text
    with service.driver() as driver:
        listed = driver.list_topics()
        assert sorted(listed) == ["\\xff", "bad", "good", "path"]
        assert listed["\\xff"]["error"] == "the name is no text"
        assert listed["bad"]["error"].startswith("validator: ")
        with pytest.raises(DiasporaError, match="record in the master database cannot be read"):
            driver.open_topic("bad")
        for name, index in (("good", 0), ("good", 1), ("path", 0), ("path", 1)):
            with driver.open_topic(name).producer() as producer:
                assert producer.push({}, partition=index).wait(10000) == 0
        driver.delete_topic("bad")
        driver.delete_topic("path")
        driver.delete_topic("good")
        assert directories(service) == []
        assert list(driver.list_topics()) == ["\\xff"]
        driver.create_topic("path", options=on_disk(service, 1))


def test_what_could_not_be_cleared_away_goes_with_the_next_change_or_after_a_while(
    service: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mochi.mofka.topics.RETRY_INTERVAL", 0.2)
    remove = Removal.remove
    refusing: list[str] = []

    def refuse(removal: Removal, topic: str, partition: PartitionRecord) -> bool:
        if refusing:
            refusing.append(topic)
            removal.left[partition.uuid] = MargoError("not now")
            return False
        return remove(removal, topic, partition)

    monkeypatch.setattr(Removal, "remove", refuse)
    with service.driver() as driver:
        for waits in (False, True):
            driver.create_topic("topic", options=on_disk(service, 2))
            refusing.append("from now on")
            driver.delete_topic("topic")
            assert len(directories(service)) == 2
            with pytest.raises(DiasporaError, match="interrupted"):
                driver.create_topic("topic")
            while waits and refusing.count("topic") < 7:
                time.sleep(0.01)
            refusing.clear()
            if not waits:
                driver.create_topic("other")
            deadline = time.monotonic() + 20
            while (directories(service) or serving(service)) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert directories(service) == []
            assert serving(service) == []
