"""A machine to run services on, which is cleared at the end of the test whatever happens."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_service import Machine

sys.path.append(str(Path(__file__).parents[1] / "chunks"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()
