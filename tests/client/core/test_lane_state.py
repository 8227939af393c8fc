"""A lane without a server: against a partition that takes batches as `mochi.mofka.sequencer` does.

The world around the lane is as bad as it may be: acknowledgements are lost, doubled and late, connections break with
messages under way that may still arrive, partitions are away, forget identities and fail to store; Ctrl-C and calls of
the same thread strike at any call; a process forks.
"""

import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from diaspora_stream.errors import DiasporaError
from diaspora_stream.future import FutureUint
from mochi.margo.errors import AddressError, ConnectionLost, Fault
from mochi.mofka.client import batch as batch_module
from mochi.mofka.client.batch import FIELDS, Batch
from mochi.mofka.client.core import lane_state, machine
from mochi.mofka.client.core.lane_state import (
    TRANSITIONS,
    WITHDRAWN,
    Detach,
    Event,
    LaneState,
    Leave,
    Phase,
    Search,
    Send,
    Settle,
)
from mochi.mofka.client.core.machine import Machine
from mochi.mofka.client.core.transitions import NotAllowed, following
from mochi.mofka.client.refusals import PartitionInfo
from mochi.mofka.sequencer import Sequencer
from tests.client.core.striking import struck

PARTITION = PartitionInfo(0, "somewhere", 3, "cf2a3f0e-8a5a-4f2e-9d0a-111111111111")
WINDOW = 3
ROOMY = 100
LARGE = bytes(ROOMY + 1)
FILES = (machine.__file__, lane_state.__file__, batch_module.__file__)
IN_LANE = ("perform", "send", "push", "put")


class Link:
    """A connection: messages to the partition, and answers back, each in order."""

    def __init__(self) -> None:
        self.is_lost = False
        self.is_aside = False
        self.is_busy = False
        self.messages: deque[tuple[Send, list[bytes]]] = deque()
        self.left: deque[tuple[Send, list[bytes]]] = deque()
        self.answers: deque[tuple[Send, int | Fault]] = deque()

    def put(self, message: tuple[Send, list[bytes]]) -> None:
        """Send a message; one that meets a frame in the middle of this is sent by that, and Ctrl-C costs the link."""
        if self.is_lost:
            raise ConnectionLost("the link is lost")
        if self.is_busy:
            self.left.append(message)
            return
        self.is_busy = True
        try:
            self.left.append(message)
            while self.left:
                self.messages.append(self.left[0])
                del self.left[0]
        except BaseException:
            self.is_lost = True
            raise
        finally:
            self.is_busy = False


