"""Runs of seals: many small ones, as commits of an event or a few leave them, taken as one.

A run is of seals whose events, and all that these have in the files, follow each other. No object is made for any one
of them, and their events are read and verified together.

Invariants: each seal of a run has been verified, as `seals.unpack` does it; a run of several seals is of `_MOST_EVENTS`
events and `_MOST_BYTES` of their metadata, and of their data, at most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.seals import BLOCK, CONTENT, SLOT, SLOT_DTYPE, parts_at
from mochi.mofka.chunks.pieces import Numbers

_MOST_EVENTS = 1 << 13
_MOST_BYTES = 1 << 20


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

    def around(self, starts: Numbers, stops: Numbers) -> tuple[Numbers, Numbers]:
        """Return where the first block of each part begins, and the last one ends; no part is empty."""
        ends = self.ends.astype(np.int64)
        edges = np.concatenate((self.bounds[:1].astype(np.int64), ends))
        return edges[ends.searchsorted(starts, "right")], ends[ends.searchsorted(stops, "left")]

    def blocks(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Give begin, end and checksum of each block that has any of the bytes from `start` to `stop`."""
        if start == stop:
            return []
        low = int(self.ends.searchsorted(np.uint64(start), "right"))
        high = int(self.ends.searchsorted(np.uint64(stop), "left")) + 1
        ends = self.ends[low:high].tolist()
        begin = int(self.ends[low - 1]) if low else int(self.bounds[0])
        return list(zip([begin, *ends[:-1]], ends, self.sums[low:high].tolist(), strict=True))


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


class _Stream:
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
        """Give what has been added."""
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
        """Give the run of seals that begins at a slot, and the slot after it; None if there is no good seal.

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
                metadata, data = map(_Stream, starts)
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
