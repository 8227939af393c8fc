"""Feeds without a server: what is sent follows credit and events, whatever happens in which order."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mochi.mofka.feeds import MAX_BATCHES, MAX_CREDIT, MAX_FEED_EVENTS, TRANSITIONS, Feed, State


class Feeding(RuleBasedStateMachine):
    """A feed beside what a plain account of it says."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed(0, 3, 2, 100, True)
        self.count = self.sent = 0
        self.batches, self.credit = 2, 100
        self.is_reading = self.has_ended = self.is_answered = False

    @rule()
    def answer(self) -> None:
        self.feed.answered()
        self.is_answered = True
        self.begin()

    @rule(events=st.integers(1, 5))
    def store(self, events: int) -> None:
        self.count += events
        self.begin()

    @rule(batches=st.integers(0, 2 * MAX_BATCHES), credit=st.integers(0, 2 * MAX_CREDIT))
    def grant(self, batches: int, credit: int) -> None:
        self.feed.grant(batches, credit)
        self.batches = min(self.batches + batches, MAX_BATCHES)
        self.credit = min(self.credit + credit, MAX_CREDIT)
        self.begin()

    @rule()
    def begin(self) -> None:
        is_ready = self.is_answered and not (self.is_reading or self.has_ended)
        may_read = is_ready and self.sent < self.count
        may_send = self.batches > 0 and self.credit > 0
        assert self.feed.begin(self.count) == (may_read and may_send)
        self.is_reading |= may_read and may_send
        if may_read and not may_send:
            assert self.feed.state is State.STARVED

    @precondition(lambda self: self.is_reading and not self.has_ended)
    @rule(events=st.integers(1, 3), size=st.integers(1, 1000))
    def read(self, events: int, size: int) -> None:
        self.sent = min(self.sent + events, self.count)
        self.feed.sent(self.sent, size)
        self.batches -= 1
        self.credit -= size
        self.is_reading = False
        self.begin()

    @precondition(lambda self: not self.has_ended)
    @rule()
    def end(self) -> None:
        self.feed.end()
        self.has_ended = True

    @invariant()
    def it_is_what_was_told(self) -> None:
        assert (self.feed.next, self.feed.batches, self.feed.credit) == (self.sent, self.batches, self.credit)
        assert (self.feed.state is State.ENDED) == self.has_ended
        assert self.has_ended or (self.feed.state is State.SENDING) == self.is_reading


TestFeeding = Feeding.TestCase


def test_what_is_not_in_the_table_is_refused_and_names_both_states() -> None:
    assert set(TRANSITIONS) == set(State)
    feed = Feed(0, 0, 1, 1, False)
    assert feed.batch_size == MAX_FEED_EVENTS
    feed.answered()
    with pytest.raises(ValueError, match="a feed that is idle cannot become idle"):
        feed.sent(1, 1)
    feed.end()
    with pytest.raises(ValueError, match="a feed that is ended cannot become ended"):
        feed.end()
