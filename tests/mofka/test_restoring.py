"""Servers of one group that are started again, each with the partitions of its ordinal; all in this process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import DiasporaError, TopicNotFound
from mochi.bedrock import config as bedrock_config
from mochi.bedrock.server import Server
from mochi.flock import group_file
from mochi.flock.group_file import GroupView, Member
from mochi.margo.errors import MargoError
from mochi.margo.gate import Gate
from mochi.margo.handshake import Seat
from mochi.mofka.restoring import Restoration

TOKEN = b"t" * 32


class Ranked:
    """A server as the module sees it, with an ordinal and a view of its group that the test gives it."""

    def __init__(self, server: Server, rank: int, view: GroupView) -> None:
        self.server = server
        self.rank = rank
        self.view = view
        self.address = server.address
        self.dependency_resolution_timeout: float | None = 0.2
        self.speaks = True
        self.rest = server.rest
        self.config = server.config
        self.start_provider = server.start_provider

    def provider(self, name: str) -> Any:
        return SimpleNamespace(view=self.view) if name == "group" else self.server.provider(name)


class TwoServers:
    """A service of two servers, of which the first has the master database on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.group_file = directory / "mofka.json"
        self._ids = [uuid4().hex, uuid4().hex]
        self._running: dict[int, tuple[Server, threading.Thread]] = {}

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
        server = Server(bedrock_config.parse(settings), f"na+sm://{self._ids[rank]}")
        server.engine.gate = Gate()  # of the service that the view describes
        server.engine.gate.admit(Seat(TOKEN, rank))
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(ready.set,))
        ranked = Ranked(server, rank, self.view)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mochi.mofka.module.Restoration.run", lambda restoration: None)
            thread.start()
            assert ready.wait(20)
        self._running[rank] = (server, thread)
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
            ranked.view = self.view
            Restoration(ranked, _unopened_of(ranked)).run()

    def stop(self, rank: int) -> None:
        server, thread = self._running.pop(rank)
        server.finalize()
        thread.join(20)
        assert not thread.is_alive()

    def driver(self) -> Driver:
        return Driver(backend="mofka", options={"group_file": str(self.group_file), "timeout_ms": 10000})

    def close(self) -> None:
        for rank in list(self._running):
            self.stop(rank)


def _unopened_of(ranked: Ranked) -> Any:
    return ranked.server._modules["mofka"]._unopened


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
        monkeypatch.setattr(driver, "_roll_back", lambda *arguments: None)
        monkeypatch.setattr("mochi.mofka.registry.Registry.publish", _fail)
        with pytest.raises(DiasporaError, match="the client is gone"):
            driver.create_topic("topic", options=on_disk(service, 2))
    monkeypatch.undo()
    assert len(directories(service)) == 2
    service.restart(0)
    assert directories(service) == []
    with service.driver() as driver:
        driver.create_topic("topic", options=on_disk(service, 2))


def _fail(*arguments: Any) -> None:
    raise DiasporaError("the client is gone")


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
            with pytest.raises(DiasporaError, match="the client is gone"):
                driver.create_topic("topic", options=attached)
        assert directories(service) == [f"topic-{uuid}"]
        driver.create_topic("topic", options=attached)
        with driver.open_topic("topic").consumer("c") as consumer:
            event = consumer.pull().wait(10000)
            assert event is not None
            assert event.metadata == {"n": 1}


def test_a_server_that_cannot_know_its_partitions_says_so_after_the_time_out(service: TwoServers) -> None:
    ranked = Ranked(service._running[1][0], 1, service.view)
    service.stop(0)
    began = time.monotonic()
    with pytest.raises(MargoError, match="master database, which knows the partitions of this server"):
        Restoration(ranked, {}).run()
    assert time.monotonic() - began >= 0.2


def test_a_service_without_a_master_database_restores_nothing_at_once(tmp_path: Path) -> None:
    service = TwoServers(tmp_path)
    try:
        ranked = service.start(1)
        ranked.view = GroupView((Member(ranked.address, 1),))
        ranked.dependency_resolution_timeout = 1000
        Restoration(ranked, {}).run()
    finally:
        service.close()
