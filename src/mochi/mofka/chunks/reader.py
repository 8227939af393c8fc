"""Reading events back: runs of them in order, and chosen pieces of their data.

Any threads may read at the same time as one appends. They see the events that were published before they asked.

What has a seal is verified block by block as it is read: what is given out is what was written, or `DamagedEvents`
tells which is not. What has none, as the original's events, is served as it is.

Invariants:
1. Nothing is read that a seal or an index record does not cover; what is asked for outside the partition is refused.
2. Nothing is given out of a block that has a checksum before that was found right.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from xxhash import xxh3_64_intdigest

from mochi.disk import FdCache, FileLayer
from mochi.mofka.chunks.catalog import Catalog
from mochi.mofka.chunks.errors import DamagedEvents, StorageError
from mochi.mofka.chunks.events import Allocate, EventRange, fresh_memory
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import BLOCK, RunStream, SealRun
from mochi.mofka.chunks.pieces import DataRequest, Numbers, Pieces, gathered, rearranged, touch
from mochi.mofka.chunks.recovery import Recovery
from mochi.mofka.chunks.spans import Span, Spans

_MAX_EVENTS_PER_RANGE = 16384
_MOST_DAMAGED = 256
_MAX_SCRATCH = 4 << 20


class ChunkReader:
    """The events of a partition's directory, to be read by any number of threads.

    Parameters
    ----------
    recovery : Recovery
        What came of opening the directory.
    catalog : Catalog
        Of the chunks of `recovery`; whoever writes publishes here.
    resources : ExitStack
        What `close` closes.

    Attributes
    ----------
    damaged : sequence of str
        What was found to be lost, or had to be made again, when the directory was opened.
    """

    def __init__(
        self,
        files: FileLayer,
        cache: FdCache,
        directory: str,
        recovery: Recovery,
        catalog: Catalog,
        resources: ExitStack,
    ) -> None:
        self.damaged = recovery.damaged
        self._catalog = catalog
        self._spans = Spans(files, cache, directory, catalog, recovery.head.owner)
        self._resources = resources

    @property
    def event_count(self) -> int:
        """Number of events stored, and the id of the next one."""
        return self._catalog.event_count

    @property
    def first_id(self) -> int:
        """Id of the first event that is left; `event_count` if there is none."""
        return self._catalog.first_id

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The chunks as they are now, the last of them perhaps without events."""
        return self._catalog.chunks

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
        """Read consecutive events: at least one, and not always as many as there are.

        Parameters
        ----------
        first : int
            Id of the first event.
        max_events : int
            Number of events not to exceed; a range also ends with its chunk, and after 16384 events.
        max_bytes : int
            Bytes of metadata, and of data if wanted, not to exceed unless the first event alone does.
        with_data : bool
            Whether to read the data as well.
        allocate_metadata, allocate_data : callable
            Give the memory to read into: writable, contiguous, of exactly the number of bytes asked for.

        Raises
        ------
        OutOfRange
            If there is no event `first` (yet).
        ExpiredEvents
            If event `first` was dropped, perhaps meanwhile.
        CorruptPartition
            If the index refers to bytes that the chunk does not have.
        DamagedEvents
            If event `first` is damaged; told with all that is damaged behind it without a gap.
        StorageError
            If the operating system refuses a call, or the store is closed.

        Notes
        -----
        One system call each for index, metadata and data.
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

    def close(self) -> None:
        """Let go of the files; a second call does nothing."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
        chunk, most = self._spans.chunk_of(first)
        wanted = max(1, min(max_events, most, _MAX_EVENTS_PER_RANGE))
        spans: list[Span] = []
        room = max_bytes
        position = first
        while wanted > 0 and (room > 0 or not spans):
            try:
                span = self._spans.find(chunk, position, wanted)
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
        """Read pieces of the data of events, and nothing else of it.

        Parameters
        ----------
        requests : sequence of (event id, sequence of (offset, length))
            Pieces wanted of each event, in bytes of its data; in any order, and repeated if you like.
        allocate_data : callable
            Gives the memory to read into: writable, contiguous, of exactly the number of bytes asked for.

        Returns
        -------
        list of memoryview
            For each request its pieces back to back; all lie one after the other in the memory allocated.

        Raises
        ------
        OutOfRange
            If an event does not exist, or a piece is not within its data; nothing was allocated then.
        ExpiredEvents
            If an event was dropped, perhaps meanwhile.
        CorruptPartition, StorageError
            As in `read_range`.
        """
        for event_id, _ in requests:
            self._spans.check_id(event_id)
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
        """Read pieces of the data of events, in ascending order: all of them, back to back.

        Errors are those of `read_data`. The number of calls depends on how many runs of blocks are read, each of 64 KiB
        of data, and not on the number of pieces.
        """
        located = list(self._located(pieces))
        content = allocate_data(pieces.size).cast("B")
        position = 0
        for span, starts, lengths in located:
            size = int(lengths.sum())
            self._read_parts(span, starts, lengths, content[position : position + size])
            position += size
        return content

    def _located(self, pieces: Pieces) -> Iterator[tuple[Span, Numbers, Numbers]]:
        """Find pieces in files: for each span in turn, where its pieces begin, and their lengths."""
        events = pieces.events
        at = 0
        while at < len(events):
            first = int(events[at])
            chunk, most = self._spans.chunk_of(first)
            end = first + min(most, _MAX_EVENTS_PER_RANGE)
            last = int(events[np.searchsorted(events, end) - 1])
            span = self._spans.find(chunk, first, last - first + 1)
            until = int(np.searchsorted(events, first + span.count))
            here = pieces.at(slice(at, until))
            index = here.events - first
            sizes = span.data.sizes[index]
            if (bad := here.beyond(sizes)) is not None:
                raise self._spans.out_of_range(here.text(bad, int(sizes[bad])))
            yield span, span.data.offsets[index].astype(np.int64) + here.offsets, here.lengths
            at = until

    def _read_parts(self, span: Span, starts: Numbers, lengths: Numbers, target: memoryview) -> None:
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
        self, span: Span, start: int, target: memoryview, blocks: dict[tuple[int, int], memoryview]
    ) -> None:
        if span.sealed is None:
            self._read_span(span, layout.DATA, start, target)
        else:
            self._read_sealed(span, span.sealed, layout.DATA, start, target, blocks)

    def _content(self, spans: Sequence[Span], kind: str, allocate: Allocate) -> memoryview:
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
        self, spans: Sequence[Span], sizes: Sequence[int], kind: str, start: int, target: memoryview
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
            self._spans.read(spans[0].chunk, kind, start, target[: end - start])
        except StorageError:
            return 0  # the spans are tried one by one, to tell which are lost
        return end - start

    def _read_sealed(
        self,
        span: Span,
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
        key = self._spans.key(span.chunk)
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

    def _unlike(self, span: Span, sealed: SealRun, kind: str, begin: int, end: int) -> StorageError:
        """Return the error for a block that is not what was written."""
        first, count = _overlapping(span.chunk, sealed, kind, begin, end)
        return self._spans.damaged(
            span.chunk, kind, first, count, f"do not match their checksum (bytes {begin} to {end})"
        )

    def _read_span(self, span: Span, kind: str, start: int, target: memoryview) -> None:
        """Read bytes of a span's events; if the file does not have them, tell which events are lost."""
        try:
            self._spans.read(span.chunk, kind, start, target)
        except StorageError as error:
            if self._spans.has(span.chunk, kind, start + len(target)):
                raise
            first, count = span.first, span.count
            if span.sealed is not None:
                lost = _lost(
                    span.sealed, kind, start, start + len(target), self._spans.size(span.chunk, kind)
                )
                first, count = _overlapping(span.chunk, span.sealed, kind, *lost)
            raise self._spans.damaged(span.chunk, kind, first, count, "are not in it") from error


def _stream(sealed: SealRun, kind: str) -> RunStream:
    return sealed.metadata if kind == layout.META else sealed.data


def _lost(sealed: SealRun, kind: str, start: int, stop: int, size: int) -> tuple[int, int]:
    """Return begin and end of what a file of `size` bytes lacks of those wanted, as far as one seal tells of it."""
    bounds = _stream(sealed, kind).bounds[sealed.firsts - sealed.firsts[0]].tolist()
    for begin, end in itertools.pairwise(bounds):
        if start < end and min(end, stop) > size:
            return begin + max(0, size - begin) // BLOCK * BLOCK, min(end, stop)
    return start, stop


def _overlapping(chunk: Chunk, sealed: SealRun, kind: str, begin: int, end: int) -> tuple[int, int]:
    """Return the first id, and the number, of a seal's events that have bytes from `begin` to `end` of a file."""
    bounds = _stream(sealed, kind).bounds
    first = int(np.searchsorted(bounds[1:], begin, "right"))
    last = int(np.searchsorted(bounds[:-1], end, "left"))
    return chunk.first_id + sealed.first + first, max(1, last - first)
