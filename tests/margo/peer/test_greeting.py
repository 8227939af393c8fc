"""The greeting: who is let in, and whom a client believes."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo import rpc
from mochi.margo.errors import AddressError, AuthenticationError, Fault, ProtocolError, VersionMismatch
from mochi.margo.handshake import Hello, Proof, Terms, Welcome, answer, hello, prove, read_hello
from mochi.margo.peer import Answering, Asking, Call, Seat, State
from mochi.margo.wire import VERSION, Kind
from tests.margo.peer.peers_by_hand import INSTANCE, OpenHouse, answering, said, tell

TOKEN = b"t" * 32
SEAT = Seat(TOKEN, 3)


def server(seat: Seat | None) -> Answering[Call]:
    """A server that answers everybody from one seat."""
    return answering(OpenHouse(seat))


def client(seat: Seat | None) -> tuple[Asking, bytes]:
    """A client, and the message of its HELLO."""
    asking = Asking(seat, "here")
    (frame,) = said(asking)
    return asking, frame.message


def welcome_of(peer: Answering[Call], message: bytes) -> bytes:
    tell(peer, Kind.HELLO, message)
    (reply,) = said(peer)
    assert reply.kind is Kind.WELCOME
    return reply.message


@pytest.mark.parametrize("seat", [SEAT, Seat(TOKEN), None])
def test_both_sides_with_the_same_token_agree(seat: Seat | None) -> None:
    (asking, begin), peer = client(seat), server(seat)
    tell(asking, Kind.WELCOME, welcome_of(peer, begin))
    (proof,) = said(asking)
    assert peer.state is State.PROOF
    assert tell(peer, proof.kind, proof.message) is None
    assert asking.state is peer.state is State.OPEN
    assert asking.instance == INSTANCE


def test_a_client_without_the_token_learns_where_it_stands() -> None:
    asking, begin = client(None)
    with pytest.raises(AuthenticationError, match="here needs its token, which stands in its group file"):
        tell(asking, Kind.WELCOME, welcome_of(server(SEAT), begin))


def test_a_client_does_not_prove_itself_to_a_server_with_another_token() -> None:
    asking, begin = client(SEAT)
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        tell(asking, Kind.WELCOME, welcome_of(server(Seat(b"other", 3)), begin))
    refused, _ = client(SEAT)
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        tell(refused, Kind.FAULT, rpc.pack_fault(Fault("authentication", "another service is meant")))


def test_a_client_with_a_token_does_not_believe_a_server_that_proves_nothing() -> None:
    asking, begin = client(SEAT)
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        tell(asking, Kind.WELCOME, welcome_of(server(None), begin))


def test_a_server_does_not_believe_a_wrong_or_an_empty_proof() -> None:
    _, begin = client(SEAT)
    cases: list[Any] = [b"", b"x" * 32, "server's own", "of another token"]
    for wrong in cases:
        peer = server(SEAT)
        reply = rpc.unpack(welcome_of(peer, begin), Welcome)
        if wrong == "server's own":
            wrong = reply.proof
        elif wrong == "of another token":
            wrong = prove(b"other", b"client", begin, reply.terms)
        with pytest.raises(AuthenticationError):
            tell(peer, Kind.PROOF, rpc.pack(Proof(wrong)))
        assert peer.state is not State.OPEN


def test_a_proof_does_not_hold_for_another_connection() -> None:
    asking, begin = client(SEAT)
    tell(asking, Kind.WELCOME, welcome_of(server(SEAT), begin))
    (proof,) = said(asking)
    other = server(SEAT)
    welcome_of(other, begin)
    with pytest.raises(AuthenticationError):
        tell(other, Kind.PROOF, proof.message)


Change = Callable[[msgspec.Struct], msgspec.Struct]

HELLO_CHANGES: dict[str, Change] = {
    "versions": lambda said: msgspec.structs.replace(said, versions=[VERSION, 7]),
    "features": lambda said: msgspec.structs.replace(said, features=1),
    "nonce": lambda said: msgspec.structs.replace(said, nonce=b"n" * 16),
    "service": lambda said: msgspec.structs.replace(said, service=b""),
    "rank": lambda said: msgspec.structs.replace(said, rank=1),
    "any rank": lambda said: msgspec.structs.replace(said, rank=None),
    "more": lambda said: msgspec.structs.replace(said, more={"x": msgspec.Raw(b"\x01")}),
}
TERMS_CHANGES: dict[str, Change] = {
    "nonce": lambda said: msgspec.structs.replace(said, nonce=b"n" * 16),
    "instance": lambda said: msgspec.structs.replace(said, instance=b"o" * 16),
    "more": lambda said: msgspec.structs.replace(said, more={"x": msgspec.Raw(b"\x01")}),
}


@pytest.mark.parametrize("name", HELLO_CHANGES)
def test_whatever_is_changed_in_hello_on_its_way_the_client_does_not_prove_itself(name: str) -> None:
    asking, begin = client(SEAT)
    changed = rpc.pack(HELLO_CHANGES[name](rpc.unpack(begin, Hello)))
    assert changed != begin
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        tell(asking, Kind.WELCOME, welcome_of(server(SEAT), changed))


@pytest.mark.parametrize("name", TERMS_CHANGES)
def test_whatever_is_changed_in_the_terms_on_their_way_neither_side_believes(name: str) -> None:
    (asking, begin), peer = client(SEAT), server(SEAT)
    reply = rpc.unpack(welcome_of(peer, begin), Welcome)
    changed = rpc.pack(TERMS_CHANGES[name](rpc.unpack(reply.terms, Terms)))
    assert changed != reply.terms
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        tell(asking, Kind.WELCOME, rpc.pack(Welcome(changed, reply.proof)))
    with pytest.raises(AuthenticationError):
        tell(peer, Kind.PROOF, rpc.pack(Proof(prove(TOKEN, b"client", begin, changed))))


def test_what_later_versions_add_to_a_greeting_is_proved_with_the_rest() -> None:
    """Elements beyond those that are known, and names in the map, are passed over; the proof is over the bytes sent."""
    service, nonce = SEAT.service, b"n" * 16
    for message in (
        rpc.pack([[VERSION], 0, nonce, service, 3, {"channel": b"tls", "versions": {"libfabric": 2}}]),
        rpc.pack([[VERSION], 0, nonce, service, 3, {}, "element of a later build"]),
        b"\x96\x91" + rpc.pack(VERSION) + b"\xcd\x00\x00" + rpc.pack(nonce) + rpc.pack(service) + b"\x03\x80",
    ):
        peer = server(SEAT)
        reply = rpc.unpack(welcome_of(peer, message), Welcome)
        assert reply.proof == prove(TOKEN, b"server", message, reply.terms)
        tell(peer, Kind.PROOF, rpc.pack(Proof(prove(TOKEN, b"client", message, reply.terms))))
        assert peer.state is State.OPEN


def test_the_number_of_a_service_is_that_of_its_token_alone() -> None:
    assert Seat(TOKEN, 0).service == Seat(TOKEN).service != Seat(b"other").service
    assert TOKEN[:16] not in Seat(TOKEN).service


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ([1], "the client speaks version 1 of the wire format, this server version 2: update the client"),
        ([3, 4], "the client speaks version 3, 4 of .*: update this server"),
        ([], "the client speaks version none of .*: update the client"),
    ],
)
def test_a_server_refuses_versions_it_does_not_speak(versions: list[int], problem: str) -> None:
    for message in (rpc.pack([versions, 0, bytes(16)]), rpc.pack([versions, "of another form"])):
        with pytest.raises(Fault, match=problem) as caught:
            tell(server(None), Kind.HELLO, message)
        assert (caught.value.code, caught.value.details) == ("version", {"versions": [VERSION]})


@pytest.mark.parametrize(
    ("fault", "side"),
    [
        (
            Fault("protocol", "the peer speaks versions [2] of the wire format, this is 1"),
            "the server at here",
        ),
        (Fault("version", "", {"versions": [1]}), "the server at here"),
        (Fault("version", "", {"versions": [3, 4]}), "this client"),
        (Fault("version", "", {"versions": ["x"]}), "the server at here"),
        (Fault("version", ""), "the server at here"),
    ],
)
def test_a_client_that_is_refused_for_its_version_says_which_side_to_update(fault: Fault, side: str) -> None:
    with pytest.raises(VersionMismatch, match=f"update {side}$") as caught:
        tell(client(None)[0], Kind.FAULT, rpc.pack_fault(fault))
    assert caught.value.version == VERSION


@pytest.mark.parametrize("code", ["starting", "wrong_member", "crowded"])
def test_who_is_not_the_one_that_is_meant_or_not_ready_is_as_one_who_is_not_there(code: str) -> None:
    with pytest.raises(AddressError, match="the server at here does not let this client in: reason"):
        tell(client(SEAT)[0], Kind.FAULT, rpc.pack_fault(Fault(code, "reason")))


def test_a_server_takes_the_version_in_common() -> None:
    message = rpc.pack(Hello([7, VERSION], 0b1010, bytes(16)))
    reply = rpc.unpack(welcome_of(server(None), message), Welcome)
    terms = rpc.unpack(reply.terms, Terms)
    assert (terms.version, terms.features) == (VERSION, 0)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_nonces_have_16_bytes_on_both_sides(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"nonce of {size} bytes"):
        read_hello(rpc.pack(Hello([VERSION], 0, bytes(size))))
    terms = rpc.pack(Terms(VERSION, 0, bytes(size), INSTANCE))
    with pytest.raises(ProtocolError, match=f"nonce of {size} bytes"):
        answer(hello(), Welcome(terms, b""), None, "here")


@pytest.mark.parametrize(("version", "features"), [(3, 0), (VERSION, 4)])
def test_a_client_refuses_what_it_has_not_offered(version: int, features: int) -> None:
    terms = rpc.pack(Terms(version, features, bytes(16), INSTANCE))
    with pytest.raises(ProtocolError, match="offered"):
        answer(hello(), Welcome(terms, b""), None, "here")


@pytest.mark.parametrize(
    "message", [b"", b"\xff", rpc.pack([[VERSION], -1, bytes(16)]), rpc.pack(["x", 0, b""])]
)
def test_a_greeting_that_is_none_is_a_protocol_error(message: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"not a (Hello|_Versions)"):
        read_hello(message)


FRAMES = st.tuples(
    st.sampled_from(Kind),
    st.one_of(
        st.binary(max_size=80),
        st.builds(
            rpc.pack, st.recursive(st.integers(-1, 300) | st.binary(max_size=20) | st.none(), st.lists)
        ),
        st.just(rpc.pack(hello(SEAT))),
    ),
)


@given(st.lists(FRAMES, max_size=4), st.sampled_from([SEAT, None]))
def test_whatever_a_peer_says_it_is_let_in_by_its_proof_or_told_why_not(
    frames: list[tuple[Kind, bytes]], seat: Seat | None
) -> None:
    peer = server(seat)
    greeted = False
    try:
        for kind, message in frames:
            if peer.state is State.OPEN:
                break
            tell(peer, kind, message)
            assert [frame.kind for frame in said(peer)] == ([Kind.WELCOME] if kind is Kind.HELLO else [])
            greeted = greeted or kind is Kind.HELLO
    except (AuthenticationError, Fault, ProtocolError):
        assert peer.state is not State.OPEN
    assert peer.state is not State.OPEN or (greeted and seat is None)


@given(FRAMES)
def test_whatever_a_server_says_a_client_with_a_token_believes_its_proof_alone(
    frame: tuple[Kind, bytes],
) -> None:
    asking, _ = client(SEAT)
    with pytest.raises((AddressError, AuthenticationError, Fault, ProtocolError)):
        tell(asking, *frame)
    assert asking.state is not State.OPEN
