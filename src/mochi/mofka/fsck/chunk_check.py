"""Checking the files of one chunk: everything is read, and compared with whatever tells of it.

What has a seal is compared with it: metadata and data by their checksums, index and descriptors record by record.
Small seals that follow each other are compared together, and one by one if anything is not as they say.
What has none, as events that the original wrote, is read, and checked as far as index and descriptors tell of each
other.

Invariants: files are read forwards in large pieces; held are some of these, and the seals of the chunk.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.disk import FileLayer, StorageError
from mochi.mofka.chunks import format
from mochi.mofka.fsck.findings import ChunkReport, Effect, Finding

PIECE = 4 << 20
FROM_SEALS = "makes it again from the seals, and keeps what is there in quarantine"
_EVENTS = 16384

Progress = Callable[[int], object]
"""Told of each so many bytes that have been read."""


def size_of_file(files: FileLayer, path: str) -> int:
    """Return the size of a file, 0 if it is missing or no file."""
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
        """Return the bytes from `start` to `stop`; they are good until the next call."""
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
        self, files: FileLayer, directory: str, chunk: format.Chunk, owner: bytes, progress: Progress
    ) -> None:
        self.findings: list[Finding] = []
        self._chunk = chunk
        self._key = format.key_of(owner, chunk.number)
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
                            os.path.join(directory, format.file_name(chunk.number, kind)),
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
        for run, content in self._runs():
            if run.first > at:
                self._check_unsealed(at, run.first)
            if not self._is_whole(run):
                for seal, _ in format.seals_in(content, self._key):
                    self._check_sealed(seal)
            self._sealed.append((run.first, run.end))
            self._metadata_end = int(run.metadata.bounds[-1])
            self._data_end = int(run.data.bounds[-1])
            at = run.end
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

    def _runs(self) -> Iterator[tuple[format.SealRun, memoryview]]:
        """Return the good seals in order, as runs and their bytes, and report where there should be others."""
        window, end = self._windows[format.SEALS], self._chunk.seals_end
        content = memoryview(b"")
        if size := window.size // format.SLOT * format.SLOT:
            content = memoryview(bytes(window.bytes(0, size)))
        slots = format.Slots(content, self._key)
        at = slot = 0
        damaged: int | None = None
        while slot < len(slots):
            found = slots.run(slot, self._chunk.count, in_place=True)
            if found is None or found[0].first < at or found[0].end > self._chunk.count:
                damaged = slot * format.SLOT if damaged is None else damaged
                slot += 1
                continue
            run, after = found
            if damaged is not None:
                self._report_seals("are damaged", damaged, slot * format.SLOT, at, run.first)
                damaged = None
            yield run, content[slot * format.SLOT : after * format.SLOT]
            at, slot = run.end, after
        if damaged is not None:
            whole = not damaged and len(content) > format.SLOT
            problem = "are damaged, or of another chunk or partition" if whole else "are damaged"
            self._report_seals(problem, damaged, len(content), at, self._chunk.count)
        elif window.size < end:
            problem = f"are missing from byte {window.size} on" if window.size else "are missing"
            self._report_seals(problem, window.size, end, at, self._chunk.count)

    def _report_seals(self, problem: str, begin: int, end: int, first: int, stop: int) -> None:
        self._add(Effect.DOUBTFUL, format.SEALS, problem, begin, end, first, stop)

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

    def _is_whole(self, run: format.SealRun) -> bool:
        """Tell whether everything is as a run says; one of more than a piece is not looked at, and is none."""
        for kind, stream in ((format.META, run.metadata), (format.DATA, run.data)):
            start, stop = int(stream.bounds[0]), int(stream.bounds[-1])
            if stop - start > PIECE:
                return False
            if start == stop:
                continue
            try:
                content = self._windows[kind].bytes(start, stop)
            except StorageError:
                return False
            for begin, end, expected in stream.blocks(start, stop):
                if xxh3_64_intdigest(content[begin - start : end - start], self._key) != expected:
                    return False
        for kind in (format.IDX, format.DESC):
            start, records = run.records(self._chunk.number, kind)
            try:
                content = self._windows[kind].bytes(start, start + records.nbytes)
            except StorageError:
                return False
            if not np.array_equal(np.frombuffer(content, np.uint8), records.view(np.uint8)):
                return False
        return True

    def _check_sealed(self, seal: format.Seal) -> None:
        for kind, stream in ((format.META, seal.metadata), (format.DATA, seal.data)):
            total = stream.size
            for begin in range(0, total, PIECE):
                end = min(begin + PIECE, total)
                sums = stream.sums[begin // format.BLOCK : -(-end // format.BLOCK)]
                try:
                    content = self._windows[kind].bytes(stream.start + begin, stream.start + end)
                except StorageError:
                    good = False
                else:
                    good = np.array_equal(format.sums_of([content], self._key), sums)
                if not good:
                    self._check_blocks(seal, kind, stream, range(begin, end, format.BLOCK), sums)
        self._check_records(seal)

    def _check_blocks(
        self, seal: format.Seal, kind: str, stream: format.Stream, begins: range, sums: NDArray[np.uint64]
    ) -> None:
        """Report those blocks of a stream that are not what was written."""
        bounds = stream.bounds()
        for offset, expected in zip(begins, sums.tolist(), strict=True):
            begin = stream.start + offset
            end = min(begin + format.BLOCK, stream.start + stream.size)
            wrong_from = begin
            try:
                content = self._windows[kind].bytes(begin, end)
            except StorageError as error:
                problem = self._why_not(kind, end, error)
                wrong_from = max(begin, min(self._windows[kind].size, end))
            else:
                if format.sums_of([content], self._key).tolist() == [expected]:
                    continue
                zeros = not np.frombuffer(content, np.uint8).any()
                problem = (
                    "are zeros now, and not what was written" if zeros else "do not match their checksum"
                )
            first = int(np.searchsorted(bounds[1:], begin, "right"))
            stop = int(np.searchsorted(bounds[:-1], end, "left"))
            stop = max(stop, first + 1)
            self._add(Effect.LOST, kind, problem, wrong_from, end, seal.first + first, seal.first + stop)

    def _check_records(self, seal: format.Seal) -> None:
        """Compare index and descriptors with what a seal has of them."""
        for kind in (format.IDX, format.DESC):
            start, records = seal.records(self._chunk.number, kind)
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
            if kind == format.DESC:
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
            start = begin * format.INDEX_SIZE
            try:
                content = self._windows[format.IDX].bytes(start, end * format.INDEX_SIZE)
            except StorageError as error:
                place = end * format.INDEX_SIZE
                problem = self._why_not(format.IDX, place, error)
                self._add(Effect.LOST, format.IDX, problem, start, place, begin, end)
                continue
            records = np.frombuffer(bytes(content), format.INDEX_DTYPE)
            chunk = self._chunk
            within = format.within(records, chunk.metadata_end, chunk.data_end, chunk.descriptor_end)
            self._add_records(
                Effect.LOST, format.IDX, "refer to bytes that the chunk does not have", ~within, begin
            )
            self._check_order(records, within, begin)
            self._check_descriptors(records, within, begin)
            for kind, stream in ((format.META, "metadata"), (format.DATA, "data")):
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
            format.IDX,
            "share bytes with the event before, of which the index tells",
            early,
            first,
        )
        if within[-1]:
            self._metadata_end, self._data_end = int(metadata_ends[-1]), int(data_ends[-1])

    def _check_descriptors(self, records: NDArray[np.void], within: NDArray[np.bool_], first: int) -> None:
        """Compare descriptors, those of the usual size, with the index."""
        usual = np.flatnonzero(within & (records["descriptor_size"] == format.DESCRIPTOR_SIZE))
        if not len(usual):
            return
        expected = format.descriptor_records(self._chunk.number, records["data_offset"], records["data_size"])
        offsets = records["descriptor_offset"]
        follows = (np.diff(usual) == 1) & (np.diff(offsets[usual]) == format.DESCRIPTOR_SIZE)
        for run in np.split(usual, np.flatnonzero(~follows) + 1):
            begin, end = int(run[0]), int(run[-1]) + 1
            start = int(offsets[begin])
            stop = start + len(run) * format.DESCRIPTOR_SIZE
            try:
                content = self._windows[format.DESC].bytes(start, stop)
            except StorageError as error:
                problem = self._why_not(format.DESC, stop, error)
                self._add(Effect.DOUBTFUL, format.DESC, problem, start, stop, first + begin, first + end)
                continue
            wrong = ~_same(np.frombuffer(content, format.DESCRIPTOR_DTYPE), expected[begin:end])
            self._add_records(Effect.DOUBTFUL, format.DESC, "contradict the index", wrong, first + begin)

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
        for begin in range(low, high, format.BLOCK):
            end = min(begin + format.BLOCK, high)
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
        size = format.INDEX_SIZE if kind == format.IDX else format.DESCRIPTOR_SIZE
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
    """Return begin and end of each run of true values."""
    edges = np.flatnonzero(np.diff(which.astype(np.int8), prepend=0, append=0))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _union(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges that neither touch nor overlap, and are of the same numbers."""
    union: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if union and first <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((first, stop))
    return union


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(stop - first for first, stop in ranges)
