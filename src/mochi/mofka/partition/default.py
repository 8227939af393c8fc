"""The `default` partition: chunk files, written and read on the threads of an abt_io instance.

Batches, and cursors, that arrive while a commit is under way share the next one. An acknowledgement leaves after the
commit, which with ``sync`` means after fdatasync. Batches are received into tiered pools, and written from there. The
newest of what is committed is read from memory, all else from the files, into pools of its own. Nothing is kept in
memory per event.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import numpy as np

from mochi.margo.bulk import BufferPool
from mochi.margo.errors import ConfigError, Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import DamagedEvents, ExpiredEvents, OutOfRange, StorageError
from mochi.mofka.chunks.files import FileLayer
from mochi.mofka.chunks.ledger import Remembered
from mochi.mofka.chunks.store import ChunkStore
from mochi.mofka.partition.config import DefaultFields, PoolFields, directory_of
from mochi.mofka.partition.contract import EventPieces, Slice, expired
from mochi.mofka.partition.cursors import Cursors
from mochi.mofka.partition.tail import Tail
from mochi.mofka.protocol import SIZE

T = TypeVar("T")

Appended = Callable[[int | BaseException], None]
Acknowledged = Callable[[BaseException | None], None]

log = logging.getLogger(__name__)


class IoInstance(Protocol):
    """What a partition needs of an abt_io provider."""

    files: FileLayer

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Run an operation on an I/O thread."""


def _fault(error: Exception) -> Fault:
    """Return what a client is told; an error that nobody expects of storage is logged as well."""
    if isinstance(error, ExpiredEvents):
        return expired(error.first, error.next)
    if isinstance(error, DamagedEvents):
        return Fault("damaged", str(error), {"first": error.first, "count": error.count})
    if isinstance(error, StorageError | OSError):
        return Fault("out_of_range" if isinstance(error, OutOfRange) else "storage", str(error))
    log.exception("unexpected error in a partition")
    return Fault("internal", f"{type(error).__name__}: {error}")


def _pool(fields: PoolFields, name: str) -> BufferPool:
    """Make a buffer pool, and see that this machine can give its buffers at all."""
    try:
        pool = BufferPool(fields.pool())
        pool.release(pool.acquire(fields.first_size))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"config.partition.{name}", f"cannot have buffers of {fields.first_size} bytes and more: {error}"
        ) from error
    return pool


