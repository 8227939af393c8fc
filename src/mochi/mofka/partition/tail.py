"""The newest events of a partition in memory, so that who follows live reads no file.

What is kept are copies, made once events are committed: the buffers that batches come in are used again, and lent ones
are written again by their producers. Memory is reused, but not before the last reader has sent
what lies in it; metadata and data lie apart, so that a reader of metadata alone holds no data.

Invariants
----------
1. What is kept is what was committed last, in order and without a gap.
2. It costs no more than `KEPT`, beside what readers still hold.
3. Nothing is copied for nobody: once `KEPT` bytes were committed and nothing was read, nothing is kept until somebody
   reads again.
"""

import threading
from collections.abc import Sequence

import numpy as np

from mochi.disk import Buffer
from mochi.margo.bulk import BufferPoolConfig, shared_pool
from mochi.mofka.chunks import Batch, Pieces
from mochi.mofka.partition.blocks import Arena, Blocks
from mochi.mofka.partition.contract import Slice

KEPT = 16 << 20
"""Bytes kept of a partition, with what they cost beside: some batches of a feed."""

PIECE = 2 << 20
"""Bytes of a piece of memory."""

FREE = 64 << 20
"""Bytes of pieces that all partitions together keep for the next batches."""


class Tail:
    """Keeps copies of the newest events. One thread adds, any may read.

    Parameters
    ----------
    first : int
        Id of the first event that will be kept.
    """

    def __init__(self, first: int) -> None:
        pieces = shared_pool(BufferPoolConfig(first_size=PIECE, max_kept=FREE))
        self._metadata = Arena(PIECE, pieces.lease)
        self._data = Arena(PIECE, pieces.lease)
        self._lock = threading.Lock()
        self._blocks = Blocks(first)
        self._unread = 0

    def keep(self, batches: Sequence[Batch]) -> None:
        """Keep batches that were committed just now, the next ones; about 5 µs each, and a copy."""
        for batch in batches:
            size = batch.metadata_bytes + batch.data_bytes
            with self._lock:
                end = self._blocks.end + batch.count
                self._unread += size
                if max(self._unread, size) > KEPT:
                    self._blocks = Blocks(end)
                    continue
            try:
                metadata = _copied(batch.metadata, batch.metadata_bytes, self._metadata)
                data = _copied(batch.data, batch.data_bytes, self._data)
                sizes = (batch.metadata_sizes.astype(np.uint32), batch.data_sizes.astype(np.uint32))
                with self._lock:
                    self._blocks.append(sizes[0], metadata, sizes[1], data)
                    self._blocks.shrink(KEPT)
            except (MemoryError, OSError):
                with self._lock:
                    self._blocks = Blocks(end)

    def read(self, first: int, max_events: int, max_bytes: int, with_data: bool) -> Slice | None:
        """Return events as `Partition.read` does; None if the first one is not kept. No copy."""
        with self._lock:
            self._unread = 0
            if not self._blocks.first <= first < self._blocks.end:
                return None
            return self._blocks.read(first, max_events, max_bytes, with_data)

    def read_data(self, pieces: Pieces) -> list[memoryview] | None:
        """Return a copy of pieces of events' data, so that a small one holds no large memory; None if not all are kept.

        Raises
        ------
        Fault
            ``out_of_range``: a piece is not within the data of its event.
        """
        with self._lock:
            self._unread = 0
            events = pieces.events
            if len(events) and not self._blocks.first <= events[0] <= events[-1] < self._blocks.end:
                return None
            found = self._blocks.read_data(pieces)
        return [memoryview(b"".join(found))]


def _copied(buffers: Sequence[Buffer], size: int, arena: Arena) -> memoryview:
    target = arena.take(size)
    array = np.frombuffer(target, np.uint8) if size else np.empty(0, np.uint8)
    at = 0
    for buffer in buffers:
        if length := memoryview(buffer).nbytes:
            # An assignment of arrays lets other threads run.
            array[at : at + length] = np.frombuffer(buffer, np.uint8)
            at += length
    return target
