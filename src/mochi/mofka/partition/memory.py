"""The `memory` partition: batches as they came, kept until the partition is closed.

A batch's buffers become its storage, as `mochi.mofka.partition.blocks` keeps them.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.ledger import Remembered
from mochi.mofka.partition.blocks import Arena, Blocks, joined
from mochi.mofka.partition.contract import EventPieces, Slice
from mochi.mofka.partition.cursors import Cursors

ARENA_SIZE = 16 << 20
"""Bytes of memory taken at a time: large pieces are backed by huge pages, whose first touch is much cheaper."""


class MemoryPartition:
    """Keeps events in memory. Calls must not overlap, see `mochi.mofka.partition.contract`."""

    error = None
    damaged: Sequence[str] = ()
    keeps_buffers = True
    lent_size = 64 << 20

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.count = 0
        self.epoch = secrets.randbits(62) + 1
        self._cursors = Cursors({})
        self._arena = Arena(ARENA_SIZE)
        self._blocks = Blocks()

    def remembered(self) -> Iterable[Remembered]:
        """Tell of no producer: a memory partition begins anew."""
        return ()

    def cursor(self, consumer: str) -> int:
        """Give the id of the next event of a consumer."""
        return self._cursors[consumer]

    def acknowledge(self, consumer: str, next_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Move a cursor forward, at once."""
        self._cursors.advance(consumer, next_id)
        done(None)

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Give buffers that become the storage; fresh pages are touched once, by the kernel."""
        return [self._arena.take(size) for size in (sizes, metadata, data)]

    def append(self, batch: Batch, done: Callable[[int | BaseException], None]) -> None:
        """Store a batch; costs some microseconds, and no copy."""
        first = self.count
        self._blocks.append(
            batch.metadata_sizes, joined(batch.metadata), batch.data_sizes, joined(batch.data)
        )
        self.count = self._blocks.end
        done(first)

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> None:
        """Hand out the buffers of whole batches where they fit, and parts of them where not. No copy."""
        done(self._blocks.read(first, max_events, max_bytes, with_data))

    def read_data(
        self, events: Sequence[EventPieces], done: Callable[[Sequence[Buffer] | BaseException], None]
    ) -> None:
        """Hand out views of the pieces. No copy."""
        outcome: Sequence[Buffer] | BaseException
        try:
            outcome = self._blocks.read_data(events)
        except Fault as fault:
            outcome = fault
        done(outcome)

    def close(self) -> None:
        """Let go of all events."""
        self._blocks = Blocks(self.count)
