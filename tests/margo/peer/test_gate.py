"""Who is let in to a server, and how many may be on their way in."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo import transport
from mochi.margo.errors import Fault
from mochi.margo.handshake import Seat, hello
from mochi.margo.peer.gate import Gate, Lobby

OURS, OTHERS, PEERS = Seat(b"ours", 1), Seat(b"others", 1), Seat(b"peers", 1)


def refusal(gate: Gate, seat: Seat | None) -> str:
    with pytest.raises(Fault) as caught:
        gate.seat_of(hello(seat))
    return caught.value.code


def test_an_open_gate_lets_anybody_in() -> None:
    gate = Gate()
    assert gate.is_open
    for seat in (None, OURS, OTHERS):
        assert gate.seat_of(hello(seat)) is None


def test_a_shut_gate_lets_nobody_in_but_its_peers_until_these_part() -> None:
    gate = Gate()
    gate.shut()
    gate.admit_peers(PEERS)
    assert not gate.is_open
    assert [refusal(gate, seat) for seat in (None, OURS)] == ["starting"] * 2
    assert refusal(gate, Seat(b"peers", 2)) == "wrong_member"
    assert gate.seat_of(hello(PEERS)) == PEERS
    assert gate.token is None
    gate.admit_peers(None)
    assert refusal(gate, PEERS) == "starting"


def test_a_guarded_gate_answers_from_the_seat_that_is_meant() -> None:
    gate = Gate()
    gate.shut()
    gate.admit_peers(PEERS)
    gate.admit(OURS)
    assert gate.token == OURS.token
    for seat in (OURS, Seat(b"ours"), None):
        assert gate.seat_of(hello(seat)) == OURS
    assert gate.seat_of(hello(PEERS)) == PEERS
    assert refusal(gate, Seat(b"ours", 0)) == "wrong_member"
    assert refusal(gate, OTHERS) == "authentication"
    gate.open()
    assert not gate.is_open


def test_a_member_that_gets_another_rank_leaves_its_seat_and_one_of_two_groups_keeps_it() -> None:
    gate = Gate()
    gate.admit(OURS)
    gate.admit(Seat(b"ours", 5))
    assert gate.seat_of(hello(OURS)) == OURS
    gate.admit(Seat(b"ours", 7), instead=OURS)
    assert refusal(gate, OURS) == "wrong_member"
    assert {gate.seat_of(hello(Seat(b"ours", rank))) for rank in (5, 7)} == {
        Seat(b"ours", 5),
        Seat(b"ours", 7),
    }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 60)),
        st.tuples(st.just("pass"), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 6), st.integers(0, 6))
def test_in_a_crowd_the_oldest_of_those_who_are_most_goes_once_it_has_had_its_time(
    steps: list[tuple[str, int]], capacity: int, grace: int
) -> None:
    """Against a list of all who are there, in the order in which they came."""
    lobby = Lobby[int](capacity, grace)
    there: list[tuple[int, int, int]] = []
    now = 0
    for number, (step, value) in enumerate(steps):
        if step == "pass":
            now += value
        elif step == "leave":
            was_there = any(member == value for member, _, _ in there)
            there = [entry for entry in there if entry[0] != value]
            assert lobby.leave(value) == was_there
        else:
            leaving = None
            if len(there) == capacity:
                origins = [origin for _, origin, _ in there]
                most = max(map(origins.count, origins))
                leaving = next(entry for entry in there if origins.count(entry[1]) == most)
            assert lobby.to_let_go() == (leaving and leaving[0])
            assert lobby.wait(now) == (max(leaving[2] + grace - now, 0) if leaving else 0)
            if lobby.wait(now):
                continue
            if leaving:
                there.remove(leaving)
                assert lobby.leave(leaving[0])
            there.append((number, value, now))
            lobby.enter(number, value, now)
        assert len(lobby) == len(there) <= capacity


def test_one_peer_of_another_host_outlasts_a_flood() -> None:
    lobby = Lobby[str](4, 0.0)
    lobby.enter("honest", "there", 0.0)
    for number in range(1000):
        leaving = lobby.to_let_go()
        if leaving is not None:
            assert leaving != "honest"
            lobby.leave(leaving)
        lobby.enter(f"flood {number}", "here", number)
    assert len(lobby) == 4


class From(socket.socket):
    """A connection that says that it comes from some address."""

    def __init__(self, host: str) -> None:
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._host = host

    def getpeername(self) -> tuple[str, int]:
        return self._host, 1


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_connection_comes_from_its_host_or_its_network_of_addresses(host: str, origin: str) -> None:
    with From(host) as peer:
        assert transport.origin(peer) == origin


def test_a_connection_that_is_gone_and_one_of_this_node_have_an_origin() -> None:
    with socket.socket() as gone:
        assert transport.origin(gone) == ""
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert transport.origin(here) == f"{os.geteuid()}/{os.getpid()}"
