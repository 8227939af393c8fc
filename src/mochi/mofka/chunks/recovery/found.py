"""Reading what is in a directory, before anything is made of it. Nothing is changed here."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.disk import File, FileLayer
from mochi.mofka.chunks.catalog import read_first, read_roster
from mochi.mofka.chunks.errors import CorruptPartition, StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import Mode, Part
from mochi.mofka.chunks.format.layout import DISPLACED_SIZE, Chunk, Displaced
from mochi.mofka.chunks.format.seals import SLOT, Seal, SealRun, Slots, key_of, seals_in, sums_of
from mochi.mofka.chunks.journal import read_head
from mochi.mofka.chunks.recovery import cases
from mochi.mofka.chunks.recovery.cases import Gap, Sizes

_PIECE = 1 << 20

_OWN_NAMES = frozenset(
    (
        layout.LOCK_NAME,
        layout.DISPLACED_NAME,
        layout.JOURNAL_NAME,
        layout.ROSTER_NAME,
        layout.TRIMMED_NAME,
        *layout.LEDGER_NAMES,
    )
)


def see_that_files_are_files(files: FileLayer, directory: str, names: Sequence[str]) -> None:
    """See that nothing else is in the place of our own files; those of chunks are seen to when they are looked at.

    Raises
    ------
    CorruptPartition
        If something is, such as a directory.
    """
    for name in _OWN_NAMES.intersection(names):
        _size(files, directory, name)


def _size(files: FileLayer, directory: str, name: str) -> int:
    """Return the size of a file; what is there and no file is no damage of a disk."""
    try:
        return files.size(os.path.join(directory, name))
    except StorageError as error:
        if error.errno == errno.EISDIR:
            raise corrupt(directory, name, "is a directory, not a file; put the file back") from error
        if error.errno == errno.EINVAL:
            raise corrupt(directory, name, "is not a regular file; put the file back") from error
        raise


def corrupt(directory: str, name: str, problem: str) -> CorruptPartition:
    """Return the error for a file that is not such as a crash leaves it."""
    path = os.path.join(directory, name)
    return CorruptPartition(f"{path} {problem}", path=path, operation="recover")


def is_dropped(files: FileLayer, directory: str, number: int) -> bool:
    """Tell whether the retention has dropped a chunk, as the directory is now."""
    return number < read_first(files, directory, files.list_directory(directory)).number


def pieces(file: File, start: int, stop: int) -> Iterator[memoryview]:
    """Read bytes of a file, one piece at a time."""
    for position in range(start, stop, _PIECE):
        piece = np.empty(min(_PIECE, stop - position), np.uint8).data
        file.read(piece, position)
        yield piece


class Found:
    """What is in a directory.

    Attributes
    ----------
    head : Head or None
        The journal's.
    roster : dict of int to Chunk
        The records of full chunks that are believed.
    first : Chunk
        The first chunk that is left, without its events.
    start : Chunk
        Where what the roster knows ends: the journal's base, or the first chunk if that is later.
    sizes : dict of int to Sizes
        The files of each chunk.
    end : int
        The number after the last chunk that has files of the original.
    damaged : list of str
        What was reported.
    """

    def __init__(self, files: FileLayer, path: str) -> None:
        self.files = files
        self.path = path
        self.names = files.list_directory(path)
        see_that_files_are_files(files, path, self.names)
        self.head = read_head(files, path, self.names)
        self.owner = self.head.owner if self.head else layout.owner_of(path)
        self.roster = read_roster(files, path, self.names, self.owner)
        self.first = read_first(files, path, self.names)
        base = self.head.base if self.head else self.first
        self.start = max(base, self.first, key=attrgetter("number"))
        self.damaged: list[str] = []
        self.sizes: dict[int, Sizes] = {}
        self._look()
        chunks = (number for number, sizes in self.sizes.items() if set(sizes) != {layout.SEALS})
        self.end = max(chunks, default=-1) + 1

    def _look(self) -> None:
        for name in self.names:
            if (parsed := layout.parse_file_name(name)) and parsed[0] >= self.first.number:
                self.sizes.setdefault(parsed[0], {})[parsed[1]] = self.size(name)

    def look_again(self) -> None:
        """Look at the files again, after they were changed."""
        self.names = self.files.list_directory(self.path)
        self._look()

    def size(self, name: str) -> int:
        """Return the size of a file of the directory."""
        return _size(self.files, self.path, name)

    def report(self, name: str, problem: str) -> None:
        """Note damage that does not keep the partition from being opened."""
        self.damaged.append(f"{os.path.join(self.path, name)} {problem}")

    def dropped(self) -> list[tuple[str, bool]]:
        """Tell which files are of chunks that were dropped, by their number, and whether they are indeed."""
        found = []
        for name in self.names:
            parsed = layout.parse_file_name(name)
            if parsed is not None and parsed[0] < self.first.number:
                number, kind = parsed
                size = self.size(name)
                found.append((name, number in self.roster and self.roster[number].ends[kind] == size))
        return found

    def bytes_of(self, number: int, kind: str, start: int, stop: int) -> memoryview:
        """Read bytes of a file of a chunk, as it was when the directory was looked at; none if it ends before."""
        if not start < stop <= self.sizes.get(number, {}).get(kind, 0):
            return memoryview(b"")
        return self._read(number, kind, start, np.empty(stop - start, np.uint8))

    def records(self, number: int, first: int, count: int) -> NDArray[np.void]:
        """Read index records of a chunk, from event `first` on."""
        records = np.empty(count, layout.INDEX_DTYPE)
        if count:
            self._read(number, layout.IDX, first * layout.INDEX_SIZE, records)
        return records

    def _read(self, number: int, kind: str, start: int, target: NDArray[np.generic]) -> memoryview:
        content = target.view(np.uint8).data
        path = os.path.join(self.path, layout.file_name(number, kind))
        with closing(self.files.open(path, writable=False)) as file:
            file.read(content, start)
        return content

    def displaced(self) -> Displaced | None:
        """Tell which events were put aside in this generation of the journal, and not all moved."""
        assert self.head is not None
        if layout.DISPLACED_NAME not in self.names or self.size(layout.DISPLACED_NAME) < DISPLACED_SIZE:
            return None
        head = np.empty(DISPLACED_SIZE, np.uint8).data
        with closing(self.files.open(os.path.join(self.path, layout.DISPLACED_NAME), writable=False)) as file:
            file.read(head, 0)
        return Displaced.unpack(bytes(head), self.head.key, self.head.generation)

    # Chunks

    def sealed_chunk(self, number: int) -> Chunk | None:
        """Return a chunk as its seals have it, if they tell of all its events."""
        seals_end = self.sizes.get(number, {}).get(layout.SEALS, 0) // SLOT * SLOT
        return cases.sealed_by(number, self.seals(number), seals_end)

    def indexed_chunk(self, number: int) -> Chunk:
        """Return a chunk by its index, which later ones with events follow: it must be whole."""
        self.check_files(number)
        sizes = self.sizes[number]
        name = layout.file_name(number, layout.IDX)
        size = sizes.get(layout.IDX, 0)
        count, rest = divmod(size, layout.INDEX_SIZE)
        if not count or rest:
            raise corrupt(
                self.path,
                name,
                f"has {size} bytes, but must have a positive multiple of {layout.INDEX_SIZE}, "
                "for later chunks have events",
            )
        last = self.records(number, count - 1, 1)
        if any(kind not in sizes for kind in layout.KINDS) or not cases.held(last, sizes).all():
            raise corrupt(
                self.path,
                name,
                "ends with a record of bytes that the chunk lacks, though later chunks have events",
            )
        return replace(
            cases.ended_by(number, count, last), seals_end=sizes.get(layout.SEALS, 0) // SLOT * SLOT
        )

    def check_files(self, number: int) -> None:
        """See that a chunk of which nothing else tells has all of its files, or none of their bytes."""
        sizes = {kind: size for kind, size in self.sizes.get(number, {}).items() if kind != layout.SEALS}
        if not sizes:
            raise corrupt(
                self.path,
                layout.file_name(number, layout.IDX),
                f"is missing, though there is a chunk {self.end - 1}; put the chunk's files back",
            )
        for kind in layout.KINDS:
            if kind not in sizes and any(sizes.values()):
                others = ", ".join(f"{size} bytes in .{other}" for other, size in sizes.items())
                raise corrupt(
                    self.path, layout.file_name(number, kind), f"is missing, though the chunk has {others}"
                )

    def whole(self, start: Chunk) -> Chunk:
        """Find the events of a chunk, after those of `start`, up to the first that is not whole."""
        sizes = self.sizes.get(start.number, {})
        count = sizes.get(layout.IDX, 0) // layout.INDEX_SIZE - start.count
        records = self.records(start.number, start.count, count)
        if not len(records) or any(kind not in sizes for kind in layout.KINDS):
            return start
        usual = cases.usual_descriptors(start, records, sizes[layout.DESC])
        descriptors = np.empty(usual, layout.DESCRIPTOR_DTYPE)
        if usual:
            self._read(start.number, layout.DESC, start.descriptor_end, descriptors)
        held = cases.whole_events(start, records, descriptors, sizes)
        return cases.ended_by(start.number, start.count + held, records[:held]) if held else start

    def shortened(self, chunk: Chunk, end_id: int) -> Chunk:
        """Return a chunk without the events from `end_id` on."""
        if chunk.end_id <= end_id:
            return chunk
        count = max(0, end_id - chunk.first_id)
        records = self.records(chunk.number, count - 1, min(count, 1))
        return replace(cases.ended_by(chunk.number, count, records), first_id=min(chunk.first_id, end_id))

    def is_at(self, base: Chunk) -> bool:
        """Tell whether the files of a chunk have the end of `base` somewhere."""
        sizes = self.sizes.get(base.number, {})
        if not base.count:
            return True
        if any(sizes.get(kind, 0) < base.ends[kind] for kind in layout.KINDS):
            return False
        found = cases.ended_by(base.number, base.count, self.records(base.number, base.count - 1, 1))
        return all(found.ends[kind] == base.ends[kind] for kind in layout.KINDS)

    # Seals

    def seals(self, number: int) -> list[Seal]:
        """Read the seals of a chunk, up to the first that is not good."""
        size = self.sizes.get(number, {}).get(layout.SEALS, 0)
        content = self.bytes_of(number, layout.SEALS, 0, size)
        return [seal for seal, _ in seals_in(content, key_of(self.owner, number))]

    def seals_of(self, gap: Gap) -> list[Seal]:
        """Read the seals of what the journal has lost; none unless they are of all of it."""
        before, after = gap.before, gap.after
        content = self.bytes_of(before.number, layout.SEALS, before.seals_end, after.seals_end)
        seals = [seal for seal, _ in seals_in(content, key_of(self.owner, before.number))]
        return seals if cases.cover(seals, after.count, before.count) else []

    def with_seals(self, chunk: Chunk, base: Chunk) -> Chunk:
        """Return a chunk with the end of the seals of its events, those after `base` looked for."""
        return self.sealed(chunk, base)[0]

    def sealed(self, chunk: Chunk, base: Chunk) -> tuple[Chunk, int]:
        """Tell the same, and up to which event all are ours, those of a last seal that tells of more included.

        Where the journal was left open, a seal may be of events that were not written, and others be in their place:
        then the index tells of others.
        """
        known = base.number == chunk.number and base.count <= chunk.count
        end, time, count = (base.seals_end, base.time, base.count) if known else (0, 0, 0)
        size = self.sizes.get(chunk.number, {}).get(layout.SEALS, 0)
        ours = count
        if size > end:
            slots = Slots(
                self.bytes_of(chunk.number, layout.SEALS, end, size), key_of(self.owner, chunk.number)
            )
            slot, start = 0, end
            open_journal = self.head is not None and self.head.mode != Mode.CLOSED
            records = self.records(chunk.number, count, chunk.count - count)
            while found := slots.run(slot, chunk.count):
                alike = cases.alike(found[0], records, count) if open_journal else chunk.count
                if found[1] == len(slots) and self._is_foreign(chunk.number, found[0]):
                    alike = min(alike, int(found[0].firsts[-2]))
                if alike < min(found[0].end, chunk.count):
                    found = slots.run(slot, alike)
                    if found is None or found[0].end > alike:
                        break
                run, slot = found
                ours = min(run.end, chunk.count)
                if run.end > chunk.count:
                    break
                end, time = start + slot * SLOT, run.time
        return replace(chunk, seals_end=min(end, size), time=time), ours

    def was_sealed(self, part: Part) -> bool:
        """Tell whether the seals of a part are in its chunk's file."""
        before, stop = part.before, part.before.seals_end + len(part.seals)
        return self.bytes_of(before.number, layout.SEALS, before.seals_end, stop) == part.seals

    def was_stored(self, part: Part) -> bool:
        """Tell whether the commit of a part was on disk: its seals and index records were written after that."""
        start, stop = part.before.count * layout.INDEX_SIZE, part.after.count * layout.INDEX_SIZE
        index = self.bytes_of(part.before.number, layout.IDX, start, stop)
        return self.was_sealed(part) or index == part.index().tobytes()

    def has_data(self, part: Part) -> bool:
        """Tell whether large data is in its place, as the seals of its part say."""
        number = part.before.number
        path = os.path.join(self.path, layout.file_name(number, layout.DATA))
        key = key_of(self.owner, number)
        if self.files.size(path) < part.after.data_end:
            return False
        with closing(self.files.open(path, writable=False)) as file:
            for seal, _ in seals_in(memoryview(part.seals), key):
                end = seal.data.start + seal.data.size
                sums = sums_of(pieces(file, seal.data.start, end), key)
                if not np.array_equal(sums, seal.data.sums):
                    return False
        return True

    # Foreign events

    def foreign_at(self, steps: Sequence[Part | Gap]) -> tuple[Chunk, Chunk] | None:
        """Return the chunk before, and with, whole foreign events where the last of the steps would write."""
        parts = cases.last_parts(steps)
        start = parts[0].before if parts else Chunk(0, 0)
        at = self.first_foreign(parts, start)
        if at is None:
            return None
        before = start
        if at:
            before = cases.ended_by(start.number, start.count + at, cases.index_of_all(parts)[:at])
            before = replace(before, first_id=start.first_id, seals_end=start.seals_end)
        first = self.records(before.number, before.count, 1)[0]
        if (first["metadata_offset"], first["data_offset"], first["descriptor_offset"]) != (
            before.metadata_end,
            before.data_end,
            before.descriptor_end,
        ):
            return None
        end = self.whole(before)
        return (before, replace(end, first_id=before.first_id)) if end.count > before.count else None

    def first_foreign(self, parts: Sequence[Part], start: Chunk) -> int | None:
        """Return the first event, counted from `start`, of the chunk files that is not the one of `parts`."""
        expected = cases.index_of_all(parts)
        held = self.sizes.get(start.number, {}).get(layout.IDX, 0) // layout.INDEX_SIZE - start.count
        count = min(len(expected), max(0, held))
        if not count:
            return None
        return cases.first_foreign(
            parts,
            held,
            cases.differing_records(expected, self.records(start.number, start.count, count)),
            self._written_over(start.number, layout.META, expected, "metadata", parts),
            self._written_over(start.number, layout.DATA, expected, "data", parts),
            self.was_sealed,
        )

    def _written_over(
        self, number: int, kind: str, expected: NDArray[np.void], stream: str, parts: Sequence[Part]
    ) -> NDArray[np.bool_]:
        """Tell of which events of parts a file has bytes that are not theirs; zeros are what a power cut leaves."""
        over = np.zeros(len(expected), np.bool_)
        ends = expected[f"{stream}_offset"] + expected[f"{stream}_size"]
        size = self.sizes.get(number, {}).get(kind, 0)
        for place, buffers in cases.touching(parts, kind):
            content = np.frombuffer(b"".join(buffers), np.uint8)
            there = np.frombuffer(
                self.bytes_of(number, kind, place, min(place + len(content), size)), np.uint8
            )
            for begin in range(0, len(there), _PIECE):
                piece = there[begin : begin + _PIECE]
                differing = np.flatnonzero((piece != content[begin : begin + len(piece)]) & (piece != 0))
                places = differing.astype(np.uint64) + np.uint64(place + begin)
                over[np.unique(np.searchsorted(ends, places, "right"))] = True
        return over

    def _is_foreign(self, chunk: int, run: SealRun) -> bool:
        """Tell whether, without `sync`, foreign metadata is there where the last seal of a run has ours.

        It was written when that was: what is not there, or zeros, was torn by a power cut. Data may be in lent memory
        that changed.
        """
        if self.head is None or self.head.mode != Mode.LIGHT:
            return False
        bounds = run.metadata.bounds
        start = int(bounds[int(run.firsts[-2]) - run.first])
        for begin, end, expected in run.metadata.blocks(start, int(bounds[-1])):
            content = self.bytes_of(chunk, layout.META, begin, end)
            if not content:
                return False
            if xxh3_64_intdigest(content, key_of(self.owner, chunk)) != expected:
                return not cases.is_torn(content, begin)
        return False

    def foreign_after(self, chunks: Sequence[Chunk], base: Chunk) -> int:
        """Return how many of the last events have no seal, of those after a light journal's base."""
        count = 0
        for chunk in reversed(chunks):
            if chunk.count and chunk.number >= base.number:
                ours = self.sealed(chunk, base)[1]
                count += chunk.count - ours
                if ours:
                    break
        return count

    def divided(self, gap: Gap, full: Mapping[int, Chunk]) -> list[Gap]:
        """Return what is missing of each chunk; `full` has the ends of those that were left for the next one."""
        before, gaps = gap.before, []
        while before.number < gap.after.number:
            end = full.get(before.number)
            if end is None or end.first_id != before.first_id or end.count < before.count:
                break
            if end.count > before.count:
                gaps.append(Gap(before, end, gap.place))
            before = end.next()
        if (before.number, before.first_id) != (gap.after.number, gap.after.first_id):
            raise corrupt(
                self.path,
                layout.JOURNAL_NAME,
                f"has a damaged record at byte {gap.place}, and the end of chunk {before.number}, which that was "
                f"of, is not in {layout.ROSTER_NAME} either; put the files right, or take this one away to have the "
                "events that the chunk files hold by themselves",
            )
        if gap.after.count > before.count:
            gaps.append(Gap(before, gap.after, gap.place))
        return gaps
