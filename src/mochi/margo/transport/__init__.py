"""Transports: how two processes get a connected, non-blocking stream socket for an address.

Above this room a connection is bytes in order; only bulk differs (`sm` can lend buffers by file descriptor).
"""

import socket

from mochi.margo.address import SmAddress, canonical, parse
from mochi.margo.errors import AddressError
from mochi.margo.transport import sm, tcp

SEND_BUFFER = 1 << 20
"""Bytes of ``SO_SNDBUF``: up to 2.4 times the throughput of the default at 64 KiB events."""


def listen(text: str) -> tuple[socket.socket, str]:
    """Listen on the address `text`; return the non-blocking socket and the address to print.

    Raises
    ------
    AddressError
        The form is unknown, or the system refuses (in use, no such interface).
    """
    address = parse(text)
    listener, actual = sm.listen(address) if isinstance(address, SmAddress) else tcp.listen(address)
    listener.setblocking(False)
    return listener, str(actual)


def leads_to(written: str, actual: str) -> bool:
    """Tell whether an address that somebody wrote is that of a server, as `listen` gave it; looks names of hosts up."""
    address, own = parse(written), parse(actual)
    if isinstance(address, SmAddress) or isinstance(own, SmAddress) or address.port != own.port:
        return canonical(written) == canonical(actual)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(where[0] == own.host for *_, where in found)


def accept(listener: socket.socket) -> socket.socket | None:
    """Accept one connection from a peer that may connect; None when the peer is refused.

    Raises
    ------
    OSError
        As ``socket.accept``; BlockingIOError when nobody waits.
    """
    peer, _ = listener.accept()
    try:
        if peer.family == socket.AF_UNIX:
            if not sm.is_trusted(peer):
                peer.close()
                return None
        else:
            tcp.tune(peer)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        peer.setblocking(False)
    except OSError:
        peer.close()
        raise
    return peer


def origin(peer: socket.socket) -> str:
    """Return where an accepted connection comes from, as far as that costs a peer something to change.

    The process on a Unix socket; on TCP the host's address, of which an IPv6 host may have 2**64.
    """
    return sm.origin(peer) if peer.family == socket.AF_UNIX else tcp.origin(peer)


def connect(text: str, timeout: float) -> socket.socket:
    """Connect to the address `text` within `timeout` seconds; the socket has that time-out set.

    Raises
    ------
    AddressError
        The form is unknown, or nobody answers there.
    """
    address = parse(text)
    try:
        peer = (
            sm.connect(address, timeout) if isinstance(address, SmAddress) else tcp.connect(address, timeout)
        )
    except OSError as error:
        raise AddressError(f"nobody answers at {text}: {error.strerror or error}") from error
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return peer
