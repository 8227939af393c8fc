"""The user's document, "Improving I/O performance": its pools, controllers and topic, verbatim but for paths."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mochi.mofka.testing import Service
from tests.system.real_service import Machine

SEED = Path(__file__).parents[1] / "data" / "seed"
DEFAULTS = {
    "internal_pool_flag": False,
    "null_io_read": False,
    "null_io_write": False,
    "trace_io": False,
    "version": "0.9.0",
}


def part(name: str) -> Any:
    return json.loads((SEED / name).read_text())


@pytest.fixture
def server(machine: Machine) -> Service:
    settings = part("first-configuration.json")
    settings["margo"] = json.loads("{" + (SEED / "io-pools.txt").read_text() + "}")
    controllers = [part("io-controller.txt"), part("io-uring-controller.txt")]
    settings["providers"] = [p for p in settings["providers"] if p["type"] != "abt_io"] + controllers
    return machine.serve(settings)


def works_by_io_uring(server: Service) -> bool:
    """Tell whether the kernel has workers for requests of the process; uvloop's own ring never needs any."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return any((task / "comm").read_text().startswith("iou-wrk") for task in tasks)


def test_a_topic_on_the_io_uring_controller_keeps_its_events_and_the_other_controller_goes_on(
    machine: Machine, server: Service, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = (SEED / "io-uring-topic.txt").read_text().replace("/tmp/mofka", str(data))
    options = f"--driver mofka --driver.group_file {server.group_file}"
    for text in (
        command,
        command.replace("fast_topic", "other").replace("io_uring_controller", "io_controller"),
    ):
        done = server.run(text, DIASPORA_CTL_DRIVER_OPTIONS=options)
        assert done.returncode == 0, done.stderr
    driver = machine.driver(server)
    expected = [({"n": n}, b"%d" % n * (n * 300)) for n in range(100)]
    for name in ("fast_topic", "other"):
        topic = driver.open_topic(name)
        with topic.producer() as producer:
            futures = [producer.push(metadata, content) for metadata, content in expected]
            assert [future.wait(20000) for future in futures] == list(range(100))
        with topic.consumer("mine") as consumer:
            events = [consumer.pull().wait(20000) for _ in expected]
            assert [(event.metadata, b"".join(event.data)) for event in events if event] == expected
    for directory in data.iterdir():
        stored = (directory / "chunk-000000.data").read_bytes()
        assert stored == b"".join(content for _, content in expected)

    (shown,) = json.loads(server.run("bedrock-query na+sm -f mofka.json").stdout).values()
    by_name = {provider["name"]: provider for provider in shown["providers"]}
    assert by_name["io_controller"]["config"] == {**DEFAULTS, "num_urings": 0, "liburing_flags": []}
    assert by_name["io_uring_controller"]["config"] == {
        **DEFAULTS,
        "num_urings": 1,
        "liburing_flags": ["IOSQE_ASYNC"],
    }
    assert [p["dependencies"]["io_controller"] for p in shown["providers"] if p["type"] == "mofka"] == [
        "io_uring_controller",
        "io_controller",
    ]
    assert works_by_io_uring(server) != ("Threads do the work instead" in server.output)

    done = server.run("bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, server.end()) == (0, 0)
    assert "Traceback" not in server.output


def test_a_server_that_is_killed_loses_nothing_that_its_io_uring_controller_acknowledged(
    machine: Machine, server: Service, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    command = (SEED / "io-uring-topic.txt").read_text().replace("/tmp/mofka", str(tmp_path / "data"))
    options = f"--driver mofka --driver.group_file {server.group_file}"
    assert server.run(command, DIASPORA_CTL_DRIVER_OPTIONS=options).returncode == 0
    topic = machine.driver(server).open_topic("fast_topic")
    producer = topic.producer(batch_size=10)
    futures = [producer.push({"n": n}, os.urandom(5000)) for n in range(1000)]
    acknowledged = [future.wait(20000) for future in futures]
    server.kill()
    producer.close()
    assert acknowledged == list(range(1000))
    (directory,) = (tmp_path / "data").iterdir()
    uuid = directory.name.removeprefix("fast_topic-")
    again = machine.serve(json.loads((server.directory / "config.json").read_text()), name="again")
    options = f"--driver mofka --driver.group_file {again.group_file}"
    done = again.run(f"{command.strip()} --topic.config.uuid {uuid}", DIASPORA_CTL_DRIVER_OPTIONS=options)
    assert done.returncode == 0, done.stderr
    with machine.driver(again).open_topic("fast_topic").consumer("mine") as consumer:
        events = [consumer.pull().wait(20000) for _ in acknowledged]
    assert [event.metadata["n"] for event in events if event] == acknowledged
