"""Seals: for each part of a commit, where it is in its chunk, the sizes of its events, and checksums of its bytes.

A chunk's seals lie back to back in a file beside it, `mofka-<chunk>.seals`. A seal takes whole slots of 64 bytes,
and each slot begins with the number, in the chunk, of the seal's first event, and the slot's place in the seal:
so the seal of an event is found by halving, without anything in memory. With the sizes an index that was lost
can be made again. Checksums of metadata and data are of blocks of 64 KiB, counted from where the part begins, so
a small view is verified by reading little more than itself. Events without a seal (the original writes none)
cannot be verified.

Invariants: a seal's own checksum covers all of it, and is seeded with the partition's uuid and the chunk's
number, so that files of another partition, or of another chunk, are not taken for this one's; seals are in the
order of their events. All integers are little-endian; checksums are XXH3 of 64 bits.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from mochi.disk.contract import Buffer

BLOCK = 1 << 16
SLOT = 64
CONTENT = SLOT - 8
"""Bytes of a slot that are the seal's own."""
SLOT_DTYPE = np.dtype([("first", "<u4"), ("place", "<u4"), ("content", f"V{CONTENT}")])
_PLACE = struct.Struct("<II")
_HEADER = struct.Struct("<QIBB2xQQQQ")
_WIDTHS = (0, 1, 2, 4)
_FEW = 16

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
        """Give where each event begins, and the last one ends; shape (count + 1,)."""
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

    def pack(self, key: int) -> bytes:
        """Give its slots, under the key of its chunk. About 12 µs."""
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
    """Give the key of a chunk's seals, from the uuid of the partition."""
    return xxh3_64_intdigest(owner + chunk.to_bytes(8, "little"))


def sums_of(buffers: Iterable[Buffer], key: int) -> NDArray[np.uint64]:
    """Give the checksum of each block of the content of buffers. About 6 µs a block."""
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
    """Give how many bytes the seal has whose first slot this is, if it is one; 0 if it is the slot of no beginning."""
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
    """Give the seals that lie back to back in `content`, up to the first that is not good, and the end of each."""
    position = 0
    while found := unpack(content[position:], key):
        seal, size = found
        position += size
        yield seal, position


def void_slots(first: int, size: int) -> bytes:
    """Give so many bytes of slots for the events from `first` on, of no good seal, but such that halving works."""
    slots = np.zeros(size // SLOT, SLOT_DTYPE)
    slots["first"] = first
    slots["place"] = range(len(slots))
    return slots.tobytes()


def slot_of(slot: memoryview) -> tuple[int, int]:
    """Give, of the seal that a slot belongs to, the number of the first event, and the slot's place in it."""
    first, place = _PLACE.unpack_from(slot)
    return first, place


def _slots(content: int) -> int:
    return -(-content // CONTENT) * SLOT


def _packed(width: int, count: int) -> int:
    """Give the bytes of packed sizes: one number if they are all the same, or one each of the width they need."""
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
