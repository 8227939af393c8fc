"""The greeting: both sides agree on a version, and prove, without showing it, that they hold the service's token.

HELLO (client) carries versions, feature bits, a nonce, and who is meant. That is a service, by a public number that
follows from its token, and in it a member, by its rank. WELCOME (server) carries the server's terms (the version
chosen, the features both have, a nonce, the server's instance) and its proof; PROOF (client) the client's. A proof is
the HMAC-SHA-256 under the token of the role and of all that was said before, byte by byte. It holds for one connection,
one direction, and one member. Addresses are no part of it, so that tunnels and forwarded ports work. What a later
feature has to say goes into the map at the end of HELLO or of the terms, and is proved with the rest.

Who says what when is in `mochi.margo.peer.states`; here are the messages, and what they are checked for.
"""

import hashlib
import hmac
import re
import secrets
from typing import Annotated, TypeAlias

import msgspec

from mochi.margo import rpc
from mochi.margo.errors import (
    AddressError,
    AuthenticationError,
    Fault,
    MargoError,
    RemoteProtocolError,
    VersionMismatch,
)
from mochi.margo.wire import VERSION

FABRIC = 0x01
"""Feature bit: bulk may be fetched over a fabric. Who offers it says in `More` what it has there, see `Fabric`."""

NONCE_SIZE = 16
"""Bytes of a nonce, and of the number of a service."""

_TEXT_OF_VERSION_1 = re.compile(r"versions .* of the wire format, this is 1$")


class Seat(msgspec.Struct, frozen=True):
    """A member's place in a service: the token of the service, and the member's rank; None stands for any of them."""

    token: bytes
    rank: int | None = None

    @property
    def service(self) -> bytes:
        """The public number of the service, from which the token cannot be told."""
        return hmac.digest(self.token, b"service", "sha256")[:NONCE_SIZE]


More: TypeAlias = dict[str, msgspec.Raw]
"""What later features say in a greeting, by their names; one that is not known is passed over."""


class Fabric(msgspec.Struct, frozen=True, array_like=True):
    """What one end has of a fabric, in `More` under ``fabric``.

    Attributes
    ----------
    provider : str
        Libfabric's name of it.
    version : list of int
        Of libfabric.
    name : bytes
        What peers reach the endpoint by.
    """

    provider: str
    version: list[int]
    name: bytes

    def understands(self, other: "Fabric") -> bool:
        """Tell whether two ends understand each other: some providers speak otherwise from one major version on."""
        return (self.provider, self.version[:1]) == (other.provider, other.version[:1])

    def __str__(self) -> str:
        return f"{self.provider} of libfabric {'.'.join(map(str, self.version))}"


def fabric_in(more: More) -> Fabric | None:
    """Return what the other end has of a fabric.

    Raises
    ------
    RemoteProtocolError
        It is no `Fabric`.
    """
    said = more.get("fabric")
    return None if said is None else rpc.unpack(bytes(said), Fabric)


def _more(fabric: Fabric | None) -> More:
    return {} if fabric is None else {"fabric": msgspec.Raw(rpc.pack(fabric))}


class _Versions(msgspec.Struct, array_like=True):
    """What HELLO begins with in every version."""

    versions: list[int]


class Hello(msgspec.Struct, array_like=True):
    """First message of a client.

    Attributes
    ----------
    service : bytes
        `Seat.service` of the one that is meant; empty if the client has no token.
    rank : int or None
        The member that is meant; None for any of the service.
    """

    versions: list[int]
    features: Annotated[int, msgspec.Meta(ge=0)]
    nonce: bytes
    service: bytes = b""
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None
    more: More = {}


class Terms(msgspec.Struct, array_like=True):
    """What a server answers.

    Attributes
    ----------
    instance : bytes
        16 random bytes of the server's start: another value at the same address is a server that was started again.
    """

    version: int
    features: Annotated[int, msgspec.Meta(ge=0)]
    nonce: bytes
    instance: bytes
    more: More = {}


class Welcome(msgspec.Struct, array_like=True):
    """Answer of a server: the bytes of its `Terms`, and its proof, which is empty if it has no token."""

    terms: bytes
    proof: bytes


class Proof(msgspec.Struct, array_like=True):
    """Last message of a greeting; empty where the server asks for none."""

    proof: bytes


def prove(token: bytes, role: bytes, hello: bytes, terms: bytes) -> bytes:
    """Return the proof that `role` (``b"client"`` or ``b"server"``) holds `token`, and has heard and said just this.

    Parameters
    ----------
    hello, terms : bytes
        The messages as they were sent.
    """
    said = hashlib.sha256(hello).digest() + hashlib.sha256(terms).digest()
    return hmac.digest(token, role + said, "sha256")


