"""Programs run against whole services, started as the system tests start them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.real_service import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()
