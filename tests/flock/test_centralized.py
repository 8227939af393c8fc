"""A group of the type centralized, simulated: what the primary finds, and what the others know of it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.flock.centralized import Centralized
from mochi.flock.config import CentralizedConfig
from mochi.flock.standing import Action, Peer, Ping, Standing, State, Write
from tests.flock.simulated_group import Simulation

CONFIG = CentralizedConfig(ping_timeout_ms=500.0, ping_interval_ms=[800.0, 1200.0])
SIZES = st.integers(2, 9)
SEEDS = st.integers(0, 2**32)
BOUND = (CONFIG.longest_interval + CONFIG.ping_timeout) * (CONFIG.ping_max_num_timeouts + 2)
few = settings(max_examples=40, deadline=None)


def group(size: int, seed: int, config: CentralizedConfig = CONFIG) -> Simulation:
    return Simulation(size, lambda me, draw, now: Centralized(me, 0, config, draw, now), seed)


@few
@given(SIZES, SEEDS)
def test_without_loss_nobody_is_ever_suspect_and_nothing_is_frozen(size: int, seed: int) -> None:
    simulation = group(size, seed)
    for _ in range(60):
        simulation.run(1)
        assert all(node.machine.frozen is None for node in simulation.nodes.values())
    assert simulation.changes == []
    assert simulation.writers == []


@few
@given(SIZES, SEEDS, st.data())
def test_a_dead_member_is_found_told_and_comes_back(size: int, seed: int, data: st.DataObject) -> None:
    simulation = group(size, seed)
    simulation.run(data.draw(st.floats(0, 10)))
    primary, *others = simulation.peers
    victim = data.draw(st.sampled_from(others))
    simulation.kill(victim)
    simulation.run(BOUND)
    living = [peer for peer in simulation.peers if peer != victim]
    assert all(simulation.states(peer) == {victim.rank: State.DEAD} for peer in living)
    assert [state for _, peer, _, state in simulation.changes if peer == primary] == [
        State.SUSPECT,
        State.DEAD,
    ]
    assert simulation.file == {victim: State.DEAD}
    simulation.restart(victim)
    simulation.run(BOUND)
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert simulation.file == {}
    assert {peer for _, peer in simulation.writers} == {primary}


@few
@given(SIZES, SEEDS, st.booleans())
def test_without_its_primary_the_view_is_frozen_until_that_is_back(
    size: int, seed: int, is_killed: bool
) -> None:
    simulation = group(size, seed)
    simulation.run(3)
    primary, *others = simulation.peers
    (simulation.kill if is_killed else simulation.stop)(primary)
    simulation.kill(others[-1])
    simulation.run(2 * BOUND)
    for peer in others[:-1]:
        frozen = simulation.nodes[peer].machine.frozen
        assert frozen is not None
        assert "rank 0, has not pinged for" in frozen
    assert simulation.writers == []
    (simulation.restart if is_killed else simulation.go_on)(primary)
    simulation.run(BOUND)
    assert all(simulation.nodes[peer].machine.frozen is None for peer in others[:-1])
    assert simulation.file == {others[-1]: State.DEAD}
    assert simulation.states(primary) == {others[-1].rank: State.DEAD}


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
    assert {peer.rank for _, peer in simulation.writers} <= {0}
    simulation.heal()
    simulation.loss = 0
    for peer, node in simulation.nodes.items():
        if node.is_stopped:
            simulation.go_on(peer)
        if not node.is_up:
            simulation.restart(peer)
    simulation.run(2 * BOUND)
    assert all(simulation.states(peer) == {} for peer in simulation.peers)
    assert all(node.machine.frozen is None for node in simulation.nodes.values())
    assert simulation.file == {}


@few
@given(st.integers(1, 6), SEEDS)
def test_as_many_misses_as_were_asked_for_are_a_death(most: int, seed: int) -> None:
    config = CentralizedConfig(ping_timeout_ms=100.0, ping_interval_ms=100.0, ping_max_num_timeouts=most)
    simulation = group(3, seed, config)
    simulation.run(3)
    simulation.kill(simulation.peers[1])
    began = simulation.now
    simulation.run(20)
    when = next(
        when for when, _, about, state in simulation.changes if about.rank == 1 and state is State.DEAD
    )
    pings = round((when - began) / 0.1)  # each begins as the one before is missed, or an interval after it
    assert most <= pings <= most + 2


ME, B, C = (Peer(rank, f"ofi+tcp://10.0.0.{rank}:1") for rank in range(3))
SLOW = CentralizedConfig(ping_interval_ms=10_000)


def machine(primary: int) -> Centralized:
    made = Centralized(ME, primary, SLOW, random.Random(0), 0.0)
    made.know([B, C])
    return made


def pings(actions: list[Action]) -> list[Ping]:
    return [action for action in actions if isinstance(action, Ping)]


def test_a_change_is_told_at_once() -> None:
    primary = machine(0)
    to_b, to_c = pings(primary.tick(0.0))
    primary.answered(to_c, (), 0.1)
    primary.missed(to_b, 1.0)
    assert primary.due == 1.0
    actions = primary.tick(1.0)
    assert [action for action in actions if isinstance(action, Write)] == [Write({B: State.SUSPECT})]
    assert [(ping.to, ping.news) for ping in pings(actions)] == [(C, [Standing(*B, State.SUSPECT)])]
    primary.recorded({B: State.SUSPECT})
    assert primary.due > 9.0


def test_misses_count_in_a_row_only() -> None:
    primary = Centralized(ME, 0, SLOW, random.Random(0), 0.0)
    primary.know([B])
    states = []
    for is_answered in (False, False, True, False, False, False):
        now = primary.due
        (ping,) = pings(primary.tick(now))
        if is_answered:
            primary.answered(ping, (), now)
        else:
            primary.missed(ping, now)
        primary.recorded(primary.states)
        states.append(primary.states.get(B, State.ALIVE))
    assert states == [State.SUSPECT, State.SUSPECT, State.ALIVE, State.SUSPECT, State.SUSPECT, State.DEAD]


def test_a_member_that_was_stopped_waits_for_its_primary_before_it_calls_its_view_frozen() -> None:
    member = machine(1)
    patience = member.due
    member.tick(1000.0)
    assert member.frozen is None
    assert member.due == 1000.0 + patience
    member.tick(member.due)
    assert member.frozen is not None
    assert member.due == float("inf")
    member.asked(B, [], 2000.0)
    assert member.frozen is None
