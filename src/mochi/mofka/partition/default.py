"""The `default` partition: chunk files, written and read on the threads of an abt_io instance.

Batches that arrive while a commit is under way share the next one. An acknowledgement leaves after the commit, which
with ``sync`` means after fdatasync. Batches are received into tiered pools, and written from there; what goes to
consumers is read into pools of its own. Nothing is kept in memory per event.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import numpy as np

from mochi.margo.bulk import BufferPool, BulkBuffer
from mochi.margo.errors import ConfigError, Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import OutOfRange, StorageError
from mochi.mofka.chunks.files import FileLayer
from mochi.mofka.chunks.store import ChunkStore
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.contract import EventPieces, Slice
from mochi.mofka.protocol import SIZE

T = TypeVar("T")

Appended = Callable[[int | BaseException], None]


class IoInstance(Protocol):
    """What a partition needs of an abt_io provider."""

    files: FileLayer

    def run(self, function: Callable[[], T]) -> "Future[T]":
        """Run an operation on an I/O thread."""


def _fault(error: BaseException) -> Fault:
    code = "out_of_range" if isinstance(error, OutOfRange) else "storage"
    return Fault(code, str(error))


class DefaultPartition:
    """A partition in chunk files.

    Parameters
    ----------
    topic, uuid : str
        Name the directory, ``<path>/<topic>-<uuid>``; one that is there is attached.

    Raises
    ------
    ConfigError
        The directory cannot be used; says which, and why.
    """

    def __init__(self, topic: str, uuid: str, fields: DefaultFields, io: IoInstance) -> None:
        self._fields = fields
        self._io = io
        directory = os.path.join(fields.path, f"{topic}-{uuid}")
        chunks = ChunkConfig(
            max_chunk_size=fields.max_chunk_size,
            max_events_per_chunk=fields.max_events_per_chunk,
            sync=fields.sync,
            fd_cache_capacity=fields.fd_cache_capacity,
        )
        try:
            self._store = io.run(lambda: ChunkStore.open(directory, chunks, io.files)).result()
        except (StorageError, OSError) as error:
            raise ConfigError("config.partition.path", str(error)) from error
        self.count = self._store.event_count
        self._metadata_in = BufferPool(fields.producers.metadata_buffer_pool.pool())
        self._data_in = BufferPool(fields.producers.data_buffer_pool.pool())
        self._lendable = BufferPool(fields.producers.data_buffer_pool.pool(), shareable=True)
        self._metadata_out = BufferPool(fields.consumers.metadata_buffer_pool.pool())
        self._sizes_out = BufferPool(fields.consumers.desc_buffer_pool.pool())
        self._lock = threading.Lock()
        self._waiting: list[tuple[Batch, Appended]] = []
        self._writing = False
        self._idle = threading.Condition(self._lock)

    @property
    def config(self) -> dict[str, Any]:
        """The section with all that was filled in."""
        return self._fields.expand()

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Give buffers of the producers' pools; they come back once the batch is written."""
        return [
            self._metadata_in.lease(sizes),
            self._metadata_in.lease(metadata),
            self._data_in.lease(data),
        ]

    def lend(self) -> BulkBuffer:
        """Give a buffer of the first tier of the producers' data pool."""
        return self._lendable.acquire(self._fields.producers.data_buffer_pool.first_size)

    def take_back(self, buffer: BulkBuffer) -> None:
        """Take back a buffer that was lent."""
        self._lendable.release(buffer)

    def append(self, batch: Batch, done: Appended) -> None:
        """Have a batch written by the next commit."""
        with self._lock:
            self._waiting.append((batch, done))
            if self._writing:
                return
            self._writing = True
        self._io.run(self._commit_all)

    def _commit_all(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    self._writing = False
                    self._idle.notify_all()
                    return
            self._commit(waiting)

    def _commit(self, waiting: Sequence[tuple[Batch, Appended]]) -> None:
        try:
            firsts = self._store.append([batch for batch, _ in waiting])
        except (StorageError, OSError) as error:
            for _, done in waiting:
                done(_fault(error))
            return
        self.count = self._store.event_count
        for (_, done), first in zip(waiting, firsts, strict=True):
            done(first)

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> None:
        """Read events from the files, on an I/O thread."""

        def read() -> None:
            try:
                events = self._store.read_range(
                    first,
                    max_events,
                    max_bytes,
                    with_data=with_data,
                    allocate_metadata=self._metadata_out.lease,
                )
            except (StorageError, OSError) as error:
                done(_fault(error))
                return
            sizes = np.frombuffer(self._sizes_out.lease(2 * SIZE.itemsize * events.count), SIZE)
            sizes[: events.count] = events.metadata_sizes
            sizes[events.count :] = events.data_sizes
            done(
                Slice(
                    first,
                    sizes[: events.count],
                    [events.metadata],
                    sizes[events.count :],
                    [] if events.data is None else [events.data],
                )
            )

        self._io.run(read)

    def read_data(
        self, events: Sequence[EventPieces], done: Callable[[Sequence[Buffer] | BaseException], None]
    ) -> None:
        """Read pieces of events' data from the files, on an I/O thread."""

        def read() -> None:
            try:
                pieces = self._store.read_data(events)
            except (StorageError, OSError) as error:
                done(_fault(error))
                return
            done(pieces)

        self._io.run(read)

    def close(self) -> None:
        """Write what has arrived, and close the files."""
        with self._idle:
            self._idle.wait_for(lambda: not self._writing)
        self._store.close()
