"""Who is let in to a server, and how many may be on their way in.

`Gate` decides by whom a greeting means, `Lobby` by where a connection comes from. No I/O.

| state of a `Gate` | who is let in | next |
|---|---|---|
| open | anybody; who names a service of a seat, by its token | shut by `shut`, guarded by `admit` |
| shut | its peers, those it was started with, by the token of their start | open by `open`, guarded by `admit` |
| guarded | who proves the token of a seat, peers included | |
"""

import enum
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from mochi.margo.errors import Fault
from mochi.margo.handshake import Hello, Seat

M = TypeVar("M", bound=Hashable)


class _State(enum.Enum):
    OPEN = enum.auto()
    SHUT = enum.auto()
    GUARDED = enum.auto()


class Gate:
    """Who is let in. Open at first. Any thread."""

    def __init__(self) -> None:
        self._state = _State.OPEN
        self._seats: tuple[Seat, ...] = ()
        self._peers: Seat | None = None

    @property
    def is_open(self) -> bool:
        """Whether anybody is let in."""
        return self._state is _State.OPEN

    @property
    def token(self) -> bytes | None:
        """The token of the service, None if there is none (yet)."""
        return self._seats[0].token if self._seats else None

    def shut(self) -> None:
        """Let nobody in until it is known who may come."""
        self._state = _State.SHUT

    def open(self) -> None:
        """Let anybody in: there is no token, and none will come."""
        if self._state is _State.SHUT:
            self._state = _State.OPEN

    def admit(self, seat: Seat, instead: Seat | None = None) -> None:
        """Let in who means the server in this seat, and proves the token; `instead` of a seat that it leaves."""
        self._seats = (*(other for other in self._seats if other not in (seat, instead)), seat)
        self._state = _State.GUARDED

    def admit_peers(self, seat: Seat | None) -> None:
        """Let in also those that this server was started with, until they part (None)."""
        self._peers = seat

    def seat_of(self, greeting: Hello) -> Seat | None:
        """Return the seat from which a greeting is answered; None if no token is needed.

        Raises
        ------
        Fault
            The server is not the one that is meant, or lets nobody in yet.
        """
        seats = self._seats if self._peers is None else (*self._seats, self._peers)
        meant = [seat for seat in seats if seat.service == greeting.service]
        for seat in meant:
            if greeting.rank in (None, seat.rank):
                return seat
        if meant:
            ranks = ", ".join(str(seat.rank) for seat in meant)
            raise Fault("wrong_member", f"rank {greeting.rank} of the service is meant, this is {ranks}")
        if self._state is _State.SHUT:
            raise Fault("starting", "it is starting, and does not know yet who may come in")
        if self._state is _State.OPEN:
            return None
        if greeting.service:
            raise Fault("authentication", "another service is meant")
        return self._seats[0]


class Lobby(Generic[M]):
    """Connections that have not proved themselves yet, so few that the others do not miss what these hold.

    Parameters
    ----------
    capacity : int
        How many there may be.
    grace : float
        Seconds that each of them has in any case. When it is full, a newcomer waits outside until the first of those
        that may be let go has had this time. So a crowd of honest clients is served in turn.
    """

    def __init__(self, capacity: int, grace: float) -> None:
        self.capacity = capacity
        self.grace = grace
        self._members: dict[M, tuple[Hashable, float]] = {}
        self._counts: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, member: M, origin: Hashable, now: float) -> None:
        """Take a newcomer in."""
        self._members[member] = origin, now
        self._counts[origin] += 1

    def leave(self, member: M) -> bool:
        """Take note that a member has gone, or has proved itself; return whether it was there."""
        if member not in self._members:
            return False
        origin, _ = self._members.pop(member)
        self._counts[origin] -= 1
        if not self._counts[origin]:
            del self._counts[origin]
        return True

    def to_let_go(self) -> M | None:
        """Return who has to go before a newcomer comes in: the oldest of the origin that has most; None if nobody."""
        if len(self._members) < self.capacity:
            return None
        most = max(self._counts.values())
        return next(m for m, (origin, _) in self._members.items() if self._counts[origin] == most)

    def wait(self, now: float) -> float:
        """Return for how many seconds nobody is to be taken in."""
        member = self.to_let_go()
        return 0.0 if member is None else max(self._members[member][1] + self.grace - now, 0.0)
