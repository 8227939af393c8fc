"""Memory that a server holds for its peers: who may take how much, who waits, and who is let go. No I/O.

What is held for a connection has two sides. One is its requests, until they are answered. The other is its answers and
notices, until it has read them, and what is reserved for those that are being made. Each connection has a limit. What
is held on a side beyond its share comes from what is common to that side of all connections.

Rules
-----
1. A side that holds nothing may take anything, as far as the common part allows it; one that holds something may go on
   until both sides are at the limit. So answers wait for peers to read, and never for requests, which wait for answers.
2. What stays within the share of a side is given whatever others hold.
3. What goes beyond comes from the common part, as long as there is some; one alone may take more than all of it. Who
   waits for it comes before those that ask later.
4. The reservations of a side are given in the order in which it asked.
5. While somebody waits for a common part, or shares alone come to more than both of them, the connection that has kept
   the server waiting for longest is to go, once that was `PATIENCE` seconds.

A peer keeps the server waiting while it does not read what is there for it, or does not send the rest of what it
began. It has moved when it took or sent `LEAST_MOVE` bytes, or all there was.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

CONNECTION_BYTES = 128 << 20
"""Bytes that are held for one connection before nothing more is taken or made for it."""

SERVER_BYTES = 512 << 20
"""Bytes of requests, and as many of answers, that are held for all connections beyond their shares."""

SHARE_BYTES = 24 << 20
"""Bytes of requests, and as many of answers, that are held for a connection whatever others hold: any message."""

PATIENCE = 2.0
"""Seconds that a peer may keep the server waiting while others wait for what is held for it."""

LEAST_MOVE = 64 << 10

Grant = Callable[[], None]


class Wait:
    """How long a peer has kept the server waiting, in one direction.

    Attributes
    ----------
    since : float or None
        When it last moved, or the wait began; None while nobody waits.
    """

    __slots__ = ("_moved", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self._moved = 0

    def moved(self, size: int, now: float) -> None:
        """Take note that the peer took, or sent, `size` bytes, and that there are more."""
        self._moved += size
        if self.since is None or self._moved >= LEAST_MOVE:
            self.since = now
            self._moved = 0

    def over(self) -> None:
        """Take note that nothing is expected of the peer."""
        self.since = None
        self._moved = 0


class Reservation:
    """Bytes that a side waits for."""

    __slots__ = ("grant", "side", "size")

    def __init__(self, side: "Side", size: int, grant: Grant) -> None:
        self.side = side
        self.size = size
        self.grant = grant


class Common:
    """What is common to one side of all connections.

    Attributes
    ----------
    taken : int
        Bytes.
    blocked : OrderedDict
        Sides whose first reservation waits for this, in order.
    """

    __slots__ = ("blocked", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.blocked: OrderedDict[Side, None] = OrderedDict()


class Side:
    """Requests of a connection, or answers.

    Attributes
    ----------
    held : int
        Bytes.
    waiting : OrderedDict
        Reservations that wait for room, in order.
    """

    __slots__ = ("account", "common", "held", "waiting")

    def __init__(self, account: "Account", common: Common) -> None:
        self.account = account
        self.common = common
        self.held = 0
        self.waiting: OrderedDict[Reservation, None] = OrderedDict()


class Account:
    """What is held for one connection.

    Attributes
    ----------
    held : int
        Bytes of both sides.
    requests, answers : Side
    reading, sending : Wait
        For the peer to read what is there for it, and to send the rest of what it has begun.
    """

    __slots__ = ("answers", "closed", "held", "reading", "requests", "sending")

    def __init__(self, requests: Common, answers: Common) -> None:
        self.requests = Side(self, requests)
        self.answers = Side(self, answers)
        self.held = 0
        self.closed = False
        self.reading = Wait()
        self.sending = Wait()

    @property
    def waits_since(self) -> float | None:
        """Since when the server waits for this peer; None if it does not."""
        return min(
            (wait.since for wait in (self.reading, self.sending) if wait.since is not None), default=None
        )


class Budget:
    """Bytes held for all connections of a server. Any thread; costs about half a microsecond a call."""

    def __init__(
        self, server: int = SERVER_BYTES, connection: int = CONNECTION_BYTES, share: int = SHARE_BYTES
    ) -> None:
        self.server = server
        self.connection = connection
        self.share = share
        self.accounts: dict[Account, None] = {}
        self._held = 0
        self._waiting = 0
        self._commons = Common(), Common()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held for all."""
        return self._held

    @property
    def is_short(self) -> bool:
        """Whether somebody waits for a common part, or shares alone come to more than both."""
        if not self._waiting and self._held <= 2 * self.server:
            return False
        return any(common.blocked for common in self._commons) or self._shares_are_too_many()

    def open(self) -> Account:
        """Return the account of a new connection."""
        account = Account(*self._commons)
        with self._lock:
            self.accounts[account] = None
        return account

    def close(self, account: Account) -> Sequence[Grant]:
        """Let go of all that is held for a connection, and of what it waits for; return what is granted to others."""
        with self._lock:
            account.closed = True
            self.accounts.pop(account, None)
            for side in (account.requests, account.answers):
                self._waiting -= len(side.waiting)
                side.waiting.clear()
                side.common.blocked.pop(side, None)
                self._add(side, -side.held)
            return self._granted()

    def reserve(self, side: Side, size: int, grant: Grant) -> Reservation | None:
        """Take `size` bytes, now (None), or when there is room.

        Returns
        -------
        Reservation or None
            What waits for room; another call will return `grant` when the bytes are taken, unless the reservation is
            taken back, or the account closed.
        """
        with self._lock:
            if not side.account.closed and not side.waiting and self._may_take(side, size):
                self._add(side, size)
                return None
            reservation = Reservation(side, size, grant)
            if not side.account.closed:
                side.waiting[reservation] = None
                self._waiting += 1
                self._sort(side)
            return reservation

    def cancel(self, reservation: Reservation) -> Sequence[Grant]:
        """Take a reservation back that waits; return what is granted by that."""
        side = reservation.side
        with self._lock:
            if side.waiting and next(iter(side.waiting)) is reservation:
                side.common.blocked.pop(side, None)
            if reservation in side.waiting:
                del side.waiting[reservation]
                self._waiting -= 1
            return [*self._served(side), *self._granted()]

    def change(self, account: Account, requests: int, answers: int) -> Sequence[Grant]:
        """Take note of how much more, or less, is held on each side; return what is granted by that."""
        with self._lock:
            if account.closed or not (requests or answers):
                return ()
            if requests:
                self._add(account.requests, requests)
            if answers:
                self._add(account.answers, answers)
            if not self._waiting:
                return ()
            return [*self._served(account.requests), *self._served(account.answers), *self._granted()]

    def stalled(self, now: float) -> Account | None:
        """Return the account that is to be closed, if there is one."""
        if not self.is_short:
            return None
        with self._lock:
            crowded = self._shares_are_too_many()
            waits = [
                (since, number, account)
                for number, account in enumerate(self.accounts)
                if (crowded and account.held)
                or self._beyond(account.requests)
                or self._beyond(account.answers)
                if (since := account.waits_since) is not None
            ]
        if not waits:
            return None
        since, _, account = min(waits)
        return account if now - since >= PATIENCE else None

    def _shares_are_too_many(self) -> bool:
        requests, answers = self._commons
        return self._held - requests.taken - answers.taken > 2 * self.server

    def _beyond(self, side: Side, more: int = 0) -> int:
        return max(side.held + more - self.share, 0)

    def _add(self, side: Side, difference: int) -> None:
        before = self._beyond(side)
        side.held += difference
        side.account.held += difference
        self._held += difference
        side.common.taken += self._beyond(side) - before

    def _is_within_limit(self, side: Side, size: int) -> bool:
        return not side.held or side.account.held + size <= self.connection

    def _is_there(self, side: Side, size: int) -> bool:
        """Whether the common part has what a side would take of it."""
        now, then = self._beyond(side), self._beyond(side, size)
        taken = side.common.taken
        return then == now or taken == now or taken - now + then <= self.server

    def _may_take(self, side: Side, size: int) -> bool:
        if not self._is_within_limit(side, size):
            return False
        return not self._beyond(side, size) or (not side.common.blocked and self._is_there(side, size))

    def _sort(self, side: Side) -> None:
        """Have a side wait for the common part if its first reservation does, and not for its own limit.

        One that waits there keeps its place.
        """
        if side.waiting and self._is_within_limit(side, next(iter(side.waiting)).size):
            side.common.blocked.setdefault(side)

    def _served(self, side: Side) -> Iterable[Grant]:
        """Grant what a side may take without waiting for others."""
        while side.waiting:
            reservation = next(iter(side.waiting))
            if not self._may_take(side, reservation.size):
                break
            side.common.blocked.pop(side, None)
            yield self._take(reservation)
        self._sort(side)

    def _granted(self) -> list[Grant]:
        """Grant what waits for the common parts, the first that waits first."""
        grants: list[Grant] = []
        for common in self._commons:
            while common.blocked:
                side = next(iter(common.blocked))
                reservation = next(iter(side.waiting))
                if not self._is_there(side, reservation.size):
                    break
                del common.blocked[side]
                grants.append(self._take(reservation))
                self._sort(side)
        return grants

    def _take(self, reservation: Reservation) -> Grant:
        side = reservation.side
        del side.waiting[reservation]
        self._waiting -= 1
        self._add(side, reservation.size)
        return reservation.grant
