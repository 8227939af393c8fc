"""The greeting: both sides agree on a version and prove, without showing it, that they hold the service's token.

Pure functions over messages. HELLO (client) carries versions, feature bits and a nonce; WELCOME (server) the chosen
version, the features both have, a nonce, and the server's proof; PROOF (client) the client's. A proof is the
HMAC-SHA-256 under the token of the role and both nonces, so that it holds for one connection and one direction only.
A server without a token asks for no proof, and takes any; a client that was given a token takes a server's proof only,
because another service may have taken the address over.
"""

import hmac
import secrets
from typing import Annotated

import msgspec

from mochi.margo.errors import AuthenticationError, ProtocolError
from mochi.margo.wire import VERSION

FEATURES = 0
"""Feature bits of this build; a feature is used where both sides have its bit."""

NONCE_SIZE = 16
"""Bytes of a nonce."""


class Hello(msgspec.Struct, array_like=True):
    """First message of a client."""

    versions: list[int]
    features: Annotated[int, msgspec.Meta(ge=0)]
    nonce: bytes


class Welcome(msgspec.Struct, array_like=True):
    """Answer of a server; `proof` is empty when it has no token.

    Attributes
    ----------
    instance : bytes
        16 random bytes of the server's start: another value at the same address is a server that was started again.
    """

    version: int
    features: Annotated[int, msgspec.Meta(ge=0)]
    nonce: bytes
    proof: bytes
    instance: bytes = b""


class Proof(msgspec.Struct, array_like=True):
    """Last message of a greeting."""

    proof: bytes


def prove(token: bytes, role: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the proof that `role` (``b"client"`` or ``b"server"``) holds `token`."""
    return hmac.digest(token, role + client_nonce + server_nonce, "sha256")


def hello() -> Hello:
    """Return a client's first message, with a fresh nonce."""
    return Hello([VERSION], FEATURES, secrets.token_bytes(NONCE_SIZE))


def welcome(greeting: Hello, token: bytes | None, instance: bytes) -> Welcome:
    """Answer a client's first message.

    Raises
    ------
    ProtocolError
        No version in common, or a nonce of the wrong length.
    """
    if VERSION not in greeting.versions:
        raise ProtocolError(
            f"the peer speaks versions {greeting.versions} of the wire format, this is {VERSION}"
        )
    if len(greeting.nonce) != NONCE_SIZE:
        raise ProtocolError(f"a nonce of {len(greeting.nonce)} bytes, expected {NONCE_SIZE}")
    nonce = secrets.token_bytes(NONCE_SIZE)
    proof = prove(token, b"server", greeting.nonce, nonce) if token else b""
    return Welcome(VERSION, greeting.features & FEATURES, nonce, proof, instance)


def answer(greeting: Hello, reply: Welcome, token: bytes | None, where: str) -> Proof:
    """Check the server's proof, and return the client's.

    Raises
    ------
    AuthenticationError
        The server needs a token and none is known, or it holds another one, or none.
    ProtocolError
        The server chose a version or features that were not offered, or a nonce of the wrong length.
    """
    if reply.version not in greeting.versions or reply.features & ~greeting.features:
        raise ProtocolError(
            f"the server at {where} chose version {reply.version} and features {reply.features:#x} of the versions "
            f"{greeting.versions} and features {greeting.features:#x} offered"
        )
    if len(reply.nonce) != NONCE_SIZE:
        raise ProtocolError(
            f"the server at {where} sent a nonce of {len(reply.nonce)} bytes, expected {NONCE_SIZE}"
        )
    if not token and not reply.proof:
        return Proof(b"")
    if not token:
        raise AuthenticationError(f"the service at {where} needs its token, which stands in its group file")
    if not hmac.compare_digest(reply.proof, prove(token, b"server", greeting.nonce, reply.nonce)):
        raise AuthenticationError(
            f"the service at {where} does not hold the token given: the group file is stale, or of another service"
        )
    return Proof(prove(token, b"client", greeting.nonce, reply.nonce))


def is_proven(proof: Proof, greeting: Hello, reply: Welcome, token: bytes | None) -> bool:
    """Tell whether a client holds the token."""
    return not token or hmac.compare_digest(proof.proof, prove(token, b"client", greeting.nonce, reply.nonce))
