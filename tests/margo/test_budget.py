"""The budget of what is held for peers, against an oracle that looks at everything again after each step."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.margo.budget import LEAST_MOVE, PATIENCE, Account, Budget, Grant, Reservation, Wait

SERVER, CONNECTION, SHARE = 100, 40, 10


def nothing() -> None:
    """Be granted."""


class Oracle:
    """Says which reservations of which connections are granted, by the rules as they stand in `mochi.margo.budget`."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.waiting: list[tuple[int, int, int]] = []
        self.blocked: list[int] = []
        self.granted: list[int] = []
        self.number = 0

    def beyond(self, held: int) -> int:
        return max(0, held - SHARE)

    def within_limit(self, who: int, size: int) -> bool:
        return self.held[who] == 0 or self.held[who] + size <= CONNECTION

    def common(self) -> int:
        return sum(map(self.beyond, self.held.values()))

    def room(self, who: int, size: int) -> bool:
        others = self.common() - self.beyond(self.held[who])
        after = others + self.beyond(self.held[who] + size)
        return (
            after <= SERVER
            or others == 0
            or self.beyond(self.held[who] + size) == self.beyond(self.held[who])
        )

    def first_of(self, who: int) -> tuple[int, int, int] | None:
        return next((each for each in self.waiting if each[0] == who), None)

    def grant(self, each: tuple[int, int, int]) -> None:
        self.waiting.remove(each)
        self.held[each[0]] += each[1]
        self.granted.append(each[2])

    def settle(self) -> None:
        """Grant until nothing more may be granted; those that wait for the common part keep their order."""
        again = True
        while again:
            again = False
            for who in list(self.held):
                first = self.first_of(who)
                if first is None or not self.within_limit(who, first[1]):
                    self.blocked = [other for other in self.blocked if other != who]
                elif self.held[who] + first[1] <= SHARE:
                    self.blocked = [other for other in self.blocked if other != who]
                    self.grant(first)
                    again = True
                elif who not in self.blocked:
                    self.blocked.append(who)
            while self.blocked:
                first = self.first_of(self.blocked[0])
                assert first is not None
                if not self.room(first[0], first[1]):
                    break
                self.blocked.pop(0)
                self.grant(first)
                again = True
                who, size, _ = self.first_of(first[0]) or (first[0], 0, 0)
                if self.within_limit(who, size) and self.held[who] + size > SHARE and size:
                    self.blocked.append(who)

    def reserve(self, who: int, size: int) -> int:
        self.number += 1
        self.waiting.append((who, size, self.number))
        self.settle()
        return self.number


steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 3), st.integers(0, 130)),
        st.tuples(st.just("release"), st.integers(0, 3), st.integers(1, 60)),
        st.tuples(st.just("take"), st.integers(0, 3), st.integers(1, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 3), st.integers(0, 5)),
        st.tuples(st.just("close"), st.integers(0, 3), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_what_is_granted_is_what_the_rules_say(steps: Sequence[tuple[str, int, int]]) -> None:
    budget, oracle = Budget(SERVER, CONNECTION, SHARE), Oracle()
    accounts = {who: budget.open() for who in range(4)}
    oracle.held = dict.fromkeys(accounts, 0)
    reservations: dict[int, Reservation] = {}
    granted: set[int] = set()

    def run(grants: Sequence[Grant]) -> None:
        for each in grants:
            each()

    for what, who, size in steps:
        account = accounts[who]
        waiting = [each for each in oracle.waiting if each[0] == who]
        if what == "reserve":
            number = oracle.reserve(who, size)
            reservation = budget.reserve(account, size, lambda number=number: granted.add(number))  # type: ignore[misc]
            if reservation is None:
                granted.add(number)
            else:
                reservations[number] = reservation
        elif what in ("release", "take"):
            difference = -min(size, account.held) if what == "release" else size
            oracle.held[who] += difference
            oracle.settle()
            run(budget.change(account, difference))
        elif what == "cancel" and waiting:
            taken_back = waiting[size % len(waiting)]
            oracle.waiting.remove(taken_back)
            if taken_back == waiting[0]:
                oracle.blocked = [other for other in oracle.blocked if other != who]
            oracle.settle()
            run(budget.cancel(reservations[taken_back[2]]))
        elif what == "close":
            oracle.waiting = [each for each in oracle.waiting if each[0] != who]
            oracle.held[who] = 0
            oracle.settle()
            run(budget.close(account))
            accounts[who] = budget.open()
        assert granted == set(oracle.granted)
        assert {who: account.held for who, account in accounts.items()} == oracle.held
        assert budget.held == sum(oracle.held.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=80))
