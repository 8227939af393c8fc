"""What a program has opened before it forks works on both sides, each with its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.real_service import Machine

PROGRAM = Path(__file__).with_name("colmena_queue.py")


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
@pytest.mark.parametrize("kind", ["memory", "default"])
def test_queues_of_colmena_work_on_both_sides_of_a_fork(machine: Machine, kind: str, address: str) -> None:
    server = machine.serve(address=address)
    driver = machine.driver(server)
    partition = {"path": str(machine.directory / "events")} if kind == "default" else {}
    for topic, count in (("requests", 2), ("results", 1)):
        options = {"num_partitions": count, "config": {"type": kind, "partition": partition}}
        driver.create_topic(topic, options=options)
    command = [sys.executable, str(PROGRAM), str(server.group_file), "requests", "results", "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == [[number, number * number] for number in range(50)]
