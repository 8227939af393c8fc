"""What cannot be opened when its server starts is served once it can be."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.errors import DiasporaError
from mochi.mofka.testing import configuration
from tests.system.real_service import Machine


def on_disk(directory: Path) -> dict[str, Any]:
    settings = configuration()
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(directory / "master")},
    }
    return settings


def filled(driver: Driver, directory: Path) -> Path:
    """Make a topic with two partitions in different places, and an event in each; return the place of the first."""
    driver.create_topic("t")
    for rank_path in ("a", "b"):
        driver.add_default_partition("t", 0, "", {"path": str(directory / rank_path)})  # type: ignore[attr-defined]
    with driver.open_topic("t").producer() as producer:
        for partition in (0, 1):
            assert producer.push({"n": partition}, partition=partition).wait(10000) == 0
    (place,) = (directory / "a").iterdir()
    return place


def push(driver: Driver, partition: int) -> int | None:
    with driver.open_topic("t").producer() as producer:
        return producer.push({}, partition=partition).wait(10000)


def pushed_at_last(driver: Driver, partition: int) -> int | None:
    """Push until that works."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return push(driver, partition)
        except DiasporaError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("obstacle", ["lock", "place"])
def test_a_partition_that_could_not_be_opened_is_served_once_it_can_be(
    machine: Machine, tmp_path: Path, obstacle: str
) -> None:
    settings = on_disk(tmp_path)
    server = machine.serve(settings)
    place = filled(_mofka(machine, server), tmp_path)
    server.kill()
    aside = tmp_path / "not-mounted"
    lock = os.open(place / "mofka.lock", os.O_RDWR)
    if obstacle == "lock":
        fcntl.flock(lock, fcntl.LOCK_EX)
    else:
        place.rename(aside)
    server = machine.serve(settings)
    driver = machine.driver(server)
    expected = f"locked by process {os.getpid()} on" if obstacle == "lock" else "missing|no such|No such"
    with pytest.raises(DiasporaError, match=expected):
        push(driver, 0)
    assert push(driver, 1) == 1
    if obstacle == "lock":
        os.close(lock)
    else:
        os.close(lock)
        aside.rename(place)
    assert pushed_at_last(driver, 0) == 1
    server.expect("is served again")
    assert driver.list_topics()["t"]["num_partitions"] == 2
    server.kill()
    server = machine.serve(settings)
    assert push(machine.driver(server), 0) == 2


def test_a_topic_of_which_a_partition_could_not_be_opened_can_be_deleted(
    machine: Machine, tmp_path: Path
) -> None:
    settings = on_disk(tmp_path)
    server = machine.serve(settings)
    place = filled(_mofka(machine, server), tmp_path)
    server.kill()
    aside = tmp_path / "not-mounted"
    place.rename(aside)
    server = machine.serve(settings)
    driver = machine.driver(server)
    driver.delete_topic("t")
    aside.rename(place)
    driver.create_topic("t", options={"num_partitions": 1})
    assert push(driver, 0) == 0
    assert "is served again" not in server.output


def _mofka(machine: Machine, server: Any) -> Any:
    from mochi.mofka.client.driver import MofkaDriver

    return MofkaDriver(group_file=str(server.group_file))
