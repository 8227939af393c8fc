"""Programs run against whole services, started as the system tests start them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "system"))

if TYPE_CHECKING:
    from real_service import Machine


@pytest.fixture
def machine(tmp_path: Path) -> "Iterator[Machine]":
    from real_service import Machine

    machine = Machine(tmp_path)
    yield machine
    machine.close()
