"""Events in memory: consecutive ones, in blocks of one or more batches.

Nothing is copied or looked at per event. Small neighbours are merged, so that events pushed one by one do not cost an
object each; every byte is merged at most some ten times. Calls must not overlap.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Pieces, gathered, touch
from mochi.mofka.partition.contract import Slice

MERGED_EVENTS = 512
MERGED_BYTES = 64 << 10
"""Neighbours are merged while what comes out has at most so many events, and so many bytes."""

SMALL_PIECE = 4 << 10
"""Pieces that have fewer bytes than so many on average are copied into one buffer; larger ones are sent as they lie."""

OVERHEAD = 1024
"""Bytes that a block is taken to cost beside its events."""

_SMALL = 32 << 10


def fresh_memory(size: int) -> memoryview:
    """Return fresh memory, not set to anything."""
    return np.empty(size, np.uint8).data


class Arena:
    """Memory, cut from large pieces where it is neither small nor large itself. Any thread.

    Parameters
    ----------
    piece_size : int
        Bytes of a piece. A piece is held as long as anything that was cut from it is.
    allocate : callable
        Gives a piece.
    """

    def __init__(self, piece_size: int, allocate: Callable[[int], memoryview] = fresh_memory) -> None:
        self._from_pieces = range(_SMALL, piece_size // 4)
        self._piece_size = piece_size
        self._allocate = allocate
        self._lock = threading.Lock()
        self._piece = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Return `size` bytes, not set to anything."""
        if size not in self._from_pieces:
            return fresh_memory(size)
        with self._lock:
            if len(self._piece) < size:
                self._piece = self._allocate(self._piece_size)
            taken, self._piece = self._piece[:size], self._piece[size:]
        return taken


class Block(msgspec.Struct):
    """Consecutive events, back to back, the last of which came at a monotonic time.

    Attributes
    ----------
    count : int
        Number of events.
    bytes : int
        Bytes of metadata and data.
    cost : int
        Bytes of memory, about.
    """

    first: int
    metadata_sizes: NDArray[np.uint32]
    metadata: memoryview
    data_sizes: NDArray[np.uint32]
    data: memoryview
    time: float
    count: int = 0
    bytes: int = 0
    cost: int = 0

    def __post_init__(self) -> None:
        self.count = len(self.metadata_sizes)
        self.bytes = len(self.metadata) + len(self.data)
        self.cost = OVERHEAD + self.metadata_sizes.nbytes + self.data_sizes.nbytes + self.bytes