def hello(seat: Seat | None = None, fabric: Fabric | None = None) -> Hello:
    """Return a client's first message, to the one of `seat`, with a fresh nonce."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    features = 0 if fabric is None else FABRIC
    if seat is None:
        return Hello([VERSION], features, nonce, more=_more(fabric))
    return Hello([VERSION], features, nonce, seat.service, seat.rank, _more(fabric))


def read_hello(message: bytes) -> Hello:
    """Decode a client's first message.

    Raises
    ------
    Fault
        No version in common.
    RemoteProtocolError
        It is none, or its nonce is of the wrong length.
    """
    versions = rpc.unpack(message, _Versions).versions
    if VERSION not in versions:
        mismatch = VersionMismatch("the client", versions, "this server", VERSION)
        raise Fault("version", str(mismatch), {"versions": [VERSION]})
    greeting = rpc.unpack(message, Hello)
    if len(greeting.nonce) != NONCE_SIZE:
        raise RemoteProtocolError(f"a nonce of {len(greeting.nonce)} bytes, expected {NONCE_SIZE}")
    return greeting


def welcome(
    greeting: Hello, message: bytes, token: bytes | None, instance: bytes, fabric: Fabric | None = None
) -> Welcome:
    """Answer a client's first message, as it was decoded and as it was sent.

    A fabric is used where both ends have one, and understand each other. The client is told of the server's in any
    case, so that it can say why it is not used.
    """
    nonce = secrets.token_bytes(NONCE_SIZE)
    features = 0
    if fabric is not None and greeting.features & FABRIC:
        theirs = fabric_in(greeting.more)
        if theirs is not None and theirs.understands(fabric):
            features = FABRIC
    terms = rpc.pack(Terms(VERSION, features, nonce, instance, _more(fabric)))
    return Welcome(terms, prove(token, b"server", message, terms) if token else b"")


def answer(greeting: Hello, reply: Welcome, token: bytes | None, where: str) -> Proof:
    """Check a server's answer and its proof, and return the client's.

    Raises
    ------
    AuthenticationError
        The server needs a token and none is known, or it holds another one, or none.
    RemoteProtocolError
        The server chose a version or features that were not offered, or a nonce of the wrong length.
    """
    terms = rpc.unpack(reply.terms, Terms)
    if terms.version not in greeting.versions or terms.features & ~greeting.features:
        raise RemoteProtocolError(
            f"the server at {where} chose version {terms.version} and features {terms.features:#x} of the versions "
            f"{greeting.versions} and features {greeting.features:#x} offered"
        )
    if len(terms.nonce) != NONCE_SIZE:
        raise RemoteProtocolError(
            f"the server at {where} sent a nonce of {len(terms.nonce)} bytes, expected {NONCE_SIZE}"
        )
    if not token and not reply.proof:
        return Proof(b"")
    if not token:
        raise AuthenticationError(f"the service at {where} needs its token, which stands in its group file")
    message = rpc.pack(greeting)
    if not hmac.compare_digest(reply.proof, prove(token, b"server", message, reply.terms)):
        raise _of_another_service(where)
    return Proof(prove(token, b"client", message, reply.terms))


def is_proof(said: Proof, token: bytes | None, hello: bytes, terms: bytes) -> bool:
    """Tell whether a client has proved that it holds the token of a server; anybody does where there is none."""
    return not token or hmac.compare_digest(said.proof, prove(token, b"client", hello, terms))


def _of_another_service(where: str) -> AuthenticationError:
    return AuthenticationError(
        f"the service at {where} does not hold the token given: the group file is stale, or of another service"
    )


def refusal(fault: Fault, where: str) -> MargoError:
    """Return the error that tells a client why the server at `where` ends a connection; of another reason, `fault`."""
    server = f"the server at {where}"
    if fault.code == "version":
        found = fault.details.get("versions")
        versions = [each for each in found if isinstance(each, int)] if isinstance(found, list) else []
        return VersionMismatch(server, versions, "this client", VERSION)
    if fault.code == "protocol" and _TEXT_OF_VERSION_1.search(fault.message):
        return VersionMismatch(server, [1], "this client", VERSION)
    if fault.code == "authentication":
        return _of_another_service(where)
    if fault.code in ("starting", "wrong_member", "crowded"):
        error = AddressError(f"{server} does not let this client in: {fault.message}")
        error.__cause__ = fault
        return error
    return fault
