"""The `default` partition: chunk files, written and read on the threads of an abt_io instance.

Batches, and cursors, are stored by `commits`. An acknowledgement leaves after the commit, which with ``sync`` means
after fdatasync. Batches are received into tiered pools, and written from there. The newest of what is committed is read
from memory, all else from the files, into pools apart. Nothing is kept in memory per event.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from mochi.disk import Descriptors, FileLayer
from mochi.margo.bulk import BufferPool, shared_pool
from mochi.margo.errors import ConfigError, Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import (
    Batch,
    ChunkConfig,
    ExpiredEvents,
    PartitionDirectory,
    Pieces,
    Remembered,
    StorageError,
)
from mochi.mofka.partition.blocks import fresh_memory
from mochi.mofka.partition.commits import Acknowledged, Appended, Commits, IoInstance, fault_of
from mochi.mofka.partition.config import DefaultFields, PoolFields, directory_of
from mochi.mofka.partition.contract import LargeEvent, Slice, reading
from mochi.mofka.partition.tail import Tail
from mochi.mofka.protocol import SIZE

T = TypeVar("T")

log = logging.getLogger(__name__)


def _pool(fields: PoolFields, name: str) -> BufferPool:
    """Return a buffer pool, which all partitions share, and see that this machine can give its buffers at all."""
    try:
        pool = shared_pool(fields.pool())
        pool.release(pool.acquire(fields.first_size))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"config.partition.{name}", f"cannot have buffers of {fields.first_size} bytes and more: {error}"
        ) from error
    return pool


def _opened(
    directory: str, chunks: ChunkConfig, files: FileLayer, descriptors: Descriptors | None
) -> PartitionDirectory:
    """Open a partition's directory, to be read alone if it is there and its file system is read-only."""
    try:
        return PartitionDirectory.open(directory, chunks, files, descriptors)
    except StorageError as error:
        if error.errno != errno.EROFS or not files.is_directory(directory):
            raise
    store = PartitionDirectory.open_to_read(directory, chunks, files, descriptors)
    log.warning(
        "%s: events are served, and none are taken or dropped: its file system is read-only", directory
    )
    return store


class DefaultPartition:
    """A partition in chunk files.

    Parameters
    ----------
    topic, uuid : str
        Name the directory, ``<path>/<topic>-<uuid>``; one that is there is attached; else it is made, as the log says.
    descriptors : Descriptors, optional
        Those of the process, which all its partitions share; some of its own otherwise.

    Raises
    ------
    ConfigError
        The directory, or a size of buffers, cannot be used; says which, and why.
    """

    keeps_buffers = False

    def __init__(
        self,
        topic: str,
        uuid: str,
        fields: DefaultFields,
        io: IoInstance,
        descriptors: Descriptors | None = None,
    ) -> None:
        self._fields = fields
        self._io = io
        directory = directory_of(topic, uuid, fields.path)
        producers, consumers = fields.producers, fields.consumers
        self._metadata_in = _pool(producers.metadata_buffer_pool, "producers.metadata_buffer_pool")
        self._data_in = _pool(producers.data_buffer_pool, "producers.data_buffer_pool")
        self._metadata_out = _pool(consumers.metadata_buffer_pool, "consumers.metadata_buffer_pool")
        self._sizes_out = _pool(consumers.desc_buffer_pool, "consumers.desc_buffer_pool")
        try:
            is_new = not io.files.is_directory(directory)
            self._store = _opened(directory, fields, io.files, descriptors)
        except StorageError as error:
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
        for adopted in self._store.adopted:
            log.warning(
                "topic %r, partition %s: events %d to %d were appended by another program, or the journal has lost "
                "their record; they are served, and what has no checksum is not verified",
                topic,
                uuid,
                adopted.first,
                adopted.first + adopted.count - 1,
            )
        if self._store.quarantined:
            kept = ", ".join(self._store.quarantined)
            log.warning("topic %r, partition %s: cut off at the end, and kept: %s", topic, uuid, kept)
        self._tail = Tail(self.count)
        self._commits = Commits(self._store, io, directory, self._stored)
        self._commits.trim()

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
        """Return buffers of the producers' pools; they come back once the batch is written."""
        return [
            self._metadata_in.lease(sizes),
            self._metadata_in.lease(metadata),
            self._data_in.lease(data) if data else memoryview(b""),
        ]

    def append(self, batch: Batch, done: Appended) -> None:
        """Have a batch stored by the next commit."""
        self._commits.append(batch, done)

    def remembered(self) -> Iterable[Remembered]:
        """Tell the producers whose recent batches were stored."""
        return self._store.producers()

    def cursor(self, consumer: str) -> int:
        """Return the id of the next event of a consumer, as it last said."""
        return self._commits.cursor(consumer)

    def acknowledge(self, consumer: str, next_id: int, done: Acknowledged) -> None:
        """Have a cursor stored by the next commit, if it is not stored already."""
        self._commits.acknowledge(consumer, next_id, done)

    def _stored(self, batches: Sequence[Batch]) -> None:
        self._tail.keep(batches)
        self.count = self._store.event_count

    def expires_in(self) -> float | None:
        """Return in how many seconds the oldest chunk is too old."""
        return self._store.expires_in()

    def expire(self) -> None:
        """Drop chunks that are too old, on an I/O thread."""
        self._commits.expire()

    def _read(self, read: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        """Read on an I/O thread."""
        try:
            self._io.run(reading(read, done, fault_of))
        except Exception as error:
            done(fault_of(error))

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> Slice | None:
        """Return events that are in memory, and have others read from the files, on an I/O thread."""
        if first >= self.first:
            kept = self._tail.read(first, max_events, max_bytes, with_data)
            if kept is not None:
                return kept

        left = max_bytes

        def within(size: int) -> int:
            nonlocal left
            left -= size
            if left < 0:
                raise LargeEvent(max_bytes - left)
            return size

        def metadata(size: int) -> memoryview:
            nonlocal left
            left = max_bytes  # where damage is met, less is read, all from the beginning
            return self._metadata_out.lease(within(size))

        def read() -> Slice:
            try:
                events = self._store.read_range(
                    first,
                    max_events,
                    max_bytes,
                    with_data=with_data,
                    allocate_metadata=metadata,
                    allocate_data=lambda size: fresh_memory(within(size)),
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
        return None

    def read_data(self, pieces: Pieces, done: Callable[[Sequence[Buffer] | BaseException], None]) -> None:
        """Read pieces of events' data: at once where all events are in memory, else on an I/O thread."""
        outcome: Sequence[Buffer] | BaseException | None = None
        try:
            if not len(pieces.events) or pieces.events[0] >= self.first:
                outcome = self._tail.read_data(pieces)
        except Fault as fault:
            outcome = fault
        if outcome is None:
            self._read(lambda: [self._store.read_pieces(pieces)], done)
        else:
            done(outcome)

    def close(self) -> None:
        """Store what has arrived, and close the files; waits for no other thread but those that are storing."""
        self._commits.close()
        self._store.close()
