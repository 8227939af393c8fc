"""The greeting: who is let in, and whom a client believes."""

import msgspec
import pytest

from mochi.margo import rpc
from mochi.margo.errors import AuthenticationError, ProtocolError
from mochi.margo.handshake import Hello, Welcome, answer, hello, is_proven, prove, welcome
from mochi.margo.wire import VERSION

INSTANCE = b"i" * 16
TOKEN = b"t" * 32


@pytest.mark.parametrize("token", [TOKEN, None])
def test_both_sides_with_the_same_token_agree(token: bytes | None) -> None:
    greeting = hello()
    reply = welcome(greeting, token, INSTANCE)
    assert reply.version == VERSION
    assert is_proven(answer(greeting, reply, token, "here"), greeting, reply, token)


def test_a_client_without_the_token_learns_where_it_stands() -> None:
    greeting = hello()
    with pytest.raises(AuthenticationError, match="here needs its token, which stands in its group file"):
        answer(greeting, welcome(greeting, TOKEN, INSTANCE), None, "here")


def test_a_client_does_not_prove_itself_to_a_server_with_another_token() -> None:
    greeting = hello()
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        answer(greeting, welcome(greeting, b"other", INSTANCE), TOKEN, "here")


def test_a_client_with_a_token_does_not_believe_a_server_that_proves_nothing() -> None:
    greeting = hello()
    with pytest.raises(AuthenticationError, match="does not hold the token"):
        answer(greeting, welcome(greeting, None, INSTANCE), TOKEN, "here")


def test_a_server_does_not_believe_a_wrong_or_an_empty_proof() -> None:
    greeting = hello()
    reply = welcome(greeting, TOKEN, INSTANCE)
    proof = answer(greeting, reply, TOKEN, "here")
    for wrong in (b"", b"x" * 32, prove(b"other", b"client", greeting.nonce, reply.nonce), reply.proof):
        assert not is_proven(msgspec.structs.replace(proof, proof=wrong), greeting, reply, TOKEN)


def test_a_proof_does_not_hold_for_another_connection() -> None:
    greeting = hello()
    proof = answer(greeting, welcome(greeting, TOKEN, INSTANCE), TOKEN, "here")
    again = hello()
    assert not is_proven(proof, again, welcome(again, TOKEN, INSTANCE), TOKEN)


def test_a_server_refuses_versions_it_does_not_speak() -> None:
    with pytest.raises(ProtocolError, match=r"versions \[2, 3\] of the wire format, this is 1"):
        welcome(Hello([2, 3], 0, bytes(16)), None, INSTANCE)


def test_a_server_takes_the_version_in_common() -> None:
    assert welcome(Hello([7, VERSION], 0b1010, bytes(16)), None, INSTANCE).version == VERSION


@pytest.mark.parametrize("size", [0, 15, 17])
def test_nonces_have_16_bytes_on_both_sides(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"nonce of {size} bytes"):
        welcome(Hello([VERSION], 0, bytes(size)), TOKEN, INSTANCE)
    with pytest.raises(ProtocolError, match=f"nonce of {size} bytes"):
        answer(hello(), Welcome(VERSION, 0, bytes(size), b""), None, "here")


@pytest.mark.parametrize("reply", [Welcome(2, 0, bytes(16), b""), Welcome(VERSION, 4, bytes(16), b"")])
def test_a_client_refuses_what_it_has_not_offered(reply: Welcome) -> None:
    with pytest.raises(ProtocolError, match="offered"):
        answer(hello(), reply, None, "here")


@pytest.mark.parametrize("message", [b"", b"\xff", rpc.pack([[1], -1, bytes(16)]), rpc.pack(["x", 0, b""])])
def test_a_greeting_that_is_none_is_a_protocol_error(message: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a Hello"):
        rpc.unpack(message, Hello)
