"""Addresses: ``[<class>+]<protocol>[://[<host part>]]``, as a user writes them and as a server prints them.

Pure functions over text. Protocols that run here are shared memory on one node (``na+sm``, ``sm``), TCP sockets
(``ofi+tcp``, ``tcp``), and TCP sockets beside a fabric of libfabric (``ofi+verbs``, ``ofi+cxi``, ``ofi+efa``,
``ofi+tcp;ofi_rxm``). A host part may carry a libfabric domain (``mlx5_0/10.0.0.1:4000``), which TCP passes over.
"""

import ipaddress
import re
from functools import lru_cache
from typing import TypeAlias

import msgspec

from diaspora_stream.console.hints import nearest, suggestion
from mochi.margo.errors import AddressError

_SM = ("na+sm", "sm")
_TCP = ("ofi+tcp", "tcp")
_FABRICS = {
    "ofi+verbs": "verbs",
    "verbs": "verbs",
    "ofi+verbs;ofi_rxm": "verbs",
    "ofi+cxi": "cxi",
    "cxi": "cxi",
    "ofi+efa": "efa",
    "efa": "efa",
    "ofi+tcp;ofi_rxm": "tcp;ofi_rxm",
}
_MAX_NAME = 100
_CARD = re.compile(r"(?P<card>cxi[0-9])?(:(?P<pid>[0-9]{1,3}))?", re.ASCII)
_MAX_PID = 510

_RETIRED = "the library is no longer developed, and Mofka has no transport on it; use ofi+tcp"
_UCX = "Mofka has no transport on UCX; use ofi+tcp, or ofi+verbs on InfiniBand"
_OMNI_PATH = "Mofka has no transport on Omni-Path's libraries; use ofi+tcp"
REFUSED = {
    "ofi+shm": "libfabric's shared memory checks nothing and cannot wait; use na+sm",
    "shm": "libfabric's shared memory checks nothing and cannot wait; use na+sm",
    "ofi+sockets": "libfabric's sockets are slower than plain ones; use ofi+tcp",
    "ofi+psm2": _OMNI_PATH,
    "psm2": _OMNI_PATH,
    "ofi+opx": _OMNI_PATH,
    "ofi+gni": _RETIRED,
    "psm+psm": _RETIRED,
    "psm2+psm2": _RETIRED,
    "bmi+tcp": _RETIRED,
    "ucx+tcp": _UCX,
    "ucx+rc": _UCX,
    "ucx+ud": _UCX,
    "ucx+dc": _UCX,
    "ucx+all": _UCX,
}
"""Why the original's other protocols do not run here, and what to use instead."""


class SmAddress(msgspec.Struct, frozen=True):
    """Shared memory on one node; `name` is empty where the server chooses it."""

    name: str = ""

    def __str__(self) -> str:
        return f"na+sm://{self.name}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP socket; an empty `host` is any interface of the server's choice, port 0 any free port.

    Attributes
    ----------
    fabric : str
        What of libfabric moves bulk beside the socket; empty: the socket does.
    card : str
        Libfabric's domain, which is a network card mostly; empty: any.
    pid : int or None
        The number of the endpoint on a Slingshot card; None: any.
    """

    host: str = ""
    port: int = 0
    fabric: str = ""
    card: str = ""
    pid: int | None = None

    def __str__(self) -> str:
        """Return the address as peers use it: by host and port, whatever the card."""
        if self.fabric and not self.host and not self.port:
            return f"ofi+{self.fabric}://"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ofi+{self.fabric or 'tcp'}://{host}:{self.port}"


Address: TypeAlias = SmAddress | TcpAddress


def protocol(address: str) -> str:
    """Return what precedes ``://``: the protocol of an address, in one spelling for each transport."""
    name = address.partition("://")[0]
    if name in _FABRICS:
        return f"ofi+{_FABRICS[name]}"
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
    return str(msgspec.structs.replace(address, host=host))


def parse(text: str) -> Address:
    """Parse an address.

    Raises
    ------
    AddressError
        Unknown protocol (names the nearest known one), one that does not run here, or a host part of the wrong form.
    """
    name, _, rest = text.partition("://")
    if name in _SM:
        if "/" in rest or "\0" in rest or len(rest.encode(errors="surrogateescape")) > _MAX_NAME:
            raise AddressError(
                f"address {text!r}: a shared-memory name has at most {_MAX_NAME} bytes and no '/'"
            )
        return SmAddress(rest)
    if name in _TCP:
        return msgspec.structs.replace(_parse_tcp(text, rest), card="")
    if name in _FABRICS:
        return _parse_fabric(text, _FABRICS[name], rest)
    if name in REFUSED:
        raise AddressError(f"address {text!r}: {REFUSED[name]}")
    is_host = name == text and text.rpartition(":")[2].isdigit()
    near = f"ofi+tcp://{text}" if is_host else nearest(name, (*_SM, *_TCP, *_FABRICS))
    raise AddressError(
        f"address {text!r}: protocol {name!r} is not one of na+sm, sm, ofi+tcp, tcp, ofi+verbs, ofi+cxi, ofi+efa"
        f"{suggestion(near)}"
    )


def _parse_fabric(text: str, fabric: str, rest: str) -> TcpAddress:
    card = _CARD.fullmatch(rest) if fabric == "cxi" else None
    if card is None:
        return msgspec.structs.replace(_parse_tcp(text, rest), fabric=fabric)
    pid = None if card["pid"] is None else int(card["pid"])
    if pid is not None and pid > _MAX_PID:
        raise AddressError(f"address {text!r}: {pid} is not the number of an endpoint, 0 to {_MAX_PID}")
    return TcpAddress(fabric=fabric, card=card["card"] or "", pid=pid)


def _parse_tcp(text: str, rest: str) -> TcpAddress:
    card, _, host_port = rest.rpartition("/")
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
    return TcpAddress(host, int(port or 0), card=card)
