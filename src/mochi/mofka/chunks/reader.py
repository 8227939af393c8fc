"""Reading events back: runs of them in order, and chosen pieces of their data.

Any threads may read at the same time as one appends. They see the events that were published before they
asked.

What has a seal is found by it, and verified block by block as it is read: metadata and data that are given out are
those that were written, or `DamagedEvents` tells which are not. What has none, as the original's events, is found
by the index, and served as it is.

Invariants: nothing is read that a seal or an index record does not cover; no record is believed that reaches
beyond its chunk; pieces in blocks that touch are read in one call; what is asked for outside the partition is
refused, never read.
"""

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.disk.contract import FileLayer
from mochi.disk.fd_cache import FdCache
from mochi.mofka.chunks.catalog import Catalog
from mochi.mofka.chunks.errors import DamagedEvents, ExpiredEvents, OutOfRange, StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import BLOCK, RunStream, SealRun
from mochi.mofka.chunks.pieces import DataRequest, Numbers, Pieces, gathered, rearranged, touch
from mochi.mofka.chunks.seal_finder import SealFinder

_MAX_EVENTS_PER_RANGE = 16384
_MOST_DAMAGED = 256
_MAX_SCRATCH = 4 << 20

Allocate = Callable[[int], memoryview]
"""Gives writable memory of the number of bytes asked for."""


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


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """Where the metadata, or the data, of consecutive events lies."""

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint32]

    def cut(self, count: int) -> "_Stream":
        return _Stream(self.offsets[:count], self.sizes[:count])


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """Consecutive events of one chunk, of one run of seals or of none."""

    chunk: Chunk
    sealed: SealRun | None
    first: int
    metadata: _Stream
    data: _Stream

    @property
    def count(self) -> int:
        return len(self.metadata.sizes)

    def cut(self, count: int) -> "_Span":
        return _Span(self.chunk, self.sealed, self.first, self.metadata.cut(count), self.data.cut(count))

    def stream(self, kind: str) -> _Stream:
        return self.metadata if kind == layout.META else self.data


