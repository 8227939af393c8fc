"""The suite that every driver passes, for ours: `mofka` over each transport and type of partition, and the embedded."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.testing import DriverSuite
from tests.addresses import ADDRESSES

LIBRARIES = [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "warabi", "abt-io", "mofka")]


def provider(name: str, kind: str, number: int, config: dict[str, Any], *tags: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "provider_id": number, "tags": list(tags), "config": config}


CONFIG = {
    "libraries": LIBRARIES,
    "providers": [
        provider(
            "group", "flock", 1, {"bootstrap": "self", "file": "mofka.json", "group": {"type": "static"}}
        ),
        provider("master", "yokan", 2, {"database": {"type": "map"}}, "mofka:master"),
        provider("metadata", "yokan", 3, {"database": {"type": "map"}}, "mofka:metadata"),
        provider("data", "warabi", 4, {"target": {"type": "memory", "config": {}}}, "mofka:data"),
        {**provider("io", "abt_io", 5, {}), "dependencies": {"pool": "__primary__"}},
    ],
}


@pytest.fixture(scope="module", params=ADDRESSES)
def group_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("server")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    server = subprocess.Popen(
        [Path(sys.executable).with_name("bedrock"), request.param, "-c", "config.json"],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert any("now running" in line for line in server.stdout)
        yield str(directory / "mofka.json")
    finally:
        server.kill()
        server.communicate()


class ServedSuite(DriverSuite):
    """The suite over a service, which all tests share: a name is free once a test is over."""

    @pytest.fixture
    def driver(self, group_file: str) -> Iterator[Driver]:
        with Driver(backend="mofka", options={"group_file": group_file}) as driver:
            yield driver
        with Driver(backend="mofka", options={"group_file": group_file}) as driver:
            for name in driver.list_topics():
                driver.delete_topic(name)


class TestMemory(ServedSuite):
    topic_options = MappingProxyType({"config": {"type": "memory"}})


class TestDefault(ServedSuite):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.topic_options = {"config": {"type": "default", "partition": {"path": str(tmp_path)}}}


class TestLegacy(ServedSuite):
    topic_options = MappingProxyType({"config": {"type": "legacy"}})


class TestFiles(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[Driver]:
        with Driver(backend="files", options={"root_path": str(tmp_path / "data")}) as driver:
            yield driver


class TestFilesSynced(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[Driver]:
        options = {"root_path": str(tmp_path / "data"), "flush_behavior": "immediate"}
        with Driver(backend="files", options=options) as driver:
            yield driver


class TestSimple(DriverSuite):
    ends = True

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        with Driver(backend="simple:libdiaspora-simple-backend.so", options={}) as driver:
            yield driver
