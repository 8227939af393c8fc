"""Finding the seal of an event in a chunk's file of seals.

Small seals that follow each other are read and verified together, once events are asked for in order.

Invariants: nothing is held for each event but in the few runs of seals used last, of `_MAX_HELD` events together; a
seal that is not good is none, and its events are taken to be unsealed.
"""

import os
from collections import deque
from threading import Lock

import numpy as np

from mochi.disk.fd_cache import FdCache
from mochi.mofka.chunks.format import layout, seals
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import SLOT, SealRun, Slots

_AROUND = SLOT * 64
_AHEAD = 1 << 17
_MAX_HELD = 1 << 19
_MAX_RUNS = 64


class SealFinder:
    """Finds seals; for any number of threads, one at a time."""

    def __init__(self, cache: FdCache, directory: str, owner: bytes) -> None:
        self._cache = cache
        self._directory = directory
        self._owner = owner
        self._lock = Lock()
        self._held: deque[tuple[int, SealRun, int]] = deque()
        self._events = 0
        self._ahead: tuple[int, int, Slots] = (-1, 0, Slots(memoryview(b""), 0))

    def key(self, chunk: int) -> int:
        """Give the key of a chunk's checksums."""
        return seals.key_of(self._owner, chunk)

    def find(self, chunk: Chunk, number: int) -> tuple[SealRun | None, int]:
        """Give seals that the event `number` of a chunk is among, if it has one, and up to which event that holds.

        About 1 µs for a run used last, 4 µs for each seal of the one that follows it, and a small read for each
        halving of the chunk's seals else.
        """
        with self._lock:
            for held_chunk, run, stop in self._held:
                if held_chunk == chunk.number and run.first <= number < run.end:
                    return run, run.end
                if held_chunk == chunk.number and run.end == number and stop < chunk.seals_end:
                    found = self._load(chunk, stop, _AHEAD, chunk.count)
                    if found is not None and found.first == number:
                        return found, found.end
                    break
            return self._search(chunk, number)

    def _search(self, chunk: Chunk, number: int) -> tuple[SealRun | None, int]:
        low, high = 0, chunk.seals_end // SLOT
        end = chunk.count
        place = 0
        while low < high:
            middle = (low + high) // 2
            slot_first, slot_place = seals.slot_of(self._read(chunk, middle * SLOT, SLOT))
            if slot_first <= number:
                low, place = middle + 1, slot_place
            else:
                high, end = middle, slot_first
        start = (low - 1 - place) * SLOT
        if low and start >= 0:
            found = self._load(chunk, start, _AROUND, number + 1)
            if found is not None and found.first <= number < found.end:
                return found, found.end
        return None, max(min(end, chunk.count), number + 1)

    def _load(self, chunk: Chunk, start: int, size: int, until: int) -> SealRun | None:
        """Read the seals from `start` on, in `size` bytes and of events up to `until`, but at least one."""
        number, begin, slots = self._ahead
        found = None
        if number == chunk.number and begin <= start < begin + len(slots) * SLOT:
            found = slots.run((start - begin) // SLOT, until)
        while found is None:
            size = min(size, chunk.seals_end - start)
            begin, slots = start, Slots(self._read(chunk, start, size), self.key(chunk.number))
            found = slots.run(0, until)
            if found is None and size == chunk.seals_end - start:
                return None
            size *= 8
        self._ahead = (chunk.number, begin, slots)
        run, slot = found
        self._held.appendleft((chunk.number, run, begin + slot * SLOT))
        self._events += run.count
        while len(self._held) > 1 and (len(self._held) > _MAX_RUNS or self._events > _MAX_HELD):
            self._events -= self._held.pop()[1].count
        return run

    def _read(self, chunk: Chunk, start: int, size: int) -> memoryview:
        content = np.empty(size, np.uint8).data
        path = os.path.join(self._directory, layout.file_name(chunk.number, layout.SEALS))
        with self._cache.open(path) as file:
            file.read(content, start)
        return content
