"""Storing what arrives: batches and cursors that wait share a commit, and on a slow disk some are under way at once.

Where syncs take long, the next commit is begun while one is synced, as far as the abt_io instance has threads. A
thread that has begun a commit syncs it, and then finishes what can be finished: its own, and those behind it that were
synced sooner.

Invariants
----------
1. Commits are begun and finished in one order, and those who wait are told in that order.
2. What follows a failed commit fails as well, as far as it had come when the failure was told: to store it would leave
   a gap.
3. Nobody waits for a disk under a lock that arrivals need.
4. While anything waits, a thread is on its way to look for it. What no thread can be had for is told so, and waits no
   more.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from mochi.disk import FileLayer
from mochi.margo.errors import Fault
from mochi.mofka.chunks import (
    Batch,
    Commit,
    DamagedEvents,
    ExpiredEvents,
    OutOfRange,
    PartitionDirectory,
    StorageError,
)
from mochi.mofka.partition.contract import expired
from mochi.mofka.partition.cursors import Cursors
from mochi.shortage import is_shortage

T = TypeVar("T")

Appended = Callable[[int | BaseException], None]
Acknowledged = Callable[[BaseException | None], None]

OVERLAP = 3
"""Commits that are under way at once."""

OVERLAP_BYTES = 64 << 10
SLOW_SYNC = 0.002
"""Bytes that wait before a commit is begun beside others, and seconds that the last sync took. Smaller ones rather
share the next, and so do all where they need not wait for long."""

log = logging.getLogger(__name__)


class IoInstance(Protocol):
    """What a partition needs of an abt_io provider."""

    files: FileLayer

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Run an operation on an I/O thread."""


def fault_of(error: Exception) -> Fault:
    """Return what a client is told; an error that nobody expects of storage is logged as well."""
    if isinstance(error, ExpiredEvents):
        return expired(error.first, error.next)
    if isinstance(error, DamagedEvents):
        return Fault("damaged", str(error), {"first": error.first, "count": error.count})
    if isinstance(error, StorageError) or is_shortage(error):
        code = "out_of_range" if isinstance(error, OutOfRange) else "storage"
        return Fault(code, str(error) or "the server is out of memory")
    log.exception("unexpected error in a partition")
    return Fault("internal", f"{type(error).__name__}: {error}")


class _Waiting:
    """What waits for a commit, and who waits for it."""

    def __init__(self) -> None:
        self.batches: list[tuple[Batch, Appended]] = []
        self.cursors: dict[str, list[Acknowledged]] = {}
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.batches or self.cursors)

    def extend(self, later: "_Waiting") -> None:
        """Add what came later."""
        self.batches += later.batches
        for consumer, told in later.cursors.items():
            self.cursors.setdefault(consumer, []).extend(told)
        self.size += later.size

    def stored(self, first_ids: Sequence[int]) -> None:
        """Tell each batch the id of its first event, and each cursor that it is stored."""
        for (_, appended), first_id in zip(self.batches, first_ids, strict=True):
            _tell(appended, first_id)
        self._tell_cursors(None)

    def failed(self, failure: Fault) -> None:
        """Tell all the failure."""
        for _, appended in self.batches:
            _tell(appended, failure)
        self._tell_cursors(failure)

    def _tell_cursors(self, failure: Fault | None) -> None:
        for told in self.cursors.values():
            for acknowledged in told:
                _tell(acknowledged, failure)


def _tell(told: Callable[[T], None], outcome: T) -> None:
    """Tell one who waits; what goes wrong with that is no matter of the others."""
    try:
        told(outcome)
    except Exception:
        log.exception("somebody could not be told what became of a batch or cursor")


class _UnderWay(NamedTuple):
    commit: Commit
    content: _Waiting


