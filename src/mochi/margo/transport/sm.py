"""Shared memory on one node: control on an abstract Unix socket, bulk in buffers that the server lends.

Abstract names live in the network namespace and vanish with their socket, so a killed server leaves nothing behind.
Both sides check by the kernel's credentials that the peer is the same user, or root.
"""

import errno
import itertools
import os
import socket
import struct

from mochi.margo.address import SmAddress
from mochi.margo.errors import AddressError

_CREDENTIALS = struct.Struct("iII")


def _path(name: str) -> bytes:
    return b"\0mofka/" + name.encode(errors="surrogateescape")


def listen(address: SmAddress) -> tuple[socket.socket, SmAddress]:
    """Bind the name, or the first free ``<pid>-<n>`` where none is given."""
    names = iter([address.name]) if address.name else (f"{os.getpid()}-{n}" for n in itertools.count())
    for name in names:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(_path(name))
            listener.listen(4096)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and not address.name:
                continue
            raise AddressError(f"cannot listen on na+sm://{name}: {error.strerror}") from error
        return listener, SmAddress(name)
    raise AssertionError("itertools.count ended")


def connect(address: SmAddress, timeout: float) -> socket.socket:
    """Connect to the server that bound the name, waiting for room in its backlog; OSError when there is none."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        seconds, fraction = divmod(max(timeout, 1e-6), 1)
        peer.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1e6))
        )
        peer.connect(_path(address.name))
        peer.settimeout(timeout)
        if not is_trusted(peer):
            raise PermissionError(errno.EACCES, "it belongs to another user")
    except BaseException:
        peer.close()
        raise
    return peer


def is_trusted(peer: socket.socket) -> bool:
    """Tell whether the process at the other end is of this user, or of root."""
    _, uid = _credentials(peer)
    return uid in (os.geteuid(), 0)


def origin(peer: socket.socket) -> str:
    """Return which process connected."""
    pid, uid = _credentials(peer)
    return f"{uid}/{pid}"


def _credentials(peer: socket.socket) -> tuple[int, int]:
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
