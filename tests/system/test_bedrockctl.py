"""Servers looked at and changed by bedrockctl."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mochi.bedrock.cli import FAILURE
from mochi.mofka.testing import BIN, Service, configuration
from tests.system.real_service import Machine, spread


def run(
    service: Service, arguments: str, code: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [BIN / "bedrockctl", *arguments.split()],
        cwd=service.directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def test_servers_are_changed_side_by_side(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "na+sm")
    line = run(service, "activate flock://mofka.json").stdout.strip()
    name, _, connection = line.removeprefix("export ").partition("=")
    assert Path(connection.removeprefix("flock://")) == service.group_file
    active = {name: connection}

    def each(text: str) -> list[str]:
        return [f"{member['address']} {text}" for member in service.members()]

    def lines(arguments: str) -> list[str]:
        return sorted(run(service, arguments, environment=active).stdout.splitlines())

    assert lines("status") == sorted(each("is running"))
    assert run(service, "pool create work --kind prio_wait", environment=active).stdout == ""
    assert lines("pool list") == sorted([*each("__primary__ fifo_wait mpmc"), *each("work prio_wait mpmc")])
    run(service, "xstream create worker --pool work", environment=active)
    assert set(each("worker basic_wait work")) <= set(lines("xstream list"))
    run(service, "module load libwarabi-bedrock-module.so", environment=active)
    assert set(each("libwarabi-bedrock-module.so")) <= set(lines("module list"))
    run(service, "provider create blobs warabi -i 9 -d pool=work -t mofka:data -C {}", environment=active)
    assert set(each("blobs warabi:9")) <= set(lines("provider list"))
    done = run(service, "pool remove work", FAILURE, active)
    assert "needed by" in done.stderr or "provider blobs" in done.stderr
    shown = json.loads(run(service, "-r 1 show", environment=active).stdout)
    assert list(shown) == [service.members()[1]["address"]]
    assert shown[service.members()[1]["address"]]["providers"][-1]["tags"] == ["mofka:data"]
    run(service, "-r 0 provider remove blobs", environment=active)
    assert len([line for line in lines("provider list") if "blobs" in line]) == 1
    run(service, "provider remove blobs", FAILURE, active)
    run(service, "xstream remove worker", environment=active)
    run(service, "pool remove work", environment=active)
    assert lines("pool list") == sorted(each("__primary__ fifo_wait mpmc"))


def test_what_is_wrong_is_told(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "na+sm")
    assert "bedrockctl activate" in run(service, "status", FAILURE).stderr
    assert "no such file" in run(service, "activate flock://other.json", FAILURE).stderr
    assert "na+sm" in run(service, "activate na+sn://x", FAILURE).stderr
    assert "ranks 0 to 1" in run(service, "-c flock://mofka.json -r 2 status", FAILURE).stderr
    assert "not JSON" in run(service, "-c flock://mofka.json provider create a yokan -C {", 2).stderr
    os.kill(service.pids[1], signal.SIGKILL)
    done = run(service, "-c flock://mofka.json status", FAILURE)
    assert len(done.stdout.splitlines()) == 1
    assert "1 of 2 servers" in done.stderr


def test_one_server_without_a_group_is_named_by_its_address(machine: Machine) -> None:
    settings = configuration()
    del settings["providers"][0]
    server = machine.serve(settings)
    done = subprocess.run(
        [BIN / "bedrockctl", "-c", server.address, "status"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{server.address} is running\n"
