"""Bytes moved by the network card, between memory that processes have registered with libfabric.

`library` finds and loads libfabric, `provider` chooses what to use of it, `transfers` decides what becomes of each
transfer, and `plane` carries that out: one endpoint, one thread. `fetcher` is one connection's part of it. Connections
stay on their sockets, for libfabric tells nobody that an idle peer has died.
"""

from mochi.margo.fabric.fetcher import PLACE_FROM, Fetcher, Placed
from mochi.margo.fabric.library import FabricError, NoFabric, load
from mochi.margo.fabric.plane import Lease, Plane
from mochi.margo.fabric.starting import offer, plane_to, start

__all__ = [
    "PLACE_FROM",
    "FabricError",
    "Fetcher",
    "Lease",
    "NoFabric",
    "Placed",
    "Plane",
    "load",
    "offer",
    "plane_to",
    "start",
]
