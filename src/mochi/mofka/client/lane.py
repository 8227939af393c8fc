"""Lanes: the way of one producer's events to one partition; batches on their way, and retries.

The thread that fills a batch seals and sends it. Whoever receives an acknowledgement (a thread that waits, else the
background thread) settles the batch, and sends the next one if it is due.

Invariants
----------
1. `in_flight` holds the sealed batches that are not settled, in the order of their sequence numbers; at most
   `window` of them. Together with the open batch that bounds a lane's memory: a batch has at most
   `MAX_BATCH_BYTES`, or one event.
2. A lost connection settles nothing, nor does a partition that is not there for a while. Recovery looks for the
   partition, and sends the batches in flight again, under the same numbers; the partition tells repetitions from new
   ones, also after its server was started again. Where it is not found in time, or has forgotten the numbers or the
   events, all that is pending fails, and the lane goes on under a new identity.
3. An event is in the open batch, in flight, or settled. Only the holder of `lock` moves it.
4. Ctrl-C may strike at any call. A batch is open until it is laid out, and laying it out may be begun again; from
   then on, what was interrupted is taken up by recovery, which sends again all that is not settled. Recovery runs in
   a thread of its own, where Ctrl-C does not strike, and is begun by a store and one call of a C function.
5. An identity that the partition has forgotten is renewed, unasked, if none of what is in flight can have been stored
   under it: each batch was sent once, and the first of them is refused as unknown.
6. A call within a frame of its own thread that holds `lock` (see `mochi.margo.owned_lock`) leaves a filled batch to
   that frame. If it has to wait, it renews the lane: a new lock, and a recovery. That is to the suspended frame as if
   Ctrl-C had struck there, but that it goes on: so it changes the lane only while its lock is still the lane's, with no
   call between looking and changing, and does its work again if it was not. The work of receivers is left in `_inbox`
   while the lock is held, so that none of them ever waits for it.
7. A refusal counts only if it answers the last attempt to send: what was refused before will be sent again, or was.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from diaspora_stream.future import FutureUint
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE
from mochi.margo import rpc
from mochi.margo.errors import Fault, MargoError
from mochi.margo.link import Link
from mochi.margo.owned_lock import OwnedLock
from mochi.margo.wire import Buffer, Frame, Kind, Segment, allocate_private
from mochi.mofka.client.batch import FIELDS, Batch
from mochi.mofka.client.refusals import PartitionInfo, as_diaspora_error, is_away, refusal
from mochi.mofka.client.search import Search
from mochi.mofka.client.service import EXIT_FLUSH, Service, deadline_after
from mochi.mofka.protocol import (
    LEND,
    MAX_EVENT_BYTES,
    REMEMBERED_BATCHES,
    SEND_BATCH,
    BatchStored,
    Lend,
    Lent,
    SendBatch,
    Where,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 8 << 20
"""Bytes of metadata and data at which a batch goes, whatever its number of events."""

MAX_BATCH_EVENTS = 4096
"""Events of an adaptive batch at most."""

MAX_FIXED_EVENTS = 65536
"""Events of any batch at most."""

LEND_FROM = 64 << 10
"""Bytes of data from which a batch goes through a lent buffer, where the server lends: 1.1 to 1.3 times as many
events of 128 bytes a second in batches of 1000 as in line, and twice the bandwidth from 1 MiB on."""


class _LentBuffer:
    """A lent buffer, and which parts of it are in use; parts are taken at the lowest free place, the warm one."""

    def __init__(self, lease: int, view: memoryview) -> None:
        self.lease = lease
        self.view = view
        self.used: list[tuple[int, int]] = []

    def take(self, size: int) -> int | None:
        """Return the offset of `size` free bytes, or None."""
        at = 0
        for position, (start, end) in enumerate(self.used):
            if start - at >= size:
                self.used.insert(position, (at, at + size))
                return at
            at = end
        if len(self.view) - at < size:
            return None
        self.used.append((at, at + size))
        return at

    def give_back(self, offset: int) -> None:
        """Free what was taken at `offset`."""
        self.used = [part for part in self.used if part[0] != offset]


class LaneOptions(msgspec.Struct):
    """What the lanes of a producer have in common.

    Attributes
    ----------
    prefixed : bool
        Whether batches hold JSON text that wants its length before it, as the default serializer writes it.
    failed : DiasporaError or None
        Why a batch failed since the last flush.
    told : DiasporaError or None
        What who waited for an event was told last of why it failed.
    """

    topic: str
    batch_size: int
    max_num_batches: int
    when_full: str
    prefixed: bool
    failed: DiasporaError | None = None
    told: DiasporaError | None = None


class _AckReceiver:
    """Takes the answer to one batch."""

    __slots__ = ("attempt", "batch", "lane", "link")

    def __init__(self, lane: "Lane", batch: Batch, link: Link, attempt: int) -> None:
        self.lane = lane
        self.batch = batch
        self.link = link
        self.attempt = attempt

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return allocate_private(frame)

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT:
            self.lane.refused(self.batch, rpc.unpack_fault(frame.message), self.attempt)
        else:
            self.lane.stored(self.batch, rpc.unpack(frame.message, BatchStored))

    def lost(self, error: MargoError) -> None:
        self.lane.lost(self.link, error)


def is_forgotten(error: MargoError, refused: Batch, in_flight: Sequence[Batch]) -> bool:
    """Tell whether a partition has forgotten an identity, and surely stored nothing of what is in flight under it.

    A batch that was sent more than once may have been stored before.
    """
    return (
        isinstance(error, Fault)
        and error.code == "identity_expired"
        and bool(in_flight)
        and refused is in_flight[0]
        and all(batch.times_sent <= 1 for batch in in_flight)
    )


class Lane:
    """The way of one producer's events to one partition.

    Attributes
    ----------
    open : Batch
        Where events are appended.
    small : int
        Events of at most so many bytes may be appended without the lock: all that fit into a batch are together
        no more than half of `MAX_BATCH_BYTES`. -1 while there is no room, and once the process ends.
    """

    def __init__(self, service: Service, options: LaneOptions, partition: PartitionInfo) -> None:
        self.options = options
        self.partition = service.current(partition)
        self._service = service
        adaptive = options.batch_size == ADAPTIVE_BATCH_SIZE
        self._adaptive = adaptive
        self._full = FIELDS * (MAX_BATCH_EVENTS if adaptive else min(options.batch_size, MAX_FIXED_EVENTS))
        self._small = -1 if service.jobs.is_exiting else MAX_BATCH_BYTES // 2 // (self._full // FIELDS)
        self._window = min(max(options.max_num_batches, 1) + 1, REMEMBERED_BATCHES)
        self._begin()

    def reset(self) -> None:
        """Begin anew in a forked child: what is pending is the parent's, and its futures say so here."""
        theirs = DiasporaError(f"the event was pushed to topic {self.options.topic!r} by the parent process")
        for batch in (*self.in_flight, self.open):
            batch.limit = 0
            batch.settle(None, theirs)
        self._begin()

    def _begin(self) -> None:
        self.lock = OwnedLock()
        self.in_flight: deque[Batch] = deque()
        self._inbox: deque[Callable[[OwnedLock], None]] = deque()
        self._failing: tuple[DiasporaError, tuple[Batch, ...]] | None = None
        self._identity = secrets.token_bytes(16)
        self._sequence = 0
        self._base = 0
        self._epoch = 0
        self._link: Link | None = None
        self._attempt = 0
        self._search: Search | None = None
        self._cause: MargoError | None = None
        self._failure: DiasporaError | None = None
        self._lent: _LentBuffer | None = None
        self._may_lend = True
        self._recovering = False
        self.small = self._small
        self.open = self._new_batch(0)

    def _new_batch(self, in_flight: int) -> Batch:
        due_at_once = self._adaptive and in_flight < self._window
        return Batch(self, FIELDS if due_at_once else self._full)

    def links(self) -> tuple[Link, ...]:
        """Return the links to drive while waiting for this lane."""
        link = self._link
        return () if link is None else (link,)

    @property
    def has_pending(self) -> bool:
        """Whether any event is not settled."""
        return bool(self.in_flight or self.open.entries)

    def filled(self, batch: Batch, metadata: bytes, data: Any, future: FutureUint) -> None:
        """Look after a batch that an event was appended to without the lock, and that was full or sealed then."""
        if self.lock.is_mine():
            self._post(lambda held: self._look_after(held, metadata, data, future))
        else:
            self._do(lambda held: self._look_after(held, metadata, data, future))
        self._drain()

    def _do(self, work: Callable[[OwnedLock], T]) -> T:
        """Do `work` with the lock held; again, under another, if it was overtaken, see invariant 6."""
        while True:
            if self.lock.is_mine():
                self._renew()
            held = self.lock
            with held:
                if held is not self.lock:
                    continue
                if self._failing is not None:
                    self._settle_failing()
                result = work(held)
                overtaken = held is not self.lock
            if not overtaken:
                if self._inbox:
                    self._serve()
                return result

    def _post(self, work: Callable[[OwnedLock], None]) -> None:
        """Have `work` done with the lock held, now or by who holds it; never waits."""
        self._inbox.append(work)
        self._serve()

    def _serve(self) -> None:
        """Do what was left in the inbox, unless somebody holds the lock, who does it then."""
        inbox = self._inbox
        try:
            while inbox:
                held = self.lock
                if held.is_mine():
                    return
                for taken in map(held.acquire, (False,)):  # no call between this and what gives it back
                    if not taken:
                        return
                    try:
                        self._serve_held(held)
                    finally:
                        held.release()
        except BaseException:
            self._service.jobs.put(self._serve)
            self._service.jobs.begin()
            raise

    def _serve_held(self, held: OwnedLock) -> None:
        inbox = self._inbox
        self._settle_failing()
        while inbox and held is self.lock:
            work = inbox[0]
            try:
                work(held)
            except Exception as error:
                log.exception("topic %r, %s", self.options.topic, self.partition)
                self._fail(held, DiasporaError(f"topic {self.options.topic!r}, {self.partition}: {error!r}"))
            if held is self.lock and inbox and inbox[0] is work:
                del inbox[0]

    def _renew(self) -> None:
        """Go on without a frame of this thread that is suspended in here, or in the middle of a message."""
        link = self._link
        if link is not None and link.is_held_up:
            self._service.client.set_aside(link)
        lock = OwnedLock()
        self.lock = lock
        self._link = self._lent = None
        self._attempt += 1
        self._recovering = True
        self._service.jobs.put(self._recover)
        self._service.jobs.begin()

    def _look_after(self, held: OwnedLock, metadata: bytes, data: Any, future: FutureUint) -> None:
        """See to it that an event that was appended is in the open batch or was taken along; send that if it is due."""
        batch = self.open
        if future.pending is not batch:
            if future.index >= 0:
                return
            future.pending = batch
            batch.entries.extend((metadata, data, future))
        self._send_due(held)

    def push_counted(self, metadata: bytes, data: Any, future: FutureUint) -> None:
        """Append an event that is large, or that there was no room for; waits for room.

        Raises
        ------
        DiasporaError
            There was no room within the time-out, or the producer raises when it is full.
        """
        size = len(metadata) + len(data)
        if max(len(metadata), len(data)) > MAX_EVENT_BYTES - 8:
            raise DiasporaError(
                f"an event of {len(metadata)} bytes of metadata and {len(data)} bytes of data: each may have at most "
                f"{MAX_EVENT_BYTES - 8}"
            )
        deadline = self._service.deadline(None)
        failure = self._failure
        while not self._do(lambda held: self._append(held, size, metadata, data, future)):
            if self.options.when_full == "raise":
                raise DiasporaError(self._no_room("now"))
            if not self._wait(lambda: self._may_have_room() or self._failure is not failure, deadline):
                raise TimeoutExpired(self._no_room(f"within {self._service.timeout:g} s"))
            if self._failure is not None and self._failure is not failure:
                raise self._failure.with_traceback(None)
        if self._service.jobs.is_exiting:
            self._store(future.pending)
        self._drain()

    def _append(self, held: OwnedLock, size: int, metadata: bytes, data: Any, future: FutureUint) -> bool:
        """Append an event, if there is room; tell whether there was."""
        if future.pending is None:
            if not self._makes_room(held, size):
                return False
            batch = self.open
            future.pending = batch
            batch.entries.extend((metadata, data, future))
            if size > self._small:
                batch.large += size
        self._look_after(held, metadata, data, future)
        return True

    def _store(self, batch: Batch) -> None:
        """Have a batch stored that was pushed while the process ends; `DiasporaError` if it is not."""
        deadline = self._service.ends_at = deadline_after(min(self._service.timeout, EXIT_FLUSH))
        if not self.settles(batch, deadline):
            raise self.not_in_time()
        if batch.error is not None:
            raise batch.error.with_traceback(None)

    def end(self) -> None:
        """Keep nothing open from now on: what is pushed while the process ends is stored before `push` returns."""
        self.small = self._small = -1

    def _no_room(self, when: str) -> str:
        return (
            f"no room for an event {when}: {len(self.in_flight)} batches to {self.partition} are on their way and the "
            f"next is full"
        )

    def _may_have_room(self) -> bool:
        return not self._recovering and len(self.in_flight) < self._window

    def _makes_room(self, held: OwnedLock, size: int) -> bool:
        batch = self.open
        fits = len(batch.entries) < self._full and (
            not batch.entries or size <= self._small or batch.large + size <= MAX_BATCH_BYTES // 2
        )
        if fits:
            return True
        if not self._may_have_room():
            return False
        self._seal_and_send(held)
        return True

    def _is_full(self) -> bool:
        return len(self.open.entries) >= self._full or self.open.large >= MAX_BATCH_BYTES // 2

    def _send_due(self, held: OwnedLock) -> None:
        """Send the open batch if it is due and may go; the caller holds the lock."""
        batch = self.open
        if not batch.entries or not (self._adaptive or batch.due or self._is_full()):
            return
        if self._may_have_room():
            self._seal_and_send(held)
        elif self._is_full():
            self.small = -1
        else:
            batch.limit = self._full

    def _seal_and_send(self, held: OwnedLock) -> None:
        """Seal the open batch and put it on its way; the caller holds the lock."""
        batch = self.open
        layout = batch.lay_out(self.options.prefixed)
        following = self._new_batch(len(self.in_flight) + 1)
        if held is not self.lock or batch is not self.open:
            return
        try:
            # No call from the look above to that of `_send`: Ctrl-C finds all of this done, or nothing.
            batch.count, batch.sizes, batch.metadata, batch.data, batch.data_bytes, batch.created = layout
            batch.sequence = self._sequence
            batch.entries = []
            self.in_flight += (batch,)
            self.open = following
            self._sequence += 1
            self.small = self._small
            self._send(held, batch)
        except BaseException:
            if not self._recovering:
                self._recovering = True
                self._service.jobs.put(self._recover)
            self._service.jobs.begin()
            raise

    def _send(self, held: OwnedLock, batch: Batch) -> None:
        """Send a sealed batch; what does not come about is left to recovery. The caller holds the lock.

        One that was overtaken may send a repetition, which the partition knows as such.
        """
        try:
            link = self._link
            if link is None:
                link = self._service.client.living_link(self.partition.address)
                if held is not self.lock:
                    return
                if link is None:
                    self._start_recovery(held, None)
                    return
                self._link, self._lent, self._may_lend = link, None, link.lends
            lent = self._place(link, batch) if batch.data_bytes >= LEND_FROM else None
            bulk: list[Sequence[Buffer]] = [(batch.sizes,), (batch.metadata,)]
            if lent is None:
                bulk.append(batch.data)
            message = SendBatch(
                Where(self.partition.key, self._epoch),
                self._identity,
                batch.sequence - self._base,
                batch.count,
                batch.created,
            )
            receiver = _AckReceiver(self, batch, link, self._attempt)
            batch.times_sent += 1
            link.request(
                SEND_BATCH, self.partition.provider_id, rpc.pack(message), receiver, bulk=bulk, lent=lent
            )
        except MargoError as error:
            self._start_recovery(held, error)

    def _place(self, link: Link, batch: Batch) -> Segment | None:
        """Copy a batch's data into the lent buffer; None where there is none, or no room in it."""
        lent = self._lent
        if lent is None and self._may_lend:
            self._may_lend = False
            _Lender(self, link, self._attempt).ask()
        if lent is None:
            return None
        offset = lent.take(batch.data_bytes)
        if offset is None:
            return None
        at = offset
        for buffer in batch.data:
            end = at + len(buffer)
            lent.view[at:end] = buffer
            at = end
        if self._lent is lent:
            batch.lent = (lent, offset)
        return Segment(batch.data_bytes, lent.lease, offset)

    def lend(self, link: Link, attempt: int, lent: Lent, view: memoryview) -> None:
        """Take the buffer that the server lends to one connection."""
        buffer = _LentBuffer(lent.lease, view)

        def take(held: OwnedLock) -> None:
            if held is self.lock and self._link is link and self._attempt == attempt:
                self._lent = buffer

        self._post(take)

    def _release(self, batch: Batch) -> None:
        lent, batch.lent = batch.lent, None
        if lent is not None and lent[0] is self._lent and self._lent is not None:
            self._lent.give_back(lent[1])

    def stored(self, batch: Batch, answer: BatchStored) -> None:
        """Settle a batch that the partition has stored, and send what is due."""
        self._post(lambda held: self._stored(held, batch, answer))

    def _stored(self, held: OwnedLock, batch: Batch, answer: BatchStored) -> None:
        if not batch.is_done():
            self._epoch = answer.epoch
            self._end_search("found again")
            self._release(batch)
            batch.settle(answer.first, None)
        pending = self.in_flight
        if batch not in pending or held is not self.lock:
            return
        if pending[0] is batch:
            del pending[0]
        else:
            rest = deque(other for other in pending if other is not batch)
            if held is not self.lock:
                return
            self.in_flight = rest
        if self.open.entries:
            self._send_due(held)
        elif self._adaptive:
            self.open.limit = FIELDS
        if self.small < 0 and not self._is_full():
            self.small = self._small

    def refused(self, batch: Batch, error: MargoError, attempt: int) -> None:
        """Take note that the partition did not store a batch: nothing after it may be stored behind a gap."""
        self._post(lambda held: self._refused(held, batch, error, attempt))

    def _refused(self, held: OwnedLock, batch: Batch, error: MargoError, attempt: int) -> None:
        if batch.is_done() or attempt != self._attempt or self._recovering:
            return
        if is_away(error):
            self._start_recovery(held, error)
        elif is_forgotten(error, batch, self.in_flight):
            log.info("topic %r, %s: %s; it gets another", self.options.topic, self.partition, error)
            self._renew_identity(held, batch)
        else:
            self._fail(held, error)

    def _renew_identity(self, held: OwnedLock, first: Batch) -> None:
        """Send what is in flight again, from `first` on, as the first batches of another identity."""
        identity = secrets.token_bytes(16)
        if held is self.lock:
            self._identity = identity
            self._base = first.sequence
            self._attempt += 1
            self._send_again(held)

    def fail(self, error: MargoError | DiasporaError) -> None:
        """Fail all that is pending, and go on under a new identity."""
        self._do(lambda held: self._fail(held, error))
        self._service.client.notify()

    def _fail(self, held: OwnedLock, error: MargoError | DiasporaError) -> None:
        where = f"topic {self.options.topic!r}"
        if isinstance(error, DiasporaError):
            reason = error.with_traceback(None)
        else:
            reason = refusal(error, where, self.partition, self._epoch)
        self._end_search("given up")
        identity = secrets.token_bytes(16)
        last = self.open
        count = last.lay_out(prefixed=False).events
        pending = (*self.in_flight, last) if count else tuple(self.in_flight)
        none: deque[Batch] = deque()
        following = self._new_batch(0)
        if held is not self.lock or last is not self.open:
            return
        # No call from the look to the last of these: nobody finds it half done.
        self._identity = identity
        self._sequence = self._base = self._epoch = 0
        self.in_flight = none
        self.open = following
        self.small = self._small
        self._recovering = False
        self._failure = reason
        self._failing = (reason, pending)
        last.count = count
        self._settle_failing()

    def _settle_failing(self) -> None:
        """Tell what was given up that it failed; may be interrupted, and is done again then."""
        failing = self._failing
        if failing is None:
            return
        reason, batches = failing
        for batch in batches:
            if not batch.is_done():
                self.options.failed = reason
                self._release(batch)
                batch.settle(None, reason)
        if self._failing is failing:
            self._failing = None

    def lost(self, link: Link, error: MargoError) -> None:
        """Take note that a connection is lost."""
        self._post(lambda held: self._lost(held, link, error))

    def _lost(self, held: OwnedLock, link: Link, error: MargoError) -> None:
        if self._link is not link:
            return
        if self.in_flight:
            self._start_recovery(held, error)
        else:
            self._link = self._lent = None

    def _start_recovery(self, held: OwnedLock, error: MargoError | None) -> None:
        if held is not self.lock:
            return
        self._link = None
        self._lent = None
        if self._recovering:
            return
        self._cause = error
        self._recovering = True
        self._service.jobs.put(self._recover)
        self._service.jobs.begin()
        if error is not None:
            log.info("topic %r, %s: %s; looking for it", self.options.topic, self.partition, error)

    def _recover(self) -> None:
        """Look for the partition, and send again what was not acknowledged."""
        begun = self._do(self._begin_search)
        if begun is None:
            return
        cause, search = begun
        try:
            partition, link = search.connect(self.partition, cause)
        except (MargoError, DiasporaError) as error:
            self.fail(error)
            return
        self._do(lambda held: self._found(held, partition, link))
        self._service.client.notify()

    def _begin_search(self, held: OwnedLock) -> tuple[MargoError | None, Search] | None:
        if not self._recovering:  # another search was faster; all in flight has gone over one connection
            return None
        self._link = self._lent = None
        cause, self._cause = self._cause, None
        search = self._search = self._search or Search(self._service, self.options.topic)
        return cause, search

    def _found(self, held: OwnedLock, partition: PartitionInfo, link: Link) -> None:
        pending = deque(batch for batch in self.in_flight if not batch.is_done())
        if held is not self.lock:
            return
        self.in_flight = pending
        self.partition = partition
        self._recovering = False
        self._attempt += 1
        self._link, self._lent, self._may_lend = link, None, link.lends
        if not pending:
            self._end_search("found again")
        self._send_again(held)
        if not self._recovering:
            self._send_due(held)

    def _end_search(self, outcome: str) -> None:
        search, self._search = self._search, None
        if search is not None:
            search.end(outcome)

    def _send_again(self, held: OwnedLock) -> None:
        """Send all that is in flight; what does not come about is left to recovery."""
        for batch in list(self.in_flight):
            self._release(batch)
            self._send(held, batch)
            if self._recovering:
                return

    def _drain(self) -> None:
        """Take the acknowledgements that are here."""
        link = self._link
        if link is not None:
            self._service.client.drain(link)

    def begin_flush(self) -> list[Batch]:
        """Have the open batch go as soon as it may; return all that is not settled."""
        return self._do(self._begin_flush)

    def _begin_flush(self, held: OwnedLock) -> list[Batch]:
        batches = list(self.in_flight)
        if self.open.entries:
            batches.append(self.open)
            self.open.due = True
            self._send_due(held)
        return batches

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until `batch` is settled; False when the time is over.

        Raises
        ------
        DiasporaError
            No `timeout` was given, and that of the driver is over.
        """
        if self.settles(batch, self._service.deadline(timeout)):
            return True
        if timeout is None:
            raise self.not_in_time()
        return False

    def not_in_time(self) -> DiasporaError:
        """Return the error of a wait that the time-out of the driver ends; the events stay pending."""
        where = f"topic {self.options.topic!r}, {self.partition}"
        within = f"within {self._service.timeout:g} s"
        search = self._search
        if search is not None and search.reason is not None:
            return as_diaspora_error(search.reason, f"{where} was not found {within}, and is looked for")
        return TimeoutExpired(f"{where} has not answered {within}; the events may be waited for again")

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Wait for something that the partition brings about; one that is looked for tells the log itself."""
        link = self._link
        if link is not None and link.is_held_up:
            self._renew()
        service = self._service
        service.jobs.work()
        done = service.client.wait_for_server(
            (lambda: is_done() or service.jobs.are_left) if service.jobs.is_exiting else is_done,
            self.links,
            deadline,
            lambda: (
                ""
                if self._recovering
                else f"topic {self.options.topic!r}, {self.partition}, which is connected and does not answer"
            ),
        )
        return done if not service.jobs.are_left or is_done() else self._wait(is_done, deadline)

    def settles(self, batch: Batch, deadline: float) -> bool:
        """Wait until `batch` is settled, which goes as soon as it may; False when the time is over."""
        self._do(lambda held: self._make_due(held, batch))
        return self._wait(batch.is_done, deadline)

    def _make_due(self, held: OwnedLock, batch: Batch) -> None:
        if batch is self.open:
            batch.due = True
            self._send_due(held)

    def finish(self, deadline: float) -> int:
        """Flush until `deadline`; return how many events are not stored, and log why."""
        flush = Flush([self])
        try:
            if not flush.wait_until(deadline):
                log.error("topic %r: %s does not answer in time", self.options.topic, self.partition)
        except DiasporaError as error:
            log.error("%s", error)
        return flush.unstored()


