"""Servers, drivers and topics for the tests of the client; every server is a real process."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diaspora_stream.api import TopicHandle
from tests.client.client_server import Server


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


FORKS_BESIDE_THREADS = "ignore:This process:DeprecationWarning"
"""From Python 3.12 on a fork beside threads is warned of; this client is made for it."""

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
            [
                *(sys.executable, "-W", FORKS_BESIDE_THREADS, "-c", PRELUDE + textwrap.dedent(program)),
                *(str(server.group_file), topic.name),
            ],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
