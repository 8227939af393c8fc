"""Handing out without a server: order, failures, credit, closing, forks and Ctrl-C, against an oracle."""

import gc
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import DiasporaError
from mochi.mofka.client import pulling
from mochi.mofka.client.core import hand_out, machine
from mochi.mofka.client.core.hand_out import TRANSITIONS, Event, HandOutState, State
from mochi.mofka.client.core.transitions import NotAllowed
from mochi.mofka.client.event import EndedFeed, FailedFeed, MofkaEvent, ReceivedBatch
from mochi.mofka.client.pulling import HandOut, PulledEvent
from tests.client.core.striking import struck

SIZES = np.array([9], np.uint32)
FILES = (machine.__file__, hand_out.__file__, pulling.__file__)
METADATA = memoryview(b"\1\0\0\0\0\0\0\0" + b"7")


class Feed:
    """Brings batches; lets a failure go only at the second look at it."""

    deserialize = show = None

    def __init__(self) -> None:
        self.given_back: list[int] = []
        self.asked: set[int] = set()
        self.next = 0
        self.number = 0
        self.has_ended = False

    def give_back(self, batch: ReceivedBatch) -> None:
        if batch.number not in self.given_back:
            self.given_back.append(batch.number)

    def may_tell(self, failed: FailedFeed) -> bool:
        was_asked = failed.number in self.asked
        self.asked.add(failed.number)
        return was_asked

    def holds_back(self, failed: FailedFeed) -> bool:
        return False

    def load(self, *_: Any) -> None:
        """All data that is selected is empty."""

    def batch(self, count: int, has_data: bool) -> ReceivedBatch:
        sizes = np.repeat(SIZES, count)
        data = memoryview(b"") if has_data else None
        metadata = memoryview(bytes(METADATA) * count)
        batch = ReceivedBatch(self, 1, self.next, sizes, metadata, sizes * 0, data)
        self.next += count
        return batch


def interrupt() -> None:
    raise KeyboardInterrupt


