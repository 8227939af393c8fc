"""Programs that make the calls of those who use the original run against a real service, and get what they expect."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from real_service import Machine, Server, config

PROGRAMS = Path(__file__).parent
PARTITIONS = 64
FRAMES = 6


@pytest.fixture(params=["memory", "default"])
def kind(request: pytest.FixtureRequest) -> str:
    """Type of the partitions."""
    return str(request.param)


def create(machine: Machine, server: Server, kind: str, **partitions: int) -> None:
    driver = machine.driver(server)
    for name, count in partitions.items():
        partition = {"path": str(machine.directory / "events")} if kind == "default" else {}
        driver.create_topic(
            name, options={"num_partitions": count, "config": {"type": kind, "partition": partition}}
        )


def run(machine: Machine, name: str, *arguments: object) -> Any:
    """Run a program to its end, and return what it prints, if it does."""
    command = [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=machine.directory, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout) if done.stdout else None


def read(machine: Machine, server: Server, topic: str, count: int) -> list[Any]:
    with machine.driver(server).open_topic(topic).consumer("reader") as consumer:
        return [consumer.pull().wait(20000).metadata for _ in range(count)]


def test_plugins_of_dask_tell_of_all_tasks_in_order(machine: Machine, kind: str) -> None:
    server = machine.serve()
    create(machine, server, kind, tasks=1)
    run(machine, "dask_plugin", server.group_file, "tasks", 200)
    events = read(machine, server, "tasks", 200 * 3 + 4)
    assert Counter(event["source"] for event in events) == {
        "scheduler": 200,
        "worker_0": 202,
        "worker_1": 202,
    }
    for number in range(200):
        told = [
            event for event in events if event["key"] == f"task-{number}" and event["source"] != "scheduler"
        ]
        assert [event["to"] for event in told] == ["executing", "memory"]


def test_tasks_of_parsl_pass_proxies_until_the_end_of_the_stream(machine: Machine, kind: str) -> None:
    server = machine.serve(address="tcp://127.0.0.1")
    create(machine, server, kind, results=1)
    summed = run(machine, "parsl_stream", server.group_file, "results", 100)
    assert summed == {"resolved": 100 * sum(range(0, 100, 2)), "passed": sum(range(1, 100, 2))}


def test_queues_of_colmena_work_on_both_sides_of_a_fork(machine: Machine, kind: str) -> None:
    server = machine.serve()
    create(machine, server, kind, requests=2, results=1)
    results = run(machine, "colmena_queue", server.group_file, "requests", "results", 50)
    assert results == [[number, number * number] for number in range(50)]


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_frames_of_a_detector_reach_who_reconstructs_until_all_partitions_end(
    machine: Machine, address: str
) -> None:
    server = machine.serve(config(margo={"rpc_thread_count": 2}), address=address)
    create(machine, server, "memory", frames=PARTITIONS)
    readers = [
        machine.start(sys.executable, PROGRAMS / "tomography.py", server.group_file, "frames", str(rank), "2")
        for rank in range(2)
    ]
    run(machine, "tomography", server.group_file, "frames", "detector", FRAMES)
    sums: dict[str, int] = {}
    for reader in readers:
        assert reader.end(60) == 0, reader.output
        sums |= json.loads(reader.output)
    rows, columns = 2560, 2440
    assert sums == {
        str(number): number * rows * columns + columns * (columns - 1) // 2 for number in range(FRAMES)
    }


def test_an_instrumented_program_has_all_its_calls_in_the_stream(machine: Machine, kind: str) -> None:
    server = machine.serve()
    create(machine, server, kind, calls=1)
    report = run(machine, "darshan", server.group_file, "calls", 2000)
    assert report["told_us"] > 0
    events = read(machine, server, "calls", 2000)
    assert [event["segment"] for event in events] == [[number % 64 * 4096, 4096] for number in range(2000)]
