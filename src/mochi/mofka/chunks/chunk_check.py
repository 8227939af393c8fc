"""Checking the files of one chunk: everything is read, and compared with whatever tells of it.

What has a seal is compared with it: metadata and data by their checksums, index and descriptors record by record. What
has none, as events that the original wrote, is checked as far as index and descriptors tell of each other, and read.

Invariants: files are read forwards in large pieces; held are some of these, and the seals of the chunk.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from mochi.mofka.chunks import layout, seals
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.files import FileLayer
from mochi.mofka.chunks.findings import ChunkReport, Effect, Finding
from mochi.mofka.chunks.seals import BLOCK, SLOT, Seal, Stream, key_of, sums_of

PIECE = 4 << 20
FROM_SEALS = "makes it again from the seals, and keeps what is there in quarantine"
_EVENTS = 16384

Progress = Callable[[int], object]
"""Told of each so many bytes that have been read."""


def size_of_file(files: FileLayer, path: str) -> int:
    """Give the size of a file, 0 if it is missing or no file."""
    try:
        return files.size(path)
    except StorageError as error:
        if error.errno in (errno.ENOENT, errno.EISDIR, errno.EINVAL):
            return 0
        raise


class _Window:
    """A file of a chunk, up to the chunk's end, read forwards in large pieces."""

    def __init__(self, files: FileLayer, path: str, end: int, progress: Progress) -> None:
        self.name = os.path.basename(path)
        self.size = min(size_of_file(files, path), end)
        self._file = files.open(path, writable=False) if self.size else None
        self._progress = progress
        self._buffer = np.empty(0, np.uint8)
        self._begin = self._end = 0

    def bytes(self, start: int, stop: int) -> memoryview:
        """Give the bytes from `start` to `stop`; they are good until the next call."""
        if not (self._begin <= start and stop <= self._end):
            ahead = max(stop, min(start + PIECE, self.size))
            try:
                self._load(start, ahead)
            except StorageError:
                if ahead == stop:
                    raise
                self._load(start, stop)
        return self._buffer.data[start - self._begin : stop - self._begin]

    def _load(self, start: int, stop: int) -> None:
        self._begin = self._end = 0
        if len(self._buffer) < stop - start:
            self._buffer = np.empty(stop - start, np.uint8)
        if self._file is None or stop > self.size:
            raise StorageError(f"{self.name} ends at byte {self.size}", path=self.name, operation="read")
        self._file.read(self._buffer.data[: stop - start], start)
        self._begin, self._end = start, stop
        self._progress(stop - start)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class ChunkCheck:
    """Reads all of a chunk; for one call of `run`."""

    def __init__(
        self, files: FileLayer, directory: str, chunk: Chunk, owner: bytes, progress: Progress
    ) -> None:
        self.findings: list[Finding] = []
        self._chunk = chunk
        self._key = key_of(owner, chunk.number)
        self._last: dict[tuple[Effect, str, str], Finding] = {}
        self._lost: list[tuple[int, int]] = []
        self._sealed: list[tuple[int, int]] = []
        self._metadata_end = self._data_end = 0
        with ExitStack() as opened:
            self._windows = {
                kind: opened.enter_context(
                    closing(
                        _Window(
                            files,
                            os.path.join(directory, layout.file_name(chunk.number, kind)),
                            end,
                            progress,
                        )
                    )
                )
                for kind, end in chunk.ends.items()
            }
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def run(self) -> ChunkReport:
        """Check everything; findings are in `findings` then."""
        chunk = self._chunk
        at = 0
        for seal in self._seals():
            if seal.first > at:
                self._check_unsealed(at, seal.first)
            self._check_sealed(seal)
            at = seal.end
        if at < chunk.count:
            self._check_unsealed(at, chunk.count)
        sealed = _union(self._sealed)
        lost = _union(self._lost)
        covered = sealed == [(0, chunk.count)]
        for finding in self.findings:
            if finding.effect == Effect.REPAIRABLE and covered:
                finding.repair = FROM_SEALS
            elif finding.effect == Effect.REPAIRABLE:
                finding.effect = Effect.DOUBTFUL
        verified = _length(sealed)
        verified_lost = verified + _length(lost) - _length(_union([*sealed, *lost]))
        return ChunkReport(
            chunk.number,
            chunk.first_id,
            chunk.count,
            chunk.metadata_end,
            chunk.data_end,
            chunk.time,
            verified - verified_lost,
            chunk.count - verified - (_length(lost) - verified_lost),
            _length(lost),
        )

    def _seals(self) -> Iterator[Seal]:
        """Give the good seals in order, and report where there should be others."""
        window, end = self._windows[layout.SEALS], self._chunk.seals_end
        content = memoryview(b"")
        if size := window.size // SLOT * SLOT:
            content = memoryview(bytes(window.bytes(0, size)))
        at = position = 0
        damaged: int | None = None
        while position < len(content):
            found = seals.unpack(content[position:], self._key)
            if found is None or not self._in_place(*found, content[position:], at):
                damaged = position if damaged is None else damaged
                position += SLOT
                continue
            seal, taken = found
            if damaged is not None:
                self._report_seals("are damaged", damaged, position, at, seal.first)
                damaged = None
            position += taken
            at = seal.end
            yield seal
        if damaged is not None:
            whole = not damaged and len(content) > SLOT
            problem = "are damaged, or of another chunk or partition" if whole else "are damaged"
            self._report_seals(problem, damaged, len(content), at, self._chunk.count)
        elif window.size < end:
            problem = f"are missing from byte {window.size} on" if window.size else "are missing"
            self._report_seals(problem, window.size, end, at, self._chunk.count)

    def _in_place(self, seal: Seal, size: int, content: memoryview, at: int) -> bool:
        """Tell whether a seal is where it can be found, and of events that come after those before."""
        places = (seals.slot_of(content[start : start + SLOT]) for start in range(0, size, SLOT))
        return (
            at <= seal.first
            and seal.end <= self._chunk.count
            and all(found == (seal.first, place) for place, found in enumerate(places))
        )

    def _report_seals(self, problem: str, begin: int, end: int, first: int, stop: int) -> None:
        self._add(Effect.DOUBTFUL, layout.SEALS, problem, begin, end, first, stop)

    def _add(
        self, effect: Effect, kind: str, problem: str, begin: int, end: int, first: int, stop: int
    ) -> None:
        """Report something of the events from number `first` to `stop`; one with the last such if they touch."""
        name = self._windows[kind].name
        if effect == Effect.LOST:
            self._lost.append((first, stop))
        first, stop = self._chunk.first_id + first, self._chunk.first_id + stop
        last = self._last.get((effect, kind, problem))
        if last is not None and last.end == begin and first <= last.first + last.count:
            last.end = end
            last.count = max(last.count, stop - last.first)
        else:
            finding = Finding(effect, name, problem, begin, end, first, stop - first)
            self._last[effect, kind, problem] = finding
            self.findings.append(finding)

    def _check_sealed(self, seal: Seal) -> None:
        self._sealed.append((seal.first, seal.end))
        for kind, stream in ((layout.META, seal.metadata), (layout.DATA, seal.data)):
            total = stream.size
            for begin in range(0, total, PIECE):
                end = min(begin + PIECE, total)
                sums = stream.sums[begin // BLOCK : -(-end // BLOCK)]
                try:
                    content = self._windows[kind].bytes(stream.start + begin, stream.start + end)
                except StorageError:
                    good = False
                else:
                    good = np.array_equal(sums_of([content], self._key), sums)
                if not good:
                    self._check_blocks(seal, kind, stream, range(begin, end, BLOCK), sums)
        self._check_records(seal)
        self._metadata_end = seal.metadata.start + seal.metadata.size
        self._data_end = seal.data.start + seal.data.size

    def _check_blocks(
        self, seal: Seal, kind: str, stream: Stream, begins: range, sums: NDArray[np.uint64]
    ) -> None:
        """Report those blocks of a stream that are not what was written."""
        bounds = stream.bounds()
        for offset, expected in zip(begins, sums.tolist(), strict=True):
            begin = stream.start + offset
            end = min(begin + BLOCK, stream.start + stream.size)
            wrong_from = begin
            try:
                content = self._windows[kind].bytes(begin, end)
            except StorageError as error:
                problem = self._why_not(kind, end, error)
                wrong_from = max(begin, min(self._windows[kind].size, end))
            else:
                if sums_of([content], self._key).tolist() == [expected]:
                    continue
                zeros = not np.frombuffer(content, np.uint8).any()
                problem = (
                    "are zeros now, and not what was written" if zeros else "do not match their checksum"
                )
            first = int(np.searchsorted(bounds[1:], begin, "right"))
            stop = int(np.searchsorted(bounds[:-1], end, "left"))
            stop = max(stop, first + 1)
            self._add(Effect.LOST, kind, problem, wrong_from, end, seal.first + first, seal.first + stop)

    def _check_records(self, seal: Seal) -> None:
        """Compare index and descriptors with what a seal has of them."""
        data_offsets = layout.offsets(seal.data.sizes, seal.data.start)
        index = layout.index_records(
            layout.offsets(seal.metadata.sizes, seal.metadata.start),
            seal.metadata.sizes,
            data_offsets,
            seal.data.sizes,
            seal.descriptor_start,
        )
        descriptors = layout.descriptor_records(self._chunk.number, data_offsets, seal.data.sizes)
        for kind, start, records in (
            (layout.IDX, seal.first * layout.INDEX_SIZE, index),
            (layout.DESC, seal.descriptor_start, descriptors),
        ):
            size = records.dtype.itemsize
            stop = start + len(records) * size
            try:
                content = self._windows[kind].bytes(start, stop)
            except StorageError as error:
                problem = self._why_not(kind, stop, error)
                self._add(Effect.REPAIRABLE, kind, problem, start, stop, seal.first, seal.end)
                continue
            if np.array_equal(np.frombuffer(content, np.uint8), records.view(np.uint8)):
                continue
            wrong = ~_same(np.frombuffer(content, records.dtype), records)
            problem = "contradict the seals"
            if kind == layout.DESC:
                chunks = np.unique(np.frombuffer(content, records.dtype)["chunk"][wrong])
                if len(chunks) == 1 and chunks[0] != self._chunk.number and wrong.all():
                    problem = f"are of chunk {chunks[0]}"
            for first, end in _runs(wrong):
                self._add(
                    Effect.REPAIRABLE,
                    kind,
                    problem,
                    start + first * size,
                    start + end * size,
                    seal.first + first,
                    seal.first + end,
                )

    def _check_unsealed(self, first: int, stop: int) -> None:
        """Check events by index and descriptors, and whether their bytes can be read."""
        for begin in range(first, stop, _EVENTS):
            end = min(begin + _EVENTS, stop)
            start = begin * layout.INDEX_SIZE
            try:
                content = self._windows[layout.IDX].bytes(start, end * layout.INDEX_SIZE)
            except StorageError as error:
                place = end * layout.INDEX_SIZE
                problem = self._why_not(layout.IDX, place, error)
                self._add(Effect.LOST, layout.IDX, problem, start, place, begin, end)
                continue
            records = np.frombuffer(bytes(content), layout.INDEX_DTYPE)
            chunk = self._chunk
            within = layout.within(records, chunk.metadata_end, chunk.data_end, chunk.descriptor_end)
            self._add_records(
                Effect.LOST, layout.IDX, "refer to bytes that the chunk does not have", ~within, begin
            )
            self._check_order(records, within, begin)
            self._check_descriptors(records, within, begin)
            for kind, stream in ((layout.META, "metadata"), (layout.DATA, "data")):
                offsets, sizes = records[f"{stream}_offset"], records[f"{stream}_size"].astype(np.uint64)
                self._check_readable(kind, offsets, sizes, within, begin)

    def _check_order(self, records: NDArray[np.void], within: NDArray[np.bool_], first: int) -> None:
        """Report events that begin before the end of the one before."""
        metadata_ends = records["metadata_offset"] + records["metadata_size"]
        data_ends = records["data_offset"] + records["data_size"]
        early = within.copy()
        early[0] &= (
            records["metadata_offset"][0] < self._metadata_end or records["data_offset"][0] < self._data_end
        )
        early[1:] &= within[:-1] & (
            (records["metadata_offset"][1:] < metadata_ends[:-1])
            | (records["data_offset"][1:] < data_ends[:-1])
        )
        self._add_records(
            Effect.DOUBTFUL,
            layout.IDX,
            "share bytes with the event before, of which the index tells",
            early,
            first,
        )
        if within[-1]:
            self._metadata_end, self._data_end = int(metadata_ends[-1]), int(data_ends[-1])

    def _check_descriptors(self, records: NDArray[np.void], within: NDArray[np.bool_], first: int) -> None:
        """Compare descriptors, those of the usual size, with the index."""
        usual = np.flatnonzero(within & (records["descriptor_size"] == layout.DESCRIPTOR_SIZE))
        if not len(usual):
            return
        expected = layout.descriptor_records(self._chunk.number, records["data_offset"], records["data_size"])
        offsets = records["descriptor_offset"]
        follows = (np.diff(usual) == 1) & (np.diff(offsets[usual]) == layout.DESCRIPTOR_SIZE)
        for run in np.split(usual, np.flatnonzero(~follows) + 1):
            begin, end = int(run[0]), int(run[-1]) + 1
            start = int(offsets[begin])
            stop = start + len(run) * layout.DESCRIPTOR_SIZE
            try:
                content = self._windows[layout.DESC].bytes(start, stop)
            except StorageError as error:
                problem = self._why_not(layout.DESC, stop, error)
                self._add(Effect.DOUBTFUL, layout.DESC, problem, start, stop, first + begin, first + end)
                continue
            wrong = ~_same(np.frombuffer(content, layout.DESCRIPTOR_DTYPE), expected[begin:end])
            self._add_records(Effect.DOUBTFUL, layout.DESC, "contradict the index", wrong, first + begin)

    def _check_readable(
        self,
        kind: str,
        offsets: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
        within: NDArray[np.bool_],
        first: int,
    ) -> None:
        """See that the bytes of events can be read."""
        some = within & (sizes > 0)
        if not some.any():
            return
        ends = offsets + sizes
        low, high = int(offsets[some].min()), int(ends[some].max())
        for begin in range(low, high, BLOCK):
            end = min(begin + BLOCK, high)
            try:
                self._windows[kind].bytes(begin, end)
            except StorageError as error:
                concerned = some & (offsets < end) & (ends > begin)
                problem = self._why_not(kind, end, error)
                for start, stop in _runs(concerned):
                    self._add(Effect.LOST, kind, problem, begin, end, first + start, first + stop)

    def _add_records(
        self, effect: Effect, kind: str, problem: str, which: NDArray[np.bool_], first: int
    ) -> None:
        size = layout.INDEX_SIZE if kind == layout.IDX else layout.DESCRIPTOR_SIZE
        for start, stop in _runs(which):
            start, stop = first + start, first + stop
            self._add(effect, kind, problem, start * size, stop * size, start, stop)

    def _why_not(self, kind: str, end: int, error: StorageError) -> str:
        """Tell why bytes up to `end` cannot be had."""
        if end > self._windows[kind].size:
            return "are not in it"
        return f"cannot be read: {error}"


def _same(found: NDArray[np.void], expected: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which records are the same but for their padding."""
    same = np.ones(len(expected), np.bool_)
    for name in expected.dtype.names or ():
        same &= found[name] == expected[name]
    return same


def _runs(which: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Give begin and end of each run of true values."""
    edges = np.flatnonzero(np.diff(which.astype(np.int8), prepend=0, append=0))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _union(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give ranges that neither touch nor overlap, and are of the same numbers."""
    union: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if union and first <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((first, stop))
    return union


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(stop - first for first, stop in ranges)
