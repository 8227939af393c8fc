"""The sequencer against an oracle that remembers everything."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mochi.margo.errors import Fault
from mochi.mofka import chunks, sequencer
from mochi.mofka.chunks import Remembered
from mochi.mofka.protocol import REMEMBERED_BATCHES
from mochi.mofka.sequencer import Answer, Sequencer

Outcome = int | BaseException
IDENTITIES = [bytes([number]) * 16 for number in range(3)]


class Oracle:
    """All batches of one life of an identity, by number: their ids, None while they are on their way."""

    def __init__(self) -> None:
        self.ids: list[int | None] = []
        self.follows_failure = False

    def expected(self, sequence: int) -> str:
        """Say what becomes of a batch: ``new``, ``repeated``, or the code of a fault."""
        if sequence > len(self.ids):
            if not self.ids:
                return "storage" if self.follows_failure else "identity_expired"
            return "sequence_gap"
        if sequence < len(self.ids) - REMEMBERED_BATCHES:
            return "identity_expired"
        if sequence < len(self.ids):
            return "repeated"
        waiting = self.ids[-REMEMBERED_BATCHES:].count(None)
        return "too_many_batches" if waiting == REMEMBERED_BATCHES else "new"


class SequencerMachine(RuleBasedStateMachine):
    """Producers that send what they like, and a storage that answers in the order of arrival, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.sequencer = Sequencer()
        self.oracles = {identity: Oracle() for identity in IDENTITIES}
        self.storage: list[tuple[bytes, Oracle, int, Answer]] = []
        self.next_id = 0
        self.expected: list[tuple[Oracle, int, list[Outcome]]] = []

    @rule(identity=st.sampled_from(IDENTITIES), sequence=st.integers(0, 3), count=st.integers(1, 70))
    def send_a_run(self, identity: bytes, sequence: int, count: int) -> None:
        for number in range(sequence, sequence + count):
            self.send(identity, number)

    @rule(identity=st.sampled_from(IDENTITIES), back=st.integers(-2, REMEMBERED_BATCHES + 2))
    def send_near_the_end(self, identity: bytes, back: int) -> None:
        self.send(identity, max(0, len(self.oracles[identity].ids) - back))

    def send(self, identity: bytes, sequence: int) -> None:
        oracle = self.oracles[identity]
        expected = oracle.expected(sequence)
        answers: list[Outcome] = []
        if expected not in ("new", "repeated"):
            with pytest.raises(Fault) as raised:
                self.sequencer.admit(identity, sequence, answers.append)
            assert raised.value.code == expected
            assert not answers
            return
        settle = self.sequencer.admit(identity, sequence, answers.append)
        assert (settle is not None) == (expected == "new")
        if settle is not None:
            oracle.ids.append(None)
            self.storage.append((identity, oracle, sequence, settle))
        self.expected.append((oracle, sequence, answers))

    @precondition(lambda self: self.storage)
    @rule(count=st.integers(1, 70), events=st.integers(1, 5))
    def store(self, count: int, events: int) -> None:
        for _ in range(min(count, len(self.storage))):
            _, oracle, sequence, settle = self.storage.pop(0)
            oracle.ids[sequence] = first = self.next_id
            self.next_id += events
            settle(first)

    @precondition(lambda self: self.storage)
    @rule()
    def fail_to_store(self) -> None:
        identity, oracle, sequence, settle = self.storage.pop(0)
        error = Fault("storage", "disk")
        settle(error)
        for other, number, answers in self.expected:
            if other is oracle and number == sequence:
                assert answers == [error]
        self.expected = [e for e in self.expected if e[0] is not oracle or e[1] != sequence]
        if self.oracles[identity] is oracle:
            self.oracles[identity] = Oracle()
            self.oracles[identity].follows_failure = True

    @invariant()
    def every_copy_of_a_batch_gets_the_same_id_and_gets_it_once(self) -> None:
        for oracle, sequence, answers in self.expected:
            first = oracle.ids[sequence]
            assert answers == ([] if first is None else [first])


TestAgainstAnOracle = SequencerMachine.TestCase
TestAgainstAnOracle.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def admitted(sequencer: Sequencer, identity: bytes, sequence: int) -> Answer:
    settle = sequencer.admit(identity, sequence, lambda _: None)
    assert settle is not None
    return settle


def test_the_identity_quiet_for_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MAX_PRODUCERS", 2)
    known = Sequencer()
    for identity in IDENTITIES[:2]:
        admitted(known, identity, 0)(7)
    admitted(known, IDENTITIES[0], 1)(8)
    admitted(known, IDENTITIES[2], 0)(9)
    admitted(known, IDENTITIES[0], 2)(10)
    with pytest.raises(Fault, match="does not know") as raised:
        known.admit(IDENTITIES[1], 1, lambda _: None)
    assert raised.value.code == "identity_expired"


def test_batches_behind_one_that_failed_are_told_why_it_did() -> None:
    known = Sequencer()
    admitted(known, IDENTITIES[0], 0)(Fault("storage", "No space left on device"))
    admitted(known, IDENTITIES[1], 0)(ValueError("of no use"))
    for _ in range(2):
        with pytest.raises(Fault, match=r"batch 1 follows .* could not be stored: No space left") as raised:
            known.admit(IDENTITIES[0], 1, lambda _: None)
        assert raised.value.code == "storage"
    with pytest.raises(Fault, match="of no use") as raised:
        known.admit(IDENTITIES[1], 7, lambda _: None)
    assert raised.value.code == "internal"
    admitted(known, IDENTITIES[0], 0)(5)
    admitted(known, IDENTITIES[0], 1)(6)


def test_the_reasons_of_the_last_failures_alone_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MAX_FAILED", 2)
    known = Sequencer()
    for identity in IDENTITIES:
        admitted(known, identity, 0)(Fault("storage", "disk"))
    for identity, code in zip(IDENTITIES, ("identity_expired", "storage", "storage"), strict=True):
        with pytest.raises(Fault) as raised:
            known.admit(identity, 1, lambda _: None)
        assert raised.value.code == code


def test_batches_remembered_from_before_are_answered_and_followed() -> None:
    known = Sequencer([Remembered(IDENTITIES[0], 7, (30, 40)), Remembered(IDENTITIES[1], 1, (50,))])
    answers: list[Any] = []
    for sequence in (5, 6):
        assert known.admit(IDENTITIES[0], sequence, answers.append) is None
    assert answers == [30, 40]
    with pytest.raises(Fault, match="older than"):
        known.admit(IDENTITIES[0], 4, answers.append)
    admitted(known, IDENTITIES[0], 7)(60)
    admitted(known, IDENTITIES[1], 1)(70)


def test_storage_remembers_as_many_batches_as_producers_may_have_on_their_way() -> None:
    assert chunks.REMEMBERED_BATCHES == REMEMBERED_BATCHES


def test_a_batch_that_fails_after_its_identity_began_anew_leaves_the_new_one_alone() -> None:
    known = Sequencer()
    first, second = admitted(known, IDENTITIES[0], 0), admitted(known, IDENTITIES[0], 1)
    first(OSError("disk"))
    admitted(known, IDENTITIES[0], 0)(5)
    second(OSError("disk"))
    answers: list[Any] = []
    assert known.admit(IDENTITIES[0], 0, answers.append) is None
    assert answers == [5]
