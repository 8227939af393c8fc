"""A feed without a server: what is late, doubled, of an earlier subscription, lost or struck, against an oracle."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diaspora_stream.errors import DiasporaError, EventsDamaged, EventsExpired, EventsLost
from mochi.mofka.client.core import feed_state, machine
from mochi.mofka.client.core.feed_state import (
    TRANSITIONS,
    Action,
    Deliver,
    Event,
    FeedState,
    Grant,
    Leave,
    Look,
    State,
    Tell,
    Terms,
    Wake,
    Widen,
)
from mochi.mofka.client.core.machine import Machine
from mochi.mofka.client.core.transitions import NotAllowed
from mochi.mofka.client.refusals import EpochChanged, PartitionInfo
from tests.client.core.striking import struck

FILES = (machine.__file__, feed_state.__file__, __file__)

SIZE = 10
"""Bytes of an event."""


class Batch:
    """Events `first` to `following`, as they came; `number` is its place in line."""

    def __init__(self, epoch: int, first: int, following: int) -> None:
        self.epoch, self.first, self.following, self.number = epoch, first, following, 0
        self.size = SIZE * (following - first)


class Failed:
    """A failure in line."""

    def __init__(self, number: int, error: DiasporaError) -> None:
        self.number, self.error = number, error


class Subscription:
    """One subscription: what the server may send by it, and what is on its way."""

    def __init__(self) -> None:
        self.terms: Terms | None = None
        self.has_begun = self.is_cut = self.is_left = False
        self.next = self.batches = self.size = self.repeated = 0
        self.coming: deque[Batch] = deque()

    @property
    def is_living(self) -> bool:
        return self.has_begun and not self.is_cut and not self.is_left


class Partition:
    """Events that were stored, of which some are lost; in one epoch after the other."""

    def __init__(self) -> None:
        self.epoch, self.count, self.cursor = 1, 0, 0
        self.lost: dict[int, type[EventsLost]] = {}

    def error_at(self, event: int) -> EventsLost | None:
        """Return the error of an event that is lost, and of those of its kind right behind it."""
        kind = self.lost.get(event)
        if kind is None:
            return None
        end = event
        while self.lost.get(end) is kind:
            end += 1
        return (
            EventsExpired("p", event, end) if kind is EventsExpired else EventsDamaged("p", event, end, "bad")
        )


class SimulatedFeed(Machine[FeedState]):
    """The rim of a feed. Ctrl-C strikes at an action when `strike` says so: before it has taken effect, or after."""

    def __init__(self, state: FeedState) -> None:
        self.strike: str | None = None
        self.jobs: list[Callable[[], object]] = []
        self.line: deque[Batch | Failed | None] = deque()
        self.put = 0
        self.searches: dict[int, Subscription | None] = {}
        self.begin(state)

    def in_background(self, work: Callable[[], object]) -> None:
        self.jobs.append(work)

    def work(self) -> None:
        """Do what was left for a thread where Ctrl-C does not strike."""
        self.strike = None
        while self.jobs:
            self.jobs.pop(0)()

    def perform(self, action: Action) -> None:
        strike, self.strike = self.strike, None
        if strike == "before":
            raise KeyboardInterrupt
        if isinstance(action, Look):
            self.searches.setdefault(action.search, None)
        elif isinstance(action, Deliver | Tell):
            self.put_in_line(action)
        elif isinstance(action, Widen):
            (failed,) = (
                each for each in self.line if isinstance(each, Failed) and each.number == action.number
            )
            failed.error = action.error
        elif isinstance(action, Leave):
            action.subscription.is_left = True
        elif isinstance(action, Grant):
            assert action.subscription.has_begun, "the partition does not know the subscription yet"
            action.subscription.batches += action.batches
            action.subscription.size += action.size
            if strike == "after":
                action.subscription.repeated += action.batches
        if strike == "after":
            raise KeyboardInterrupt

    def put_in_line(self, action: Deliver | Tell) -> None:
        item: Any
        if isinstance(action, Tell):
            item = Failed(action.number, action.error)
        else:
            item = action.batch
            if item is not None:
                item.number = action.number
        line = self.line
        if action.number > self.put:
            self.put = action.number  # no call from here on
            line += (item,)

    def reset(self) -> None:
        self.searches.clear()
        self.line.clear()
        self.jobs.clear()
        self.begin(self.now.in_child())


def interrupt() -> None:
    raise KeyboardInterrupt


class FeedMachine(RuleBasedStateMachine):
    """A feed, its partition, searches, links, and an application that takes what is in line."""

    @initialize(batches=st.integers(2, 4), size=st.integers(1, 60))
    def begin(self, batches: int, size: int) -> None:
        self.feed = SimulatedFeed(FeedState(max_batches=batches, max_bytes=size))
        self.subscriptions: list[Subscription] = []
        self.partition = Partition()
        self.opened: Batch | None = None
        self.expected: tuple[int, int] | None = None
        self.is_stopped = False
        self.place = 0
        self.partition.count = 12
        self.feed.tell(FeedState.wanted)

    def tell(self, event: Any, *arguments: Any) -> bool:
        """Have an event happen; return whether Ctrl-C struck. What it left is done later, before the next event."""
        place, self.place = self.place, 0
        try:
            if place:
                struck(lambda: self.feed.tell(event, *arguments), [place], interrupt, FILES)
            else:
                self.feed.tell(event, *arguments)
        except KeyboardInterrupt:
            return True
        return False

    def tell_again(self, event: Any, *arguments: Any) -> None:
        """Have an event happen that the application brings about, and does once more if Ctrl-C struck."""
        while self.tell(event, *arguments):
            pass

    def bring(self, subscription: Subscription, event: Any, *arguments: Any) -> bool:
        """Have an event happen that comes over a link; return whether Ctrl-C struck, which costs the link."""
        if not self.tell(event, subscription, *arguments):
            return False
        subscription.is_cut = True
        self.tell_in_background(FeedState.cut, subscription, "struck")
        return True

    def tell_in_background(self, event: Any, *arguments: Any) -> None:
        """Have an event happen in a thread where Ctrl-C does not strike."""
        self.place, self.feed.strike = 0, None
        self.tell(event, *arguments)

    @rule(strike=st.sampled_from(["before", "after"]))
    def strike_at_the_next_action(self, strike: str) -> None:
        self.feed.strike = strike

    @rule(place=st.integers(1, 40))
    def strike_at_a_call_of_the_next_event(self, place: int) -> None:
        self.place = place

    @rule()
    def work(self) -> None:
        self.feed.work()

    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        """All goes well for a while."""
        for _ in range(steps):
            self.goes_on()

    # Searches.

    @rule()
    def want(self) -> None:
        self.tell_again(FeedState.wanted)

    @precondition(lambda self: self.feed.searches)
    @rule(data=st.data(), outcome=st.sampled_from(["goes on", "goes on", "goes on", "missed", "time-out"]))
    def search(self, data: st.DataObject, outcome: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.feed.searches)))
        if outcome == "missed":
            self.tell_in_background(FeedState.missed, number)
        elif outcome == "time-out":
            del self.feed.searches[number]
            self.tell_in_background(FeedState.given_up, number, DiasporaError("nobody is there"))
        else:
            self.go_on_searching(number)

    def go_on_searching(self, number: int) -> None:
        subscription = self.feed.searches[number]
        if subscription is not None:
            self.answer(number, subscription)
            return
        subscription = Subscription()
        self.feed.strike = None
        self.feed.ask(FeedState.asks, number, subscription)
        if self.feed.now.subscription is not subscription:
            del self.feed.searches[number]
            return
        assert not self.is_stopped, "it is closed, and asks for more"
        terms = subscription.terms = self.feed.now.terms
        assert terms is not None
        subscription.batches, subscription.size = terms.batches, terms.size
        self.subscriptions.append(subscription)
        self.feed.searches[number] = subscription

    def answer(self, number: int, subscription: Subscription) -> None:
        """The partition answers, or the link is lost before it does."""
        del self.feed.searches[number]
        terms = subscription.terms
        assert terms is not None
        partition = self.partition
        start = partition.cursor if terms.start is None else terms.start
        error: DiasporaError | None = None
        if subscription.is_cut:
            self.feed.searches[number] = None
            return
        if terms.epoch not in (0, partition.epoch):
            error = EpochChanged("t", PartitionInfo(0, "a", 0, "u"), terms.epoch, partition.epoch)
        else:
            error = partition.error_at(start)
        if error is not None:
            self.tell_in_background(FeedState.given_up, number, error)
            return
        subscription.has_begun, subscription.next = True, start
        if self.bring(subscription, FeedState.begun, partition.epoch, start):
            self.feed.searches[number] = None  # it does not get the answer either

    # The partition and its links.

    @rule(count=st.integers(1, 6))
    def store(self, count: int) -> None:
        self.partition.count += count

    @precondition(lambda self: self.partition.count)
    @rule(data=st.data(), kind=st.sampled_from([EventsExpired, EventsDamaged]))
    def lose_events(self, data: st.DataObject, kind: type[EventsLost]) -> None:
        partition = self.partition
        first = 0 if kind is EventsExpired else data.draw(st.integers(0, partition.count - 1))
        last = data.draw(st.integers(first, partition.count - 1))
        partition.lost |= dict.fromkeys(range(first, last + 1), kind)

    def come_back_without_events(self) -> None:
        """The partition begins anew. A feed that knows no epoch yet, but where to go on, could not tell."""
        self.feed.work()
        if not self.feed.now.epoch and self.feed.now.next is not None:
            return
        for subscription in self.subscriptions:
            self.lose_link(subscription)
        self.partition.epoch += 1
        self.partition.count = 0
        self.partition.lost.clear()

    @precondition(lambda self: self.feed.now.subscription is not None)
    @rule()
    def cut(self) -> None:
        self.lose_link(self.feed.now.subscription)

    def lose_link(self, subscription: Subscription) -> None:
        """Lose a link; what was on its way may still come."""
        subscription.is_cut = True
        self.tell_in_background(FeedState.cut, subscription, "lost")

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        living = [each for each in self.subscriptions if each.is_living]
        if living:
            self.send_by(data.draw(st.sampled_from(living)), data.draw(st.integers(1, 4)))

    def send_by(self, subscription: Subscription, most: int) -> bool:
        partition, first = self.partition, subscription.next
        error = partition.error_at(first)
        if first >= partition.count or subscription.batches <= 0 or subscription.size <= 0:
            return False
        if error is not None:
            if subscription.coming:
                return False
            subscription.is_cut = True
            self.bring(subscription, FeedState.refused, error)
            return True
        following = first + 1
        while following < min(partition.count, first + most) and following not in partition.lost:
            following += 1
        batch = Batch(partition.epoch, first, following)
        subscription.batches -= 1
        subscription.size -= batch.size
        subscription.next = following
        subscription.coming.append(batch)
        return True

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """A batch arrives, perhaps by a subscription that is no more."""
        coming = [each for each in self.subscriptions if each.coming]
        if coming:
            self.arrive_by(data.draw(st.sampled_from(coming)))

    def arrive_by(self, subscription: Subscription) -> None:
        batch = subscription.coming.popleft()
        self.bring(subscription, FeedState.received, batch.following, batch.size, batch)

    def finish(self) -> None:
        for subscription in [each for each in self.subscriptions if each.is_living and not each.coming]:
            subscription.is_cut = True
            self.bring(subscription, FeedState.finished)
            self.feed.work()
            self.is_stopped = self.is_stopped or self.feed.now.at is State.ENDED

    # The application.

    @precondition(lambda self: self.feed.line or self.opened)
    @rule()
    def take(self) -> None:
        """Hand out what is next in line, or give the credit of a batch back, twice."""
        feed = self.feed
        if self.opened is not None:
            batch, self.opened = self.opened, None
            for _ in range(2):
                self.tell_again(FeedState.gives_back, batch.number, batch.size)
            return
        item = feed.line[0]
        if isinstance(item, Failed):
            self.tell_again(FeedState.due, item.number)
            if feed.now.is_untold(item.number):
                return
            self.hand_out_failure(item.error)
        elif item is not None:
            for event in range(item.first, item.following):
                assert self.expected in (None, (item.epoch, event)), "not the next event"
                self.expected = item.epoch, event + 1
            self.opened = item
        del feed.line[0]

    def hand_out_failure(self, error: DiasporaError) -> None:
        if isinstance(error, EpochChanged):
            self.expected = None
        elif isinstance(error, EventsLost) and self.expected is not None:
            epoch, event = self.expected
            assert error.first == event, "not told in its place, or twice"
            self.expected = epoch, error.next
        assert "fault of the client" not in str(error)

    def fork(self) -> None:
        for subscription in self.subscriptions:
            subscription.is_cut = True  # that is the parent's
        self.feed.reset()
        self.opened = self.expected = None
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True
        self.tell_again(FeedState.stopped)

    @rule(event=st.integers(0, 60))
    def something_rare(self, event: int) -> None:
        rare = {
            50: self.finish,
            51: self.stop,
            52: self.fork,
            53: self.fork,
            54: self.come_back_without_events,
        }
        rare.get(event, self.goes_on)()

    @invariant()
    def credit_stays_within_its_bounds(self) -> None:
        now = self.feed.now
        subscription = now.subscription
        assert now.held_batches >= 0
        assert now.held_bytes >= 0
        if subscription is None or self.feed.jobs or not subscription.has_begun:
            return
        ahead = subscription.batches + len(subscription.coming) - subscription.repeated
        assert ahead + now.held_batches + now.owed_batches == now.max_batches

    def teardown(self) -> None:
        """Once all goes well, everything that is stored is handed out or told as lost, and all credit is back."""
        if not hasattr(self, "feed"):
            return
        feed = self.feed
        feed.strike, self.place = None, 0
        feed.work()
        if feed.now.at is State.IDLE:
            feed.tell(FeedState.wanted)
        assert any(not self.goes_on() for _ in range(5000)), "it does not come to rest"
        assert not feed.line
        assert not feed.now.outbox
        if self.is_stopped:
            assert feed.now.at is State.ENDED
            assert all(each.is_left or each.is_cut or not each.has_begun for each in self.subscriptions)
            return
        assert feed.now.at is State.SUBSCRIBED
        assert feed.now.next == self.partition.count
        assert self.expected in (None, (self.partition.epoch, self.partition.count))
        assert (feed.now.held_batches, feed.now.held_bytes) == (0, 0)
        assert feed.now.subscription.batches >= feed.now.max_batches, "credit is lost"
        assert feed.now.subscription.size >= feed.now.max_bytes, "credit is lost"

    def goes_on(self) -> bool:
        """Take one more step; return whether there was one."""
        feed = self.feed
        for number in list(feed.searches):
            self.go_on_searching(number)
            return True
        for subscription in self.subscriptions:
            if subscription.coming:
                self.arrive_by(subscription)
                return True
        before = feed.now
        if feed.line or self.opened:
            left = len(feed.line)
            self.take()
            return feed.now is not before or len(feed.line) != left or bool(self.opened)
        return any(self.send_by(each, 100) for each in self.subscriptions if each.is_living)


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(max_examples=100, stateful_step_count=30)


def subscribed() -> FeedState:
    """A feed that has begun at event 0, by subscription "s"."""
    state = FeedState(max_batches=2, max_bytes=100)
    state.wanted()
    state.asks(1, "s")
    state.begun("s", 1, 0)
    return state


def test_credit_that_comes_back_while_a_partition_is_asked_is_granted_with_its_answer() -> None:
    state = subscribed()
    assert state.received("s", 5, 50, "batch") == [Deliver(1, "batch")]
    assert state.cut("s", "lost") == [Look(2, "lost")]
    state.asks(2, "t")
    assert state.terms == Terms(5, 1, 1, 50)
    assert state.gives_back(1, 50) == []
    assert state.begun("t", 1, 5) == [Grant("t", 1, 50), Wake()]
    assert state.gives_back(1, 50) == []


def test_losses_that_touch_are_one_failure_until_it_may_be_handed_out() -> None:
    state = subscribed()
    (told,) = state.refused("s", EventsExpired("p", 0, 5))
    assert isinstance(told, Tell)
    assert state.is_untold(told.number)
    assert state.due(told.number) == [Look(2, None)]
    assert state.holds_back(told.number)
    widen, look = state.given_up(2, EventsExpired("p", 2, 9))
    assert isinstance(widen, Widen)
    assert (widen.number, widen.error.args, look) == (told.number, ("p", 0, 9), Look(3, None))
    state.missed(3)
    assert not state.holds_back(told.number)
    assert state.due(told.number) == []
    assert not state.is_untold(told.number)
    (following,) = state.given_up(3, EventsExpired("p", 0, 12))
    assert isinstance(following, Tell)
    assert following.error.args == ("p", 9, 12)


def test_a_loss_behind_a_batch_is_a_failure_of_its_own() -> None:
    state = subscribed()
    (told,) = state.refused("s", EventsExpired("p", 0, 5))
    state.due(told.number)
    state.asks(2, "t")
    state.begun("t", 1, 5)
    state.received("t", 6, 10, "batch")
    (following,) = state.refused("t", EventsExpired("p", 5, 9))
    assert isinstance(following, Tell)
    assert following.error.args == ("p", 6, 9)


def test_a_child_has_nothing_of_what_its_parent_holds_and_numbers_on() -> None:
    state = subscribed()
    state.received("s", 5, 50, "batch")
    child = state.in_child()
    child.wanted()
    child.asks(child.search, "t")
    child.begun("t", 1, 0)
    assert child.gives_back(1, 50) == []
    assert (child.held_batches, child.held_bytes) == (0, 0)
    assert child.received("t", 5, 50, "again") == [Deliver(2, "again")]


def test_a_feed_that_is_stopped_leaves_also_the_subscription_that_begins_later() -> None:
    state = FeedState(max_batches=2, max_bytes=100)
    state.wanted()
    state.asks(1, "s")
    assert state.stopped() == [Leave("s"), Deliver(1, None)]
    assert state.stopped() == []
    assert state.begun("s", 1, 0) == [Leave("s")]
    assert state.wanted() == []


def test_an_earlier_search_counts_no_more() -> None:
    state = subscribed()
    state.cut("s", "lost")
    assert state.missed(1) == state.given_up(1, DiasporaError("late")) == state.asks(1, "u") == []
    assert (state.at, state.subscription) == (State.LOOKING, None)


def test_what_is_not_allowed_raises_and_names_state_and_event() -> None:
    with pytest.raises(NotAllowed, match=r"Event.RECEIVED is not allowed in State.IDLE"):
        FeedState(max_batches=2, max_bytes=100).received(None, 5, 10, object())


def test_every_state_is_entered_and_left_and_every_event_happens() -> None:
    assert set(TRANSITIONS) == set(State)
    left = {at for at, after in TRANSITIONS.items() if set(after.values()) - {at}}
    entered = {
        following for at, after in TRANSITIONS.items() for following in after.values() if following is not at
    }
    assert left == set(State) - {State.ENDED}
    assert entered == set(State) - {State.IDLE}
    assert {event for after in TRANSITIONS.values() for event in after} == set(Event)