def test_whatever_is_asked_for_no_more_is_granted_than_the_bounds_and_no_share_is_taken(
    asked: Sequence[tuple[int, int]],
) -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(10)]
    for who, size in asked:
        budget.reserve(accounts[who], size, nothing)
    assert all(account.held <= CONNECTION for account in accounts)
    assert sum(max(0, account.held - SHARE) for account in accounts) <= SERVER
    newcomer = budget.open()
    assert budget.reserve(newcomer, SHARE, nothing) is None


def full() -> tuple[Budget, list[Account]]:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(4)]
    for account in accounts:
        assert budget.reserve(account, 35, nothing) is None
    assert not budget.is_short
    assert budget.reserve(budget.open(), 20, nothing) is not None
    assert budget.is_short
    return budget, accounts


def test_when_the_budget_is_used_up_who_has_kept_the_server_waiting_for_longest_is_to_go() -> None:
    budget, accounts = full()
    assert budget.stalled(1e9) is None  # the server is busy with all of them itself
    accounts[2].reading.moved(0, 10.0)
    accounts[1].sending.moved(0, 11.0)
    accounts[0].reading.moved(0, 12.0)
    accounts[0].sending.moved(0, 13.0)
    assert budget.stalled(10.0 + PATIENCE - 0.1) is None
    assert budget.stalled(12.0 + PATIENCE) is accounts[2]
    accounts[2].reading.over()
    assert budget.stalled(12.0 + PATIENCE) is accounts[1]
    accounts[1].sending.moved(LEAST_MOVE, 12.5)
    assert budget.stalled(12.0 + PATIENCE) is accounts[0]
    assert len(budget.close(accounts[0])) == 1
    assert not budget.is_short
    assert budget.stalled(1e9) is None


def test_who_holds_no_more_than_its_share_does_not_go_for_others() -> None:
    budget, accounts = full()
    small = budget.open()
    budget.change(small, SHARE)
    small.reading.moved(0, 1.0)
    assert budget.stalled(1e9) is None
    accounts[0].reading.moved(0, 5.0)
    assert budget.stalled(1e9) is accounts[0]


def test_shares_that_nobody_reads_come_to_an_end_too() -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(11)]
    for number, account in enumerate(accounts):
        budget.change(account, SHARE)
        account.reading.moved(0, float(number))
    assert budget.is_short
    assert budget.stalled(100.0) is accounts[0]
    budget.close(accounts[0])
    assert not budget.is_short


@pytest.mark.parametrize("moves", [[LEAST_MOVE], [1, LEAST_MOVE - 1], [LEAST_MOVE * 2]])
def test_a_trickle_is_no_move(moves: Sequence[int]) -> None:
    wait = Wait()
    wait.moved(0, 1.0)
    for _ in range(LEAST_MOVE // 8):
        wait.moved(1, 2.0)
    assert wait.since == 1.0
    for size in moves:
        wait.moved(size, 3.0)
    assert wait.since == 3.0
    wait.over()
    assert wait.since is None


def test_a_closed_account_is_granted_nothing_and_holds_nothing() -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    account = budget.open()
    calls: list[Any] = []
    grant: Callable[[], None] = lambda: calls.append(1)  # noqa: E731
    assert budget.reserve(account, 5, grant) is None
    assert budget.reserve(account, CONNECTION, grant) is not None
    assert budget.close(account) == []
    assert budget.reserve(account, 1, grant) is not None
    assert budget.change(account, -5) == ()
    assert (budget.held, calls) == (0, [])
