"""Seals: for each part of a commit, where it is in its chunk, the sizes of its events, and checksums of its bytes.

A chunk's seals lie back to back in a file beside it, `mofka-<chunk>.seals`. A seal takes whole slots of 64 bytes.
Each begins with the number, in the chunk, of the seal's first event, and the slot's place in the seal. So the seal of
an event is found by halving, without anything in memory. With the sizes an index that was lost
can be made again. Checksums of metadata and data are of blocks of 64 KiB, counted from where the part begins, so
a small view is verified by reading little more than itself. Events without a seal (the original writes none)
cannot be verified.

Small seals that follow each other, as commits of an event or a few leave them, are taken as one, as a run. No
object is made for any one of them.

Invariants:
1. A seal's own checksum covers all of it, and is seeded with the partition's uuid and the chunk's number. So files of
   another partition, or of another chunk, are not taken for this one's.
2. Seals are in the order of their events.
3. Each seal of a run has been verified. A run of several is of `_MOST_EVENTS` events and `_MOST_BYTES` of their
   metadata, and of their data, at most.

All integers are little-endian; checksums are XXH3 of 64 bits.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from mochi.disk import Buffer
from mochi.mofka.chunks.format import layout

BLOCK = 1 << 16
SLOT = 64
CONTENT = SLOT - 8
"""Bytes of a slot that are the seal's own."""
SLOT_DTYPE = np.dtype([("first", "<u4"), ("place", "<u4"), ("content", f"V{CONTENT}")])
_PLACE = struct.Struct("<II")
_HEADER = struct.Struct("<QIBB2xQQQQ")
_WIDTHS = (0, 1, 2, 4)
_FEW = 16
_MOST_EVENTS = 1 << 13
_MOST_BYTES = 1 << 20

Sizes = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A part's metadata, or its data: where it begins in its file, and what is known of it.

    Attributes
    ----------
    start : int
        Place of its first byte.
    sizes : unsigned integer array, shape (count,)
        Bytes of each event.
    sums : uint64 array
        Checksum of each block of `BLOCK` bytes; the last one may be shorter.
    """

    start: int
    sizes: Sizes
    sums: NDArray[np.uint64]

    @property
    def size(self) -> int:
        """Bytes of all events."""
        return int(self.sizes.sum(dtype=np.uint64))

    def bounds(self) -> NDArray[np.uint64]:
        """Return where each event begins, and the last one ends; shape (count + 1,)."""
        bounds = np.empty(len(self.sizes) + 1, np.uint64)
        bounds[0] = 0
        np.cumsum(self.sizes, out=bounds[1:])
        bounds += np.uint64(self.start)
        return bounds


@dataclass(frozen=True, slots=True, eq=False)
class Seal:
    """What is known of a part.

    Attributes
    ----------
    first : int
        Number of its first event in the chunk.
    descriptor_start : int
        Where its descriptors begin.
    time : int
        When it was stored, in nanoseconds since 1970 on the server's clock.
    metadata, data : Stream
    """

    first: int
    descriptor_start: int
    time: int
    metadata: Stream
    data: Stream

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.metadata.sizes)

    @property
    def end(self) -> int:
        """Number, in the chunk, after its last event."""
        return self.first + self.count

    def records(self, chunk: int, kind: str) -> tuple[int, NDArray[np.void]]:
        """Return what the index of a chunk, or its descriptors, should have of its events, and where."""
        data_offsets = layout.offsets(self.data.sizes, self.data.start)
        if kind == layout.DESC:
            return self.descriptor_start, layout.descriptor_records(chunk, data_offsets, self.data.sizes)
        return self.first * layout.INDEX_SIZE, layout.index_records(
            layout.offsets(self.metadata.sizes, self.metadata.start),
            self.metadata.sizes,
            data_offsets,
            self.data.sizes,
            self.descriptor_start,
        )

    def pack(self, key: int) -> bytes:
        """Return its slots, under the key of its chunk. About 12 µs."""
        metadata_width, metadata_sizes = _pack_sizes(self.metadata.sizes)
        data_width, data_sizes = _pack_sizes(self.data.sizes)
        content = b"".join(
            (
                _HEADER.pack(
                    0,
                    self.count,
                    metadata_width,
                    data_width,
                    self.metadata.start,
                    self.data.start,
                    self.descriptor_start,
                    self.time,
                ),
                metadata_sizes,
                data_sizes,
                self.metadata.sums.tobytes(),
                self.data.sums.tobytes(),
            )
        )
        own = xxh3_64_intdigest(memoryview(content)[8:], key ^ self.first)
        count = -(-len(content) // CONTENT)
        filled = own.to_bytes(8, "little") + content[8:].ljust(count * CONTENT - 8, b"\0")
        if count <= _FEW:
            return b"".join(
                _PLACE.pack(self.first, place) + filled[place * CONTENT : (place + 1) * CONTENT]
                for place in range(count)
            )
        slots = np.empty(count, SLOT_DTYPE)
        slots["first"] = self.first
        slots["place"] = range(count)
        slots["content"] = np.frombuffer(filled, f"V{CONTENT}")
        return slots.tobytes()


def key_of(owner: bytes, chunk: int) -> int:
    """Return the key of a chunk's seals, from the uuid of the partition."""
    return xxh3_64_intdigest(owner + chunk.to_bytes(8, "little"))


