"""What a lane decides: which batch goes when, over which connection, and under which number. No I/O.

Invariants
----------
1. `in_flight` holds the sealed batches that are not settled, in the order of their sequence numbers; at most `window`
   of them. Together with the open batch that bounds a lane's memory: a batch has at most `MAX_BATCH_BYTES`, or one
   event.
2. A lost connection settles nothing, nor does a partition that is not there for a while. It is looked for, and the
   batches in flight are sent again, under the same numbers; the partition tells repetitions from new ones, also after
   its server was started again. Where it is not found in time, or has forgotten the numbers or the events, all that
   is pending fails, and the lane goes on under a new identity.
3. An event is in the open batch, in flight, or settled.
4. An identity that the partition has forgotten is renewed, unasked, if none of what is in flight can have been stored
   under it: each batch was sent once, and the first of them is refused as unknown.
5. A refusal counts only if it answers the last attempt to send: what was refused before will be sent again, or was.
   So does what a search brings: it counts only if nobody has begun another.
"""

from collections.abc import Callable, Sequence
from enum import auto
from typing import Any

import msgspec

from diaspora_stream.errors import DiasporaError
from diaspora_stream.future import FutureUint
from mochi.margo.errors import Fault, MargoError
from mochi.mofka.client.batch import FIELDS, MAX_BATCH_BYTES, Batch, Sealed
from mochi.mofka.client.core.machine import State
from mochi.mofka.client.core.transitions import Name, Table, following
from mochi.mofka.client.refusals import PartitionInfo, is_away, refusal
from mochi.mofka.protocol import SendBatch, Where

WITHDRAWN = -2
"""Index in the future of an event whose push was interrupted: it is where it is, or nowhere."""


class Phase(Name):
    """How a lane stands to its partition."""

    IDLE = auto()
    """There is no connection, and nothing in flight."""

    SEARCHING = auto()
    """The partition is looked for; nothing is sent."""

    RESENT = auto()
    """It was found, and all in flight was sent; nothing of that is acknowledged yet."""

    CONNECTED = auto()
    """Batches go, and are acknowledged."""


class Event(Name):
    """What happens to a lane."""

    SEAL = auto()
    STORE = auto()
    MISS = auto()
    """The connection or the partition is gone, and batches are in flight."""

    LEAVE = auto()
    """The connection is gone, and nothing is in flight."""

    FIND = auto()
    REACH = auto()
    """The partition was found, and nothing is in flight any more."""

    FORGET = auto()
    FAIL = auto()


TRANSITIONS: Table[Phase, Event] = {
    Phase.IDLE: {
        Event.SEAL: Phase.SEARCHING,
        Event.FAIL: Phase.IDLE,
    },
    Phase.SEARCHING: {
        Event.STORE: Phase.SEARCHING,  # acknowledged before the connection was lost
        Event.FIND: Phase.RESENT,
        Event.REACH: Phase.CONNECTED,
        Event.FAIL: Phase.IDLE,
    },
    Phase.RESENT: {
        Event.SEAL: Phase.RESENT,
        Event.STORE: Phase.CONNECTED,
        Event.MISS: Phase.SEARCHING,
        Event.FORGET: Phase.RESENT,
        Event.FAIL: Phase.CONNECTED,
    },
    Phase.CONNECTED: {
        Event.SEAL: Phase.CONNECTED,
        Event.STORE: Phase.CONNECTED,
        Event.MISS: Phase.SEARCHING,
        Event.LEAVE: Phase.IDLE,
        Event.FORGET: Phase.CONNECTED,
        Event.FAIL: Phase.CONNECTED,
    },
}


class Send(msgspec.Struct, frozen=True, eq=False):
    """Send a batch over `link`; its answer is `stored` or `refused`, or else `lost` follows."""

    sealed: Sealed
    link: Any
    attempt: int
    provider_id: int
    message: SendBatch


class Detach(msgspec.Struct, frozen=True, eq=False):
    """Let go of the events of a batch that is laid out, and is not sent yet."""

    sealed: Sealed


