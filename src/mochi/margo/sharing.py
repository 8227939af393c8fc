"""Connections for clients that programs make with a protocol, with an engine, or with what another client has."""

from typing import Any

from mochi.margo.address import parse
from mochi.margo.client import Client

__all__ = ["connect"]


def connect(arg: Any) -> tuple[Client, bytes | None]:
    """Return connections, and the token to use with all servers, if there is one.

    Parameters
    ----------
    arg : str, Engine, Client or int
        A protocol such as ``na+sm``, or a number that stands for an engine. Or an engine of a server in this process,
        whose token is then used. Or connections that are there, with their tokens; or what has them as
        ``connections``, as an engine of pymargo does.

    Raises
    ------
    AddressError
        There is no such protocol.
    TypeError
        It is none of these.
    """
    shared = getattr(arg, "connections", arg)
    if isinstance(shared, Client):
        return shared, None
    gate = getattr(arg, "gate", None)
    if gate is not None:
        return Client(), gate.token
    if isinstance(arg, str):
        parse(arg)
    elif not isinstance(arg, int):
        raise TypeError(f"a client is made with a protocol such as 'na+sm', or an engine, not {arg!r}")
    return Client(), None
