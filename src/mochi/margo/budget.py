"""Memory that a server holds for its peers: who may take how much, who waits, and who is let go. No I/O.

What is held for a connection are its requests until they are answered, its answers and notices until it has read
them, and what is reserved for those that are being made. Each connection has a limit. What it holds beyond its share
comes from what is common to all.

Rules
-----
1. A connection that holds nothing may take anything, as far as the common part allows it; one that holds something
   may go up to its limit.
2. What stays within the share of a connection is given whatever the others hold.
3. What goes beyond comes from the common part, as long as there is some; one alone may take more than all of it. Who
   waits for it comes before those that ask later.
4. A connection's own reservations are given in the order in which it asked.
5. While somebody waits for the common part, or shares alone come to more than that, the connection that has kept the
   server waiting for longest is to go, once that was `PATIENCE` seconds.

A peer keeps the server waiting while it does not read what is there for it, or does not send the rest of what it
began. It has moved when it took or sent `LEAST_MOVE` bytes, or all there was.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

CONNECTION_BYTES = 128 << 20
"""Bytes that are held for one connection before nothing more is taken or made for it."""

SERVER_BYTES = 1 << 30
"""Bytes that are held for all connections beyond their shares."""

SHARE_BYTES = 24 << 20
"""Bytes that are held for a connection whatever the others hold: any batch but of large events, or any message."""

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
    """Bytes that an account waits for."""

    __slots__ = ("account", "grant", "size")

    def __init__(self, account: "Account", size: int, grant: Grant) -> None:
        self.account = account
        self.size = size
        self.grant = grant


class Account:
    """What is held for one connection.

    Attributes
    ----------
    held : int
        Bytes.
    reading, sending : Wait
        For the peer to read what is there for it, and to send the rest of what it has begun.
    """

    __slots__ = ("closed", "held", "reading", "sending", "waiting")

    def __init__(self) -> None:
        self.held = 0
        self.closed = False
        self.reading = Wait()
        self.sending = Wait()
        self.waiting: OrderedDict[Reservation, None] = OrderedDict()

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
        self._common = 0
        self._blocked: OrderedDict[Account, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held for all."""
        return self._held

    @property
    def is_short(self) -> bool:
        """Whether somebody waits for the common part, or shares alone come to more than it."""
        return bool(self._blocked) or self._shares_are_too_many()

    def open(self) -> Account:
        """Return the account of a new connection."""
        account = Account()
        with self._lock:
            self.accounts[account] = None
        return account

    def close(self, account: Account) -> Sequence[Grant]:
        """Let go of all that is held for a connection, and of what it waits for; return what is granted to others."""
        with self._lock:
            account.closed = True
            account.waiting.clear()
            self._blocked.pop(account, None)
            self.accounts.pop(account, None)
            self._add(account, -account.held)
            return self._granted()

    def is_full(self, account: Account) -> bool:
        """Whether a connection is at its limit."""
        return account.held >= self.connection

    def reserve(self, account: Account, size: int, grant: Grant) -> Reservation | None:
        """Take `size` bytes for a connection, now (None), or when there is room.

        Returns
        -------
        Reservation or None
            What waits for room; another call will return `grant` when the bytes are taken, unless the reservation is
            taken back, or the account closed.
        """
        with self._lock:
            if not account.closed and not account.waiting and self._may_take(account, size):
                self._add(account, size)
                return None
            reservation = Reservation(account, size, grant)
            if not account.closed:
                account.waiting[reservation] = None
                self._sort(account)
            return reservation

    def cancel(self, reservation: Reservation) -> Sequence[Grant]:
        """Take a reservation back that waits; return what is granted to others, or to the same account."""
        account = reservation.account
        with self._lock:
            if account.waiting and next(iter(account.waiting)) is reservation:
                self._blocked.pop(account, None)
            account.waiting.pop(reservation, None)
            return [*self._served(account), *self._granted()]

    def change(self, account: Account, difference: int) -> Sequence[Grant]:
        """Take note of what is held for a connection, more or less; return what is granted by that."""
        with self._lock:
            if account.closed or not difference:
                return ()
            self._add(account, difference)
            if not (account.waiting or self._blocked):
                return ()
            return [*self._served(account), *self._granted()]

    def stalled(self, now: float) -> Account | None:
        """Return the account that is to be closed, if there is one."""
        if not self.is_short:
            return None
        with self._lock:
            least = 0 if self._shares_are_too_many() else self.share
            waits = [
                (since, number, account)
                for number, account in enumerate(self.accounts)
                if account.held > least and (since := account.waits_since) is not None
            ]
        if not waits:
            return None
        since, _, account = min(waits)
        return account if now - since >= PATIENCE else None

    def _shares_are_too_many(self) -> bool:
        return self._held - self._common > self.server

    def _beyond(self, held: int) -> int:
        return max(held - self.share, 0)

    def _add(self, account: Account, difference: int) -> None:
        before = account.held
        account.held = after = before + difference
        self._held += difference
        self._common += self._beyond(after) - self._beyond(before)

    def _is_within_limit(self, account: Account, size: int) -> bool:
        return not account.held or account.held + size <= self.connection

    def _is_there(self, account: Account, size: int) -> bool:
        wanted = self._beyond(account.held + size) - self._beyond(account.held)
        others = self._common - self._beyond(account.held)
        return not wanted or not others or self._common + wanted <= self.server

    def _may_take(self, account: Account, size: int) -> bool:
        if not self._is_within_limit(account, size):
            return False
        if account.held + size <= self.share:
            return True
        return not self._blocked and self._is_there(account, size)

    def _sort(self, account: Account) -> None:
        """Have an account wait for the common part if its first reservation does, and not for its own limit."""
        if account.waiting and self._is_within_limit(account, next(iter(account.waiting)).size):
            self._blocked.setdefault(account)
        else:
            self._blocked.pop(account, None)

    def _served(self, account: Account) -> Iterable[Grant]:
        """Grant what an account may take without waiting for others."""
        while account.waiting:
            reservation = next(iter(account.waiting))
            if account in self._blocked and account.held + reservation.size > self.share:
                break
            if not self._may_take(account, reservation.size):
                break
            self._blocked.pop(account, None)
            yield self._take(reservation)
        self._sort(account)

    def _granted(self) -> list[Grant]:
        """Grant what waits for the common part, the first that waits first."""
        grants: list[Grant] = []
        while self._blocked:
            account = next(iter(self._blocked))
            reservation = next(iter(account.waiting))
            if not self._is_there(account, reservation.size):
                break
            del self._blocked[account]
            grants.append(self._take(reservation))
            self._sort(account)
        return grants

    def _take(self, reservation: Reservation) -> Grant:
        account = reservation.account
        del account.waiting[reservation]
        self._add(account, reservation.size)
        return reservation.grant
