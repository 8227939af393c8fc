"""Servers, drivers and topics for the tests of the client; every server is a real process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from diaspora_stream.api import Driver, TopicHandle

LIBRARIES = [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "abt-io", "mofka")]
CONFIG = {
    "libraries": LIBRARIES,
    "providers": [
        {
            "name": "group_manager",
            "type": "flock",
            "provider_id": 1,
            "config": {"bootstrap": "self", "file": "mofka.json", "group": {"type": "static"}},
        },
        {
            "name": "master_database",
            "type": "yokan",
            "provider_id": 2,
            "tags": ["mofka:master"],
            "config": {"database": {"type": "map"}},
        },
        {
            "name": "io_controller",
            "type": "abt_io",
            "provider_id": 3,
            "config": {},
            "dependencies": {"pool": "__primary__"},
        },
    ],
}


class Server:
    """A running `bedrock`."""

    def __init__(self, directory: Path, address: str) -> None:
        directory.mkdir(exist_ok=True)
        self.group_file = directory / "mofka.json"
        self.directory = directory
        config = directory / "config.json"
        config.write_text(json.dumps(CONFIG))
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("bedrock"), address, "-c", config],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert any("now running" in line for line in self.process.stdout)

    def driver(self, **options: Any) -> Any:
        return Driver(backend="mofka", options={"group_file": str(self.group_file), **options})

    def topic(self, partitions: int = 1, **options: Any) -> TopicHandle:
        """A new topic, opened through a driver of its own with these options."""
        driver = self.driver(**options)
        name = f"topic_{uuid4().hex}"
        driver.create_topic(name, options={"num_partitions": partitions} if partitions else {})
        return driver.open_topic(name)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that are killed after the test."""
    servers: list[Server] = []

    def start(address: str = "na+sm") -> Server:
        servers.append(Server(tmp_path / f"server{len(servers)}", address))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a module that do it no harm."""
    server = Server(tmp_path_factory.mktemp("server"), "na+sm")
    yield server
    server.kill()


PRELUDE = """
import os, signal, sys, threading, time
from diaspora_stream.api import *
driver = Driver(backend="mofka", options={"group_file": sys.argv[1], "timeout_ms": 5000})
topic = driver.open_topic(sys.argv[2])
"""


@pytest.fixture
def run_program() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a Python program that has `driver` and `topic`."""
    processes: list[subprocess.Popen[str]] = []

    def run(server: Server, topic: TopicHandle, program: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(server.group_file), topic.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
