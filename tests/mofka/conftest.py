"""Lets the tests of partitions read from files alone."""

import pytest


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let default partitions keep no events in memory."""
    monkeypatch.setattr("mochi.mofka.partition.tail.KEPT", 0)
