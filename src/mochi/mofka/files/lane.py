"""Lanes: the way of one producer's events to one partition of an embedded driver.

`push` appends to the open batch without a lock, as in `mochi.mofka.client.lane`. Batches are sealed in order, and
written by the thread of `mochi.mofka.files.writing`. An adaptive batch is sealed when that thread comes to it; another
one when it is full, at a flush, or when one of its events is waited for.

Invariants: an event is in the open batch, in `_pending`, or settled. Only the holder of `_lock` moves it. No call
comes between leaving the one and being in the other, for Ctrl-C strikes at calls. What is written is the first of
`_pending`, and is taken away once it is settled.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Any

import msgspec
import numpy as np

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from diaspora_stream.future import FutureUint
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE
from mochi.margo.owned_lock import OwnedLock
from mochi.mofka import chunks
from mochi.mofka.client.batch import (
    FIELDS,
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    MAX_FIXED_EVENTS,
    Batch,
    Sealed,
)
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.files.storage import FlushBehavior, Store
from mochi.mofka.files.writing import WRITING, Writer
from mochi.mofka.protocol import MAX_EVENT_BYTES, SIZE

log = logging.getLogger(__name__)


class _Step(msgspec.Struct, gc=False):
    """Something to be done in turn: a batch to be stored, or without one a sync."""

    sealed: Sealed | None = None


class Lane:
    """Events of one producer for one partition, any thread.

    Parameters
    ----------
    writer : Writer
        Of the partition; opened with the first event.
    make : callable
        Opens its store.
    timeout : float
        Seconds that calls wait at most where they name no time-out.
    is_direct : bool
        Whether each event is stored before `push` returns.

    Attributes
    ----------
    open : Batch
        Takes the next events.
    small : int
        Bytes of an event that `open` takes without more ado; -1 if it takes none so.
    is_told : bool
        Whether nobody has to be told of an event in `open` before that is full.
    """

    def __init__(
        self,
        options: LaneOptions,
        writer: Writer,
        make: Callable[[], Store],
        flush: FlushBehavior,
        timeout: float,
        *,
        is_direct: bool = False,
    ) -> None:
        self.options = options
        self.writer = writer
        self._make = make
        self._flush = flush
        self._timeout = timeout
        self._is_direct = is_direct
        self._adaptive = options.batch_size == ADAPTIVE_BATCH_SIZE
        events = MAX_BATCH_EVENTS if self._adaptive else min(options.batch_size, MAX_FIXED_EVENTS)
        self._full = events * FIELDS
        self._small = MAX_BATCH_BYTES // 2 // events
        self._begin()

    def _begin(self) -> None:
        self._lock = OwnedLock()
        self._writing = OwnedLock()
        self._settled = Condition(self._lock)
        self._pending: deque[_Step] = deque()
        self._taken = self._done = 0
        self._is_due = False
        self.is_open = False
        self.small = -1
        self.is_told = not self._adaptive
        self.open = Batch(self, self._full)

    def reset(self) -> None:
        """Begin anew in a forked child: what is pending is the parent's, and its futures say so here."""
        theirs = DiasporaError(
            "this event was pushed by the parent process, which alone knows whether it is stored"
        )
        for batch in [*(step.sealed.batch for step in self._pending if step.sealed is not None), self.open]:
            batch.settle(len(batch.entries) // FIELDS, None, theirs)
        self._begin()

    def filled(self, batch: Batch, metadata: bytes, data: Any, future: FutureUint) -> None:
        """Look after an event that was appended to a batch that was full, or sealed, then."""
        with self._lock:
            if future.pending is not self.open and future.index < 0:
                batch = self.open
                future.pending = batch
                batch.entries.extend((metadata, data, future))
            if len(self.open.entries) >= self.open.limit:
                self._seal()
        self.tell()

    def push_counted(self, metadata: bytes, data: Any, future: FutureUint) -> None:
        """Append an event that is large, or that there was no room for; waits for room.

        Raises
        ------
        DiasporaError
            The partition cannot be written, as by a second process, or there was no room within the time-out.
        """
        if max(len(metadata) + 8, len(data)) > MAX_EVENT_BYTES:
            raise DiasporaError(
                f"{self.writer.where}: an event has at most {MAX_EVENT_BYTES} bytes of metadata, and of data; this "
                f"one has {len(metadata)} and {len(data)}"
            )
        if not self.is_open:
            self._open()
        with self._lock:
            self._wait_for_room()
            at_once = self._is_direct or WRITING.has_ended
            if not at_once:
                self.small = self._small
            batch = self.open
            future.pending = batch
            batch.large += len(metadata) + len(data)
            batch.entries.extend((metadata, data, future))
            is_full = batch.large > MAX_BATCH_BYTES // 2 or len(batch.entries) >= batch.limit
            if is_full or at_once:
                self._seal()
        if is_full or at_once or self._adaptive:
            self.tell()

    def _open(self) -> None:
        try:
            self.writer.open(self._make)
        except (chunks.StorageError, OSError) as error:
            raise DiasporaError(f"{self.writer.where} cannot be written: {error}") from error
        self.is_open = True
        WRITING.add(self)

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + self._timeout
        while len(self._pending) > max(self.options.max_num_batches, 1):
            if self.options.when_full == "raise":
                raise DiasporaError(f"{self.writer.where}: {len(self._pending)} batches wait already")
            if not self._wait(lambda: len(self._pending) <= max(self.options.max_num_batches, 1), deadline):
                raise TimeoutExpired(
                    f"{self.writer.where}: there was no room for an event within {self._timeout:g} s"
                )

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Wait for what is settled; the caller holds the lock."""
        while not is_done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._settled.wait(min(left, 3600.0))
        return True

    def _seal(self) -> None:
        """Have the open batch written in its turn; the caller holds the lock."""
        batch = self.open
        if not batch.entries:
            return
        step = _Step(batch.seal(self._taken, self.options.prefixed, time.time_ns()))
        following = Batch(self, self._full)
        pending = self._pending
        pending += (step,)
        self.open = following
        self._taken += 1
        if len(pending) > max(self.options.max_num_batches, 1):
            self.small = -1

    def tell(self) -> None:
        """Have written what is sealed, and an adaptive batch that is open."""
        self.is_told = True
        if self._is_direct:
            self.write()
        else:
            WRITING.do(self.write)

    def write(self) -> None:
        """Write what is due."""
        with self._writing:
            self.is_told = not self._adaptive
            if self._adaptive:
                with self._lock:
                    self._seal()
            while self._pending:
                self._write_next()

    def _write_next(self) -> None:
        step = self._pending[0]
        first: int | None = None
        failure: DiasporaError | None = None
        try:
            if step.sealed is None:
                self.writer.sync()
            else:
                first = self.writer.append(
                    _stored(step.sealed), is_durable=self._flush is FlushBehavior.IMMEDIATE
                )
        except BaseException as error:
            failure = error if isinstance(error, DiasporaError) else _failure(self.writer.where, error)
        with self._lock:
            if step.sealed is not None:
                step.sealed.batch.settle(step.sealed.events, first, failure)
            if failure is not None:
                self.options.failed = self.options.failed or failure
            self._pending.popleft()
            self._done += 1
            self._settled.notify_all()

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until a batch is settled, see `mochi.mofka.client.batch.Batch.wait_for`."""
        if WRITING.is_writing():
            raise DiasporaError("the thread that writes events cannot wait for them")
        with self._lock:
            if batch is self.open:
                self._seal()
        self.tell()
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        with self._lock:
            done = self._wait(batch.is_done, deadline)
        if not done and timeout is None:
            raise TimeoutExpired(f"{self.writer.where}: the event is not stored within {self._timeout:g} s")
        return done

    @property
    def has_pending(self) -> bool:
        """Whether any event is not settled."""
        return bool(self._pending or self.open.entries)

    def begin_flush(self) -> int:
        """Have all that was pushed written, and put on disk if a flush is to do that; `is_flushed` tells when."""
        with self._lock:
            self._seal()
            if self._flush is FlushBehavior.ON_FLUSH and self.is_open:
                pending = self._pending
                pending += (_Step(),)
                self._taken += 1
            mark = self._taken
        if self._done < mark:
            self.tell()
        return mark

    def is_flushed(self, mark: int) -> bool:
        """Tell whether what `begin_flush` gave a mark for is done."""
        return self._done >= mark

    def wait_flushed(self, mark: int, deadline: float) -> bool:
        """Wait for that; False when the time is over."""
        with self._lock:
            return self._wait(lambda: self._done >= mark, deadline)

    def finish(self, deadline: float = math.inf) -> int:
        """Write what is pending in the calling thread; return the number of events that could not be."""
        with self._lock:
            self._seal()
            events = sum(step.sealed.events for step in self._pending if step.sealed is not None)
        if not self._writing.acquire(timeout=max(min(deadline - time.monotonic(), 3600.0), 0)):
            return events
        failed, self.options.failed = self.options.failed, None
        try:
            self.write()
            return events if self.options.failed is not None else 0
        finally:
            self.options.failed = self.options.failed or failed
            self._writing.release()

    def close(self) -> None:
        """Write what is pending, and let go of the partition."""
        self.finish()
        self.let_go()

    def let_go(self) -> None:
        """Let go of the partition, if nothing is pending; what is pushed later opens it again."""
        if not self.is_open:
            return
        self.is_open = False
        self.small = -1
        try:
            self.writer.release()
        except Exception as error:
            self.options.failed = self.options.failed or _failure(self.writer.where, error)
            log.error("closing %s: %s", self.writer.where, error)


def _stored(sealed: Sealed) -> chunks.Batch:
    sizes = np.frombuffer(sealed.sizes, SIZE)
    count = sealed.events
    return chunks.Batch(sizes[:count], [sealed.metadata], sizes[count:], sealed.data)


def _failure(where: str, error: BaseException) -> DiasporaError:
    failure = DiasporaError(f"{where}: events are not stored: {error}")
    failure.__cause__ = error
    return failure
