"""The suite that every driver passes, for ours: `mofka` over each transport and type of partition, and the embedded."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.testing import DriverSuite
from mochi.mofka.testing import Service, configuration
from tests.addresses import ADDRESSES


def provider(name: str, kind: str, number: int, config: dict[str, Any], *tags: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "provider_id": number, "tags": list(tags), "config": config}


CONFIG = configuration()
CONFIG["libraries"].append("libwarabi-bedrock-module.so")
CONFIG["providers"] += [
    provider("metadata", "yokan", 4, {"database": {"type": "map"}}, "mofka:metadata"),
    provider("data", "warabi", 5, {"target": {"type": "memory", "config": {}}}, "mofka:data"),
]


@pytest.fixture(scope="module", params=ADDRESSES)
def group_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Service(tmp_path_factory.mktemp("server"), CONFIG, address=request.param) as service:
        yield str(service.group_file)


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
