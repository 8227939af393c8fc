"""A group of the type swim, simulated: who is found dead, when, by whom, and who writes the file."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.flock.config import SwimConfig
from mochi.flock.standing import Peer, Ping, Standing, State, Write
from mochi.flock.swim import Swim
from tests.flock.simulated_group import Simulation

CONFIG = SwimConfig()
SIZES = st.integers(2, 9)
SEEDS = st.integers(0, 2**32)
few = settings(max_examples=40, deadline=None)


def group(size: int, seed: int) -> Simulation:
    return Simulation(size, lambda me, draw, now: Swim(me, CONFIG, draw, now), seed)


def bound(size: int) -> float:
    """Seconds within which a change is known to all: two rounds to meet it, one to be told, and the suspicion."""
    return 4 * size * CONFIG.protocol_period + 2 * CONFIG.suspicion_timeout + 2


@few
@given(SIZES, SEEDS)
def test_without_loss_nobody_is_ever_suspect_and_nothing_is_written(size: int, seed: int) -> None:
    simulation = group(size, seed)
    simulation.run(60)
    assert simulation.changes == []
    assert simulation.writers == []


@few
@given(SIZES, SEEDS, st.data())
def test_a_dead_member_is_found_by_all_within_a_bound_and_comes_back(
    size: int, seed: int, data: st.DataObject
) -> None:
    simulation = group(size, seed)
    simulation.run(data.draw(st.floats(0, 10)))
    victim = data.draw(st.sampled_from(simulation.peers))
    others = [peer for peer in simulation.peers if peer != victim]
    simulation.kill(victim)
    simulation.run(bound(size))
    assert all(simulation.states(peer) == {victim.rank: State.DEAD} for peer in others)
    assert {about for _, _, about, _ in simulation.changes} == {victim}
    if size > 2:
        assert simulation.file == {victim: State.DEAD}
        assert {peer for _, peer in simulation.writers} == {others[0]}
    else:
        assert simulation.writers == []
        assert simulation.nodes[others[0]].machine.frozen is not None
    simulation.restart(victim)
    simulation.run(bound(size))
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert simulation.file == {}
    assert all(node.machine.frozen is None for node in simulation.nodes.values())


@few
@given(st.integers(3, 9), SEEDS, st.data())
def test_of_a_parted_network_more_than_half_alone_write_and_both_sides_agree_once_it_heals(
    size: int, seed: int, data: st.DataObject
) -> None:
    simulation = group(size, seed)
    cut = data.draw(st.sets(st.sampled_from(simulation.peers), min_size=1, max_size=size // 2))
    rest = [peer for peer in simulation.peers if peer not in cut]
    simulation.run(data.draw(st.floats(0, 5)))
    simulation.part(*cut)
    simulation.run(bound(size))
    for side, other in ((cut, rest), (rest, cut)):
        for peer in side:
            assert simulation.states(peer) == {each.rank: State.DEAD for each in other}
            assert (simulation.nodes[peer].machine.frozen is None) == (2 * len(side) > size)
    assert cut.isdisjoint(peer for _, peer in simulation.writers)
    if 2 * len(rest) > size:
        assert simulation.file == dict.fromkeys(sorted(cut), State.DEAD)
    else:
        assert simulation.writers == []
    simulation.heal()
    simulation.run(2 * bound(size))
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert simulation.file == {}


@few
@given(SIZES, SEEDS)
def test_a_process_that_was_stopped_takes_nobody_for_dead_when_it_goes_on(size: int, seed: int) -> None:
    simulation = group(size, seed)
    simulation.run(5)
    stopped, *others = simulation.peers
    simulation.stop(stopped)
    simulation.run(bound(size))
    assert all(simulation.states(peer) == {0: State.DEAD} for peer in others)
    simulation.go_on(stopped)
    simulation.run(bound(size))
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert [
        state for _, peer, _, state in simulation.changes if peer == stopped and state is State.DEAD
    ] == []


@few
@given(st.integers(3, 9), SEEDS)
def test_one_message_in_ten_that_is_lost_costs_nobody_its_life(size: int, seed: int) -> None:
    simulation = group(size, seed)
    simulation.loss = 0.1
    simulation.run(120)
    assert [change for change in simulation.changes if change[3] is State.DEAD] == []
    simulation.loss = 0
    simulation.run(bound(size))
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert simulation.file == {}


@few
@given(SIZES, SEEDS, st.data())
def test_whatever_happens_all_agree_when_it_is_over(size: int, seed: int, data: st.DataObject) -> None:
    simulation = group(size, seed)
    for _ in range(data.draw(st.integers(1, 8))):
        peer = data.draw(st.sampled_from(simulation.peers))
        what = data.draw(st.sampled_from(["kill", "restart", "stop", "go_on", "part", "heal"]))
        simulation.loss = data.draw(st.sampled_from([0, 0.3]))
        getattr(simulation, what)(*(() if what == "heal" else (peer,)))
        simulation.run(data.draw(st.floats(0, 20)))
    simulation.heal()
    simulation.loss = 0
    for peer, node in simulation.nodes.items():
        if node.is_stopped:
            simulation.go_on(peer)
        if not node.is_up:
            simulation.restart(peer)
    simulation.run(3 * bound(size))
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert simulation.file == {}


ME, B, C = (Peer(rank, f"ofi+tcp://10.0.0.{rank}:1") for rank in range(3))


def machine(*others: Peer, **fields: int) -> Swim:
    made = Swim(ME, SwimConfig(**fields), random.Random(0), 0.0)
    made.know(others)
    return made


def test_who_is_spoken_of_as_dead_contradicts() -> None:
    swim = machine(B)
    assert swim.asked(B, [Standing(*ME, State.DEAD, 4)], 1.0) == [
        Standing(*ME, State.ALIVE, 5),
        Standing(*B, State.ALIVE, 0),
    ]


def test_what_was_said_of_an_earlier_incarnation_counts_no_more() -> None:
    swim = machine(B, C)
    swim.asked(C, [Standing(*B, State.ALIVE, 2), Standing(*B, State.DEAD, 1)], 1.0)
    assert swim.states == {}
    swim.asked(C, [Standing(*B, State.DEAD, 2)], 1.0)
    assert swim.states == {B: State.SUSPECT}


def test_news_of_those_who_are_no_members_are_passed_over() -> None:
    swim = machine(B)
    assert swim.asked(C, [Standing(*C, State.DEAD, 7)], 1.0) == [Standing(*ME, State.ALIVE, 0)]
    assert swim.states == {}


def test_a_side_writes_only_once_more_than_half_have_answered() -> None:
    others = [Peer(rank, f"ofi+tcp://10.0.0.{rank}:1") for rank in range(1, 5)]
    swim = machine(*others)
    swim.asked(B, [Standing(*others[3], State.SUSPECT, 0)], 1.0)
    actions = swim.tick(1.0)
    pings = [ping for ping in actions if isinstance(ping, Ping) and ping.purpose.value == "count"]
    assert [ping.to for ping in pings] == others[:3]
    swim.answered(pings[0], (), 1.1)
    assert not any(isinstance(action, Write) for action in swim.tick(1.1))
    swim.answered(pings[1], (), 1.2)
    assert [action for action in swim.tick(1.2) if isinstance(action, Write)] == [
        Write({others[3]: State.SUSPECT})
    ]


def test_as_many_as_were_asked_for_are_asked_to_ping_one_that_was_missed() -> None:
    others = [Peer(rank, f"ofi+tcp://10.0.0.{rank}:1") for rank in range(1, 8)]
    swim = machine(*others, ping_req_members=2)
    (ping,) = swim.tick(1.0)
    assert isinstance(ping, Ping)
    swim.missed(ping, 1.2)
    asked = [each for each in swim.tick(1.2) if isinstance(each, Ping)]
    assert [each.about for each in asked] == [ping.to] * 2
    assert ping.to not in {each.to for each in asked}
    swim.missed(asked[0], 1.7)
    assert swim.states == {}
    swim.missed(asked[1], 1.7)
    assert swim.states == {ping.to: State.SUSPECT}
    assert all(not isinstance(action, Ping) or action.about != ping.to for action in swim.tick(1.7))


def test_time_in_which_a_process_was_stopped_does_not_count_against_others() -> None:
    swim = machine(B, C)
    swim.asked(C, [Standing(*B, State.DEAD, 0)], 1.0)
    swim.tick(1.0)
    swim.tick(100.0)
    assert swim.states == {B: State.SUSPECT}
    while swim.due < 105.5:
        swim.tick(swim.due)
    assert swim.states == {B: State.DEAD}
