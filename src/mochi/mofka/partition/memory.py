"""The `memory` partition: batches as they came, kept until the partition is closed.

A batch's buffers become its storage, as `mochi.mofka.partition.blocks` keeps them.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import UNSET

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import KEEP_ALL, Batch, Pieces, Remembered, Retention
from mochi.mofka.partition.blocks import Arena, Blocks, joined
from mochi.mofka.partition.contract import Slice, expired
from mochi.mofka.partition.cursors import Cursors

ARENA_SIZE = 16 << 20
"""Bytes of memory taken at a time: large pieces are backed by huge pages, whose first touch is much cheaper."""


class MemoryPartition:
    """Keeps events in memory. Calls must not overlap, see `mochi.mofka.partition.contract`.

    A retention drops the oldest batches, those that were merged together; the newest stays whatever its bytes.
    """

    error = None
    damaged: Sequence[str] = ()
    keeps_buffers = True
    lent_size = 64 << 20

    def __init__(self, config: dict[str, Any], retention: Retention = KEEP_ALL) -> None:
        self.config = config
        self._retention = retention
        self.count = 0
        self.epoch = secrets.randbits(62) + 1
        self._cursors = Cursors({})
        self._arena = Arena(ARENA_SIZE)
        self._blocks = Blocks()

    @property
    def first(self) -> int:
        """Id of the first event that there is."""
        return self._blocks.first

    def remembered(self) -> Iterable[Remembered]:
        """Tell of no producer: a memory partition begins anew."""
        return ()

    def cursor(self, consumer: str) -> int:
        """Return the id of the next event of a consumer."""
        return self._cursors[consumer]

    def acknowledge(self, consumer: str, next_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Move a cursor forward, at once."""
        self._cursors.advance(consumer, next_id)
        done(None)

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Return buffers that become the storage; fresh pages are touched once, by the kernel."""
        return [self._arena.take(size) for size in (sizes, metadata, data)]

    def append(self, batch: Batch, done: Callable[[int | BaseException], None]) -> None:
        """Store a batch; costs some microseconds, and no copy."""
        first = self.count
        self._blocks.append(
            batch.metadata_sizes, joined(batch.metadata), batch.data_sizes, joined(batch.data)
        )
        self.count = self._blocks.end
        if self._retention:
            self.expire()
        done(first)

    def expires_in(self) -> float | None:
        """Return in how many seconds the oldest block is too old."""
        oldest = self._blocks.oldest
        if self._retention.max_age is UNSET or oldest is None:
            return None
        return oldest + self._retention.max_age - time.monotonic()

    def expire(self) -> None:
        """Drop the blocks that are too many, or too old."""
        most, age = self._retention.max_bytes, self._retention.max_age
        self._blocks.expire(None if most is UNSET else most, None if age is UNSET else time.monotonic() - age)

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> Slice:
        """Return the buffers of whole batches where they fit, and parts of them where not. No copy."""
        if first < self.first:
            raise expired(first, self.first)
        return self._blocks.read(first, max_events, max_bytes, with_data)

    def read_data(self, pieces: Pieces, done: Callable[[Sequence[Buffer] | BaseException], None]) -> None:
        """Hand out the pieces; small ones are copied."""
        outcome: Sequence[Buffer] | BaseException
        try:
            if len(pieces.events) and 0 <= (least := int(pieces.events[0])) < self.first:
                raise expired(least, self.first)
            outcome = self._blocks.read_data(pieces)
        except Fault as fault:
            outcome = fault
        done(outcome)

    def close(self) -> None:
        """Let go of all events."""
        self._blocks = Blocks(self.count)
        self._arena = Arena(ARENA_SIZE)
