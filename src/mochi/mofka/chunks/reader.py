"""Reading events back: runs of them in order, and chosen pieces of their data.

Any threads may read at the same time as one appends. They see the events that were published before they
asked.

Invariants: nothing is read that an index record does not cover; no record is believed that reaches beyond its
chunk; touching pieces are read in one call; what is asked for outside the partition is refused, never read.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.catalog import Catalog, Chunk
from mochi.mofka.chunks.errors import CorruptPartition, OutOfRange
from mochi.mofka.chunks.fd_cache import FdCache

_MAX_EVENTS_PER_RANGE = 16384

Allocate = Callable[[int], memoryview]
"""Gives writable memory of the number of bytes asked for."""

DataRequest = tuple[int, Sequence[tuple[int, int]]]
"""An event's id, and the (offset, length) of the pieces wanted of its data."""


def fresh_memory(size: int) -> memoryview:
    """Give fresh memory, not set to anything."""
    return np.empty(size, np.uint8).data


@dataclass(frozen=True, slots=True, eq=False)
class EventRange:
    """Consecutive events.

    Attributes
    ----------
    first : int
        Id of the first event.
    metadata_sizes, data_sizes : uint32 array, shape (count,)
        Bytes of each event's metadata and data.
    metadata : memoryview
        The events' metadata, back to back.
    data : memoryview or None
        The events' data, back to back; None if it was not asked for.
    """

    first: int
    metadata_sizes: NDArray[np.uint32]
    metadata: memoryview
    data_sizes: NDArray[np.uint32]
    data: memoryview | None

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.metadata_sizes)


class ChunkReader:
    """The reading side of a partition, for any number of threads."""

    def __init__(self, cache: FdCache, directory: str, catalog: Catalog) -> None:
        self._cache = cache
        self._directory = directory
        self._catalog = catalog

    def read_range(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        *,
        with_data: bool,
        allocate_metadata: Allocate = fresh_memory,
        allocate_data: Allocate = fresh_memory,
    ) -> EventRange:
        """Read events from `first` on, up to a limit; see `ChunkStore.read_range`."""
        event_count = self._catalog.event_count
        if not 0 <= first < event_count:
            raise self._out_of_range(f"event {first} of a partition of {event_count} events")
        chunk = self._catalog.find(first)
        wanted = min(max_events, min(chunk.end_id, event_count) - first, _MAX_EVENTS_PER_RANGE)
        records = self._records(chunk, first, max(wanted, 1))
        sizes = records["metadata_size"].astype(np.uint64)
        if with_data:
            sizes += records["data_size"]
        records = records[: max(1, int(np.searchsorted(sizes.cumsum(), max_bytes, "right")))]
        metadata = self._content(
            chunk, layout.META, records["metadata_offset"], records["metadata_size"], allocate_metadata
        )
        data = None
        if with_data:
            data = self._content(
                chunk, layout.DATA, records["data_offset"], records["data_size"], allocate_data
            )
        return EventRange(first, records["metadata_size"].copy(), metadata, records["data_size"].copy(), data)

    def read_data(
        self, requests: Sequence[DataRequest], allocate_data: Allocate = fresh_memory
    ) -> list[memoryview]:
        """Read pieces of the data of events; see `ChunkStore.read_data`."""
        runs: list[tuple[int, int, int]] = []
        lengths = []
        located = self._locate([event_id for event_id, _ in requests])
        for (event_id, pieces), (chunk, start, size) in zip(requests, located, strict=True):
            for offset, length in pieces:
                if offset < 0 or length < 0 or offset + length > size:
                    raise self._out_of_range(
                        f"bytes {offset} to {offset + length} of event {event_id}, which has {size} of data"
                    )
                if runs and runs[-1][0] == chunk and runs[-1][1] + runs[-1][2] == start + offset:
                    runs[-1] = (chunk, runs[-1][1], runs[-1][2] + length)
                else:
                    runs.append((chunk, start + offset, length))
            lengths.append(sum(length for _, length in pieces))
        content = allocate_data(sum(lengths)).cast("B")
        position = 0
        for chunk, offset, length in runs:
            self._read(chunk, layout.DATA, offset, content[position : position + length])
            position += length
        ends = np.cumsum(lengths, dtype=np.int64).tolist()
        return [content[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def _locate(self, event_ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Give chunk, offset and size of each event's data; one read for each run of consecutive ids."""
        event_count = self._catalog.event_count
        position = 0
        while position < len(event_ids):
            first = event_ids[position]
            if not 0 <= first < event_count:
                raise self._out_of_range(f"event {first} of a partition of {event_count} events")
            chunk = self._catalog.find(first)
            most = min(min(chunk.end_id, event_count) - first, len(event_ids) - position)
            count = next((n for n in range(1, most) if event_ids[position + n] != first + n), most)
            records = self._records(chunk, first, count)
            offsets, sizes = records["data_offset"].tolist(), records["data_size"].tolist()
            yield from ((chunk.number, offset, size) for offset, size in zip(offsets, sizes, strict=True))
            position += count

    def _records(self, chunk: Chunk, first: int, count: int) -> NDArray[np.void]:
        """Read the index records of events of one chunk, and see that they stay within it."""
        content = fresh_memory(count * layout.INDEX_SIZE)
        start = (first - chunk.first_id) * layout.INDEX_SIZE
        self._read(chunk.number, layout.IDX, start, content)
        records = np.frombuffer(content, layout.INDEX_DTYPE)
        sound = layout.within(records, chunk.metadata_end, chunk.data_end, chunk.descriptor_end)
        if not sound.all():
            path = self._path(chunk.number, layout.IDX)
            raise CorruptPartition(
                f"{path}: the record of event {first + int(sound.argmin())} refers to bytes "
                "that the chunk does not have",
                path=path,
                operation="read",
            )
        return records

    def _content(
        self,
        chunk: Chunk,
        kind: str,
        offsets: NDArray[np.uint64],
        sizes: NDArray[np.uint32],
        allocate: Allocate,
    ) -> memoryview:
        """Read pieces of a file, back to back; one read if they touch."""
        ends = offsets + sizes
        content = allocate(int(sizes.sum(dtype=np.uint64))).cast("B")
        breaks = np.flatnonzero(offsets[1:] != ends[:-1]) + 1
        position = 0
        for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
            length = int(ends[end - 1] - offsets[first])
            self._read(chunk.number, kind, int(offsets[first]), content[position : position + length])
            position += length
        return content

    def _read(self, chunk: int, kind: str, offset: int, target: memoryview) -> None:
        if target:
            with self._cache.open(self._path(chunk, kind)) as file:
                file.read(target, offset)

    def _path(self, chunk: int, kind: str) -> str:
        return os.path.join(self._directory, layout.file_name(chunk, kind))

    def _out_of_range(self, what: str) -> OutOfRange:
        return OutOfRange(f"cannot read {what}, in {self._directory}", path=self._directory, operation="read")
