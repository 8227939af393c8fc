"""The outbox against a producer that fails as it is told to."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.ctl import outbox as module
from diaspora_stream.ctl.outbox import Outbox
from diaspora_stream.ctl.stopping import Stop
from diaspora_stream.errors import ConnectionFailed, DiasporaError, InvalidMetadata
from diaspora_stream.future import Completed


class Scripted:
    """Takes the next outcome for each push: an error that push raises, one that the future raises, or none."""

    def __init__(self, script: list[str]) -> None:
        self.topic = SimpleNamespace(name="t")
        self.script = script
        self.stored: list[int] = []

    def push(self, metadata: int, data: bytes) -> Any:
        outcome = self.script.pop(0) if self.script else "stored"
        if outcome == "invalid" or metadata < 0:
            raise InvalidMetadata("no")
        if outcome == "full":
            raise ConnectionFailed("away")
        if outcome == "stored":
            self.stored.append(metadata)

        def wait(timeout_ms: float | None = None) -> int:
            if outcome != "stored":
                raise DiasporaError("failed")
            return 0

        return SimpleNamespace(wait=wait, completed=Completed(True))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0)


@given(
    st.lists(st.integers(-3, 100), max_size=20),
    st.lists(st.sampled_from(["stored", "failed", "full"]), max_size=60),
)
def test_every_event_comes_out_once_in_order_and_is_stored_unless_refused(
    numbers: list[int], script: list[str]
) -> None:
    producer = Scripted(script)
    outbox: Outbox[int] = Outbox(producer, Stop())  # type: ignore[arg-type]
    module.PAUSE = 0
    found: list[int] = []
    for number in numbers:
        outbox.push(number, b"", 1, number)
        found += outbox.stored(None)
    for _ in range(len(script) + 1):
        found += outbox.stored(1000)
    assert found == numbers
    assert len(outbox) == 0
    assert not outbox.is_full
    assert set(producer.stored) == {number for number in numbers if number >= 0}
    assert outbox.refused == sum(number < 0 for number in numbers)


def test_it_is_full_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    outbox: Outbox[int] = Outbox(Scripted([]), Stop())  # type: ignore[arg-type]
    for number in range(3):
        assert not outbox.is_full
        outbox.push(number, b"", 1, number)
    assert outbox.is_full
    assert outbox.stored(None) == [0, 1, 2]
    outbox.push(9, b"", 100, 9)
    assert outbox.is_full