class Blocks:
    """Consecutive events, which come at the end and may go at the beginning.

    Attributes
    ----------
    end : int
        Id after the last event.
    bytes, cost : int
        Bytes of metadata and data, and of memory, about.
    """

    def __init__(self, first: int = 0) -> None:
        self.end = first
        self.bytes = 0
        self.cost = 0
        self._blocks: list[Block] = []
        self._firsts: list[int] = []

    @property
    def first(self) -> int:
        """Id of the first event."""
        return self._firsts[0] if self._firsts else self.end

    @property
    def oldest(self) -> float | None:
        """When the last event of the first block came; None if there is no block."""
        return self._blocks[0].time if self._blocks else None

    def append(
        self,
        metadata_sizes: NDArray[np.uint32],
        metadata: memoryview,
        data_sizes: NDArray[np.uint32],
        data: memoryview,
    ) -> None:
        """Add a batch, whose buffers become the storage; costs some microseconds, and no copy but small ones.

        Nothing has changed where there is no memory for it.
        """
        added = block = Block(self.end, metadata_sizes, metadata, data_sizes, data, time.monotonic())
        kept = len(self._blocks)
        cost = self.cost
        while kept:
            last = self._blocks[kept - 1]
            if (
                last.count > 2 * block.count
                or last.count + block.count > MERGED_EVENTS
                or last.bytes + block.bytes > MERGED_BYTES
            ):
                break
            block = _merge(last, block)
            cost -= last.cost
            kept -= 1
        self._blocks[kept:] = [block]
        self._firsts[kept:] = [block.first]
        self.cost = cost + block.cost
        self.end += added.count
        self.bytes += added.bytes

    def shrink(self, cost: int) -> None:
        """Let go of the first blocks until what is left costs no more than `cost` bytes."""
        gone, left = 0, self.cost
        while left > cost:
            left -= self._blocks[gone].cost
            gone += 1
        self._drop(gone)

    def expire(self, most: int | None, oldest: float | None) -> None:
        """Let go of the first blocks while there are more than `most` bytes, or they came by `oldest`.

        The newest block stays whatever its bytes.
        """
        gone, size = 0, self.bytes
        for block in self._blocks:
            is_too_much = most is not None and size > most and block is not self._blocks[-1]
            if not is_too_much and (oldest is None or block.time > oldest):
                break
            size -= block.bytes
            gone += 1
        self._drop(gone)

    def _drop(self, count: int) -> None:
        for block in self._blocks[:count]:
            self.bytes -= block.bytes
            self.cost -= block.cost
        del self._blocks[:count], self._firsts[:count]

    def read(self, first: int, max_events: int, max_bytes: int, with_data: bool) -> Slice:
        """Hand out whole blocks where they fit, and parts of them where not; at least one event. No copy."""
        parts: list[Block] = []
        left, room = min(max_events, self.end - first), max_bytes
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
        return Slice(
            parts[0].first,
            np.concatenate([part.metadata_sizes for part in parts]),
            [part.metadata for part in parts],
            np.concatenate([part.data_sizes for part in parts]),
            [part.data for part in parts] if with_data else (),
        )

    def read_data(self, pieces: Pieces) -> list[memoryview]:
        """Return buffers that hold pieces back to back: views where the pieces of a block touch or are large.

        Raises
        ------
        Fault
            ``out_of_range``: there is no such event, or its data has no such bytes.
        """
        events = pieces.events
        if not len(events):
            return []
        low, high = int(events[0]), int(events[-1])
        if not self.first <= low <= high < self.end:
            missing = high if low >= self.first else low
            raise Fault("out_of_range", f"there is no event {missing}, the partition has {self.end}")
        begin, end = bisect_right(self._firsts, low) - 1, bisect_right(self._firsts, high)
        numbers = np.searchsorted(np.array(self._firsts[begin:end]), events, side="right") - 1
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(events)]
        found: list[memoryview] = []
        for at, until in pairwise(bounds):
            found += _pieces_of(self._blocks[begin + int(numbers[at])], pieces.at(slice(at, until)))
        return found


def joined(buffers: Sequence[Buffer]) -> memoryview:
    """Return the buffers' bytes as one; the very buffer where there is only one."""
    return memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))


def _offsets(sizes: NDArray[np.uint32]) -> NDArray[np.int64]:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _pieces_of(block: Block, pieces: Pieces) -> list[memoryview]:
    index = pieces.events - block.first
    sizes = block.data_sizes[index]
    if (bad := pieces.beyond(sizes)) is not None:
        raise Fault("out_of_range", f"there are no {pieces.text(bad, int(sizes[bad]))}")
    starts = _offsets(block.data_sizes)[index] + pieces.offsets
    if pieces.size < SMALL_PIECE * len(starts) or touch(starts, pieces.lengths):
        return [gathered(block.data, starts, pieces.lengths)]
    stops = starts + pieces.lengths
    return list(map(block.data.__getitem__, map(slice, starts.tolist(), stops.tolist())))


def _merge(left: Block, right: Block) -> Block:
    return Block(
        left.first,
        np.concatenate((left.metadata_sizes, right.metadata_sizes)),
        joined((left.metadata, right.metadata)),
        np.concatenate((left.data_sizes, right.data_sizes)),
        joined((left.data, right.data)),
        right.time,
    )


def _part(block: Block, skip: int, max_events: int, room: int, with_data: bool, needed: bool) -> Block | None:
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
    return Block(
        block.first + skip,
        block.metadata_sizes[skip:end],
        block.metadata[int(metadata[skip]) : int(metadata[end])],
        block.data_sizes[skip:end],
        block.data[int(data[skip]) : int(data[end])],
        block.time,
    )
