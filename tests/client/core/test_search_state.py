"""What a search decides, on a clock of its own, against directories and servers that come and go."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo.errors import AddressError, ConnectionLost, Fault, MargoError
from mochi.mofka.client.core.search_state import (
    CONNECT_TIMEOUT,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    TRANSITIONS,
    Ask,
    Connect,
    Event,
    GiveUp,
    Phase,
    Rest,
    SearchState,
    Warn,
)
from mochi.mofka.client.core.transitions import NotAllowed
from mochi.mofka.client.refusals import PartitionInfo

TIMEOUT = 30.0
PATIENCE = 5.0
PLACES = [PartitionInfo(0, f"place {number}", 3, "uuid") for number in range(3)]
CAUSES: list[MargoError | None] = [None, ConnectionLost("lost"), Fault("no_provider", "away")]

costs = st.floats(0.05, 10)
looks = st.lists(
    st.tuples(
        st.sampled_from(CAUSES),
        st.lists(st.tuples(st.booleans(), st.sampled_from(PLACES), costs, costs), min_size=1),
        costs,
    ),
    min_size=1,
    max_size=4,
)


@given(looks)
def test_a_search_looks_where_the_directory_says_and_ends_in_time(looks: list[Any]) -> None:
    """Searches over a service that answers as it likes: each step is followed by one thing to do."""
    now = 100.0
    state = SearchState(now, now + TIMEOUT, PATIENCE)
    where, failures, pauses, warnings, outcome = PLACES[0], 0, [], [], ""
    first = True
    for cause, answers, used in looks:
        todo = state.look(where, cause, now)
        tried_at_once = isinstance(todo[-1], Connect)
        assert tried_at_once == (cause is None or (first and not isinstance(cause, Fault)))
        failures += not tried_at_once
        first = False
        steps = itertools.cycle(answers)
        while not outcome:
            *told, action = todo
            warnings += told
            answers_now, place, delay, ask_delay = next(steps)
            if isinstance(action, Connect):
                assert action.partition == where
                assert 1e-3 <= action.timeout <= CONNECT_TIMEOUT
                now += min(delay, action.timeout)
                if answers_now:
                    assert state.found() == []
                    break
                failures += 1
                todo = state.missed(AddressError("nobody"))
            elif isinstance(action, Ask):
                now += ask_delay
                moved, where = place != where, place
                todo = state.located(place, action.error, now)
                over = now >= 100.0 + TIMEOUT
                assert isinstance(todo[-1], GiveUp if over else Connect if moved else Rest)
            elif isinstance(action, Rest):
                pauses.append(action.seconds)
                now += action.seconds
                todo = state.rested(now)
            else:
                assert isinstance(action, GiveUp)
                assert state.is_over(now)
                outcome = "given up"
        if outcome:
            break
        now += used
    assert state.failures == failures
    warnings += state.ended(outcome or "found again", now)
    assert state.ended("again", now) == []
    expected = [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(len(pauses))]
    assert all(pause <= most for pause, most in zip(pauses, expected, strict=True))
    assert len(warnings) in (0, 2)
    if warnings:
        begun, ended = warnings
        assert (begun.seconds, begun.outcome) == (PATIENCE, "")
        assert (ended.partition, ended.error) == (begun.partition, None)
        assert ended.outcome == (outcome or "found again")
        assert ended.seconds >= PATIENCE


def test_every_event_is_allowed_or_refused_by_name() -> None:
    calls = {
        Event.TRY: lambda state: state.look(PLACES[0], None, 1.0),
        Event.MISS: lambda state: state.missed(AddressError("nobody")),
        Event.REST: lambda state: state.located(PLACES[0], AddressError("nobody"), 1.0),
        Event.FIND: lambda state: state.found(),
        Event.END: lambda state: state.ended("given up", 1.0),
    }
    for phase, event in itertools.product(Phase, Event):
        state = SearchState(0.0, 10.0, PATIENCE, phase, PLACES[0])
        if event in TRANSITIONS[phase]:
            calls[event](state)
            assert state.phase is TRANSITIONS[phase][event]
        else:
            with pytest.raises(NotAllowed, match=rf"{event.name}.*{phase.name}"):
                calls[event](state)
            assert state.phase is phase


def test_a_found_partition_that_is_lost_again_is_looked_for_by_the_same_search() -> None:
    state = SearchState(0.0, 10.0, PATIENCE)
    assert state.look(PLACES[0], ConnectionLost("lost"), 0.0) == [Connect(PLACES[0], CONNECT_TIMEOUT)]
    state.found()
    (asked,) = state.look(PLACES[0], ConnectionLost("again"), 8.0)
    assert isinstance(asked, Ask)
    warning, moved = state.located(PLACES[1], AddressError("and the directory says"), 8.0)
    assert (warning.partition, warning.seconds) == (PLACES[0], PATIENCE)
    assert moved == Connect(PLACES[1], 2.0)
    assert str(state.reason) == "and the directory says"
    state.found()
    assert state.ended("found again", 9.0) == [Warn(PLACES[0], 9.0, outcome="found again")]
