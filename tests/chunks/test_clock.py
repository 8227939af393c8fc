"""The clock by which events age, whatever happens to that of the machine; and what the log says of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.mofka.chunks import ChunkConfig, PartitionDirectory, Retention
from mochi.mofka.chunks import retention as trimming
from mochi.mofka.chunks.config import SECOND
from mochi.mofka.chunks.retention import Clock, shown
from tests.chunks.chunk_events import batch_of, numbered

HOUR = 3600 * SECOND


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.passed = 0
        self.clock = self.start()

    def start(self) -> Clock:
        """What a process has that starts now."""
        return Clock(lambda: self.wall, lambda: self.passed)

    def sleep(self, nanoseconds: int) -> None:
        self.wall += nanoseconds
        self.passed += nanoseconds


@given(st.lists(st.tuples(st.integers(0, 10 * HOUR), st.integers(-100 * HOUR, 100 * HOUR))))
def test_time_goes_by_what_passes_however_the_machine_s_clock_is_set(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    began = machine.wall
    for passes, jump in steps:
        machine.sleep(passes)
        machine.wall += jump
        assert machine.clock.now() == began + machine.passed


def test_a_jump_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.wall += 48 * HOUR
    for _ in range(3):
        machine.clock.now()
        machine.wall += SECOND
    machine.wall -= 72 * HOUR
    machine.clock.now()
    assert [record.message.split("; ")[0] for record in caplog.records] == [
        "the clock of this machine was set, and is 2.0 d ahead of where it would be",
        "the clock of this machine was set, and is 24.0 h short of where it would be",
    ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr("mochi.mofka.chunks.writer.time.time_ns", lambda: machine.wall)
    return machine


def opened(machine: Machine, directory: Path, monkeypatch: pytest.MonkeyPatch) -> PartitionDirectory:
    """Open a partition that keeps an hour of events, five a chunk, in a server that starts now."""
    machine.clock = machine.start()
    monkeypatch.setattr("mochi.mofka.chunks.writer.CLOCK", machine.clock)
    monkeypatch.setattr(trimming.Trimmer.__init__, "__defaults__", (machine.clock,))
    return PartitionDirectory.open(directory, ChunkConfig(5, retention=Retention(max_age=3600)))


def test_a_clock_that_is_set_ahead_drops_nothing_until_time_has_passed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(machine, tmp_path, monkeypatch) as store:
        for jump in (0, 1000 * HOUR, -2000 * HOUR, 3000 * HOUR):
            machine.wall += jump
            store.append([batch_of(numbered(0, 5))])
            assert store.trim() == 0
        assert store.expires_in() == 3600
        machine.sleep(HOUR)
        caplog.clear()
        caplog.set_level("INFO", "mochi.mofka.chunks")
        assert (store.trim(), store.first_id) == (3, 15)
        (told,) = [record.message for record in caplog.records]
        assert told == (
            f"{tmp_path}: events 0 to 14 are dropped, which are 3 chunks: the newest of them is 60.0 min old, and "
            "max_age is 60.0 min"
        )


@pytest.mark.parametrize(
    ("jump", "gone", "told"),
    [
        (
            2 * HOUR,
            1,
            "its newest event is 2.0 h old, and max_age is 60.0 min: nothing was stored for so long, or",
        ),
        (
            -2 * HOUR,
            0,
            "its newest event will be stored in 2.0 h: the clock was ahead then, or is behind now",
        ),
    ],
)
def test_a_jump_while_nothing_runs_is_named_before_it_counts(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    jump: int,
    gone: int,
    told: str,
) -> None:
    with opened(machine, tmp_path, monkeypatch) as store:
        store.append([batch_of(numbered(0, 5))])
        store.append([batch_of(numbered(5, 5))])
        assert store.trim() == 0
    machine.wall += jump
    caplog.set_level("INFO", "mochi.mofka.chunks")
    with opened(machine, tmp_path, monkeypatch) as store:
        assert store.trim() == gone
        assert store.trim() == 0
    lines = [record.message for record in caplog.records if str(tmp_path) in record.message]
    assert told in lines[0]
    assert len(lines) == 1 + gone


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (119, "119.0 s"), (120, "2.0 min"), (9000, "2.5 h"), (1e7, "115.7 d")],
)
def test_lengths_of_time_are_shown_in_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert shown(int(seconds * SECOND)) == text
