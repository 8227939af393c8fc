"""Lanes: the way of one producer's events to one partition; carries out what `core.lane_state` decides.

The thread that fills a batch has it sealed and sends it. Whoever receives an acknowledgement (a thread that waits,
else the background thread) settles the batch, and sends the next one if it is due. `core.machine` keeps all that safe
from Ctrl-C, and from calls that meet a frame of their own thread.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from diaspora_stream.future import FutureUint
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE
from mochi.margo import rpc
from mochi.margo.errors import HeldUp, MargoError
from mochi.margo.link import Link
from mochi.margo.wire import Buffer, Frame, Kind, allocate_private
from mochi.mofka.client.batch import FIELDS, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_FIXED_EVENTS, Batch
from mochi.mofka.client.core import lane_state
from mochi.mofka.client.core.lane_state import (
    WITHDRAWN,
    Detach,
    EndSearch,
    LaneState,
    Leave,
    Phase,
    Send,
    Settle,
    Wake,
)
from mochi.mofka.client.core.machine import Machine
from mochi.mofka.client.lending import LEND_FROM, Lending
from mochi.mofka.client.refusals import PartitionInfo, as_diaspora_error
from mochi.mofka.client.search import Search
from mochi.mofka.client.service import EXIT_FLUSH, Service, deadline_after
from mochi.mofka.protocol import MAX_EVENT_BYTES, REMEMBERED_BATCHES, SEND_BATCH, BatchStored

log = logging.getLogger(__name__)


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


class _Answer(msgspec.Struct, eq=False):
    """Takes the answer to one batch."""

    lane: "Lane"
    sent: Send

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return allocate_private(frame)

    def receive(self, frame: Frame) -> None:
        sent = self.sent
        if frame.kind is Kind.FAULT:
            self.lane.post(LaneState.refused, sent.sealed, rpc.unpack_fault(frame.message), sent.attempt)
        else:
            answer = rpc.unpack(frame.message, BatchStored)
            self.lane.post(LaneState.stored, sent.sealed, answer.first, answer.epoch)

    def lost(self, error: MargoError) -> None:
        self.lane.post(LaneState.lost, self.sent.link, error)


class Lane(Machine[LaneState]):
    """The way of one producer's events to one partition."""

    def __init__(self, service: Service, options: LaneOptions, partition: PartitionInfo) -> None:
        self.options = options
        self._service = service
        self._begin(service.current(partition))

    def __repr__(self) -> str:
        return f"topic {self.options.topic!r}, {self.now.partition}"

    def _begin(self, partition: PartitionInfo) -> None:
        options = self.options
        adaptive = options.batch_size == ADAPTIVE_BATCH_SIZE
        events = MAX_BATCH_EVENTS if adaptive else min(options.batch_size, MAX_FIXED_EVENTS)
        roomy = -1 if self._service.jobs.is_exiting else MAX_BATCH_BYTES // 2 // events
        self._lending: Lending | None = None
        self._search: Search | None = None
        self._looked_for = 0
        self.begin(
            LaneState(
                topic=options.topic,
                partition=partition,
                owner=self,
                window=min(max(options.max_num_batches, 1) + 1, REMEMBERED_BATCHES),
                full=events * FIELDS,
                adaptive=adaptive,
                prefixed=options.prefixed,
                identify=partial(secrets.token_bytes, 16),
                clock=time.time_ns,
                roomy=roomy,
                small=roomy,
                open=Batch(self, FIELDS if adaptive else events * FIELDS),
                identity=secrets.token_bytes(16),
            )
        )

    def reset(self) -> None:
        """Begin anew in a forked child: what is pending is the parent's, and its futures say so here."""
        theirs = DiasporaError(f"the event was pushed to topic {self.options.topic!r} by the parent process")
        for action in self.now.disowned(theirs):
            action.sealed.batch.settle(action.sealed.events, action.first, action.error)
        self._begin(self.now.partition)

    def in_background(self, work: Callable[[], object]) -> None:
        self._service.jobs.put(work)

    def links(self) -> tuple[Link, ...]:
        """Return the links to drive while waiting for this lane."""
        link = self.now.link
        return () if link is None else (link,)

    @property
    def partition(self) -> PartitionInfo:
        """Where the partition was seen last."""
        return self.now.partition

    @property
    def has_pending(self) -> bool:
        """Whether any event is not settled."""
        return self.now.has_pending

    # What the core asks for.

    def perform(self, action: Any) -> None:
        match action:
            case Send():
                self._send(action)
            case Settle(sealed, first, error):
                batch = sealed.batch
                if error is not None and not batch.is_done():
                    self.options.failed = error
                batch.settle(sealed.events, first, error)
                if self._lending is not None:
                    self._lending.release(sealed)
            case Detach(sealed):
                sealed.batch.count, sealed.batch.entries = sealed.events, []
            case lane_state.Search():
                self._look_for(action)
            case EndSearch(outcome):
                search, self._search = self._search, None
                if search is not None:
                    search.end(outcome)
            case Leave(link):
                if link.is_held_up:
                    self._service.client.set_aside(link)
            case Wake():
                self._service.client.notify()

    def _send(self, action: Send) -> None:
        sealed, link = action.sealed, action.link
        batch = sealed.batch
        batch.count, batch.entries = sealed.events, []
        bulk: list[Sequence[Buffer]] = [(sealed.sizes,), (sealed.metadata,)]
        try:
            lent = self._lending_of(action).place(sealed) if sealed.data_bytes >= LEND_FROM else None
            if lent is None:
                bulk.append(sealed.data)
            sealed.times_sent += 1
            answer = _Answer(self, action)
            message = rpc.pack(action.message)
            link.request(SEND_BATCH, action.provider_id, message, answer, bulk=bulk, lent=lent)
        except MargoError as error:
            self.post(LaneState.lost, link, error)

    def _lending_of(self, action: Send) -> Lending:
        lending = self._lending
        if lending is None or lending.attempt != action.attempt:
            lending = Lending(action.link, self.now.partition, action.attempt)
            if self.now.attempt == action.attempt:
                self._lending = lending
        return lending

    def _look_for(self, action: lane_state.Search) -> None:
        """Take the connection to where the partition was, if there is one; else look for it in a thread."""
        if action.cause is None:
            link = self._service.client.living_link(action.partition.address)
            if link is not None:
                self.post(LaneState.found, action.attempt, action.partition, link)
                return
        else:
            log.info("%r: %s; looking for it", self, action.cause)
        self._service.jobs.put(partial(self._look, action))

    def _look(self, action: lane_state.Search) -> None:
        if self._looked_for >= action.attempt or self.now.attempt != action.attempt:
            return
        self._looked_for = action.attempt
        search = self._search = self._search or Search(self._service, self.options.topic)
        try:
            partition, link = search.connect(action.partition, action.cause)
        except (MargoError, DiasporaError) as error:
            self.post(LaneState.given_up, action.attempt, error)
        else:
            self.post(LaneState.found, action.attempt, partition, link)

    # What a producer asks for.

    def filled(self, metadata: bytes, data: Any, future: FutureUint) -> None:
        """Look after an event that was appended to a batch that was full, or sealed, then."""
        try:
            self.tell(LaneState.filled, metadata, data, future)
        except BaseException:
            future.index = WITHDRAWN
            raise
        now = self.now
        if now.in_flight[1:]:  # else the last batch alone is on its way
            self._drain(now.link)

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
        failure = self.now.failure
        while True:
            try:
                self.ask(LaneState.append, size, metadata, data, future)
            except BaseException:
                future.index = WITHDRAWN
                raise
            if future.pending is not None:
                break
            if self.options.when_full == "raise":
                raise DiasporaError(self._no_room("now"))
            if not self._wait(lambda: self.now.has_room or self.now.failure is not failure, deadline):
                raise TimeoutExpired(self._no_room(f"within {self._service.timeout:g} s"))
            failed = self.now.failure
            if failed is not None and failed is not failure:
                raise failed.with_traceback(None)
        if self._service.jobs.is_exiting:
            self._store(future.pending)
        self._drain(self.now.link)

    def _no_room(self, when: str) -> str:
        now = self.now
        return (
            f"no room for an event {when}: {len(now.in_flight)} batches to {now.partition} are on their way and the "
            f"next is full"
        )

    def _store(self, batch: Batch) -> None:
        """Have a batch stored that was pushed while the process ends; `DiasporaError` if it is not."""
        deadline = self._service.ends_at = deadline_after(min(self._service.timeout, EXIT_FLUSH))
        if not self.settles(batch, deadline):
            raise self.not_in_time()
        if batch.error is not None:
            raise batch.error.with_traceback(None)

    def _drain(self, link: Link | None) -> None:
        """Take the acknowledgements that are here."""
        if link is not None:
            self._service.client.drain(link)

    def end(self) -> None:
        """Keep nothing open from now on: what is pushed while the process ends is stored before `push` returns."""
        self.ask(LaneState.ends)

    def fail(self, error: MargoError | DiasporaError) -> None:
        """Fail all that is pending, and go on under a new identity."""
        self.ask(LaneState.failed, error)

    def begin_flush(self) -> list[Batch]:
        """Have the open batch go as soon as it may; return all that is not settled."""
        now = self.now
        batches = now.unsettled
        if batches:
            self.ask(LaneState.wanted, now.open)
        return batches

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until `batch` is settled; False when the time is over.

        Raises
        ------
        DiasporaError
            No `timeout` was given, and that of the driver is over.
        """
        deadline = time.monotonic() + (self._service.timeout if timeout is None else timeout)
        if self.settles(batch, deadline):
            return True
        if timeout is None:
            raise self.not_in_time()
        return False

    def settles(self, batch: Batch, deadline: float) -> bool:
        """Wait until `batch` is settled, which goes as soon as it may; False when the time is over."""
        if batch.limit or self.is_suspended:  # else it is sealed, or being sealed
            self.ask(LaneState.wanted, batch)
        return self._wait(batch.is_done, deadline)

    def not_in_time(self) -> DiasporaError:
        """Return the error of a wait that the time-out of the driver ends; the events stay pending."""
        within = f"within {self._service.timeout:g} s"
        search = self._search
        if search is not None and search.reason is not None:
            return as_diaspora_error(search.reason, f"{self!r} was not found {within}, and is looked for")
        return TimeoutExpired(f"{self!r} has not answered {within}; the events may be waited for again")

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Wait for something that the partition brings about; one that is looked for tells the log itself."""
        client, jobs = self._service.client, self._service.jobs
        while True:
            jobs.work()
            try:
                if not jobs.is_exiting:
                    return client.wait_for_server(is_done, self.links, deadline, self._whom)
                done = client.wait_for_server(
                    lambda: is_done() or jobs.are_left, self.links, deadline, self._whom
                )
            except HeldUp:
                self.ask(LaneState.overtaken)
                continue
            if not jobs.are_left or is_done():
                return done

    def _whom(self) -> str:
        if self.now.phase is Phase.SEARCHING:
            return ""
        return f"{self!r}, which is connected and does not answer"

    def finish(self, deadline: float) -> int:
        """Flush until `deadline`; return how many events are not stored, and log why."""
        flush = Flush([self])
        try:
            if not flush.wait_until(deadline):
                log.error("topic %r: %s does not answer in time", self.options.topic, self.partition)
        except DiasporaError as error:
            log.error("%s", error)
        return flush.unstored()


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