class _Lender:
    """Asks for a buffer to be lent; until it comes, batches go in line."""

    def __init__(self, lane: Lane, link: Link, attempt: int) -> None:
        self.lane = lane
        self.link = link
        self.attempt = attempt

    def ask(self) -> None:
        message = rpc.pack(Lend(Where(self.lane.partition.key, 0)))
        self.link.request(LEND, self.lane.partition.provider_id, message, self)

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return allocate_private(frame)

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.RESPONSE:
            self.lane.lend(self.link, self.attempt, rpc.unpack(frame.message, Lent), self.link.map_lent())

    def lost(self, error: MargoError) -> None:
        """Go on without."""


class Flush:
    """What a flush waits for: the batches that were not settled when it began."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._pending = [(lane, batch) for lane in lanes for batch in lane.begin_flush()]

    def wait_until(self, deadline: float) -> bool:
        """Wait until all are settled; False when the time is over. The first error, if one could not be stored."""
        if not all(lane.settles(batch, deadline) for lane, batch in self._pending):
            return False
        for _, batch in self._pending:
            if batch.error is not None:
                raise batch.error.with_traceback(None)
        return True

    def not_in_time(self) -> DiasporaError:
        """Return the error of a wait that the time-out of the driver ends."""
        return next(lane for lane, batch in self._pending if not batch.is_done()).not_in_time()

    def is_done(self) -> bool:
        """Tell whether all are settled."""
        return all(batch.is_done() for _, batch in self._pending)

    def unstored(self) -> int:
        """Return the number of events that are not stored."""
        return sum(
            batch.count or len(batch.entries) // FIELDS for _, batch in self._pending if batch.first is None
        )