class DefaultPartition:
    """A partition in chunk files.

    Parameters
    ----------
    topic, uuid : str
        Name the directory, ``<path>/<topic>-<uuid>``; one that is there is attached; else it is made, as the log says.

    Raises
    ------
    ConfigError
        The directory, or a size of buffers, cannot be used; says which, and why.
    """

    keeps_buffers = False

    def __init__(self, topic: str, uuid: str, fields: DefaultFields, io: IoInstance) -> None:
        self._fields = fields
        self._io = io
        directory = self._directory = directory_of(topic, uuid, fields.path)
        chunks = ChunkConfig(
            max_chunk_size=fields.max_chunk_size,
            max_events_per_chunk=fields.max_events_per_chunk,
            sync=fields.sync,
            fd_cache_capacity=fields.fd_cache_capacity,
            retention=fields.kept(),
        )
        producers, consumers = fields.producers, fields.consumers
        self._metadata_in = _pool(producers.metadata_buffer_pool, "producers.metadata_buffer_pool")
        self._data_in = _pool(producers.data_buffer_pool, "producers.data_buffer_pool")
        self._metadata_out = _pool(consumers.metadata_buffer_pool, "consumers.metadata_buffer_pool")
        self._sizes_out = _pool(consumers.desc_buffer_pool, "consumers.desc_buffer_pool")
        try:
            is_new = not io.files.is_directory(directory)
            self._store = ChunkStore.open(directory, chunks, io.files)
        except (StorageError, OSError) as error:
            raise ConfigError("config.partition.path", f"{directory} cannot be used: {error}") from error
        self.count = self._store.event_count
        self.epoch = self._store.epoch
        self.damaged = self._store.damaged
        if is_new:
            log.info(
                "topic %r, partition %s: begins without events, for there was no %s", topic, uuid, directory
            )
        for problem in self.damaged:
            log.error("topic %r, partition %s: %s", topic, uuid, problem)
        if self._store.quarantined:
            kept = ", ".join(self._store.quarantined)
            log.warning("topic %r, partition %s: cut off at the end, and kept: %s", topic, uuid, kept)
        self._cursors = Cursors(self._store.cursors)
        self._tail = Tail(self.count)
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._waiting: list[tuple[Batch, Appended]] = []
        self._moved: dict[str, list[Acknowledged]] = {}
        self._scheduled = False
        self._failing = False
        self._expiring = False
        self._keeping = False
        self._closed = False
        self._trim()

    @property
    def first(self) -> int:
        """Id of the first event of the first chunk that there is."""
        return self._store.first_id

    @property
    def error(self) -> BaseException | None:
        """Why no more events are taken: after a failed write or sync nothing is certain any more."""
        return self._store.error

    @property
    def lent_size(self) -> int:
        """Bytes of the first tier of the producers' data pool."""
        return self._fields.producers.data_buffer_pool.first_size

    @property
    def config(self) -> dict[str, Any]:
        """The section with all that was filled in."""
        return self._fields.expand()

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Give buffers of the producers' pools; they come back once the batch is written."""
        return [
            self._metadata_in.lease(sizes),
            self._metadata_in.lease(metadata),
            self._data_in.lease(data) if data else memoryview(b""),
        ]

    def append(self, batch: Batch, done: Appended) -> None:
        """Have a batch written by the next commit."""
        with self._lock:
            if self._closed:
                raise Fault("closed", "the partition is closed")
            self._waiting.append((batch, done))
        self._schedule()

    def remembered(self) -> Iterable[Remembered]:
        """Tell the producers whose recent batches were stored."""
        return self._store.producers()

    def cursor(self, consumer: str) -> int:
        """Give the id of the next event of a consumer, as it last said."""
        with self._lock:
            return self._cursors[consumer]

    def acknowledge(self, consumer: str, next_id: int, done: Acknowledged) -> None:
        """Have a cursor stored by the next commit, if it is not stored already."""
        if self._store.cursors.get(consumer, 0) >= next_id:
            done(None)
            return
        with self._lock:
            if self._closed:
                raise Fault("closed", "the partition is closed")
            self._cursors.advance(consumer, next_id)
            self._moved.setdefault(consumer, []).append(done)
        self._schedule()

    def _schedule(self) -> None:
        with self._lock:
            if self._scheduled:
                return
            self._scheduled = True
        self._io.run(self._commit_all)

    def _commit_all(self) -> None:
        with self._committing:
            while True:
                with self._lock:
                    waiting, self._waiting = self._waiting, []
                    moved, self._moved = self._moved, {}
                    cursors = {consumer: self._cursors[consumer] for consumer in moved}
                    expiring, self._expiring = self._expiring, False
                    if not waiting and not moved and not expiring:
                        self._scheduled = False
                        return
                if waiting or moved:
                    self._commit(waiting, cursors, [done for told in moved.values() for done in told])
                self._trim()

    def _trim(self) -> None:
        """Drop chunks by the retention; the first of several refusals is logged, and it is tried again later."""
        if self.error is not None:
            return
        try:
            self._store.trim()
        except Exception as error:
            problem = _fault(error).message
            if not self._keeping:
                log.warning("%s: cannot drop what its retention does not keep: %s", self._directory, problem)
            self._keeping = True
        else:
            self._keeping = False

    def expires_in(self) -> float | None:
        """Tell in how many seconds the oldest chunk is too old."""
        expiry = self._store.next_expiry()
        return None if expiry is None else (expiry - time.time_ns()) / 1e9

    def expire(self) -> None:
        """Drop chunks that are too old, on an I/O thread."""
        with self._lock:
            if self._closed:
                return
            self._expiring = True
        self._schedule()

    def _commit(
        self,
        waiting: Sequence[tuple[Batch, Appended]],
        cursors: Mapping[str, int],
        acknowledged: Sequence[Acknowledged],
    ) -> None:
        outcomes: Sequence[int | BaseException]
        failure: Fault | None = None
        try:
            outcomes = self._store.append([batch for batch, _ in waiting], cursors)
        except Exception as error:
            failure = _fault(error)
            outcomes = [failure] * len(waiting)
        else:
            self._tail.keep([batch for batch, _ in waiting])
            self.count = self._store.event_count
        for (_, appended), outcome in zip(waiting, outcomes, strict=True):
            appended(outcome)
        for stored in acknowledged:
            stored(failure)
        self._note_failure(failure)
        if failure is not None:
            # Those that came meanwhile may follow one that failed: to store them would leave a gap.
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for _, appended in waiting:
                appended(failure)

    def _note_failure(self, failure: Fault | None) -> None:
        """Log when commits begin to fail, and when they succeed again."""
        if (failure is None) != self._failing:
            return
        self._failing = failure is not None
        if failure is None:
            log.warning("%s takes events again", self._directory)
        elif self.error is None:
            log.error("%s cannot store events now: %s", self._directory, failure.message)

    def _read(self, read: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Read on an I/O thread, and tell what was read, or any error: somebody waits for it."""

        def run() -> None:
            outcome: T | BaseException
            try:
                outcome = read()
            except Exception as error:
                outcome = _fault(error)
            done(outcome)

        self._io.run(run)

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> None:
        """Give events that are in memory at once, and read others from the files, on an I/O thread."""
        if first >= self.first:
            kept = self._tail.read(first, max_events, max_bytes, with_data)
            if kept is not None:
                done(kept)
                return

        def read() -> Slice:
            try:
                events = self._store.read_range(
                    first,
                    max_events,
                    max_bytes,
                    with_data=with_data,
                    allocate_metadata=self._metadata_out.lease,
                )
            except ExpiredEvents as error:
                raise ExpiredEvents(first, error.next) from error
            sizes = np.frombuffer(self._sizes_out.lease(2 * SIZE.itemsize * events.count), SIZE)
            sizes[: events.count] = events.metadata_sizes
            sizes[events.count :] = events.data_sizes
            return Slice(
                first,
                sizes[: events.count],
                [events.metadata],
                sizes[events.count :],
                [] if events.data is None else [events.data],
            )

        self._read(read, done)

    def read_data(
        self, events: Sequence[EventPieces], done: Callable[[Sequence[Buffer] | BaseException], None]
    ) -> None:
        """Give pieces of events' data, at once where all events are in memory, else from an I/O thread."""
        outcome: Sequence[Buffer] | BaseException | None = None
        try:
            if all(event_id >= self.first for event_id, _ in events):
                outcome = self._tail.read_data(events)
        except Fault as fault:
            outcome = fault
        if outcome is None:
            self._read(lambda: self._store.read_data(events), done)
        else:
            done(outcome)

    def close(self) -> None:
        """Write what has arrived, and close the files; waits for no other thread but one that is writing."""
        with self._lock:
            self._closed = True
        self._commit_all()
        self._store.close()
