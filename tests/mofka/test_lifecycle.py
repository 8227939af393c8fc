"""The life of topics: whatever is asked in whatever order, what comes of it is what one after the other would do."""

import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mochi.mofka.lifecycle import TABLE, Begin, Change, Lives, Look, State, Step, Tell, Verdict, Wish

TOPICS = ("a", "b")
ENDS = ("well", "failed", "with something left")


def test_the_table_says_what_happens_in_every_state_at_rest() -> None:
    assert set(TABLE) == set(itertools.product(State, Wish))


class Request:
    """What somebody asks, and how often it was answered."""

    def __init__(self, topic: str, wish: Wish) -> None:
        self.topic = topic
        self.wish = wish
        self.answers: list[str] = []


class Requests(RuleBasedStateMachine):
    """Requests of two topics, whose changes succeed, fail, or leave something, in any order.

    The oracle serves one topic after the other: it knows what is there, in which order requests came, and whose turn it
    is; the lives of topics know nothing but what they are told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lives: Lives[Request] = Lives()
        self.there = dict.fromkeys(TOPICS, State.ABSENT)
        self.queues: dict[str, deque[Request]] = {topic: deque() for topic in TOPICS}
        self.looks: set[str] = set()
        self.changing: dict[str, tuple[Change, Request]] = {}
        self.cleared_for: dict[str, Request] = {}
        self.after_deletion: list[Request] = []

    def do(self, steps: list[Step[Request]]) -> None:
        for step in steps:
            match step:
                case Look(topic):
                    assert topic not in self.looks
                    assert topic not in self.changing
                    self.looks.add(topic)
                case Begin(topic, change, request):
                    assert topic not in self.looks
                    assert topic not in self.changing
                    self.check_turn(topic, request)
                    assert change is self.expected(request)
                    self.changing[topic] = (change, request)
                    if change is Change.CLEARING and request.wish is Wish.CREATE:
                        self.cleared_for[topic] = request
                case Tell(request, verdict):
                    self.check_tell(request, verdict)
                    request.answers.append(verdict.value)

    def expected(self, request: Request) -> Change | Verdict:
        return TABLE[self.there[request.topic], request.wish]

    def check_turn(self, topic: str, request: Request) -> None:
        """Requests get their turn in the order of their arrival."""
        if self.cleared_for.get(topic) is request:
            del self.cleared_for[topic]
        else:
            assert topic not in self.cleared_for
            assert self.queues[topic].popleft() is request

    def check_tell(self, request: Request, verdict: Verdict) -> None:
        topic = request.topic
        if verdict is Verdict.STILL_LEFT:
            assert self.cleared_for.pop(topic) is request
            assert self.there[topic] is State.LEFT
        elif verdict is Verdict.FAILED and self.cleared_for.get(topic) is request:
            del self.cleared_for[topic]
        elif verdict is Verdict.TIMED_OUT or request in self.after_deletion:
            assert verdict in (Verdict.TIMED_OUT, Verdict.NOT_THERE)
            self.queues[topic].remove(request)
        else:
            self.check_turn(topic, request)
            assert verdict in (Verdict.FAILED, self.expected(request))

    @rule(topic=st.sampled_from(TOPICS), wish=st.sampled_from(Wish))
    def ask(self, topic: str, wish: Wish) -> None:
        request = Request(topic, wish)
        self.queues[topic].append(request)
        self.do(self.lives.ask(topic, wish, request))

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), is_known=st.booleans())
    def look(self, data: st.DataObject, is_known: bool) -> None:
        self.end_look(data.draw(st.sampled_from(sorted(self.looks))), is_known)

    def end_look(self, topic: str, is_known: bool) -> None:
        self.looks.remove(topic)
        self.do(self.lives.found(topic, self.there[topic]) if is_known else self.lives.lost(topic))

    @precondition(lambda self: self.changing)
    @rule(data=st.data(), ends=st.sampled_from(ENDS), is_known=st.booleans())
    def change(self, data: st.DataObject, ends: str, is_known: bool) -> None:
        self.end_change(data.draw(st.sampled_from(sorted(self.changing))), ends, is_known)

    def end_change(self, topic: str, ends: str, is_known: bool) -> None:
        change, request = self.changing.pop(topic)
        outcomes = {
            Change.MAKING: (State.THERE, State.ABSENT, State.LEFT),
            Change.EXTENDING: (State.THERE, State.THERE, State.THERE),
            Change.DELETING: (State.ABSENT, State.THERE, State.LEFT),
            Change.CLEARING: (State.ABSENT, State.LEFT, State.LEFT),
        }
        if not (change is Change.CLEARING and self.there[topic] is State.THERE):
            self.there[topic] = outcomes[change][ENDS.index(ends)]
        if self.cleared_for.get(topic) is not request:
            request.answers.append("by the change")
        if is_known and change is Change.DELETING and self.there[topic] is not State.THERE:
            late = (Wish.DELETE, Wish.EXTEND)
            self.after_deletion = [each for each in self.queues[topic] if each.wish in late]
        self.do(self.lives.found(topic, self.there[topic]) if is_known else self.lives.lost(topic))
        assert not [each for each in self.after_deletion if not each.answers]
        self.after_deletion = []

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from([topic for topic in TOPICS if self.queues[topic]]))
        request = data.draw(st.sampled_from(self.queues[topic]))
        self.do(self.lives.give_up(topic, request))
        assert request.answers == ["was not its turn in time"]

    @precondition(lambda self: self.changing)
    @rule(data=st.data())
    def give_up_what_was_begun(self, data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from(sorted(self.changing)))
        assert self.lives.give_up(topic, self.changing[topic][1]) == []

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for topic in TOPICS:
            assert not self.queues[topic] or topic in self.looks or topic in self.changing
            assert not any(request.answers for request in self.queues[topic])

    def teardown(self) -> None:
        for topic in TOPICS:
            while topic in self.looks or topic in self.changing:
                if topic in self.looks:
                    self.end_look(topic, True)
                else:
                    self.end_change(topic, "well", True)
            assert not self.queues[topic]
        assert not self.lives._lives


TestRequests = Requests.TestCase


@given(st.lists(st.sampled_from([Wish.CREATE, Wish.DELETE]), min_size=1, max_size=12))
def test_of_those_who_come_while_a_topic_is_changed_one_wins(wishes: list[Wish]) -> None:
    lives: Lives[int] = Lives()
    told: dict[int, Verdict] = {}
    there = False
    steps: list[Step[int]] = []
    for number, wish in enumerate(wishes):
        steps += lives.ask("topic", wish, number)
    done: list[int] = []
    while steps:
        match steps.pop(0):
            case Tell(number, verdict):
                told[number] = verdict
            case Begin(topic, change, number):
                there = change is Change.MAKING
                done.append(number)
                steps += lives.found(topic, State.THERE if there else State.ABSENT)
            case Look(topic):
                steps += lives.found(topic, State.ABSENT)
    assert sorted([*told, *done]) == list(range(len(wishes)))
    for first, second in itertools.pairwise(done):
        assert wishes[first] is not wishes[second]
    for number, verdict in told.items():
        assert verdict is (Verdict.EXISTS if wishes[number] is Wish.CREATE else Verdict.NOT_THERE)


def test_a_request_that_waits_behind_a_deletion_makes_the_topic_anew() -> None:
    lives: Lives[str] = Lives()
    assert lives.ask("topic", Wish.DELETE, "first") == [Look("topic")]
    assert lives.found("topic", State.THERE) == [Begin("topic", Change.DELETING, "first")]
    for wish, request in ((Wish.DELETE, "second"), (Wish.CREATE, "third"), (Wish.EXTEND, "fourth")):
        assert lives.ask("topic", wish, request) == []
    assert lives.found("topic", State.ABSENT) == [
        Tell("second", Verdict.NOT_THERE),
        Tell("fourth", Verdict.NOT_THERE),
        Begin("topic", Change.MAKING, "third"),
    ]


@pytest.mark.parametrize("state", [State.ABSENT, State.LEFT])
def test_what_is_left_of_a_topic_is_cleared_away_before_it_is_made_again(state: State) -> None:
    lives: Lives[str] = Lives()
    lives.ask("topic", Wish.CREATE, "first")
    assert lives.found("topic", State.LEFT) == [Begin("topic", Change.CLEARING, "first")]
    assert lives.ask("topic", Wish.DELETE, "second") == []
    expected: list[Step[str]] = [Begin("topic", Change.MAKING, "first")]
    if state is State.LEFT:
        expected = [Tell("first", Verdict.STILL_LEFT), Begin("topic", Change.CLEARING, "second")]
    assert lives.found("topic", state) == expected