def sums_of(buffers: Iterable[Buffer], key: int) -> NDArray[np.uint64]:
    """Return the checksum of each block of the content of buffers. About 6 µs a block."""
    sums = []
    checksum = xxh3_64(seed=key)
    left = BLOCK
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        while len(rest) >= left:
            checksum.update(rest[:left])
            sums.append(checksum.intdigest())
            checksum.reset()
            rest, left = rest[left:], BLOCK
        if rest:
            checksum.update(rest)
            left -= len(rest)
    if left < BLOCK:
        sums.append(checksum.intdigest())
    return np.array(sums, "<u8")


def size_at(slot: memoryview) -> int:
    """Return how many bytes the seal has whose first slot this is, as far as known; 0 if it is no first slot."""
    _, place = _PLACE.unpack_from(slot)
    if place:
        return 0
    _, count, metadata_width, data_width, *_ = _HEADER.unpack_from(slot, _PLACE.size)
    # The checksums cannot be counted before the sizes are known: see `unpack`.
    return _slots(_HEADER.size + _packed(metadata_width, count) + _packed(data_width, count))


def parts_at(
    content: bytes, at: int
) -> (
    tuple[int, int, tuple[int, int, int], tuple[int, int], tuple[int, int], tuple[int, int], int, int] | None
):
    """Tell what the seal says whose content, that of its slots joined, begins at `at`, before any of it is verified.

    Returns
    -------
    own, count : int
        Its own checksum, and the number of events.
    places : (int, int, int)
        Where in `content` the packed sizes of metadata and of data begin, and the checksums of blocks.
    widths, starts, totals : (int, int)
        Of metadata and data: bytes of a packed size, 0 if all are the same; where it begins; its bytes.
    descriptor_start, time : int
        As in `Seal`. All is None if `content` ends before the checksums, or there is no such seal.
    """
    own, count, metadata_width, data_width, metadata_start, data_start, descriptor_start, time = (
        _HEADER.unpack_from(content, at)
    )
    if metadata_width not in _WIDTHS or data_width not in _WIDTHS:
        return None
    metadata_at = at + _HEADER.size
    data_at = metadata_at + _packed(metadata_width, count)
    sums_at = data_at + _packed(data_width, count)
    if sums_at > len(content):
        return None
    totals = (
        _total(content, metadata_at, metadata_width, count),
        _total(content, data_at, data_width, count),
    )
    places, widths = (metadata_at, data_at, sums_at), (metadata_width, data_width)
    return own, count, places, widths, (metadata_start, data_start), totals, descriptor_start, time