class HandOutMachine(RuleBasedStateMachine):
    """Feeds that put things in line, and an application that pulls, drops futures, and is struck by Ctrl-C."""

    @initialize(feeds=st.integers(1, 3), selects=st.booleans())
    def begin(self, feeds: int, selects: bool) -> None:
        self.feeds = [Feed() for _ in range(feeds)]
        self.made = feeds
        self.selects = selects
        select: Any = (lambda _, whole: whole) if selects else None
        self.hand_out = HandOut(feeds, select, lambda *_: [], False, lambda: None)
        self.futures: deque[PulledEvent] = deque()
        self.expected: deque[Any] = deque()
        self.batches: list[tuple[ReceivedBatch, int]] = []
        self.taken = 0
        self.put = 0

    # What a consumer does, and a future needs.

    def wait_for(self, place: "weakref.ref[PulledEvent]", timeout: float | None) -> Any:
        raise AssertionError("nobody waits here")

    def fulfil(self) -> None:
        self.hand_out.fulfil()

    def give_back(self, event: Any) -> None:
        self.hand_out.ready.appendleft(event)

    def pull(self) -> None:
        future = PulledEvent(self)
        self.hand_out.waiting.append(weakref.ref(future))
        self.futures.append(future)

    def fulfil_struck(self, place: int) -> None:
        """Fulfil, and have Ctrl-C strike at a point of it, if it has so many."""
        with suppress(KeyboardInterrupt):
            struck(self.hand_out.fulfil, [place], interrupt, FILES)

    # What happens.

    def put_in_line(self, feed: Feed, item: Any) -> None:
        feed.number += 1
        self.put += 1
        if not isinstance(item, EndedFeed):
            item.number = feed.number
        self.hand_out.line.append(item)

    @rule(data=st.data(), count=st.integers(1, 3), has_data=st.booleans())
    def arrive(self, data: st.DataObject, count: int, has_data: bool) -> None:
        feed = data.draw(st.sampled_from(self.feeds))
        if not feed.has_ended and not self.hand_out.is_closed:
            batch = feed.batch(count, has_data)
            self.put_in_line(feed, batch)
            self.expected.extend((batch, index) for index in range(count))
            self.batches.append((batch, len(self.expected)))

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        feed = data.draw(st.sampled_from(self.feeds))
        if not feed.has_ended and not self.hand_out.is_closed:
            failed = FailedFeed(feed, DiasporaError("it failed"))
            self.put_in_line(feed, failed)
            self.expected.append(failed)

    @rule(data=st.data(), is_sure=st.integers(0, 20))
    def end(self, data: st.DataObject, is_sure: int) -> None:
        feed = data.draw(st.sampled_from(self.feeds))
        if is_sure == 20 and not feed.has_ended and not self.hand_out.is_closed:
            feed.has_ended = True
            self.put_in_line(feed, EndedFeed())

    @rule(futures=st.integers(1, 4), place=st.integers(0, 80))
    def pull_and_fulfil(self, futures: int, place: int) -> None:
        for _ in range(futures):
            self.pull()
        self.fulfil_struck(place)

    @precondition(lambda self: self.futures)
    @rule(place=st.integers(0, 80))
    def fulfil_again(self, place: int) -> None:
        self.fulfil_struck(place)

    @precondition(lambda self: self.futures)
    @rule()
    def drop_the_last_future(self) -> None:
        """It gives its event back, to the front: no future behind it has one."""
        self.futures.pop()
        gc.collect(0)

    @precondition(lambda self: self.futures)
    @rule()
    def take(self) -> None:
        future = self.futures[0]
        event: Any = future.event
        if event is None:
            return
        assert not any(later.event is not None for later in self.futures if self._is_before(later, future))
        self.futures.popleft()
        if event.__class__ is FailedFeed:
            assert event is self.expected.popleft(), "a failure is not in its place, or told twice"
            with pytest.raises(DiasporaError):
                future.wait()
        elif event.event_id is None:
            future.wait()
            assert not self.expected, "the end comes before what there still is"
            assert all(feed.has_ended for feed in self.feeds)
            return
        else:
            future.wait()
            assert (event.batch, event.index) == self.expected.popleft(), "not the next event"
        self.taken += 1

    def _is_before(self, one: PulledEvent, other: PulledEvent) -> bool:
        return self.futures.index(one) < self.futures.index(other)

    @rule(is_sure=st.integers(0, 40))
    def fork(self, is_sure: int) -> None:
        if is_sure == 40:
            for future in self.futures:
                future.event = None
            self.hand_out.waiting.clear()
            self.hand_out.waiting.extend(weakref.ref(future) for future in self.futures)
            self.hand_out.reset()
            self.expected.clear()
            self.batches.clear()
            for feed in self.feeds:
                feed.has_ended = False

    @rule(is_sure=st.integers(0, 60))
    def close(self, is_sure: int) -> None:
        if is_sure == 60:
            self.hand_out.close()
            self.hand_out.fulfil()
            self.expected = deque(
                future.event
                if future.event.__class__ is FailedFeed
                else (future.event.batch, future.event.index)
                for future in self.futures
                if isinstance(future.event, FailedFeed | MofkaEvent)
            )

    def teardown(self) -> None:
        """What there is comes to the futures, once each and in order; all credit goes back."""
        if not hasattr(self, "hand_out"):
            return
        for _ in range(3 * self.put + len(self.futures) + 9):
            if not self.expected:
                break
            if not self.futures:
                self.pull()
            self.hand_out.fulfil()
            self.take()
        assert not self.expected
        self.pull()
        self.hand_out.fulfil()
        if self.hand_out.is_closed:
            assert not self.hand_out.ready
            assert not self.hand_out.line
            return
        for batch, _ in self.batches:
            assert batch.number in batch.feed.given_back, "credit is lost"
        for future in self.futures:
            future._taken = True


TestHandOut = HandOutMachine.TestCase
TestHandOut.settings = settings(stateful_step_count=40)


def test_what_is_not_allowed_raises_and_names_state_and_event() -> None:
    state = HandOutState(feeds=1, selects=False, at=State.ENDED)
    with pytest.raises(NotAllowed, match=r"Event.OPENED is not allowed in State.ENDED"):
        state.wanted([], [Feed().batch(1, has_data=True)])


def test_every_state_is_entered_and_left_and_every_event_happens() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {to for at, after in TRANSITIONS.items() for to in after.values() if to is not at} == set(State)
    assert {event for after in TRANSITIONS.values() for event in after} == set(Event)


def test_a_selector_that_is_interrupted_is_asked_again_and_its_events_come_once() -> None:
    feed, asked = Feed(), []

    def select(metadata: Any, whole: DataDescriptor) -> DataDescriptor:
        asked.append(metadata)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole

    machine = HandOut(1, select, lambda *_: [], False, lambda: None)
    machine.line.append(feed.batch(3, has_data=False))
    with pytest.raises(KeyboardInterrupt):
        machine.fulfil()
    machine.fulfil()
    assert [event.event_id for event in machine.ready] == [0, 1, 2]
    assert asked == [7] * 5