class Lane(Machine[LaneState]):
    """A rim over links of this test."""

    def __init__(self, batch_events: int | None) -> None:
        self.identities = itertools.count(1)
        self.jobs: list[Callable[[], object]] = []
        self.searches: list[Search] = []
        self.links: list[Link] = []
        self.full = (batch_events or 5) * FIELDS
        self.adaptive = batch_events is None
        self.start()

    def start(self) -> None:
        self.begin(
            LaneState(
                topic="a topic",
                partition=PARTITION,
                owner=self,
                window=WINDOW,
                full=self.full,
                adaptive=self.adaptive,
                prefixed=False,
                identify=lambda: next(self.identities).to_bytes(16, "big"),
                clock=lambda: 0,
                roomy=ROOMY,
                small=ROOMY,
                open=Batch(self, FIELDS if self.adaptive else self.full),
                identity=next(self.identities).to_bytes(16, "big"),
            )
        )

    def in_background(self, work: Callable[[], object]) -> None:
        self.jobs.append(work)

    def perform(self, action: Any) -> None:
        match action:
            case Send():
                self.send(action)
            case Settle(sealed, first, error):
                sealed.batch.settle(sealed.events, first, error)
            case Detach(sealed):
                sealed.batch.entries = []
            case Search():
                self.searches.append(action)
            case Leave(link):
                link.is_aside = link.is_aside or link.is_busy

    def send(self, action: Send) -> None:
        sealed = action.sealed
        sealed.batch.entries = []
        sealed.times_sent += 1
        text = sealed.metadata
        events = [text[at : at + 8] for at in range(0, len(text), 8)]
        try:
            action.link.put((action, events))
        except ConnectionLost as error:
            self.post(LaneState.lost, action.link, error)

    def push(self, metadata: bytes, data: bytes) -> FutureUint | None:
        """Push as a producer does; None if there is no room."""
        now = self.now
        if len(data) > now.small:
            future = FutureUint(None)
            self.interruptible(future, lambda: self.ask(LaneState.append, len(data), metadata, data, future))
            return None if future.pending is None else future
        batch = now.open
        future = FutureUint(batch)
        entries = batch.entries
        entries.extend((metadata, data, future))
        if len(entries) >= batch.limit:
            self.interruptible(future, lambda: self.tell(LaneState.filled, metadata, data, future))
        return future

    def interruptible(self, future: FutureUint, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException:
            future.index = WITHDRAWN
            raise

    def flush(self) -> None:
        self.ask(LaneState.wanted, self.now.open)

    def background(self) -> None:
        """Do what other threads do in time."""
        while self.jobs:
            self.jobs.pop(0)()
        for link in self.links:
            if link.is_lost:
                self.post(LaneState.lost, link, ConnectionLost("lost"))


class Partition:
    """Stores events once, or not at all."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.sequencer = Sequencer()
        self.epoch = 1

    def take(self, link: Link, outcome: str) -> None:
        """Take the next message of a link."""
        sent, events = link.messages.popleft()
        message = sent.message
        if outcome == "away":
            link.answers.append((sent, Fault("no_provider", "it is not there")))
            return

        def answer(result: Any) -> None:
            link.answers.append((sent, result))

        try:
            store = self.sequencer.admit(message.producer, message.sequence, answer)
        except Fault as fault:
            answer(fault)
            return
        if store is not None and outcome == "failed":
            store(Fault("no_space", "the disk is full"))
        elif store is not None:
            self.log += events
            store(len(self.log) - len(events))


strikes = st.lists(st.integers(1, 150), max_size=3)
kinds = st.sampled_from(["none", "none", "ctrl-c", "push", "flush", "wait"])


class Lanes(RuleBasedStateMachine):
    """See the module."""

    @initialize(batch_events=st.sampled_from([1, 2, 4, None]))
    def begin(self, batch_events: int | None) -> None:
        self.lane = Lane(batch_events)
        self.partition = Partition()
        self.numbers = itertools.count()
        self.pushed: list[tuple[bytes, FutureUint]] = []
        self.nested: list[tuple[bytes, FutureUint]] = []
        self.settled: dict[int, tuple[Any, Any]] = {}
        self.attempted: list[bytes] = []
        self.has_failed = False

    def push(self, into: list[tuple[bytes, FutureUint]], data: bytes = b"") -> None:
        metadata = next(self.numbers).to_bytes(8, "big")
        if into is self.pushed:
            self.attempted.append(metadata)
        future = self.lane.push(metadata, data)
        if future is not None:
            into.append((metadata, future))

    def strike(self, kind: str) -> None:
        if kind == "ctrl-c":
            raise KeyboardInterrupt
        if kind == "push":
            self.push(self.nested)
        elif kind == "flush":
            self.lane.flush()
        elif kind == "wait":
            self.push(self.nested)
            self.let_all_come_to_its_end()

    def run(self, work: Callable[[], object], kind: str, places: list[int]) -> None:
        if kind == "none":
            work()
            return
        with suppress(KeyboardInterrupt):
            struck(work, places, lambda: self.strike(kind), FILES, IN_LANE)

    @rule(count=st.integers(1, 6), data=st.sampled_from([b"", b"", LARGE]), kind=kinds, places=strikes)
    def push_some(self, count: int, data: bytes, kind: str, places: list[int]) -> None:
        self.run(lambda: [self.push(self.pushed, data) for _ in range(count)], kind, places)

    @rule(kind=kinds, places=strikes)
    def flush(self, kind: str, places: list[int]) -> None:
        self.run(self.lane.flush, kind, places)

    @rule(count=st.integers(1, 3), outcome=st.sampled_from(["stored"] * 6 + ["failed", "away"]))
    def server_takes(self, count: int, outcome: str) -> None:
        for link in self.lane.links:
            for _ in range(min(count, len(link.messages))):
                self.partition.take(link, outcome)

    @rule(count=st.integers(1, 3), twice=st.booleans(), kind=kinds, places=strikes)
    def answers_arrive(self, count: int, twice: bool, kind: str, places: list[int]) -> None:
        for link in self.lane.links:
            for _ in range(min(count, len(link.answers)) if not link.is_lost else 0):
                sent, result = link.answers.popleft()
                for _ in range(1 + twice):
                    self.run(lambda sent=sent, result=result: self.answer(sent, result), kind, places)

    def answer(self, sent: Send, result: int | Fault) -> None:
        if isinstance(result, Fault):
            self.lane.post(LaneState.refused, sent.sealed, result, sent.attempt)
        else:
            self.lane.post(LaneState.stored, sent.sealed, result, self.partition.epoch)

    @rule(which=st.integers(0, 3), told=st.booleans(), kind=kinds, places=strikes)
    def a_link_breaks(self, which: int, told: bool, kind: str, places: list[int]) -> None:
        if which >= len(self.lane.links):
            return
        link = self.lane.links[-1 - which]
        link.is_lost = True
        if told:
            error = ConnectionLost("lost")
            self.run(lambda: self.lane.post(LaneState.lost, link, error), kind, places)

    @rule(
        kind=kinds,
        places=strikes,
        outcome=st.sampled_from(["new", "new", "same", "given up"]),
        last=st.booleans(),
    )
    def a_search_ends(self, kind: str, places: list[int], outcome: str, last: bool) -> None:
        if not self.lane.searches:
            return
        search = self.lane.searches.pop(-1 if last else 0)
        if outcome == "given up":
            error = AddressError("nobody answers")
            self.run(lambda: self.lane.post(LaneState.given_up, search.attempt, error), kind, places)
        else:
            self.run(
                lambda: self.lane.post(LaneState.found, search.attempt, PARTITION, self.link(outcome)),
                kind,
                places,
            )

    def link(self, which: str) -> Link:
        living = [link for link in self.lane.links if not (link.is_lost or link.is_aside)]
        if which == "same" and living:
            return living[-1]
        self.lane.links.append(Link())
        return self.lane.links[-1]

    @rule()
    def the_partition_forgets_whom_it_knew(self) -> None:
        """It does so to those that are quiet for long. The first batch of an identity would be taken for a new one."""
        lane = self.lane
        numbers = [sealed.sequence - lane.now.base for sealed in lane.now.in_flight]
        numbers += [sent.message.sequence for link in lane.links for sent, _ in link.messages]
        if 0 not in numbers:
            self.partition.sequencer = Sequencer()

    @rule(kind=kinds, places=strikes)
    def it_is_closed(self, kind: str, places: list[int]) -> None:
        self.run(lambda: self.lane.ask(LaneState.failed, ConnectionLost("closed")), kind, places)

    @rule()
    def it_forks(self) -> None:
        """Go on in the child; what is under way may still be stored, by the parent."""
        theirs = DiasporaError("the parent's")
        self.has_failed = True
        for action in self.lane.now.disowned(theirs):
            action.sealed.batch.settle(action.sealed.events, action.first, action.error)
        self.lane.jobs.clear()
        self.lane.searches.clear()
        self.lane.start()
        self.lane.links = [link for link in self.lane.links if link.messages]
        for link in self.lane.links:
            link.is_lost = True
        for _, future in self.pushed + self.nested:
            assert future.pending.is_done()

    @rule()
    def time_passes(self) -> None:
        self.lane.background()

    @invariant()
    def what_is_settled_stays_so(self) -> None:
        for metadata, future in self.pushed + self.nested:
            if future.pending.is_done():
                outcome = future.pending.first, future.pending.error
                assert self.settled.setdefault(id(future.pending), outcome) == outcome
                if outcome[1] is None:
                    assert self.partition.log[outcome[0] + future.index] == metadata

    @invariant()
    def order_is_kept(self) -> None:
        """Also of events whose push was interrupted; what failed may be stored late by another connection."""
        self.has_failed = self.has_failed or self.lane.now.failure is not None
        if not self.has_failed:
            attempted = set(self.attempted)
            own = [metadata for metadata in self.partition.log if metadata in attempted]
            assert own == sorted(own)

    @invariant()
    def no_event_is_stored_twice(self) -> None:
        assert len(set(self.partition.log)) == len(self.partition.log)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.lane.now.in_flight) <= WINDOW
        assert len(self.lane.now.open.entries) <= self.lane.full + 8 * FIELDS

    def let_all_come_to_its_end(self) -> None:
        """Flush in a world that has become good, until all is settled."""
        lane = self.lane
        for _ in range(50):
            lane.background()
            lane.flush()
            for link in lane.links:
                while link.messages:
                    self.partition.take(link, "stored")
                while link.answers:
                    answer = link.answers.popleft()
                    if not link.is_lost:
                        self.answer(*answer)
            for search in lane.searches[:]:
                lane.searches.remove(search)
                lane.post(LaneState.found, search.attempt, PARTITION, self.link("same"))
            if not (lane.now.has_pending or lane.now.outbox or lane.jobs):
                break

    def teardown(self) -> None:
        """Have all come to its end, and look at what was stored."""
        lane = self.lane
        self.let_all_come_to_its_end()
        assert not lane.now.has_pending, lane.now
        assert not lane.is_suspended
        for events in (self.pushed, self.nested):
            ids = []
            for _, future in events:
                assert future.pending.is_done()
                if future.pending.error is None:
                    ids.append(future.pending.first + future.index)
            assert ids == sorted(ids)
        self.what_is_settled_stays_so()
        self.no_event_is_stored_twice()
        self.order_is_kept()


TestLanes = Lanes.TestCase


@pytest.mark.parametrize("kind", ["ctrl-c", "push", "flush", "wait"])
@pytest.mark.parametrize(("size", "has_room", "data"), [(1, False, b""), (1, True, b""), (4, True, LARGE)])
def test_a_push_may_be_struck_anywhere(kind: str, size: int, has_room: bool, data: bytes) -> None:
    for place in range(1, 130):
        lanes = Lanes()
        lanes.begin(batch_events=size)
        lanes.push(lanes.pushed)
        lanes.flush("none", [])
        lanes.a_search_ends("none", [], "new", True)
        while not has_room and lanes.lane.now.small >= 0:
            lanes.push(lanes.pushed)
        lanes.run(lambda lanes=lanes: lanes.push(lanes.pushed, data), kind, [place])
        lanes.push(lanes.pushed)
        lanes.teardown()


def state_in(phase: Phase) -> LaneState:
    lane = Lane(1)
    state = lane.now
    lane.push(bytes(8), b"")  # searches
    if phase is Phase.IDLE:
        lane.start()
        return lane.now
    if phase is Phase.SEARCHING:
        return lane.now
    lane.post(LaneState.found, lane.searches[0].attempt, PARTITION, Link())
    if phase is Phase.CONNECTED:
        lane.post(LaneState.stored, lane.now.in_flight[0], 0, 1)
    del state
    return lane.now


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_a_lane_gets_into_each_phase_and_out_by_what_is_allowed(phase: Phase) -> None:
    assert state_in(phase).phase is phase
    for event in Event:
        if event in TRANSITIONS[phase]:
            assert following(TRANSITIONS, phase, event) in Phase
        else:
            with pytest.raises(NotAllowed, match=rf"{event.name}.*{phase.name}"):
                following(TRANSITIONS, phase, event)


def test_what_is_not_allowed_fails_what_is_pending_and_names_both(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the program is told to those who wait, and to the log."""
    lane = Lane(1)

    def impossible(state: LaneState) -> list[Any]:
        state.phase = following(TRANSITIONS, state.phase, Event.FIND)
        return []

    future = lane.push(bytes(8), b"")
    lane.post(LaneState.found, lane.searches[0].attempt, PARTITION, Link())
    lane.post(impossible)
    assert future is not None
    assert "FIND" in str(future.pending.error)
    assert "RESENT" in str(future.pending.error)
    assert lane.now.phase is Phase.CONNECTED
    assert "FIND" in caplog.text
