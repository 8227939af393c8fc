"""The `memory` partition: batches as they came, kept until the partition is closed.

A batch's buffers become its storage: nothing is copied or looked at per event. Small neighbours are merged, so that
events pushed one by one do not cost an object each; every byte is merged at most some ten times.
"""

import secrets
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.ledger import Remembered
from mochi.mofka.chunks.retention import KEEP_ALL, Retention
from mochi.mofka.partition.contract import EventPieces, Slice, expired
from mochi.mofka.partition.cursors import Cursors

MERGED_EVENTS = 512
MERGED_BYTES = 64 << 10
"""Neighbours are merged while what comes out has at most so many events, and so many bytes."""

ARENA_SIZE = 16 << 20
"""Bytes of memory taken at a time: large pieces are backed by huge pages, whose first touch is much cheaper."""

_FROM_ARENA = range(32 << 10, ARENA_SIZE // 4)


class _Arena:
    """Gives memory that is kept for good, cut from large pieces where it is neither small nor large itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._piece = memoryview(b"")

    def take(self, size: int) -> memoryview:
        if size not in _FROM_ARENA:
            return np.empty(size, np.uint8).data
        with self._lock:
            if len(self._piece) < size:
                self._piece = np.empty(ARENA_SIZE, np.uint8).data
            taken, self._piece = self._piece[:size], self._piece[size:]
        return taken


class _Block(msgspec.Struct):
    first: int
    metadata_sizes: NDArray[np.uint32]
    metadata: memoryview
    data_sizes: NDArray[np.uint32]
    data: memoryview
    time: float

    @property
    def count(self) -> int:
        return len(self.metadata_sizes)

    @property
    def bytes(self) -> int:
        return len(self.metadata) + len(self.data)


def _offsets(sizes: NDArray[np.uint32]) -> NDArray[np.int64]:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _one(buffers: Sequence[Buffer]) -> memoryview:
    """Return the buffers' bytes as one; the very buffer where there is only one."""
    return memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))


def _merge(left: _Block, right: _Block) -> _Block:
    return _Block(
        left.first,
        np.concatenate((left.metadata_sizes, right.metadata_sizes)),
        _one((left.metadata, right.metadata)),
        np.concatenate((left.data_sizes, right.data_sizes)),
        _one((left.data, right.data)),
        right.time,
    )


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
        self.first = 0
        self.count = 0
        self.epoch = secrets.randbits(62) + 1
        self._cursors = Cursors({})
        self._arena = _Arena()
        self._blocks: list[_Block] = []
        self._firsts: list[int] = []
        self._bytes = 0

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
        block = _Block(
            first,
            batch.metadata_sizes,
            _one(batch.metadata),
            batch.data_sizes,
            _one(batch.data),
            time.monotonic(),
        )
        self._bytes += block.bytes
        while self._blocks:
            last = self._blocks[-1]
            if (
                last.count > 2 * block.count
                or last.count + block.count > MERGED_EVENTS
                or last.bytes + block.bytes > MERGED_BYTES
            ):
                break
            block = _merge(last, block)
            self._firsts.pop()
            self._blocks.pop()
        self._blocks.append(block)
        self._firsts.append(block.first)
        self.count = first + batch.count
        if self._retention:
            self.expire()
        done(first)

    def expires_in(self) -> float | None:
        """Tell in how many seconds the oldest block is too old."""
        if self._retention.max_age is None or not self._blocks:
            return None
        return self._blocks[0].time + self._retention.max_age - time.monotonic()

    def expire(self) -> None:
        """Drop the blocks that are too many, or too old."""
        most, age = self._retention.max_bytes, self._retention.max_age
        oldest = 0.0 if age is None else time.monotonic() - age
        size, end = self._bytes, 0
        for block in self._blocks:
            is_too_much = most is not None and size > most and block is not self._blocks[-1]
            if not is_too_much and (age is None or block.time > oldest):
                break
            size -= block.bytes
            end += 1
        if end:
            self._bytes = size
            del self._blocks[:end], self._firsts[:end]
            self.first = self._firsts[0] if self._firsts else self.count

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> None:
        """Hand out the buffers of whole batches where they fit, and parts of them where not. No copy."""
        if first < self.first:
            done(expired(first, self.first))
            return
        parts: list[_Block] = []
        left, room = min(max_events, self.count - first), max_bytes
        at = bisect_right(self._firsts, first) - 1
        while left > 0 and at < len(self._blocks):
            block = self._blocks[at]
            part = _part(block, first - block.first, left, room, with_data, not parts)
            if part is None:
                break
            parts.append(part)
            first += part.count
            left -= part.count
            room -= part.bytes if with_data else len(part.metadata)
            if first < block.first + block.count:
                break
            at += 1
        done(
            Slice(
                parts[0].first,
                np.concatenate([part.metadata_sizes for part in parts]),
                [part.metadata for part in parts],
                np.concatenate([part.data_sizes for part in parts]),
                [part.data for part in parts] if with_data else (),
            )
        )

    def read_data(
        self, events: Sequence[EventPieces], done: Callable[[Sequence[Buffer] | BaseException], None]
    ) -> None:
        """Hand out views of the pieces. No copy."""
        pieces: list[Buffer] = []
        current = -1
        for event_id, wanted in events:
            if not 0 <= event_id < self.count:
                done(Fault("out_of_range", f"there is no event {event_id}, the partition has {self.count}"))
                return
            if event_id < self.first:
                done(expired(event_id, self.first))
                return
            at = bisect_right(self._firsts, event_id) - 1
            if at != current:
                current, block = at, self._blocks[at]
                offsets = _offsets(block.data_sizes)
            index = event_id - block.first
            start, size = int(offsets[index]), int(block.data_sizes[index])
            for offset, length in wanted:
                if offset < 0 or length < 0 or offset + length > size:
                    what = f"bytes {offset} to {offset + length} of event {event_id}, whose data has {size}"
                    done(Fault("out_of_range", what))
                    return
                pieces.append(block.data[start + offset : start + offset + length])
        done(pieces)

    def close(self) -> None:
        """Let go of all events."""
        self._blocks.clear()
        self._firsts.clear()


def _part(
    block: _Block, skip: int, max_events: int, room: int, with_data: bool, needed: bool
) -> _Block | None:
    """Return the events of `block` from the `skip`-th on that fit into `room` bytes; at least one if `needed`."""
    size = len(block.metadata) + (len(block.data) if with_data else 0)
    if skip == 0 and block.count <= max_events and size <= room:
        return block
    metadata, data = _offsets(block.metadata_sizes), _offsets(block.data_sizes)
    weight = metadata + data if with_data else metadata
    end = int(np.searchsorted(weight, weight[skip] + room, side="right")) - 1
    end = min(max(end, skip + 1 if needed else skip), skip + max_events, block.count)
    if end <= skip:
        return None
    return _Block(
        block.first + skip,
        block.metadata_sizes[skip:end],
        block.metadata[int(metadata[skip]) : int(metadata[end])],
        block.data_sizes[skip:end],
        block.data[int(data[skip]) : int(data[end])],
        block.time,
    )
