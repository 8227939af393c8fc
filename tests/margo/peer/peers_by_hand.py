"""Peers without sockets, and what is said to them by hand."""

from collections.abc import Sequence
from typing import Any

from mochi.margo.errors import Fault
from mochi.margo.handshake import Fabric
from mochi.margo.peer import Answering, Asking, Budget, Call, Gate, Grant, Seat
from mochi.margo.wire import Frame, FrameReader, Kind, Limits, allocate_private, encode

INSTANCE = b"i" * 16


class House:
    """What the connections of a server have in common, without a loop.

    Attributes
    ----------
    granted : list of callables
        What the budget has granted, and the loop would call soon.
    """

    def __init__(self, seat: Seat | None, budget: Budget | None = None) -> None:
        self.gate = Gate()
        self.instance = INSTANCE
        self.fabric: Fabric | None = None
        self.budget = Budget() if budget is None else budget
        self.granted: list[Grant] = []
        if seat is not None:
            self.gate.admit(seat)

    def grant(self, grants: Sequence[Grant]) -> None:
        self.granted += grants


class OpenHouse(House):
    """One that answers everybody from one seat, whoever is meant."""

    def __init__(self, seat: Seat | None) -> None:
        super().__init__(None)
        self._seat = seat
        self.gate.seat_of = lambda greeting: self._seat  # type: ignore[method-assign]


def refuse_bulk(frame: Frame) -> Sequence[memoryview]:
    raise Fault("bad_request", "bulk where none is expected")


def answering(house: House) -> Answering[Call]:
    return Answering(house, Call, allocate_private, lambda: None, lambda: 0.0)


def said(peer: Asking | Answering[Any]) -> list[Frame]:
    """Return the frames that an end has queued since the last time."""
    reader = FrameReader(allocate_private, Limits())
    found: list[Frame] = []
    raw = b"".join(map(bytes, peer.queue))
    peer.queue.clear()
    while raw:
        place = reader.buffers()[0]
        count = min(len(place), len(raw))
        place[:count] = raw[:count]
        raw = raw[count:]
        reader.received(count)
        found += iter(reader.next_frame, None)
    return found


def tell(peer: Asking | Answering[Any], kind: Kind, message: bytes, **fields: Any) -> Any:
    """Have an end hear a frame; return its event."""
    raw = encode(kind, message=message, **fields)
    peer.reader.buffers()[0][: len(raw)] = raw
    peer.reader.received(len(raw))
    return peer.next_event()