def unpack(content: memoryview, key: int) -> tuple[Seal, int] | None:
    """Read the seal that `content` begins with, and give its bytes; None if there is no good one.

    More bytes than the seal has may follow it.
    """
    if len(content) < SLOT or not (sizes_end := size_at(content)) or sizes_end > len(content):
        return None
    first, _ = _PLACE.unpack_from(content)
    joined = np.frombuffer(content[:sizes_end], SLOT_DTYPE)["content"].tobytes()
    if (parts := parts_at(joined, 0)) is None:
        return None
    own, count, (metadata_at, data_at, sums_at), widths, starts, totals, descriptor_start, time = parts
    blocks = [-(-total // BLOCK) for total in totals]
    end = sums_at + 8 * sum(blocks)
    size = _slots(end)
    if size > len(content):
        return None
    whole = np.frombuffer(content[:size], SLOT_DTYPE)["content"].tobytes()
    if xxh3_64_intdigest(memoryview(whole)[8:end], key ^ first) != own:
        return None
    metadata_sizes = _unpack_sizes(whole, metadata_at, widths[0], count)
    data_sizes = _unpack_sizes(whole, data_at, widths[1], count)
    sums = np.frombuffer(whole, "<u8", sum(blocks), sums_at)
    return (
        Seal(
            first,
            descriptor_start,
            time,
            Stream(starts[0], metadata_sizes, sums[: blocks[0]]),
            Stream(starts[1], data_sizes, sums[blocks[0] :]),
        ),
        size,
    )


def seals_in(content: memoryview, key: int) -> Iterator[tuple[Seal, int]]:
    """Return the seals that lie back to back in `content`, up to the first that is not good, and the end of each."""
    position = 0
    while found := unpack(content[position:], key):
        seal, size = found
        position += size
        yield seal, position


def void_slots(first: int, size: int) -> bytes:
    """Return so many bytes of slots for the events from `first` on, of no good seal, but such that halving works."""
    slots = np.zeros(size // SLOT, SLOT_DTYPE)
    slots["first"] = first
    slots["place"] = range(len(slots))
    return slots.tobytes()


def slot_of(slot: memoryview) -> tuple[int, int]:
    """Return the number of the first event of the seal that a slot belongs to, and the slot's place in it."""
    first, place = _PLACE.unpack_from(slot)
    return first, place


def _slots(content: int) -> int:
    return -(-content // CONTENT) * SLOT


def _packed(width: int, count: int) -> int:
    """Return the bytes of packed sizes: one number if they are all the same, or one each of the width they need."""
    return width * count if width else 4


def _pack_sizes(sizes: Sizes) -> tuple[int, bytes]:
    if not len(sizes):
        return 4, b""
    few = len(sizes) <= _FEW
    least, most = (
        (min(values := sizes.tolist()), max(values)) if few else (int(sizes.min()), int(sizes.max()))
    )
    if most == least:
        return 0, most.to_bytes(4, "little")
    width = 1 if most < 1 << 8 else 2 if most < 1 << 16 else 4
    return width, sizes.astype(f"<u{width}").tobytes()


def _total(content: bytes, position: int, width: int, count: int) -> int:
    """Add up packed sizes, without making them: what has not been checked yet may tell of any number of events."""
    if width:
        return int(np.frombuffer(content, f"<u{width}", count, position).sum(dtype=np.uint64))
    return count * int.from_bytes(content[position : position + 4], "little")


def _unpack_sizes(content: bytes, position: int, width: int, count: int) -> NDArray[np.uint32]:
    if width:
        return np.frombuffer(content, f"<u{width}", count, position).astype(np.uint32)
    return np.full(count, int.from_bytes(content[position : position + 4], "little"), np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class RunStream:
    """The metadata of a run, or its data.

    Attributes
    ----------
    bounds : uint64 array, shape (count + 1,)
        Where each event begins in the file, and the last one ends.
    ends : uint64 array
        Where each block ends that has a checksum; it begins where the one before ends.
    sums : uint64 array
        Checksum of each block.
    """

    bounds: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    sums: NDArray[np.uint64]

    def sizes(self) -> NDArray[np.uint32]:
        """Return the bytes of each event."""
        return np.diff(self.bounds).astype(np.uint32)

    def blocks(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return begin, end and checksum of each block that has any of the bytes from `start` to `stop`."""
        if start == stop:
            return []
        low = int(self.ends.searchsorted(np.uint64(start), "right"))
        high = int(self.ends.searchsorted(np.uint64(stop), "left")) + 1
        ends = self.ends[low:high].tolist()
        begin = int(self.ends[low - 1]) if low else int(self.bounds[0])
        return list(zip([begin, *ends[:-1]], ends, self.sums[low:high].tolist(), strict=True))

    def around(
        self, starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the first block of each part begins, and the last one ends; no part is empty."""
        ends = self.ends.astype(np.int64)
        edges = np.concatenate((self.bounds[:1].astype(np.int64), ends))
        return edges[ends.searchsorted(starts, "right")], ends[ends.searchsorted(stops, "left")]


@dataclass(frozen=True, slots=True, eq=False)
class SealRun:
    """What is known of the events of one seal, or of several that follow each other.

    Attributes
    ----------
    firsts : int64 array, shape (seals + 1,)
        Number, in the chunk, of the first event of each seal, and the one after the last event.
    descriptor_start : int
        Where their descriptors begin.
    time : int
        When the last of them were stored, as in `Seal`.
    metadata, data : RunStream
    """

    firsts: NDArray[np.int64]
    descriptor_start: int
    time: int
    metadata: RunStream
    data: RunStream

    @property
    def first(self) -> int:
        """Number of the first event in the chunk."""
        return int(self.firsts[0])

    @property
    def end(self) -> int:
        """Number, in the chunk, after the last event."""
        return int(self.firsts[-1])

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.metadata.bounds) - 1

    def records(self, chunk: int, kind: str) -> tuple[int, NDArray[np.void]]:
        """Return what the index of a chunk, or its descriptors, should have of the events, and where."""
        data_offsets, data_sizes = self.data.bounds[:-1], self.data.sizes()
        if kind == layout.DESC:
            return self.descriptor_start, layout.descriptor_records(chunk, data_offsets, data_sizes)
        return self.first * layout.INDEX_SIZE, layout.index_records(
            self.metadata.bounds[:-1],
            self.metadata.sizes(),
            data_offsets,
            data_sizes,
            self.descriptor_start,
        )


class _RunStreamMaker:
    """The metadata, or the data, of the seals that a run is made of."""

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self._sizes: list[int] = []
        self._packed: list[tuple[int, int, int, int]] = []
        self._ends: list[int] = []
        self._sums: list[bytes] = []

    def add(
        self, content: bytes, at: int, width: int, first: int, count: int, total: int, sums: bytes
    ) -> None:
        """Add those of a seal, whose packed sizes are at `at`; `first` is the number of events before."""
        if width:
            self._packed.append((at, width, first, count))
            self._sizes.append(0)
        else:
            self._sizes.append(int.from_bytes(content[at : at + 4], "little"))
        stop = self.stop + total
        if total > BLOCK:
            self._ends += range(self.stop + BLOCK, stop, BLOCK)
        if total:
            self._ends.append(stop)
        self._sums.append(sums)
        self.stop = stop

    def made(self, content: bytes, counts: NDArray[np.int64]) -> RunStream:
        """Return what has been added."""
        bounds = np.empty(int(counts.sum()) + 1, np.uint64)
        bounds[0] = self.start
        sizes = bounds[1:]
        sizes[:] = np.array(self._sizes, np.uint64).repeat(counts)
        for at, width, first, count in self._packed:
            sizes[first : first + count] = np.frombuffer(content, f"<u{width}", count, at)
        bounds.cumsum(out=bounds)
        return RunStream(bounds, np.array(self._ends, np.uint64), np.frombuffer(b"".join(self._sums), "<u8"))


class Slots:
    """Slots that lie back to back, taken apart to find seals in them."""

    def __init__(self, content: memoryview, key: int) -> None:
        slots = np.frombuffer(content[: len(content) // SLOT * SLOT], SLOT_DTYPE)
        self._key = key
        self._firsts = slots["first"].astype(np.uint32).data
        self._places = slots["place"].astype(np.uint32).data
        self._content = slots["content"].tobytes()

    def __len__(self) -> int:
        return len(self._firsts)

    def run(self, slot: int, until: int, *, in_place: bool = False) -> tuple[SealRun, int] | None:
        """Return the run of seals that begins at a slot, and the slot after it; None if there is no good seal.

        About 4 µs for each seal.

        Parameters
        ----------
        slot : int
        until : int
            Number, in the chunk, that the events of the run do not go beyond, if it is not of one seal.
        in_place : bool, optional
            Whether all slots of a good seal must be such that halving finds it.
        """
        content, view, key = self._content, memoryview(self._content), self._key
        firsts: list[int] = []
        counts: list[int] = []
        while slot < len(self._firsts) and not self._places[slot]:
            at = slot * CONTENT
            if (parts := parts_at(content, at)) is None:
                break
            own, count, places, widths, starts, totals, descriptor_start, seal_time = parts
            data_sums = places[2] + 8 * -(-totals[0] // BLOCK)
            end = data_sums + 8 * -(-totals[1] // BLOCK)
            first = self._firsts[slot]
            if end > len(content):
                break
            if not firsts:
                begin = stop = first
                descriptor_begin = descriptor_start
                metadata, data = map(_RunStreamMaker, starts)
            elif (
                first != stop
                or starts != (metadata.stop, data.stop)
                or descriptor_start != descriptor_begin + (stop - begin) * layout.DESCRIPTOR_SIZE
                or stop + count > min(until, begin + _MOST_EVENTS)
                or metadata.stop + totals[0] - metadata.start > _MOST_BYTES
                or data.stop + totals[1] - data.start > _MOST_BYTES
            ):
                break
            if xxh3_64_intdigest(view[at + 8 : end], key ^ first) != own:
                break
            after = slot - (at - end) // CONTENT
            if in_place and not self._in_place(slot, after, first):
                break
            before = stop - begin
            sums = content[places[2] : data_sums], content[data_sums:end]
            metadata.add(content, places[0], widths[0], before, count, totals[0], sums[0])
            data.add(content, places[1], widths[1], before, count, totals[1], sums[1])
            firsts.append(first)
            counts.append(count)
            stop = first + count
            time = seal_time
            slot = after
        if not firsts:
            return None
        each = np.array(counts, np.int64)
        return (
            SealRun(
                np.array([*firsts, stop], np.int64),
                descriptor_begin,
                time,
                metadata.made(content, each),
                data.made(content, each),
            ),
            slot,
        )

    def _in_place(self, slot: int, after: int, first: int) -> bool:
        return all(
            self._firsts[number] == first and self._places[number] == number - slot
            for number in range(slot, after)
        )
