"""Turns of those who share the thread that runs queries."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.turns import Turns


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60))
def test_all_work_is_taken_each_ones_in_its_order(steps: Sequence[tuple[int, int]]) -> None:
    turns: Turns[int, int] = Turns()
    put: dict[int, list[int]] = {who: [] for who in range(4)}
    taken: dict[int, list[int]] = {who: [] for who in range(4)}

    def take() -> bool:
        found = turns.take()
        if found is not None:
            taken[found[0]].append(found[1])
            turns.pay(found[0], float(found[1] % 5))
        return found is not None

    for number, (who, cost) in enumerate(steps):
        if cost > 15:
            take()
        turns.put(who, number * 5 + cost % 5)
        put[who].append(number * 5 + cost % 5)
        assert len(turns) == sum(map(len, put.values())) - sum(map(len, taken.values()))
    while take():
        pass
    assert taken == put
    assert turns.take() is None


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(20, 200))
def test_who_always_has_work_gets_as_much_as_others_whatever_a_turn_costs(
    costs: list[int], turns_taken: int
) -> None:
    turns: Turns[int, int] = Turns()
    for who in range(len(costs)):
        for _ in range(turns_taken):
            turns.put(who, who)
    spent = [0] * len(costs)
    for _ in range(turns_taken):
        found = turns.take()
        assert found is not None
        turns.pay(found[0], costs[found[0]])
        spent[found[0]] += costs[found[0]]
        assert max(spent) - min(spent) <= max(costs)


@given(st.integers(1, 50), st.integers(0, 30))
def test_who_comes_late_is_next_and_has_earned_nothing_by_the_pause(waiting: int, before: int) -> None:
    turns: Turns[str, int] = Turns()
    turns.put("late", 0)
    assert turns.take() == ("late", 0)
    turns.pay("late", 1)
    for number in range(before + waiting + 2):
        turns.put("busy", number)
    for _ in range(before):
        assert turns.take() is not None
        turns.pay("busy", 1)
    for number in range(waiting):
        turns.put("late", number)
    order = []
    for _ in range(2 * min(waiting, 2)):
        found = turns.take()
        assert found is not None
        turns.pay(found[0], 1)
        order.append(found[0])
    assert order.count("late") >= min(waiting, 2) - 1
    assert order.count("busy") >= min(waiting, 2) - 1


def test_nothing_is_kept_of_who_has_gone_or_is_behind() -> None:
    turns: Turns[int, int] = Turns()
    for who in range(1000):
        turns.put(who, 0)
        found = turns.take()
        assert found is not None
        turns.pay(found[0], 1)
    turns.put(1, 0)
    turns.drop(1)
    assert len(turns) == 0
    assert turns.take() is None
    assert len(turns._paid) <= 1000
