"""Groups that watch their members: servers that are killed, stopped, started again, and clients that go on."""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from mochi.flock import group_file
from mochi.flock.client import talking_to
from mochi.flock.group_file import GroupView
from mochi.mofka.testing import BIN, Service
from tests.system.real_service import Machine, spread

CENTRALIZED = {"ping_timeout_ms": 500, "ping_interval_ms": [100, 200.0], "ping_max_num_timeouts": 3}
SWIM = {
    "protocol_period_ms": 100,
    "ping_timeout_ms": 300.0,
    "ping_req_timeout_ms": 300,
    "ping_req_members": 2,
    "suspicion_timeout_ms": 500,
}
TYPES = {"centralized": CENTRALIZED, "swim": SWIM}
watched = pytest.mark.parametrize("kind", TYPES)


def settings(kind: str) -> str:
    return json.dumps(spread(group={"type": kind, "config": TYPES[kind]}))


def eventually(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def written(service: Service) -> dict[int, str]:
    """Return who is suspect or dead by the group file."""
    return {member["rank"]: member["state"] for member in service.members() if "state" in member}


def told(service: Service, rank: int) -> GroupView:
    """Return the view of a member."""
    view = group_file.read(service.group_file)
    member = next(member for member in view.members if member.rank == rank)
    with talking_to(view, 10) as client:
        return client.view(member.address, member.provider_id)


def states(view: GroupView) -> dict[int | None, str]:
    return {member.rank: member.state for member in view.members if member.state is not None}


def all_hold(service: Service, ranks: list[int], expected: dict[int, str]) -> None:
    """Wait until the file and the views of some members say the same."""
    eventually(lambda: written(service) == expected, lambda: (written(service), service.output))
    for rank in ranks:
        eventually(lambda rank=rank: states(told(service, rank)) == expected, lambda: service.output)


def shown(machine: Machine, service: Service, rank: int) -> dict[str, Any]:
    """Return the configuration of a member's flock provider, as a query shows it."""
    answer = service.run(f"bedrock-query tcp -f mofka.json --rank {rank}")
    (server,) = json.loads(answer.stdout).values()
    return next(dict(each["config"]) for each in server["providers"] if each["type"] == "flock")


@watched
def test_a_member_that_is_killed_is_dead_to_all_and_is_back_when_it_is_started_again(
    machine: Machine, kind: str
) -> None:
    service = machine.servers(3, settings(kind), "tcp://127.0.0.1")
    assert written(service) == {}
    driver = machine.driver(service)
    driver.create_topic("t", options={"num_partitions": 3})
    topic = driver.open_topic("t")
    victim = service.members()[1]["address"]
    reached = [number for number, each in enumerate(topic.partitions) if each["address"] != victim]
    assert len(reached) == 2
    producer = topic.producer()
    os.kill(service.pids[1], signal.SIGKILL)
    for number in range(20):
        producer.push({"number": number}, partition=reached[number % 2])
    producer.flush().wait(10000)
    all_hold(service, [0, 2], {1: "dead"})
    service.expect("flock: rank 1 at .* is dead")
    state = shown(machine, service, 0)["state"]
    assert state["members"] == {"1": "dead", "2": "alive"}
    assert machine.driver(service).topic_exists("t")
    again = machine.again(service, 1, "tcp://127.0.0.1")
    all_hold(service, [0, 1, 2], {})
    assert service.members()[1]["address"] == again.address
    with driver.open_topic("t").consumer("c", targets=reached) as consumer:
        events = [consumer.pull().wait(10000) for _ in range(20)]
    assert sorted(event.metadata["number"] for event in events if event is not None) == list(range(20))


@watched
def test_a_member_that_is_stopped_is_dead_until_it_goes_on(machine: Machine, kind: str) -> None:
    service = machine.servers(3, settings(kind), "na+sm")
    os.kill(service.pids[2], signal.SIGSTOP)
    all_hold(service, [0, 1], {2: "dead"})
    os.kill(service.pids[2], signal.SIGCONT)
    all_hold(service, [0, 1, 2], {})
    service.signal(signal.SIGINT)
    assert service.end() == 0
    assert not service.group_file.exists()


def test_without_its_primary_a_group_is_frozen_and_says_so(machine: Machine) -> None:
    service = machine.servers(3, settings("centralized"), "tcp://127.0.0.1")
    metadata = group_file.read(service.group_file).metadata
    primary = {"primary_address": service.members()[0]["address"], "primary_provider_id": 1}
    assert json.loads(metadata["__config__"]) == {**CENTRALIZED, **primary}
    os.kill(service.pids[0], signal.SIGSTOP)
    os.kill(service.pids[1], signal.SIGKILL)
    before = service.group_file.read_bytes()
    service.expect("flock: the view of the group is frozen: the primary, rank 0, has not pinged")
    assert "the primary, rank 0" in told(service, 2).metadata["__frozen__"]
    configured = shown(machine, service, 2)
    assert "the primary, rank 0" in configured["state"]["frozen"]
    assert service.group_file.read_bytes() == before
    joining = spread(bootstrap="join", group={"type": "centralized"}, file=str(service.group_file))
    (machine.directory / "config.json").write_text(json.dumps(joining))
    newcomer = machine.start(BIN / "bedrock", "tcp://127.0.0.1", "-c", "config.json")
    newcomer.expect("the primary, rank 0, does not answer; without it nobody joins the group")
    os.kill(service.pids[0], signal.SIGCONT)
    all_hold(service, [0, 2], {1: "dead"})
    service.expect("the view of the group is not frozen any more")
    assert "__frozen__" not in told(service, 2).metadata


def test_the_primary_is_where_it_is_after_it_was_started_again(machine: Machine) -> None:
    service = machine.servers(2, settings("centralized"), "tcp://127.0.0.1")
    os.kill(service.pids[0], signal.SIGKILL)
    again = machine.again(service, 0, "tcp://127.0.0.1")
    config = json.loads(group_file.read(service.group_file).metadata["__config__"])
    assert config["primary_address"] == again.address
    os.kill(service.pids[1], signal.SIGKILL)
    all_hold(service, [0], {1: "dead"})


def test_half_of_a_group_of_the_type_swim_writes_nothing_and_says_so(machine: Machine) -> None:
    service = machine.servers(4, settings("swim"), "tcp://127.0.0.1")
    os.kill(service.pids[3], signal.SIGSTOP)
    all_hold(service, [0, 1, 2], {3: "dead"})
    before = service.group_file.read_bytes()
    os.kill(service.pids[2], signal.SIGSTOP)
    service.expect("flock: the view of the group is frozen: 2 of 4 members are within reach", nth=1)
    eventually(lambda: states(told(service, 0)) == {2: "dead", 3: "dead"}, lambda: service.output)
    assert "2 of 4 members" in told(service, 0).metadata["__frozen__"]
    assert "2 of 4 members" in shown(machine, service, 1)["state"]["frozen"]
    assert service.group_file.read_bytes() == before
    for pid in service.pids[2:]:
        os.kill(pid, signal.SIGCONT)
    all_hold(service, [0, 1, 2, 3], {})


@watched
def test_a_member_joins_and_is_watched(machine: Machine, kind: str) -> None:
    service = machine.servers(2, settings(kind), "tcp://127.0.0.1")
    joining = spread(bootstrap="join", group={"type": kind}, file=str(service.group_file))
    joining["providers"] = joining["providers"][:1]
    newcomer = machine.bedrock(json.dumps(joining), "tcp://127.0.0.1", "-c", "config.json", name="other")
    assert [member["rank"] for member in service.members()] == [0, 1, 2]
    newcomer.signal(signal.SIGSTOP)
    all_hold(service, [0, 1], {2: "dead"})
    newcomer.signal(signal.SIGCONT)
    all_hold(service, [0, 1, 2], {})
    newcomer.signal(signal.SIGTERM)
    assert newcomer.end() == 0
    eventually(lambda: service.members()[2].get("ended", False), lambda: newcomer.output)
    all_hold(service, [0, 1], {})
