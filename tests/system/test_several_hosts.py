"""Servers and clients on hosts with addresses of their own, made of network namespaces: cut off, delayed, rejoined."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mochi.mofka.testing import BIN, READY, Process, configuration
from tests.system.real_service import WORKER, Machine

_numbers = itertools.count()

WATCHING: dict[str, dict[str, Any]] = {
    "centralized": {"ping_timeout_ms": 500, "ping_interval_ms": 100},
    "swim": {
        "protocol_period_ms": 100,
        "ping_timeout_ms": 300,
        "ping_req_timeout_ms": 300,
        "suspicion_timeout_ms": 500,
    },
}
"""How members watch each other, by the type of their group."""


def is_done(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Hosts:
    """Hosts on one switch, ``10.77.0.1`` and so on."""

    def __init__(self, count: int) -> None:
        self._name = f"mofka{os.getpid()}-{next(_numbers)}"
        self.switch = f"{self._name}-switch"
        if shutil.which("ip") is None or not is_done("ip", "netns", "add", self.switch):
            pytest.skip("network namespaces cannot be made here")
        self._made = [self.switch]
        self._in(self.switch, "ip link add bridge type bridge")
        self._in(self.switch, "ip link set bridge up")
        self.names: list[str] = []
        for number in range(count):
            self._add(number)

    def _in(self, host: str, command: str) -> None:
        subprocess.run(["ip", "netns", "exec", host, *command.split()], check=True, capture_output=True)

    def _add(self, number: int) -> None:
        name = f"{self._name}-{number}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._made.append(name)
        self.names.append(name)
        self._in(self.switch, f"ip link add port{number} type veth peer name eth0 netns {name}")
        self._in(self.switch, f"ip link set port{number} master bridge up")
        for command in ("lo up", "eth0 up"):
            self._in(name, f"ip link set {command}")
        self._in(name, f"ip addr add {self.address(number)}/24 dev eth0")

    def address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def command(self, number: int, *command: str | Path) -> list[str]:
        """Return a command as it is run on a host."""
        return ["ip", "netns", "exec", self.names[number], *map(str, command)]

    def cut(self, number: int) -> None:
        """Let nothing through to or from a host; nobody is told."""
        self._in(self.switch, f"ip link set port{number} down")

    def rejoin(self, number: int) -> None:
        self._in(self.switch, f"ip link set port{number} up")

    def delay(self, number: int, milliseconds: int) -> None:
        command = f"tc qdisc add dev port{number} root netem delay {milliseconds}ms"
        if not is_done("ip", "netns", "exec", self.switch, *command.split()):
            pytest.skip("this kernel cannot delay packets (tc netem)")

    def close(self) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    hosts = Hosts(3)
    yield hosts
    hosts.close()


class Cluster:
    """Servers on the first two hosts, and workers on the third."""

    def __init__(self, machine: Machine, hosts: Hosts) -> None:
        self._machine = machine
        self._hosts = hosts
        self.group_file = machine.directory / "mofka.json"
        members = [
            {"address": f"tcp://{hosts.address(number)}:4000", "provider_id": 1, "rank": number}
            for number in range(2)
        ]
        self.group_file.write_text(json.dumps({"members": members}))
        self.group_file.chmod(0o600)
        self.servers = [self._serve(number) for number in range(2)]

    def _serve(self, number: int) -> Process:
        settings = configuration()
        settings["providers"][0]["config"]["bootstrap"] = "file"
        if number:
            del settings["providers"][1]
        path = self._machine.directory / f"config-{number}.json"
        path.write_text(json.dumps(settings))
        address = f"tcp://{self._hosts.address(number)}:4000"
        server = self._machine.start(*self._hosts.command(number, BIN / "bedrock", address, "-c", path))
        assert server.expect(READY)[1] == f"ofi+{address}"
        return server

    def create_topic(self) -> None:
        section = {"path": str(self._machine.directory / "data")}
        command = f"{BIN / 'diaspora-ctl'} topic create --driver mofka --driver.group_file {self.group_file}"
        flags = (
            "--name topic --topic.num_partitions 2 --topic.config.type default --topic.config.partition.path"
        )
        done = subprocess.run(
            self._hosts.command(2, *command.split(), *flags.split(), section["path"]),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr

    def worker(self, *arguments: object) -> Process:
        command = (sys.executable, str(WORKER), str(self.group_file), *map(str, arguments))
        return self._machine.start(*self._hosts.command(2, *command))


def watched_by_three(machine: Machine, hosts: Hosts, kind: str) -> list[Process]:
    """Start a server on each of three hosts; they watch each other, and share the group file."""
    path = machine.directory / "mofka.json"
    members = [
        {"address": f"tcp://{hosts.address(number)}:4000", "provider_id": 1, "rank": number}
        for number in range(3)
    ]
    path.write_text(json.dumps({"members": members, "metadata": {"__token__": "abcd"}}))
    path.chmod(0o600)
    settings = configuration()
    settings["providers"][0]["config"] |= {
        "bootstrap": "file",
        "group": {"type": kind, "config": WATCHING[kind]},
    }
    del settings["providers"][1:], settings["libraries"][1:]
    (machine.directory / "config.json").write_text(json.dumps(settings))
    servers = []
    for number in range(3):
        address = f"tcp://{hosts.address(number)}:4000"
        servers.append(machine.start(*hosts.command(number, BIN / "bedrock", address, "-c", "config.json")))
        servers[-1].expect(READY)
    return servers


def states(machine: Machine, hosts: Hosts, number: int) -> dict[str, Any]:
    """Return what a server says of the others, asked on its host."""
    path = machine.directory / "mofka.json"
    command = (BIN / "bedrock-query", "tcp", "-f", path, "--rank", str(number))
    done = subprocess.run(
        hosts.command(number, *command), capture_output=True, text=True, check=True, timeout=30
    )
    (shown,) = json.loads(done.stdout).values()
    state: dict[str, Any] = shown["providers"][0]["config"]["state"]
    return state


def eventually(ask: Callable[[], Any], expected: Any) -> None:
    deadline = time.monotonic() + 60
    while (found := ask()) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def written(machine: Machine) -> dict[int, str]:
    members = json.loads((machine.directory / "mofka.json").read_text())["members"]
    return {member["rank"]: member["state"] for member in members if "state" in member}


@pytest.mark.parametrize("kind", WATCHING)
def test_two_sides_of_a_network_do_not_write_both_and_agree_when_it_is_whole_again(
    machine: Machine, hosts: Hosts, kind: str
) -> None:
    servers = watched_by_three(machine, hosts, kind)
    hosts.cut(2)
    servers[2].expect("the view of the group is frozen: ")
    eventually(lambda: written(machine), {2: "dead"})
    for number in range(2):
        eventually(lambda n=number: states(machine, hosts, n)["members"]["2"], "dead")
    alone = {"0": "dead", "1": "dead"} if kind == "swim" else {"0": "alive", "1": "alive"}
    eventually(lambda: states(machine, hosts, 2)["members"], alone)
    assert written(machine) == {2: "dead"}
    hosts.rejoin(2)
    servers[2].expect("the view of the group is not frozen any more")
    eventually(lambda: written(machine), {})
    for number in range(3):
        others = {str(other): "alive" for other in range(3) if other != number}
        eventually(lambda n=number: states(machine, hosts, n), {"members": others})


def summary(consumer: Process) -> Any:
    assert consumer.end(60) == 0, consumer.output
    return json.loads(consumer.lines[-1])


def test_a_host_that_was_cut_off_rejoins_and_nothing_is_lost_or_doubled(
    machine: Machine, hosts: Hosts
) -> None:
    cluster = Cluster(machine, hosts)
    cluster.create_topic()
    producer = cluster.worker("produce", "topic", "p", 600)
    consumer = cluster.worker("consume", "topic", "c", 1200)
    producer.expect("^stored 1 99")
    hosts.cut(1)
    time.sleep(2)  # as long as it is away
    assert not any(line == "done" for line in producer.lines)
    hosts.rejoin(1)
    producer.expect("^done", timeout=60)
    assert summary(consumer) == {"dense": True, "numbers": {"p/0": 600, "p/1": 600}, "wrong": []}


def test_hosts_that_are_far_away_are_served_all_the_same(machine: Machine, hosts: Hosts) -> None:
    hosts.delay(2, 50)
    cluster = Cluster(machine, hosts)
    cluster.create_topic()
    producer = cluster.worker("produce", "topic", "p", 200)
    consumer = cluster.worker("consume", "topic", "c", 400)
    producer.expect("^done", timeout=60)
    assert summary(consumer) == {"dense": True, "numbers": {"p/0": 200, "p/1": 200}, "wrong": []}
