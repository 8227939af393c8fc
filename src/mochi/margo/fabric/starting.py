"""Endpoints for addresses: one for each server, and one for all clients of a process that use the same card."""

import _thread
import os
import threading
from queue import Empty, SimpleQueue

from mochi.margo.address import TcpAddress, parse
from mochi.margo.errors import AddressError
from mochi.margo.fabric.library import FabricError, NoFabric, load
from mochi.margo.fabric.plane import Plane
from mochi.margo.fabric.provider import choose
from mochi.margo.handshake import Fabric

START_SECONDS = 10.0
"""How long an endpoint may take to be made."""


def start(written: str, actual: str) -> Plane | None:
    """Return the endpoint for a server's address; None if that names no fabric.

    Parameters
    ----------
    written, actual : str
        The address as it was given, and as the server listens.

    Raises
    ------
    AddressError
        It cannot be started here; says why.
    """
    address, own = parse(written), parse(actual)
    if not isinstance(address, TcpAddress) or not isinstance(own, TcpAddress) or not address.fabric:
        return None
    try:
        library = load()
        return Plane(library, choose(library, address.fabric, own.host, address.card, address.pid))
    except FabricError as error:
        raise AddressError(f"address {written!r}: {error}") from error


def offer(plane: Plane) -> Fabric:
    """Return what an endpoint is to peers."""
    return Fabric(plane.provider.name, list(plane.library.version), plane.name)


class _Clients:
    """The endpoints of this process's clients, and why some could not be started."""

    def __init__(self) -> None:
        self.planes: dict[tuple[str, str], Plane | FabricError] = {}
        self._making = threading.Lock()

    def make(self, address: TcpAddress, own_host: str, done: SimpleQueue[None]) -> None:
        """Make an endpoint unless there is one; in a thread of its own, where Ctrl-C does not strike."""
        with self._making:
            key = address.fabric, own_host
            plane = self.planes.get(key)
            if plane is None or (isinstance(plane, Plane) and plane.is_closed):
                try:
                    library = load()
                    self.planes[key] = Plane(library, choose(library, address.fabric, own_host))
                except FabricError as error:
                    self.planes[key] = error
        done.put(None)


_clients = _Clients()


def plane_to(address: TcpAddress, own_host: str) -> Plane:
    """Return the endpoint of this process for servers at addresses such as this.

    Parameters
    ----------
    own_host : str
        The address of this host from which the server is reached.

    Raises
    ------
    FabricError
        There is none; it is not tried again.
    """
    clients = _clients
    plane = clients.planes.get((address.fabric, own_host))
    if plane is None or (isinstance(plane, Plane) and plane.is_closed):
        done: SimpleQueue[None] = SimpleQueue()
        _thread.start_new_thread(clients.make, (address, own_host, done))
        try:
            done.get(timeout=START_SECONDS)
        except Empty:
            raise NoFabric("starting an endpoint", 110, f"it took longer than {START_SECONDS:g} s") from None
        plane = clients.planes[address.fabric, own_host]
    if isinstance(plane, FabricError):
        raise plane
    return plane


def _begin_anew() -> None:
    """A forked child has endpoints of its own."""
    global _clients
    _clients = _Clients()


os.register_at_fork(after_in_child=_begin_anew)
