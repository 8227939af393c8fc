"""Who may use the files that a server makes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi.bedrock import config as bedrock_config
from mochi.margo.errors import ConfigError
from mochi.mofka.testing import configuration
from tests.system.real_service import Machine


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def stored(machine: Machine, directory: Path, *flags: str, file_mode: str = "") -> dict[str, int]:
    """Have a server store an event, and return the modes of all that it made, by what is made."""
    directory.mkdir(exist_ok=True)
    settings = configuration()
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(directory / "master")},
    }
    if file_mode:
        settings["bedrock"] = {"file_mode": file_mode}
    server = machine.bedrock(json.dumps(settings), "na+sm", "-c", "config.json", *flags)
    driver = machine.driver(server)
    options = {"type": "default", "partition": {"path": str(directory / "above" / "partitions")}}
    driver.create_topic("topic", options={"num_partitions": 1, "config": options})
    with driver.open_topic("topic").producer() as producer:
        producer.push({"patient": "name"}, b"secret").wait(10000)
    shown = json.loads(server.run("bedrock-query na+sm -f mofka.json").stdout)
    expected = "umask" if flags else file_mode or None
    assert [each["bedrock"].get("file_mode") for each in shown.values()] == [expected]
    server.kill()
    modes = {}
    for path in directory.rglob("*"):
        modes[str(path.relative_to(directory)).partition("topic-")[2] or path.name] = (
            path.stat().st_mode & 0o777
        )
    return {
        "above": modes["above"],
        "parent": modes["partitions"],
        "database": modes["master"],
        "partition": next(mode for name, mode in modes.items() if len(name) == 36),
        **{name.rpartition("/")[2]: mode for name, mode in modes.items() if name[36:37] == "/"},
    }


def test_what_is_stored_is_its_owners_alone(machine: Machine, tmp_path: Path) -> None:
    modes = stored(machine, tmp_path / "a")
    assert (modes.pop("above"), modes.pop("parent")) == (0o755, 0o755)
    assert (modes.pop("database"), modes.pop("partition")) == (0o700, 0o700)
    assert {"mofka.lock", "mofka.journal", "chunk-000000.meta"} <= modes.keys()
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(("flags", "file_mode"), [(("--file-mode", "umask"), ""), ((), "umask")])
def test_for_a_group_of_users_the_umask_decides(
    machine: Machine, tmp_path: Path, flags: tuple[str, ...], file_mode: str
) -> None:
    os.umask(0o002)
    modes = stored(machine, tmp_path / "a", *flags, file_mode=file_mode)
    assert {modes[name] for name in ("above", "parent", "database", "partition")} == {0o775}
    assert {modes[name] for name in ("mofka.lock", "mofka.journal", "chunk-000000.meta")} == {0o664}


def test_what_exists_keeps_its_modes(machine: Machine, tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "master", tmp_path / "a" / "above" / "partitions"):
        path.mkdir(mode=0o750, parents=True)
    modes = stored(machine, tmp_path / "a")
    assert (modes["database"], modes["parent"], modes["partition"]) == (0o750, 0o750, 0o700)


def test_a_file_mode_that_is_none_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r'^bedrock\.file_mode: expected one of owner, umask; found "everybody"'
    ):
        bedrock_config.parse({"bedrock": {"file_mode": "everybody"}})
