"""Addresses: ``[<class>+]<protocol>[://[<host part>]]``, as a user writes them and as a server prints them.

Pure functions over text. Protocols that run here are shared memory on one node (``na+sm``, ``sm``) and TCP sockets
(``ofi+tcp``, ``tcp``); a TCP host part may carry a libfabric domain (``eth0/10.0.0.1:4000``), which is passed over.
"""

import ipaddress
from functools import lru_cache
from typing import TypeAlias

import msgspec

from diaspora_stream.console.hints import nearest, suggestion
from mochi.margo.errors import AddressError

_SM = ("na+sm", "sm")
_TCP = ("ofi+tcp", "tcp", "ofi+tcp;ofi_rxm")
_MAX_NAME = 100


class SmAddress(msgspec.Struct, frozen=True):
    """Shared memory on one node; `name` is empty where the server chooses it."""

    name: str = ""

    def __str__(self) -> str:
        return f"na+sm://{self.name}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP socket; an empty `host` is any interface of the server's choice, port 0 any free port."""

    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ofi+tcp://{host}:{self.port}"


Address: TypeAlias = SmAddress | TcpAddress


def protocol(address: str) -> str:
    """Return what precedes ``://``: the protocol of an address, in one spelling for each transport."""
    name = address.partition("://")[0]
    return "na+sm" if name in _SM else "ofi+tcp" if name in _TCP else name


@lru_cache(4096)
def canonical(text: str) -> str:
    """Return the one form of an address in which it is compared and stored; of text of no known form, the text.

    Protocols have their long names, names of hosts are in lower case, and an IP address is as short as it can be. No
    name is looked up.
    """
    try:
        address = parse(text)
    except AddressError:
        return text
    if isinstance(address, SmAddress):
        return str(address)
    try:
        host = ipaddress.ip_address(address.host).compressed
    except ValueError:
        host = address.host.lower()
    return str(TcpAddress(host, address.port))


def parse(text: str) -> Address:
    """Parse an address.

    Raises
    ------
    AddressError
        Unknown protocol (names the nearest known one), or a host part of the wrong form.
    """
    name, _, rest = text.partition("://")
    if name in _SM:
        if "/" in rest or "\0" in rest or len(rest.encode(errors="surrogateescape")) > _MAX_NAME:
            raise AddressError(
                f"address {text!r}: a shared-memory name has at most {_MAX_NAME} bytes and no '/'"
            )
        return SmAddress(rest)
    if name in _TCP:
        return _parse_tcp(text, rest)
    is_host = name == text and text.rpartition(":")[2].isdigit()
    near = f"ofi+tcp://{text}" if is_host else nearest(name, (*_SM, *_TCP))
    raise AddressError(
        f"address {text!r}: protocol {name!r} is not one of na+sm, sm, ofi+tcp, tcp{suggestion(near)}"
    )


def _parse_tcp(text: str, rest: str) -> TcpAddress:
    host_port = rest.rsplit("/", 1)[-1]
    if host_port.startswith("["):
        host, bracket, port = host_port[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise AddressError(f"address {text!r}: an IPv6 host is written [host]:port")
        port = port[1:]
    else:
        host, _, port = host_port.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise AddressError(f"address {text!r}: port {port!r} is not a number from 0 to 65535")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise AddressError(f"address {text!r}: {host!r} is not the name of a host") from error
    return TcpAddress(host, int(port or 0))
