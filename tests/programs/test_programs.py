"""Programs that make the calls of those found in the wild, one for each generation and kind, against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.client_server import Server

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "na+sm")
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("program", "last_line"),
    [
        ("collector.py", "600 tasks kept"),
        ("text_benchmark.py", r"500 events in [\d.]+ s"),
        ("tomography.py", "6 frames reconstructed"),
        ("worker_plugins.py", "120 tasks in memory"),
        ("proxies.py", "20 proxies resolved"),
        ("forked_queue.py", "30 results"),
        ("overhead.py", r"20000 records, [\d.]+ us per push"),
    ],
)
def test_a_program_runs_as_it_is_and_is_told_nothing(server: Server, program: str, last_line: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MOFKA_METADATA"}
    done = subprocess.run(
        [sys.executable, HERE / program, server.group_file],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(last_line, done.stdout.splitlines()[-1])
    assert done.stderr == ""
