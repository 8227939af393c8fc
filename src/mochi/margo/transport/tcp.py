"""TCP sockets: no delay, keep-alive, and a real address to print where the user names none."""

import errno
import fcntl
import ipaddress
import re
import socket
import struct

import msgspec

from mochi.margo.address import TcpAddress
from mochi.margo.errors import AddressError

_SIOCGIFADDR = 0x8915
_CARD = re.compile("^cxi(?=[0-9]$)")
"""Slingshot's card cxi0 is the network interface hsn0."""
_LIVENESS = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 4),
    (socket.TCP_USER_TIMEOUT, 30_000),
)


def tune(peer: socket.socket) -> None:
    """Send small frames at once, and notice within half a minute that a peer's host has vanished.

    Keep-alive notices it where nothing is on its way, the user time-out where something is.
    """
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _LIVENESS:
        peer.setsockopt(socket.IPPROTO_TCP, option, value)


def _interface_address(name: str) -> str | None:
    """Return the IPv4 address of the interface `name`, or None where there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _own_address() -> str:
    """Return the address of the interface that the default route uses; loopback on a machine without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # a documentation address; connecting a datagram socket sends nothing
        except OSError:
            return "127.0.0.1"
        host: str = probe.getsockname()[0]
        return host


def listen(address: TcpAddress) -> tuple[socket.socket, TcpAddress]:
    """Listen on the host, interface or address named, else on that of the default route."""
    interface = address.host or _CARD.sub("hsn", address.card)
    host = _interface_address(interface) or address.host or _own_address()
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(4096)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror or error}") from error
    name = listener.getsockname()
    shown = _own_address() if name[0] in ("0.0.0.0", "::") else name[0]
    return listener, msgspec.structs.replace(address, host=shown, port=name[1])


def connect(address: TcpAddress, timeout: float) -> socket.socket:
    """Connect; OSError when nobody answers."""
    peer = socket.create_connection((address.host, address.port), timeout)
    try:
        # A port of this host that nobody listens on can be chosen as the connection's own, which then meets itself.
        if peer.getsockname() == peer.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
        tune(peer)
    except OSError:
        peer.close()
        raise
    return peer


def origin(peer: socket.socket) -> str:
    """Return the host at the other end, by its network where it has a network of addresses; empty once it is gone."""
    try:
        address = ipaddress.ip_address(peer.getpeername()[0].partition("%")[0])
    except OSError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
