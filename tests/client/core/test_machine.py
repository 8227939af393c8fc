"""The mechanism against interruption: by Ctrl-C at any call, by calls of the same thread, by other threads."""

import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.mofka.client.core import machine
from mochi.mofka.client.core.machine import Machine, State
from tests.client.core import striking

WAYS = ("tell", "ask", "post")


class Numbers(State):
    """Takes note of numbers, and asks for two actions for each."""

    taken: tuple[int, ...] = ()
    overtakings: int = 0

    def take(self, number: int) -> list[Any]:
        self.taken = (*self.taken, number)
        return [number, -number]

    def fail(self) -> list[Any]:
        self.taken = (*self.taken, 0)
        raise ArithmeticError("an event failed")

    def overtaken(self) -> list[Any]:
        self.overtakings += 1
        return list(self.outbox)

    def broken(self, error: Exception) -> list[Any]:
        return [str(error), *self.outbox]


class Recorder(Machine[Numbers]):
    """Takes note of the actions that it has carried out."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.jobs: list[Callable[[], object]] = []
        self.begin(Numbers())

    def perform(self, action: Any) -> None:
        self.done.append(action)
        if action == 99:
            raise ArithmeticError("an action failed")

    def in_background(self, work: Callable[[], object]) -> None:
        self.jobs.append(work)

    def work(self) -> None:
        """Do what was left for a thread where Ctrl-C does not strike."""
        while self.jobs:
            self.jobs.pop(0)()


def struck(work: Callable[[], object], places: Iterable[int], strike: Callable[[], object]) -> None:
    """Do `work`, and `strike` at these of the points in the mechanism where CPython runs handlers."""
    striking.struck(work, places, strike, [machine.__file__], ("take", "overtaken", "perform"))


def first_occurrences(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def actions_of(taken: Iterable[int]) -> list[int]:
    return [action for number in taken for action in (number, -number)]


ways = st.lists(st.sampled_from(WAYS), min_size=1, max_size=6)
places = st.lists(st.integers(1, 120), max_size=5)


def interrupt() -> None:
    raise KeyboardInterrupt


@settings(max_examples=400, deadline=None)
@given(ways, places)
def test_ctrl_c_at_any_call_loses_and_doubles_nothing(ways: list[str], places: list[int]) -> None:
    recorder = Recorder()
    certain: list[int] = []

    def run() -> None:
        for number, way in enumerate(ways, 1):
            try:
                getattr(recorder, way)(Numbers.take, number)
                certain.append(number)
            except KeyboardInterrupt:
                pass

    struck(run, places, interrupt)
    recorder.work()
    recorder.tell(Numbers.take, 50)
    taken = recorder.now.taken
    assert list(taken) == sorted(set(taken))
    assert {*certain, 50} <= set(taken)
    assert [key for key, _ in itertools.groupby(recorder.done)] == actions_of(taken)
    assert recorder.now.outbox == []


@settings(max_examples=400, deadline=None)
@given(ways, places, st.sampled_from(WAYS))
def test_calls_that_strike_a_frame_of_their_own_thread(
    ways: list[str], places: list[int], nested: str
) -> None:
    recorder = Recorder()
    strikes = itertools.count(1000)
    asked: list[int] = []

    def strike() -> None:
        number = next(strikes)
        getattr(recorder, nested)(Numbers.take, number)
        asked.append(number)
        if nested == "ask":
            assert -number in recorder.done

    def run() -> None:
        for number, way in enumerate(ways, 1):
            getattr(recorder, way)(Numbers.take, number)
            assert -number in recorder.done

    struck(run, places, strike)
    taken = recorder.now.taken
    assert sorted(taken) == [*range(1, len(ways) + 1), *asked]
    assert [number for number in taken if number < 1000] == list(range(1, len(ways) + 1))
    assert [number for number in taken if number >= 1000] == asked
    assert first_occurrences(recorder.done) == actions_of(taken)
    assert recorder.now.outbox == []
    assert not recorder.is_suspended


def test_a_suspended_frame_is_left_its_work_or_overtaken() -> None:
    strikes = 0
    for place in range(1, 40):
        recorder = Recorder()

        def strike(recorder: Recorder = recorder) -> None:
            nonlocal strikes
            if recorder.is_suspended:
                strikes += 1
                recorder.tell(Numbers.take, 2)
                assert 2 not in recorder.now.taken
                recorder.ask(Numbers.take, 3)
                assert {2, 3} < set(recorder.now.taken)
                assert recorder.now.overtakings == 1

        struck(lambda recorder=recorder: recorder.tell(Numbers.take, 1), [place], strike)
    assert strikes > 5


def test_threads_take_turns() -> None:
    recorder = Recorder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def run(thread: int) -> None:
        for number in range(1, 300):
            getattr(recorder, WAYS[number % 3])(Numbers.take, 1000 * thread + number)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(1, 5)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    taken = recorder.now.taken
    for number_of_thread in range(1, 5):
        own = [number for number in taken if number // 1000 == number_of_thread]
        assert own == [1000 * number_of_thread + number for number in range(1, 300)]
    assert recorder.done == actions_of(taken)


def test_what_raises_is_told_to_the_core_and_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.tell(Numbers.take, 1)
    recorder.tell(Numbers.fail)
    recorder.tell(Numbers.take, 99)
    recorder.tell(Numbers.take, 2)
    assert recorder.now.taken == (1, 99, 2)
    assert recorder.done == [1, -1, "an event failed", 99, "an action failed", -99, 2, -2]
    assert len(caplog.records) == 2


def test_what_is_begun_again_has_nothing_left_to_do() -> None:
    recorder = Recorder()

    def fork() -> None:
        if recorder.is_suspended:
            recorder.begin(Numbers())

    struck(lambda: recorder.post(Numbers.take, 1), range(60), fork)
    assert recorder.now == Numbers()
    recorder.tell(Numbers.take, 2)
    assert recorder.now.taken == (2,)