class Commits:
    """Makes commits of what arrives.

    Parameters
    ----------
    store : PartitionDirectory
        Where they go; nobody else appends to it.
    io : IoInstance
        Whose threads store them.
    directory : str
        The store's, for the log.
    stored : callable
        Given the batches of each commit once they are stored, in order, before anybody is told.
    """

    def __init__(
        self,
        store: PartitionDirectory,
        io: IoInstance,
        directory: str,
        stored: Callable[[Sequence[Batch]], None],
    ) -> None:
        self._store = store
        self._io = io
        self._directory = directory
        self._stored = stored
        self._lock = threading.Lock()
        self._cursors = Cursors(store.cursors)
        self._waiting = _Waiting()
        self._expiring = False
        self._threads = 0
        self._closed = False
        self._committing = threading.Condition(threading.Lock())
        self._under_way: deque[_UnderWay] = deque()
        self._is_slow = False
        self._failing = False
        self._keeping = False
        store.when_short(self._settle)

    def append(self, batch: Batch, done: Appended) -> None:
        """Have a batch stored by the next commit."""
        with self._lock:
            self._check()
            self._waiting.batches.append((batch, done))
            self._waiting.size += batch.metadata_bytes + batch.data_bytes
        self._look()

    def cursor(self, consumer: str) -> int:
        """Return the id of the next event of a consumer, as it last said."""
        with self._lock:
            return self._cursors[consumer]

    def acknowledge(self, consumer: str, next_id: int, done: Acknowledged) -> None:
        """Have a cursor stored by the next commit, if it is not stored already."""
        if self._store.cursors.get(consumer, 0) >= next_id:
            done(None)
            return
        with self._lock:
            self._check()
            self._cursors.advance(consumer, next_id)
            self._waiting.cursors.setdefault(consumer, []).append(done)
        self._look()

    def expire(self) -> None:
        """Drop chunks that are too old, on an I/O thread."""
        with self._lock:
            if self._closed:
                return
            self._expiring = True
        self._look()

    def trim(self) -> None:
        """Drop chunks by the retention; the first of several refusals is logged, and it is tried again later."""
        if self._store.error is not None:
            return
        try:
            self._store.trim()
        except Exception as error:
            problem = fault_of(error).message
            if not self._keeping:
                log.warning("%s: cannot drop what its retention does not keep: %s", self._directory, problem)
            self._keeping = True
        else:
            self._keeping = False

    def _settle(self) -> None:
        """Put on disk what was written, unless somebody is at it: no other thread is waited for."""
        if not self._committing.acquire(blocking=False):
            return
        try:
            if not self._closed:
                self._store.settle()
        except Exception as error:
            log.error("%s: cannot put on disk what was written: %s", self._directory, fault_of(error).message)
        finally:
            self._committing.release()

    def close(self) -> None:
        """Store what has arrived, and take no more; waits for no other thread but those that are storing."""
        with self._lock:
            self._closed = True
            self._threads += 1
        self._run()
        with self._committing:
            self._committing.wait_for(lambda: not (self._under_way or self._waiting))

    def _check(self) -> None:
        if self._closed:
            raise Fault("closed", "the partition is closed")

    def _look(self) -> None:
        """Send a thread to look for what waits, unless enough are on their way."""
        with self._lock:
            if self._threads and (self._threads == OVERLAP or not self._may_overlap()):
                return
            self._threads += 1
        try:
            self._io.run(self._run)
        except Exception as error:
            self._give_up(fault_of(error))

    def _give_up(self, failure: Fault) -> None:
        """Tell those who wait that no thread looks for them, unless another is on its way."""
        given_up = _Waiting()
        with self._lock:
            self._threads -= 1
            if not self._threads:
                given_up, self._waiting = self._waiting, given_up
        given_up.failed(failure)

    def _may_overlap(self) -> bool:
        return self._is_slow and self._waiting.size >= OVERLAP_BYTES

    def _run(self) -> None:
        with self._committing:
            while (commit := self._begin()) is not None:
                self._committing.release()
                try:
                    commit.sync()
                finally:
                    self._committing.acquire()
                while self._under_way and self._under_way[0].commit.synced:
                    self._finish(self._under_way.popleft())
            self._committing.notify_all()

    def _begin(self) -> Commit | None:
        """Begin a commit of what waits; None where there is nothing to do, or what is under way comes first."""
        while True:
            taken = _Waiting()
            with self._lock:
                expiring, self._expiring = self._expiring, False
                if self._waiting and (self._may_overlap() or not self._under_way):
                    taken, self._waiting = self._waiting, taken
                elif not expiring:
                    self._threads -= 1
                    return None
            if expiring:
                self.trim()
            if not taken:
                continue
            commit = None
            try:
                with self._lock:
                    cursors = {consumer: self._cursors[consumer] for consumer in taken.cursors}
                commit = self._store.begin([batch for batch, _ in taken.batches], cursors)
            except Exception as error:
                if not self._under_way:
                    self._fail(taken, fault_of(error))
                    continue
            if commit is None:
                with self._lock:
                    taken.extend(self._waiting)
                    self._waiting = taken
                    self._threads -= 1
                return None
            self._under_way.append(_UnderWay(commit, taken))
            return commit

    def _finish(self, under_way: _UnderWay) -> None:
        commit, content = under_way
        self._is_slow = commit.seconds >= SLOW_SYNC
        try:
            first_ids = self._store.finish(commit)
        except Exception as error:
            self._fail(content, fault_of(error))
        else:
            self._stored(commit.batches)
            content.stored(first_ids)
            self._note_failure(None)
        self.trim()

    def _fail(self, content: _Waiting, failure: Fault) -> None:
        content.failed(failure)
        self._note_failure(failure)
        # invariant 2
        with self._lock:
            following, self._waiting.batches = self._waiting.batches, []
            self._waiting.size = 0
        for _, appended in following:
            _tell(appended, failure)

    def _note_failure(self, failure: Fault | None) -> None:
        """Log when commits begin to fail, and when they succeed again."""
        if (failure is None) != self._failing:
            return
        self._failing = failure is not None
        if failure is None:
            log.warning("%s takes events again", self._directory)
        elif self._store.error is None:
            log.error("%s cannot store events now: %s", self._directory, failure.message)
