"""The budget of what is held for peers, against an oracle that looks at everything again after each step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.margo.peer.budget import LEAST_MOVE, PATIENCE, Account, Budget, Grant, Reservation, Side, Wait

SERVER, CONNECTION, SHARE = 100, 40, 10


def nothing() -> None:
    """Be granted."""


Which = tuple[int, bool]
"""A side: whose, and whether it is that of the answers."""


class Oracle:
    """Says which reservations are granted, by the rules of `mochi.margo.peer.budget`, one look at a time."""

    def __init__(self, sides: Sequence[Which]) -> None:
        self.held = dict.fromkeys(sides, 0)
        self.waiting: list[tuple[Which, int, int]] = []
        self.blocked: list[Which] = []
        self.granted: set[int] = set()

    def beyond(self, which: Which, more: int = 0) -> int:
        return max(0, self.held[which] + more - SHARE)

    def is_within_limit(self, which: Which, size: int) -> bool:
        both = self.held[which[0], False] + self.held[which[0], True]
        return self.held[which] == 0 or both + size <= CONNECTION

    def is_there(self, which: Which, size: int) -> bool:
        others = sum(self.beyond(other) for other in self.held if other != which and other[1] == which[1])
        wanted = self.beyond(which, size)
        return wanted == self.beyond(which) or others == 0 or others + wanted <= SERVER

    def first_of(self, which: Which) -> tuple[Which, int, int] | None:
        return next((each for each in self.waiting if each[0] == which), None)

    def look(self) -> tuple[Which, int, int] | None:
        """Find what is to be granted next, and take note of who is blocked."""
        for which in self.held:
            first = self.first_of(which)
            if first is None or not self.is_within_limit(which, first[1]):
                continue
            if not self.beyond(which, first[1]):
                return first
            if which not in self.blocked:
                if self.is_there(*first[:2]) and all(other[1] != which[1] for other in self.blocked):
                    return first
                self.blocked.append(which)
        for answers in (False, True):
            first = next((self.first_of(which) for which in self.blocked if which[1] is answers), None)
            if first is not None and self.is_there(first[0], first[1]):
                return first
        return None

    def settle(self) -> None:
        while (each := self.look()) is not None:
            self.blocked = [other for other in self.blocked if other != each[0]]
            self.waiting.remove(each)
            self.held[each[0]] += each[1]
            self.granted.add(each[2])


steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "reserve", "release", "release", "take", "cancel", "close"]),
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 60) | st.integers(0, 130),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_what_is_granted_is_what_the_rules_say(steps: Sequence[tuple[str, int, bool, int]]) -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = {who: budget.open() for who in range(4)}
    oracle = Oracle([(who, answers) for who in accounts for answers in (False, True)])
    reservations: dict[int, Reservation] = {}
    granted: set[int] = set()

    def side_of(which: Which) -> Side:
        account = accounts[which[0]]
        return account.answers if which[1] else account.requests

    def run(grants: Sequence[Grant]) -> None:
        for each in grants:
            each()

    for number, (what, who, answers, size) in enumerate(steps):
        which = who, answers
        waiting = [each for each in oracle.waiting if each[0] == which]
        if what == "reserve":
            oracle.waiting.append((which, size, number))
            oracle.settle()
            reservation = budget.reserve(side_of(which), size, partial(granted.add, number))
            if reservation is None:
                granted.add(number)
            else:
                reservations[number] = reservation
        elif what in ("release", "take"):
            difference = -min(size, oracle.held[which]) if what == "release" else size // 8
            oracle.held[which] += difference
            oracle.settle()
            run(budget.change(accounts[who], *((0, difference) if answers else (difference, 0))))
        elif what == "cancel" and waiting:
            taken_back = waiting[size % len(waiting)]
            oracle.waiting.remove(taken_back)
            if taken_back == waiting[0]:
                oracle.blocked = [other for other in oracle.blocked if other != which]
            oracle.settle()
            run(budget.cancel(reservations[taken_back[2]]))
        elif what == "close":
            oracle.waiting = [each for each in oracle.waiting if each[0][0] != who]
            oracle.blocked = [other for other in oracle.blocked if other[0] != who]
            oracle.held[who, False] = oracle.held[who, True] = 0
            oracle.settle()
            run(budget.close(accounts[who]))
            accounts[who] = budget.open()
        assert granted == oracle.granted
        assert {which: side_of(which).held for which in oracle.held} == oracle.held
        assert budget.held == sum(oracle.held.values())
        shares = sum(min(held, SHARE) for held in oracle.held.values())
        assert budget.is_short == (bool(oracle.blocked) or shares > 2 * SERVER)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 40)), max_size=80))
def test_whatever_is_asked_for_no_more_is_granted_than_the_bounds_and_no_share_is_taken(
    asked: Sequence[tuple[int, bool, int]],
) -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(10)]
    for who, answers, size in asked:
        account = accounts[who]
        budget.reserve(account.answers if answers else account.requests, size, nothing)
    sides = [side for account in accounts for side in (account.requests, account.answers)]
    assert all(account.held <= 2 * CONNECTION for account in accounts)
    assert all(side.held <= CONNECTION for side in sides)
    for side_of in ("requests", "answers"):
        assert sum(max(0, getattr(account, side_of).held - SHARE) for account in accounts) <= SERVER
    newcomer = budget.open()
    for side in (newcomer.requests, newcomer.answers):
        assert budget.reserve(side, SHARE, nothing) is None


def test_a_request_does_not_wait_for_memory_that_requests_hold() -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(6)]
    for account in accounts:
        budget.reserve(account.requests, CONNECTION, nothing)
    assert sum(account.requests.held for account in accounts) >= SERVER
    for account in accounts[:3]:
        assert budget.reserve(account.answers, CONNECTION, nothing) is None


def full() -> tuple[Budget, list[Account]]:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(4)]
    for account in accounts:
        assert budget.reserve(account.answers, 35, nothing) is None
    assert not budget.is_short
    assert budget.reserve(budget.open().answers, 20, nothing) is not None
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
    budget.change(small, SHARE, SHARE)
    small.reading.moved(0, 1.0)
    assert budget.stalled(1e9) is None
    accounts[0].reading.moved(0, 5.0)
    assert budget.stalled(1e9) is accounts[0]


def test_shares_that_nobody_reads_come_to_an_end_too() -> None:
    budget = Budget(SERVER, CONNECTION, SHARE)
    accounts = [budget.open() for _ in range(11)]
    for number, account in enumerate(accounts):
        budget.change(account, SHARE, SHARE)
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
    assert budget.reserve(account.requests, 5, grant) is None
    assert budget.reserve(account.requests, CONNECTION, grant) is not None
    assert budget.close(account) == []
    assert budget.reserve(account.answers, 1, grant) is not None
    assert budget.change(account, -5, 0) == ()
    assert (budget.held, calls) == (0, [])