class Settle(msgspec.Struct, frozen=True, eq=False):
    """Tell those who wait for a batch that it is stored, or that it failed."""

    sealed: Sealed
    first: int | None
    error: DiasporaError | None


class Search(msgspec.Struct, frozen=True, eq=False):
    """Look for the partition, then `found` or `given_up`; the same search goes on until it is ended."""

    attempt: int
    partition: PartitionInfo
    cause: MargoError | None


class EndSearch(msgspec.Struct, frozen=True, eq=False):
    """End the search, if there is one."""

    outcome: str


class Leave(msgspec.Struct, frozen=True, eq=False):
    """Use `link` no more if the calling thread is suspended in the middle of a message on it."""

    link: Any


class Wake(msgspec.Struct, frozen=True, eq=False):
    """Have those that wait look again."""


class LaneState(State, kw_only=True):
    """The way of one producer's events to one partition.

    Attributes
    ----------
    topic : str
    partition : PartitionInfo
        Where it was seen last.
    owner : Any
        The `lane` of each batch.
    window : int
        Batches that may be in flight.
    full : int
        Length of a batch's entries at which it is full.
    adaptive : bool
        Whether a batch goes as soon as it may.
    prefixed : bool
        Whether batches hold JSON text that wants its length before it.
    identify : callable
        Makes identities, 16 bytes that no other lane has.
    clock : callable
        Nanoseconds since 1970.
    roomy : int
        What `small` is while there is room.
    small : int
        Events of at most so many bytes may be appended without more ado. All of them that fit into a batch are
        together no more than half of `MAX_BATCH_BYTES`. -1 while there is no room, and once the process ends.
    open : Batch
        Where events are appended.
    in_flight : tuple of Sealed
    sequence, base : int
        Of the next batch, and of the first one under this identity.
    attempt : int
        Number of the last attempt to send, or to find the partition.
    failure : DiasporaError or None
        Why what was pending failed last.
    """

    topic: str
    partition: PartitionInfo
    owner: Any
    window: int
    full: int
    adaptive: bool
    prefixed: bool
    identify: Callable[[], bytes]
    clock: Callable[[], int]
    roomy: int
    small: int
    open: Batch
    identity: bytes
    phase: Phase = Phase.IDLE
    link: Any = None
    attempt: int = 0
    sequence: int = 0
    base: int = 0
    epoch: int = 0
    in_flight: tuple[Sealed, ...] = ()
    failure: DiasporaError | None = None

    @property
    def has_pending(self) -> bool:
        """Whether any event is not settled."""
        return bool(self.in_flight or self.open.entries)

    @property
    def unsettled(self) -> list[Batch]:
        """The batches whose outcome nobody was told yet."""
        told = [action.sealed.batch for action in self.outbox if isinstance(action, Settle)]
        flying = [sealed.batch for sealed in self.in_flight]
        return [*told, *flying, self.open] if self.open.entries else told + flying

    @property
    def has_room(self) -> bool:
        """Whether another batch may go."""
        return self.phase is not Phase.SEARCHING and len(self.in_flight) < self.window  # invariant 1

    @property
    def _is_full(self) -> bool:
        return len(self.open.entries) >= self.full or self.open.large >= MAX_BATCH_BYTES // 2

    # Events of who pushes and flushes.

    def filled(self, metadata: bytes, data: Any, future: FutureUint) -> list[Any]:
        """See to it that an event that was appended is in the open batch or was taken along."""
        batch = self.open
        if future.pending is not batch:
            if future.index >= 0:  # it was taken along
                return []
            entries, entry = batch.entries, (metadata, data, future)
            # Invariant 3: no call between these. A frame that was overtaken leaves its event where it is by now, and
            # one whose push was interrupted is not placed behind what was pushed since.
            if self.owner.now is not self.origin or future.index == WITHDRAWN:
                return []
            future.pending = batch
            entries += entry
        return self._send_due()

    def append(self, size: int, metadata: bytes, data: Any, future: FutureUint) -> list[Any]:
        """Append an event that is large, or that there was no room for; without room its future stays as it is."""
        actions: list[Any] = []
        if future.pending is None:
            batch = self.open
            fits = len(batch.entries) < self.full and (
                not batch.entries or size <= self.roomy or batch.large + size <= MAX_BATCH_BYTES // 2
            )
            if not fits:
                if not self.has_room:
                    return []
                actions = self._seal_and_send()
                batch = self.open
            if size > self.roomy:
                batch.large += size
        return actions + self.filled(metadata, data, future)

    def wanted(self, batch: Batch) -> list[Any]:
        """Have `batch` go as soon as it may, if it is open."""
        if batch is not self.open or not batch.entries:
            return []
        batch.due = True
        return self._send_due()

    def ends(self) -> list[Any]:
        """Keep nothing open from now on: the process ends."""
        self.small = self.roomy = -1
        return []

    def _open_next(self) -> None:
        due_at_once = self.adaptive and len(self.in_flight) < self.window
        self.open = Batch(self.owner, FIELDS if due_at_once else self.full)
        self.small = self.roomy

    def _send_due(self) -> list[Any]:
        """Send the open batch if it is due and may go."""
        batch = self.open
        if not batch.entries or not (self.adaptive or batch.due or self._is_full):
            return []
        if self.has_room:
            return self._seal_and_send()
        if self._is_full:
            self.small = -1
        return []

    def _seal_and_send(self) -> list[Any]:
        sealed = self.open.seal(self.sequence, self.prefixed, self.clock())
        self.in_flight = (*self.in_flight, sealed)  # invariants 1 and 3
        self.sequence += 1
        self._open_next()
        was_idle = self.phase is Phase.IDLE
        self.phase = following(TRANSITIONS, self.phase, Event.SEAL)
        return [Detach(sealed), self._search(None)] if was_idle else [self._send(sealed)]

    def _send(self, sealed: Sealed) -> Send:
        where = Where(self.partition.key, self.epoch)
        number = sealed.sequence - self.base
        message = SendBatch(where, self.identity, number, sealed.events, sealed.created)
        return Send(sealed, self.link, self.attempt, self.partition.provider_id, message)

    # Events of the connection, and of what is sent over it.

    def stored(self, sealed: Sealed, first: int, epoch: int) -> list[Any]:
        """Settle a batch that the partition has stored, and send what is due."""
        pending = self.in_flight
        if pending[:1] == (sealed,):
            self.in_flight = pending[1:]  # invariant 3
        elif sealed in pending:
            self.in_flight = tuple(other for other in pending if other is not sealed)
        else:
            return []
        self.epoch = epoch
        actions: list[Any] = [Settle(sealed, first, None)]
        if self.phase is Phase.RESENT:
            actions.append(EndSearch("found again"))
        self.phase = following(TRANSITIONS, self.phase, Event.STORE)
        batch = self.open
        if batch.entries:
            actions += self._send_due()
        elif self.adaptive and batch.limit > FIELDS:
            batch.limit = FIELDS
        if self.small < 0 and not self._is_full:
            self.small = self.roomy
        return actions

    def refused(self, sealed: Sealed, error: MargoError, attempt: int) -> list[Any]:
        """Take note that the partition did not store a batch: nothing after it may be stored behind a gap."""
        if attempt != self.attempt or self.phase is Phase.SEARCHING or sealed not in self.in_flight:
            return []  # invariant 5
        if is_away(error):
            return self._miss(error)
        if is_forgotten(error, sealed, self.in_flight):
            self.phase = following(TRANSITIONS, self.phase, Event.FORGET)
            self.identity = self.identify()
            self.base = sealed.sequence
            return self._send_again()
        return self.failed(error)

    def lost(self, link: Any, error: MargoError | None) -> list[Any]:
        """Take note that a connection is lost."""
        if link is not self.link or self.phase not in (Phase.RESENT, Phase.CONNECTED):
            return []
        return self._miss(error)

    def _miss(self, error: MargoError | None) -> list[Any]:
        event = Event.MISS if self.in_flight else Event.LEAVE
        self.phase = following(TRANSITIONS, self.phase, event)
        self.link = None
        return [self._search(error)] if self.in_flight else []

    def _search(self, cause: MargoError | None) -> Search:
        self.attempt += 1
        return Search(self.attempt, self.partition, cause)

    def found(self, attempt: int, partition: PartitionInfo, link: Any) -> list[Any]:
        """Send all in flight again over a connection to where the partition is."""
        if attempt != self.attempt or self.phase is not Phase.SEARCHING:
            return []  # invariant 5
        event = Event.FIND if self.in_flight else Event.REACH
        self.phase = following(TRANSITIONS, self.phase, event)
        self.partition = partition
        self.link = link
        ended = [] if self.in_flight else [EndSearch("found again")]
        return [*ended, *self._send_again(), *self._send_due(), Wake()]

    def _send_again(self) -> list[Any]:
        self.attempt += 1
        return [self._send(sealed) for sealed in self.in_flight]  # invariant 2

    def given_up(self, attempt: int, error: MargoError | DiasporaError) -> list[Any]:
        """Fail all that is pending: the partition was not found in time."""
        if attempt != self.attempt or self.phase is not Phase.SEARCHING:
            return []  # invariant 5
        return self.failed(error)

    def failed(self, error: MargoError | DiasporaError) -> list[Any]:
        """Fail all that is pending, and go on under a new identity."""
        last = self.open.seal(
            self.sequence, False, self.clock()
        )  # invariant 3: what comes later finds it sealed
        pending = (*self.in_flight, last) if last.events else self.in_flight
        if isinstance(error, DiasporaError):
            reason = error.with_traceback(None)
        else:
            reason = refusal(error, f"topic {self.topic!r}", self.partition, self.epoch)
        self.phase = following(TRANSITIONS, self.phase, Event.FAIL)
        self.failure = reason
        self.identity = self.identify()  # invariant 2
        self.sequence = self.base = self.epoch = 0
        self.attempt += 1
        self.in_flight = ()
        self._open_next()
        settled = [Settle(sealed, None, reason) for sealed in pending]
        return [EndSearch("given up"), *settled, Wake()]

    def overtaken(self) -> list[Any]:
        """Go on without a frame that is suspended, perhaps in the middle of a message: over another connection."""
        rest = [
            Detach(action.sealed)
            if isinstance(action, Send)
            else action  # invariant 2: found, it is sent again
            for action in self.outbox
        ]
        link = self.link
        return rest if link is None else [Leave(link), *rest, *self.lost(link, None)]

    def broken(self, error: Exception) -> list[Any]:
        """Go on after a fault of the program: fail all that is pending."""
        rest = [action for action in self.outbox if not isinstance(action, Send | Search)]
        reason = DiasporaError(f"topic {self.topic!r}, {self.partition}: {error!r}")
        return rest + self.failed(reason)

    def disowned(self, reason: DiasporaError) -> list[Settle]:
        """Return how to settle, in a forked child, what is the parent's."""
        decided = [action for action in self.outbox if isinstance(action, Settle)]
        pending = [*self.in_flight, self.open.seal(0, False, 0)]
        return decided + [Settle(sealed, None, reason) for sealed in pending]


def is_forgotten(error: MargoError, refused: Sealed, in_flight: Sequence[Sealed]) -> bool:
    """Tell whether a partition has forgotten an identity, and surely stored nothing of what is in flight under it.

    A batch that was sent more than once may have been stored before.
    """
    return (
        isinstance(error, Fault)
        and error.code == "identity_expired"
        and bool(in_flight)
        and refused is in_flight[0]
        and all(sealed.times_sent <= 1 for sealed in in_flight)  # invariant 4
    )
