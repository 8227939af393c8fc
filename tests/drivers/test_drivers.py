"""The suite that every driver passes, for ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diaspora_stream.api import Driver
from diaspora_stream.testing import DriverSuite


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
