"""Where events lie in the files of their chunk: by the seals that tell of them, else by the index.

What has a seal is found by it; what has none, as the original's events, by its index record. Small seals that follow
each other are read and verified together, once events are asked for in order.

Invariants:
1. No record is believed that reaches beyond its chunk.
2. A seal that is not good is none, and its events are taken to be unsealed.
3. Nothing is held for each event but in the few runs of seals used last, of `_MAX_HELD` events together.
"""

import errno
import os
from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mochi.disk import FdCache, FileLayer
from mochi.mofka.chunks.catalog import Catalog
from mochi.mofka.chunks.errors import DamagedEvents, ExpiredEvents, OutOfRange, StorageError
from mochi.mofka.chunks.events import fresh_memory
from mochi.mofka.chunks.format import layout, seals
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import SLOT, SealRun, Slots

_AROUND = SLOT * 64
_AHEAD = 1 << 17
_MAX_HELD = 1 << 19
_MAX_RUNS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the metadata, or the data, of consecutive events lies."""

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint32]

    def cut(self, count: int) -> "Places":
        return Places(self.offsets[:count], self.sizes[:count])


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Consecutive events of one chunk, of one run of seals or of none."""

    chunk: Chunk
    sealed: SealRun | None
    first: int
    metadata: Places
    data: Places

    @property
    def count(self) -> int:
        return len(self.metadata.sizes)

    def cut(self, count: int) -> "Span":
        return Span(self.chunk, self.sealed, self.first, self.metadata.cut(count), self.data.cut(count))

    def stream(self, kind: str) -> Places:
        return self.metadata if kind == layout.META else self.data


class Spans:
    """Finds the events of a partition, for any number of threads, and reads bytes of its files."""

    def __init__(
        self, files: FileLayer, cache: FdCache, directory: str, catalog: Catalog, owner: bytes
    ) -> None:
        self._files = files
        self._cache = cache
        self._directory = directory
        self._catalog = catalog
        self._owner = owner
        self._seals = SealFinder(cache, directory, owner)

    def key(self, chunk: Chunk) -> int:
        """Return the key of a chunk's checksums."""
        return seals.key_of(self._owner, chunk.number)

    def chunk_of(self, event_id: int) -> tuple[Chunk, int]:
        """Return the chunk of an event, and how many events there are in it from that one on."""
        event_count = self.check_id(event_id)
        chunk = self._catalog.find(event_id)
        return chunk, min(chunk.end_id, event_count) - event_id

    def check_id(self, event_id: int) -> int:
        """Check that there is such an event; return the number of all."""
        event_count = self._catalog.event_count
        if not 0 <= event_id < event_count:
            raise self.out_of_range(f"event {event_id} of a partition of {event_count} events")
        return event_count

    def find(self, chunk: Chunk, first: int, most: int) -> Span:
        """Find events of one chunk, from `first` on: at least one, and not always as many as there are."""
        number = first - chunk.first_id
        sealed, end = self._sealed(chunk, number)
        count = min(most, end - number)
        if sealed is None:
            records = self._records(chunk, first, count)
            return Span(
                chunk,
                None,
                first,
                Places(records["metadata_offset"], records["metadata_size"].copy()),
                Places(records["data_offset"], records["data_size"].copy()),
            )
        within = slice(number - sealed.first, number - sealed.first + count + 1)
        metadata, data = (
            Places(bounds[:-1], np.diff(bounds).astype(np.uint32))
            for bounds in (sealed.metadata.bounds[within], sealed.data.bounds[within])
        )
        return Span(chunk, sealed, first, metadata, data)

    def _sealed(self, chunk: Chunk, number: int) -> tuple[SealRun | None, int]:
        try:
            return self._seals.find(chunk, number)
        except StorageError:
            if self.has(chunk, layout.SEALS, chunk.seals_end):
                raise
            return None, chunk.count

    def _records(self, chunk: Chunk, first: int, count: int) -> NDArray[np.void]:
        """Read the index records of events of one chunk, and see that they stay within it."""
        content = fresh_memory(count * layout.INDEX_SIZE)
        start = (first - chunk.first_id) * layout.INDEX_SIZE
        try:
            self.read(chunk, layout.IDX, start, content)
        except StorageError as error:
            if self.has(chunk, layout.IDX, start + len(content)):
                raise
            raise self.damaged(chunk, layout.IDX, first, count, "are not in it") from error
        records = np.frombuffer(content, layout.INDEX_DTYPE)
        sound = layout.within(records, chunk.metadata_end, chunk.data_end, chunk.descriptor_end)
        if not sound.all():
            at = int(sound.argmin())
            if at:
                return records[:at]
            bad = int(sound.argmax()) or count
            raise self.damaged(chunk, layout.IDX, first, bad, "refer to bytes that the chunk does not have")
        return records

    def read(self, chunk: Chunk, kind: str, offset: int, target: memoryview) -> None:
        if target:
            with self._cache.open(self._path(chunk.number, kind)) as file:
                file.read(target, offset)

    def has(self, chunk: Chunk, kind: str, size: int) -> bool:
        return self.size(chunk, kind) >= size

    def size(self, chunk: Chunk, kind: str) -> int:
        """Return the size of a file, 0 if it is missing."""
        try:
            return self._files.size(self._path(chunk.number, kind))
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise

    def damaged(self, chunk: Chunk, kind: str, first: int, count: int, problem: str) -> StorageError:
        """Return the error for events that are not as they should be: they may have been dropped meanwhile."""
        if first < self._catalog.first_id:
            return ExpiredEvents(first, self._catalog.first_id)
        path = self._path(chunk.number, kind)
        return DamagedEvents(
            f"{path}: events {first} to {first + count - 1}, of chunk {chunk.number}, {problem}",
            path=path,
            first=first,
            count=count,
        )

    def out_of_range(self, what: str) -> OutOfRange:
        return OutOfRange(f"cannot read {what}, in {self._directory}", path=self._directory, operation="read")

    def _path(self, chunk: int, kind: str) -> str:
        return os.path.join(self._directory, layout.file_name(chunk, kind))


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

    def find(self, chunk: Chunk, number: int) -> tuple[SealRun | None, int]:
        """Return seals that the event `number` of a chunk is among, if it has one, and up to which event that holds.

        About 1 µs for a run used last, and 4 µs for each seal of the one that follows it. Else there is a small read
        for each halving of the chunk's seals.
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
            begin, slots = (
                start,
                Slots(self._read(chunk, start, size), seals.key_of(self._owner, chunk.number)),
            )
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
        content = fresh_memory(size)
        path = os.path.join(self._directory, layout.file_name(chunk.number, layout.SEALS))
        with self._cache.open(path) as file:
            file.read(content, start)
        return content
