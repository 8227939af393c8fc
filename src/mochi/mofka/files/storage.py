"""A partition's directory, opened to be read or written, whichever layout it has.

| layout | which directories |
|---|---|
| chunk files, see `mochi.mofka.chunks` | all that this driver makes |
| that of the original's driver, see `original` | all others |

What a crash has left in a directory is put right by whoever opens it first and may.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol

from mochi.disk import PlainCalls, PosixFile, PosixFiles, lacks_locks
from mochi.mofka.chunks import (
    Batch,
    ChunkConfig,
    DataRequest,
    EventRange,
    PartitionDirectory,
    PartitionLocked,
    StorageError,
    follow,
    format,
    recovery,
)
from mochi.mofka.files.original import OriginalReader, OriginalStore

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that a lock is waited for which a reader may have, who puts right what a crash has left."""

_PAUSE = 0.02


class FlushBehavior(Enum):
    """When events are put on disk; before that they survive the end of the process, not that of the machine."""

    IMMEDIATE = "immediate"
    """Before their futures are done."""
    ON_FLUSH = "on_flush"
    """Before the future of a flush is done."""
    BUFFERED = "buffered"
    """When a chunk is full, and when the last producer is closed."""


class Reader(Protocol):
    """A partition, read beside whoever writes it."""

    @property
    def first_id(self) -> int:
        """Id of the first event that there is."""

    @property
    def event_count(self) -> int:
        """Number of events, as far as looked for."""

    def refresh(self) -> int:
        """Look for new events; return the number of all. One thread at a time."""

    def read_range(self, first: int, max_events: int, max_bytes: int, *, with_data: bool) -> EventRange:
        """Read consecutive events, see `mochi.mofka.chunks.ChunkReader.read_range`."""

    def read_data(self, requests: Sequence[DataRequest]) -> list[memoryview]:
        """Read pieces of the data of events, see `mochi.mofka.chunks.ChunkReader.read_data`."""

    def close(self) -> None:
        """Let go of the files."""


class Store(Protocol):
    """A partition, written by this process alone; by one thread at a time.

    Attributes
    ----------
    is_durable : bool
        Whether a batch is on disk when `append` returns.
    """

    is_durable: bool

    @property
    def event_count(self) -> int:
        """Number of events."""

    def append(self, batch: Batch) -> int:
        """Store a batch, all of it or nothing; return the id of its first event."""

    def sync(self) -> None:
        """Put on disk what was stored."""

    def close(self) -> None:
        """Put all on disk, and let another process write."""


class OwnFiles(PosixFiles):
    """Files of this process: a forked child lets go of the locks of its parent.

    Who may use them, the umask says: the directory is what there is to be guarded.

    Parameters
    ----------
    insist : bool
        Whether a file system that has no locks is refused; else a warning tells that nobody is kept out.
    """

    def __init__(self, *, insist: bool = False) -> None:
        super().__init__(by_umask=True)
        self._insist = insist
        self._locks: set[_Lock] = set()

    def lock(self, path: str) -> PosixFile:
        try:
            lock = super().lock(path)
        except StorageError as error:
            if self._insist or not lacks_locks(error):
                raise
            log.warning("%s: this file system has no locks, so nobody keeps a second writer out", path)
            return self.open(path, writable=True)
        return _Lock(lock, self._locks)

    def size(self, path: str) -> int:
        """Return the length of a file. It is opened for that: a network file system then asks its server."""
        fd = -1
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY)
        try:
            return super().size(path)
        finally:
            if fd >= 0:
                os.close(fd)

    def forget(self) -> None:
        """Close the parent's locks in a forked child, which would hold them for as long as it lives."""
        for lock in list(self._locks):
            with suppress(StorageError):
                lock.close()


class _Lock(PosixFile):
    """A lock, among those that are `held` until it is closed."""

    def __init__(self, lock: PosixFile, held: "set[_Lock]") -> None:
        super().__init__(lock.path, lock.fd, PlainCalls())
        self._held = held
        held.add(self)

    def close(self) -> None:
        """Let go of the lock; once is enough."""
        if self in self._held:
            self._held.remove(self)
            super().close()


class _Chunks:
    """A chunk store as a `Store`."""

    def __init__(self, store: PartitionDirectory) -> None:
        self.is_durable = store.config.sync
        self._store = store
        self.sync = store.sync
        self.close = store.close

    @property
    def event_count(self) -> int:
        return self._store.event_count

    def append(self, batch: Batch) -> int:
        return self._store.append([batch])[0]


def has_chunks(directory: str) -> bool:
    """Tell whether a partition is in chunk files."""
    return any(format.parse_file_name(name) for name in os.listdir(directory))


def make(directory: str) -> None:
    """Make a partition that has no events."""
    PartitionDirectory.open(directory, ChunkConfig(sync=False), PosixFiles(by_umask=True)).close()


def open_to_write(directory: str, files: OwnFiles, flush: FlushBehavior) -> Store:
    """Open a partition to be written.

    Raises
    ------
    PartitionLocked
        Another process writes it; says which.
    StorageError
        It cannot be used.
    """
    deadline = time.monotonic() + _PATIENCE
    is_durable = flush is FlushBehavior.IMMEDIATE
    while True:
        try:
            if has_chunks(directory):
                return _Chunks(PartitionDirectory.open(directory, ChunkConfig(sync=is_durable), files))
            return OriginalStore(directory, files, is_durable=is_durable)
        except PartitionLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError.refused("open", directory, error) from error


def open_to_read(directory: str) -> Reader:
    """Open a partition to be read, beside whoever writes it.

    Raises
    ------
    StorageError
        It cannot be used.
    """
    files = OwnFiles()
    try:
        if not has_chunks(directory):
            return OriginalReader(directory, files)
        _recover(directory)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError.refused("open", directory, error) from error
    return follow(directory, files)


def _recover(directory: str) -> None:
    """Put right what a crash has left, unless somebody is at it, or it must not be changed."""
    with suppress(StorageError):
        files = PosixFiles(by_umask=True)
        if recovery.is_left_open(files, directory):
            PartitionDirectory.open(directory, ChunkConfig(sync=False), files).close()
