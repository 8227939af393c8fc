"""Both ends of a connection, without I/O: who may say what, who is let in, and what is held for whom.

`states` is the conversation, one table for both ends; `gate` says who is let in.
`asking` is the client's end, with all that waits for frames; `answering` the server's, with all that waits for answers.
`budget` counts the memory that a server holds for its peers.

An end is fed with bytes, descriptors and the time, and says what is to be sent, and who is to be given what. The rims
around it receive, send and wait: `mochi.margo.link` for threads, `mochi.margo.connection` for the event loop.
"""

from mochi.margo.handshake import Seat
from mochi.margo.peer.answering import MAX_OUTSTANDING, Answering, Call, House, frame_of
from mochi.margo.peer.asking import Asking, Delivery, PendingCall, Receiver
from mochi.margo.peer.budget import Budget, Grant, Reservation
from mochi.margo.peer.gate import Gate, Lobby
from mochi.margo.peer.states import TRANSITIONS, Role, State

__all__ = [
    "MAX_OUTSTANDING",
    "TRANSITIONS",
    "Answering",
    "Asking",
    "Budget",
    "Call",
    "Delivery",
    "Gate",
    "Grant",
    "House",
    "Lobby",
    "PendingCall",
    "Receiver",
    "Reservation",
    "Role",
    "Seat",
    "State",
    "frame_of",
]
