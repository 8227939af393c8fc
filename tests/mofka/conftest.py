"""Lets the tests of partitions use the recording file layer of the tests of chunks, and files alone."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "chunks"))


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let default partitions keep no events in memory."""
    monkeypatch.setattr("mochi.mofka.partition.tail.KEPT", 0)