class ChunkReader:
    """The reading side of a partition, for any number of threads."""

    def __init__(
        self, files: FileLayer, cache: FdCache, directory: str, catalog: Catalog, owner: bytes
    ) -> None:
        self._files = files
        self._cache = cache
        self._directory = directory
        self._catalog = catalog
        self._finder = SealFinder(cache, directory, owner)

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
        """Read events from `first` on, up to a limit; see `PartitionDirectory.read_range`.

        Damage is told with what is damaged behind it without a gap: who reads on need not ask for each event.
        """
        try:
            return self._read_sound(first, max_events, max_bytes, with_data, allocate_metadata, allocate_data)
        except DamagedEvents as damaged:
            end = damaged.first + damaged.count
            most = min(end + _MOST_DAMAGED, self._catalog.event_count)
            while end < most:
                try:
                    self._read_sound(end, 1, 1, with_data, fresh_memory, fresh_memory)
                except DamagedEvents as behind:
                    end = behind.first + behind.count
                else:
                    break
            count = end - damaged.first
            if count == damaged.count:
                raise
            problem = f"{damaged}; all up to event {end - 1} are damaged"
            raise DamagedEvents(problem, path=damaged.path, first=damaged.first, count=count) from damaged

    def _read_sound(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        allocate_metadata: Allocate,
        allocate_data: Allocate,
    ) -> EventRange:
        """Read events up to a limit, or up to the first that is damaged."""
        chunk, most = self._chunk_of(first)
        wanted = max(1, min(max_events, most, _MAX_EVENTS_PER_RANGE))
        spans: list[_Span] = []
        room = max_bytes
        position = first
        while wanted > 0 and (room > 0 or not spans):
            try:
                span = self._span(chunk, position, wanted)
            except DamagedEvents:
                if spans:
                    break
                raise
            sizes = span.metadata.sizes.astype(np.uint64)
            if with_data:
                sizes += span.data.sizes
            taken = sizes.cumsum()
            fitting = int(np.searchsorted(taken, room, "right"))
            if fitting < span.count:
                if fitting or not spans:
                    spans.append(span.cut(max(1, fitting)))
                break
            spans.append(span)
            wanted -= span.count
            position += span.count
            room -= int(taken[-1])
        try:
            metadata = self._content(spans, layout.META, allocate_metadata)
            data = self._content(spans, layout.DATA, allocate_data) if with_data else None
        except DamagedEvents as damaged:
            if not first < damaged.first < first + sum(span.count for span in spans):
                raise
            return self._read_sound(
                first, damaged.first - first, max_bytes, with_data, allocate_metadata, allocate_data
            )
        return EventRange(
            first,
            np.concatenate([span.metadata.sizes for span in spans]),
            metadata,
            np.concatenate([span.data.sizes for span in spans]),
            data,
        )

    def read_data(
        self, requests: Sequence[DataRequest], allocate_data: Allocate = fresh_memory
    ) -> list[memoryview]:
        """Read pieces of the data of events; see `PartitionDirectory.read_data`."""
        for event_id, _ in requests:
            self._check_id(event_id)
        pieces = Pieces.of(requests)
        order = pieces.order()
        if order is None:
            content = self.read_pieces(pieces, allocate_data)
        else:
            content = allocate_data(pieces.size).cast("B")
            content[:] = rearranged(self.read_pieces(pieces.at(order)), pieces, order)
        ends = np.cumsum([sum(length for _, length in each) for _, each in requests], dtype=np.int64).tolist()
        return [content[start:end] for start, end in itertools.pairwise([0, *ends])]

    def read_pieces(self, pieces: Pieces, allocate_data: Allocate = fresh_memory) -> memoryview:
        """Read pieces, in ascending order, back to back; see `PartitionDirectory.read_pieces`."""
        located = list(self._located(pieces))
        content = allocate_data(pieces.size).cast("B")
        position = 0
        for span, starts, lengths in located:
            size = int(lengths.sum())
            self._read_parts(span, starts, lengths, content[position : position + size])
            position += size
        return content

    def _located(self, pieces: Pieces) -> Iterator[tuple[_Span, Numbers, Numbers]]:
        """Find pieces in files: for each span in turn, where its pieces begin, and their lengths."""
        events = pieces.events
        at = 0
        while at < len(events):
            first = int(events[at])
            chunk, most = self._chunk_of(first)
            end = first + min(most, _MAX_EVENTS_PER_RANGE)
            last = int(events[np.searchsorted(events, end) - 1])
            span = self._span(chunk, first, last - first + 1)
            until = int(np.searchsorted(events, first + span.count))
            here = pieces.at(slice(at, until))
            index = here.events - first
            sizes = span.data.sizes[index]
            if (bad := here.beyond(sizes)) is not None:
                raise self._out_of_range(here.text(bad, int(sizes[bad])))
            yield span, span.data.offsets[index].astype(np.int64) + here.offsets, here.lengths
            at = until

    def _read_parts(self, span: _Span, starts: Numbers, lengths: Numbers, target: memoryview) -> None:
        """Read parts of the data of a span: those whose blocks touch, or that nearly touch, by one read."""
        wanted = lengths > 0
        starts, lengths = starts[wanted], lengths[wanted]
        stops = starts + lengths
        sealed = span.sealed
        blocks: dict[tuple[int, int], memoryview] = {}
        if sealed is None:
            begins, ends, gap = starts, stops, BLOCK
        else:
            (begins, ends), gap = sealed.data.around(starts, stops), 0
        reach = np.maximum.accumulate(ends)
        apart = np.flatnonzero((begins[1:] > reach[:-1] + gap) | (starts[1:] < starts[:-1])) + 1
        at = position = 0
        for until in [*apart.tolist(), len(starts)]:
            while at < until:
                low = int(begins[at])
                there = at + int(np.searchsorted(reach[at:until], low + _MAX_SCRATCH, "right"))
                end = max(there, at + 1)
                part, sizes = starts[at:end], lengths[at:end]
                size = int(sizes.sum())
                into = target[position : position + size]
                if touch(part, sizes):
                    self._read_run(span, int(part[0]), into, blocks)
                else:
                    content = fresh_memory(int(ends[at:end].max()) - low)
                    self._read_run(span, low, content, blocks)
                    into[:] = gathered(content, part - low, sizes)
                position += size
                at = end

    def _read_run(
        self, span: _Span, start: int, target: memoryview, blocks: dict[tuple[int, int], memoryview]
    ) -> None:
        if span.sealed is None:
            self._read_span(span, layout.DATA, start, target)
        else:
            self._read_sealed(span, span.sealed, layout.DATA, start, target, blocks)

    def _chunk_of(self, event_id: int) -> tuple[Chunk, int]:
        """Give the chunk of an event, and how many events there are in it from that one on."""
        event_count = self._check_id(event_id)
        chunk = self._catalog.find(event_id)
        return chunk, min(chunk.end_id, event_count) - event_id

    def _check_id(self, event_id: int) -> int:
        """Check that there is such an event; return the number of all."""
        event_count = self._catalog.event_count
        if not 0 <= event_id < event_count:
            raise self._out_of_range(f"event {event_id} of a partition of {event_count} events")
        return event_count

    def _span(self, chunk: Chunk, first: int, most: int) -> _Span:
        """Find events of one chunk, from `first` on: at least one, and not always as many as there are."""
        number = first - chunk.first_id
        sealed, end = self._sealed(chunk, number)
        count = min(most, end - number)
        if sealed is None:
            records = self._records(chunk, first, count)
            return _Span(
                chunk,
                None,
                first,
                _Stream(records["metadata_offset"], records["metadata_size"].copy()),
                _Stream(records["data_offset"], records["data_size"].copy()),
            )
        within = slice(number - sealed.first, number - sealed.first + count + 1)
        metadata, data = (
            _Stream(bounds[:-1], np.diff(bounds).astype(np.uint32))
            for bounds in (sealed.metadata.bounds[within], sealed.data.bounds[within])
        )
        return _Span(chunk, sealed, first, metadata, data)

    def _sealed(self, chunk: Chunk, number: int) -> tuple[SealRun | None, int]:
        try:
            return self._finder.find(chunk, number)
        except StorageError:
            if self._has(chunk, layout.SEALS, chunk.seals_end):
                raise
            return None, chunk.count

    def _records(self, chunk: Chunk, first: int, count: int) -> NDArray[np.void]:
        """Read the index records of events of one chunk, and see that they stay within it."""
        content = fresh_memory(count * layout.INDEX_SIZE)
        start = (first - chunk.first_id) * layout.INDEX_SIZE
        try:
            self._read(chunk, layout.IDX, start, content)
        except StorageError as error:
            if self._has(chunk, layout.IDX, start + len(content)):
                raise
            raise self._damaged(chunk, layout.IDX, first, count, "are not in it") from error
        records = np.frombuffer(content, layout.INDEX_DTYPE)
        sound = layout.within(records, chunk.metadata_end, chunk.data_end, chunk.descriptor_end)
        if not sound.all():
            at = int(sound.argmin())
            if at:
                return records[:at]
            bad = int(sound.argmax()) or count
            raise self._damaged(chunk, layout.IDX, first, bad, "refer to bytes that the chunk does not have")
        return records

    def _content(self, spans: Sequence[_Span], kind: str, allocate: Allocate) -> memoryview:
        """Read the metadata or data of events, back to back; one read for each run of bytes that touch."""
        sizes = [int(span.stream(kind).sizes.sum(dtype=np.uint64)) for span in spans]
        content = allocate(sum(sizes)).cast("B")
        position = there = 0
        blocks: dict[tuple[int, int], memoryview] = {}
        for number, (span, size) in enumerate(zip(spans, sizes, strict=True)):
            target = content[position : position + size]
            stream = span.stream(kind)
            if span.sealed is not None:
                start = int(stream.offsets[0])
                if size and position >= there:
                    there = position + self._read_ahead(
                        spans[number:], sizes[number:], kind, start, content[position:]
                    )
                self._read_sealed(
                    span, span.sealed, kind, start, target, blocks, there=position + size <= there
                )
            else:
                ends = stream.offsets + stream.sizes
                breaks = [0, *(np.flatnonzero(stream.offsets[1:] != ends[:-1]) + 1).tolist(), span.count]
                at = 0
                for first, end in itertools.pairwise(breaks):
                    length = int(ends[end - 1] - stream.offsets[first])
                    self._read_span(span, kind, int(stream.offsets[first]), target[at : at + length])
                    at += length
            position += size
        return content

    def _read_ahead(
        self, spans: Sequence[_Span], sizes: Sequence[int], kind: str, start: int, target: memoryview
    ) -> int:
        """Read the bytes of several sealed spans that touch at once; 0 if there is one alone, or not all is there."""
        end, count = start, 0
        for span, size in zip(spans, sizes, strict=True):
            if span.sealed is None or int(span.stream(kind).offsets[0]) != end:
                break
            end, count = end + size, count + 1
        if count < 2:
            return 0
        try:
            self._read(spans[0].chunk, kind, start, target[: end - start])
        except StorageError:
            return 0  # the spans are tried one by one, to tell which are lost
        return end - start

    def _read_sealed(
        self,
        span: _Span,
        sealed: SealRun,
        kind: str,
        start: int,
        target: memoryview,
        blocks: dict[tuple[int, int], memoryview],
        *,
        there: bool = False,
    ) -> None:
        """Read bytes of sealed events, unless they are `there`, and verify each block that they touch.

        Blocks that are not wanted whole are read whole; `blocks` holds the last of them, for the next piece.
        """
        if not target:
            return
        key = self._finder.key(span.chunk.number)
        stop = start + len(target)
        touched = _stream(sealed, kind).blocks(start, stop)
        if not there and any(start <= begin and end <= stop for begin, end, _ in touched):
            self._read_span(span, kind, start, target)
        for begin, end, expected in touched:
            if start <= begin and end <= stop:
                if xxh3_64_intdigest(target[begin - start : end - start], key) != expected:
                    raise self._unlike(span, sealed, kind, begin, end)
                continue
            content = blocks.get((span.chunk.number, begin))
            if content is None:
                content = fresh_memory(end - begin)
                self._read_span(span, kind, begin, content)
                if xxh3_64_intdigest(content, key) != expected:
                    raise self._unlike(span, sealed, kind, begin, end)
                blocks.clear()
                blocks[span.chunk.number, begin] = content
            low, high = max(begin, start), min(end, stop)
            target[low - start : high - start] = content[low - begin : high - begin]

    def _unlike(self, span: _Span, sealed: SealRun, kind: str, begin: int, end: int) -> StorageError:
        """Give the error for a block that is not what was written."""
        first, count = _overlapping(span.chunk, sealed, kind, begin, end)
        return self._damaged(
            span.chunk, kind, first, count, f"do not match their checksum (bytes {begin} to {end})"
        )

    def _read_span(self, span: _Span, kind: str, start: int, target: memoryview) -> None:
        """Read bytes of a span's events; if the file does not have them, tell which events are lost."""
        try:
            self._read(span.chunk, kind, start, target)
        except StorageError as error:
            if self._has(span.chunk, kind, start + len(target)):
                raise
            first, count = span.first, span.count
            if span.sealed is not None:
                lost = _lost(span.sealed, kind, start, start + len(target), self._size(span.chunk, kind))
                first, count = _overlapping(span.chunk, span.sealed, kind, *lost)
            raise self._damaged(span.chunk, kind, first, count, "are not in it") from error

    def _read(self, chunk: Chunk, kind: str, offset: int, target: memoryview) -> None:
        if target:
            with self._cache.open(self._path(chunk.number, kind)) as file:
                file.read(target, offset)

    def _has(self, chunk: Chunk, kind: str, size: int) -> bool:
        return self._size(chunk, kind) >= size

    def _size(self, chunk: Chunk, kind: str) -> int:
        """Give the size of a file, 0 if it is missing."""
        try:
            return self._files.size(self._path(chunk.number, kind))
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise

    def _damaged(self, chunk: Chunk, kind: str, first: int, count: int, problem: str) -> StorageError:
        """Give the error for events that are not as they should be: they may have been dropped meanwhile."""
        if first < self._catalog.first_id:
            return ExpiredEvents(first, self._catalog.first_id)
        path = self._path(chunk.number, kind)
        return DamagedEvents(
            f"{path}: events {first} to {first + count - 1}, of chunk {chunk.number}, {problem}",
            path=path,
            first=first,
            count=count,
        )

    def _path(self, chunk: int, kind: str) -> str:
        return os.path.join(self._directory, layout.file_name(chunk, kind))

    def _out_of_range(self, what: str) -> OutOfRange:
        return OutOfRange(f"cannot read {what}, in {self._directory}", path=self._directory, operation="read")


def _stream(sealed: SealRun, kind: str) -> RunStream:
    return sealed.metadata if kind == layout.META else sealed.data


def _lost(sealed: SealRun, kind: str, start: int, stop: int, size: int) -> tuple[int, int]:
    """Give begin and end of what a file of `size` bytes lacks of those wanted, as far as one seal tells of it."""
    bounds = _stream(sealed, kind).bounds[sealed.firsts - sealed.firsts[0]].tolist()
    for begin, end in itertools.pairwise(bounds):
        if start < end and min(end, stop) > size:
            return begin + max(0, size - begin) // BLOCK * BLOCK, min(end, stop)
    return start, stop


def _overlapping(chunk: Chunk, sealed: SealRun, kind: str, begin: int, end: int) -> tuple[int, int]:
    """Give the first id, and the number, of a seal's events that have bytes from `begin` to `end` of a file."""
    bounds = _stream(sealed, kind).bounds
    first = int(np.searchsorted(bounds[1:], begin, "right"))
    last = int(np.searchsorted(bounds[:-1], end, "left"))
    return chunk.first_id + sealed.first + first, max(1, last - first)
