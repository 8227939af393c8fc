"""What is in a partition's directory when it is opened, after a crash or not.

With a full journal the partition goes back to the last whole commit of it: the chunk files up to the
journal's base are taken as they are, and the parts that follow are written over again. Otherwise (no journal,
a light one, or one closed in order) the chunk files speak for themselves, and the partition goes back to the
last whole event: so partitions of the original are opened, and what it appended to one of ours. A light journal
tells where batches end, and cuts off what is there of the last one if it is not whole. What another program has
appended to chunk files whose journal was left open is taken over as well: see `others`.

Producers are remembered as far as their events came back, and not at all if there are events that the light
journal does not know of, as a power cut may leave them: their batches could be taken twice.

Chunks before the base are taken as the roster has them, and nothing of them is read. What they lack is reported,
and refused to whoever reads it; all else is served. An index that is lost is made again from the seals. If the
base's own chunk lacks bytes after an orderly end, that chunk is left as it is, and the next one begun.

A partition begins with chunk 0, or with the one that `trim` says: what a crash left of those before it is removed.

Bytes beyond the end move to `quarantine-*` files beside, so that they neither come back as events nor are
lost. What is left there is made durable before it counts, for a process that was killed may not have. A crash
leaves damage at the end alone: behind the base, or without a journal in the last chunk that has events and in
those begun after it. Damage beyond what can be served is a `CorruptPartition`, and nothing is touched: a chunk
of which neither roster, index nor seals tell how many events it has, chunk files that do not fit a full journal, or
something in the place of a file that is none.

An event is whole if its index record is, its metadata, data and descriptor lie within their files and after
those of the event before, and its descriptor, if it is of the usual size, is of this chunk and says the same: a
copy of another chunk is none. Trailing chunks without events are normal: the original makes the next chunk's
files early. What a file system puts in place of lost bytes within a file cannot be told from them: journal and
seals are there for that.
"""

import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.disk.contract import Buffer, File, FileLayer
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.chunk_files import ChunkFiles, Part, index_of, records_of
from mochi.mofka.chunks.errors import REFUSALS, CorruptPartition
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.ledger import Ledger, unpack
from mochi.mofka.chunks.format.seals import SLOT, Seal, key_of, seals_in
from mochi.mofka.chunks.journal import (
    Gap,
    Head,
    Journal,
    Mode,
    Replay,
    read_head,
    read_ledger,
    read_notes,
    read_parts,
)
from mochi.mofka.chunks.others import (
    Adopted,
    Displaced,
    differing_records,
    displaced_of,
    forget_displaced,
    index_of_all,
    put_aside,
    put_behind,
    read_displaced,
)
from mochi.mofka.chunks.retaining import read_first
from mochi.mofka.chunks.roster import read_roster, update_roster
from mochi.mofka.chunks.seal_runs import SealRun, Slots

_COPY_SIZE = 1 << 20
_SECTOR = 512

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

_Sizes = dict[str, int]
"""Bytes of each file of a chunk that exists, by kind."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found.

    Attributes
    ----------
    chunks : sequence of Chunk
        All chunks up to the one to append to, at least one.
    quarantined : sequence of str
        Names of the files that now hold what was cut off; empty after an orderly end.
    head : Head
        The journal's, which is closed now.
    ledger : Ledger
        What is remembered of producers and consumers.
    damaged : sequence of str
        What is lost, or had to be made again; empty if all is well.
    adopted : sequence of Adopted
        What another program has appended after a crash, and was taken over; no seal tells of it.
    """

    chunks: Sequence[Chunk]
    quarantined: Sequence[str]
    head: Head
    ledger: Ledger
    damaged: Sequence[str]
    adopted: Sequence[Adopted] = ()


def recover(files: FileLayer, directory: str, *, adopt: bool = True) -> Recovery:
    """Find the events of a partition and make its end fit to append to; the caller holds the lock.

    Without `adopt`, what follows the last commit of a full journal is not looked at.

    It may be interrupted and run again. Cost: five look-ups for each chunk; the index of the last chunk that
    has events, from the journal's base on; and after a crash the open journal.

    Raises
    ------
    CorruptPartition
        If the files are not such as a crash could leave.
    StorageError
        If the operating system refuses a call.
    """
    found = _Directory(files, directory)
    found.remove_dropped()
    head, ledger, known = found.head, Ledger(), 0
    if head is not None:
        if read := read_ledger(files, directory, found.names, head):
            ledger, known = read
        else:
            found.report(
                layout.LEDGER_NAMES[head.generation % 2], "is lost, and with it producers and cursors"
            )
    if head is not None and head.mode == Mode.FULL:
        chunks, tail = _by_journal(found, head, ledger, adopt=adopt)
    else:
        chunks, tail = _by_index(found)
        if head is not None and head.mode == Mode.LIGHT:
            others = found.others_after(chunks, head.base)
            chunks = _by_notes(files, directory, chunks, head, ledger, known, others=others > 0)
            if others:
                found.adopted.append(Adopted(chunks[-1].end_id - others, others, chunks[-1].end_id - others))
        base = head.base if head else Chunk(0, 0)
        chunks = [found.with_seals(chunk, base) if chunk.number >= tail else chunk for chunk in chunks]
    quarantined = _cut(files, directory, [chunk for chunk in chunks if chunk.number >= tail], found.names)
    filled = max((chunk.number for chunk in chunks if chunk.count), default=-1)
    least = found.start.number
    chunks = [chunk for chunk in chunks if chunk.number <= max(filled + 1, least)] or [found.first]
    if chunks[-1].number in found.roster or (chunks[-1].count and chunks[-1].number < tail):
        chunks.append(chunks[-1].next())
    update_roster(files, directory, found.owner, found.roster, chunks)
    if head is None or head.mode != Mode.CLOSED:
        with closing(Journal(files, directory, head)) as journal:
            head = journal.begin(chunks[-1], Mode.CLOSED, ledger, chunks[-1].end_id)
    return Recovery(chunks, quarantined, head, ledger, found.damaged, found.adopted)


def make_again(files: FileLayer, directory: str, chunk: Chunk, kind: str) -> bool:
    """Make the index or descriptors of a chunk again, whatever they are; the caller holds the lock.

    What was there moves to quarantine. Nothing is changed, and the result is false, unless seals tell of all events.
    """
    return _Directory(files, directory).restore(chunk, kind)


def survey(files: FileLayer, directory: str) -> Recovery:
    """Find the events that the chunk files of a partition hold, and change nothing; no lock is needed.

    The records of a full journal that a crash left, or that a writer is at, are not looked at: what they have and
    the chunk files have not is not found.

    Raises
    ------
    CorruptPartition, StorageError
        As `recover` does.
    """
    found = _Directory(files, directory, read_only=True)
    head = found.head or Head(0, 0, Mode.CLOSED, found.owner, Chunk(0, 0))
    ledger, _ = read_ledger(files, directory, found.names, head) or (Ledger(), 0)
    chunks, tail = _by_index(found)
    chunks = [found.with_seals(chunk, head.base) if chunk.number >= tail else chunk for chunk in chunks]
    return Recovery(chunks or [found.first], [], head, ledger, found.damaged)


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
    """Give the size of a file; what is there and no file is no damage of a disk."""
    try:
        return files.size(os.path.join(directory, name))
    except REFUSALS as error:
        if error.errno == errno.EISDIR:
            raise _corrupt(directory, name, "is a directory, not a file; put the file back") from error
        if error.errno == errno.EINVAL:
            raise _corrupt(directory, name, "is not a regular file; put the file back") from error
        raise


class _Directory:
    """What is in a directory, before anything is made of it."""

    def __init__(self, files: FileLayer, path: str, *, read_only: bool = False) -> None:
        self.read_only = read_only
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
        self.adopted: list[Adopted] = []
        self.sizes: dict[int, _Sizes] = {}
        for name in self.names:
            if parsed := layout.parse_file_name(name):
                number, kind = parsed
                if number >= self.first.number:
                    self.sizes.setdefault(number, {})[kind] = _size(files, path, name)
        chunks = (number for number, sizes in self.sizes.items() if set(sizes) != {layout.SEALS})
        self.end = max(chunks, default=-1) + 1

    def report(self, name: str, problem: str) -> None:
        """Note damage that does not keep the partition from being opened."""
        self.damaged.append(f"{os.path.join(self.path, name)} {problem}")

    def look_again(self) -> None:
        """Look at the files again, after they were changed."""
        self.names = self.files.list_directory(self.path)
        for name in self.names:
            if (parsed := layout.parse_file_name(name)) and parsed[0] >= self.first.number:
                self.sizes.setdefault(parsed[0], {})[parsed[1]] = _size(self.files, self.path, name)

    def remove_dropped(self) -> None:
        """Remove what a crash has left of chunks that were dropped; what is something else stays."""
        for name in self.names:
            parsed = layout.parse_file_name(name)
            if parsed is None or parsed[0] >= self.first.number:
                continue
            number, kind = parsed
            size = _size(self.files, self.path, name)
            if number in self.roster and self.roster[number].ends[kind] == size:
                self.files.remove(os.path.join(self.path, name))
            else:
                self.report(name, "is not of the chunk of this number that was dropped, and is left alone")

    def settled(self, end: int) -> list[Chunk]:
        """Give the chunks up to `end`, which others follow."""
        return _with_ids(
            [self.settled_chunk(number) for number in range(self.first.number, end)], self.first.first_id
        )

    def settled_chunk(self, number: int) -> Chunk:
        """Give a chunk that others follow: from the roster, else by its index, else by its seals."""
        chunk = self.roster.get(number)
        if chunk is None:
            try:
                self.check_files(number)
                chunk = _sealed(self.files, self.path, number, self.sizes[number])
            except CorruptPartition:
                chunk = self._by_seals(number)
                if chunk is None:
                    raise
        self.report_lost(chunk)
        return chunk

    def check_files(self, number: int) -> None:
        """See that a chunk of which nothing else tells has all of its files, or none of their bytes."""
        sizes = {kind: size for kind, size in self.sizes.get(number, {}).items() if kind != layout.SEALS}
        if not sizes:
            raise _corrupt(
                self.path,
                layout.file_name(number, layout.IDX),
                f"is missing, though there is a chunk {self.end - 1}; put the chunk's files back",
            )
        for kind in layout.KINDS:
            if kind not in sizes and any(sizes.values()):
                others = ", ".join(f"{size} bytes in .{other}" for other, size in sizes.items())
                raise _corrupt(
                    self.path, layout.file_name(number, kind), f"is missing, though the chunk has {others}"
                )

    def report_lost(self, chunk: Chunk) -> None:
        """Report what the files of a chunk lack; make its index again if it is that."""
        if not chunk.count:
            return
        sizes = self.sizes.get(chunk.number, {})
        for kind in layout.ALL_KINDS:
            end = chunk.ends[kind]
            if sizes.get(kind, 0) >= end:
                continue
            name = layout.file_name(chunk.number, kind)
            has = f"has {sizes[kind]} of {end} bytes" if kind in sizes else "is missing"
            events = f"events {chunk.first_id} to {chunk.end_id - 1}"
            if kind in (layout.IDX, layout.DESC) and self.restore(chunk, kind):
                self.report(name, f"{has}, and was made again")
            elif kind == layout.SEALS:
                self.report(name, f"{has}: {events} are served without being verified")
            else:
                self.report(name, f"{has}: some or all of {events} are lost")

    def seals(self, number: int) -> list[Seal]:
        """Read the seals of a chunk, up to the first that is not good."""
        size = self.sizes.get(number, {}).get(layout.SEALS, 0)
        content = self.bytes_of(number, layout.SEALS, 0, size)
        return [seal for seal, _ in seals_in(content, key_of(self.owner, number))]

    def bytes_of(self, number: int, kind: str, start: int, stop: int) -> memoryview:
        """Read bytes of a file of a chunk, as it was when the directory was looked at; none if it ends before."""
        if not start < stop <= self.sizes.get(number, {}).get(kind, 0):
            return memoryview(b"")
        content = np.empty(stop - start, np.uint8).data
        path = os.path.join(self.path, layout.file_name(number, kind))
        with closing(self.files.open(path, writable=False)) as file:
            file.read(content, start)
        return content

    def was_sealed(self, part: Part) -> bool:
        """Tell whether the seals of a part are in its chunk's file."""
        before, stop = part.before, part.before.seals_end + len(part.seals)
        return self.bytes_of(before.number, layout.SEALS, before.seals_end, stop) == part.seals

    def was_stored(self, part: Part) -> bool:
        """Tell whether the commit of a part was on disk: its seals and index records were written after that."""
        start, stop = part.before.count * layout.INDEX_SIZE, part.after.count * layout.INDEX_SIZE
        index = self.bytes_of(part.before.number, layout.IDX, start, stop)
        return self.was_sealed(part) or index == index_of(part).tobytes()

    def others_at(self, steps: Sequence[Part | Gap]) -> tuple[Chunk, Chunk] | None:
        """Give the chunk before, and with, another's whole events where the last of the steps would write."""
        parts: list[Part] = []
        for step in reversed(steps):
            if isinstance(step, Gap) or (parts and step.before.number != parts[0].before.number):
                break
            parts.insert(0, step)
        start = parts[0].before if parts else Chunk(0, 0)
        at = self.first_other(parts, start)
        if at is None:
            return None
        before = start
        if at:
            before = _chunk(start.number, start.count + at, index_of_all(parts)[:at])
            before = replace(before, first_id=start.first_id, seals_end=start.seals_end)
        first = _records(self.files, self.path, before.number, before.count, 1)[0]
        if (first["metadata_offset"], first["data_offset"], first["descriptor_offset"]) != (
            before.metadata_end,
            before.data_end,
            before.descriptor_end,
        ):
            return None
        end = _whole_part(self.files, self.path, before, self.sizes[before.number])
        return (before, replace(end, first_id=before.first_id)) if end.count > before.count else None

    def first_other(self, parts: Sequence[Part], start: Chunk) -> int | None:
        """Give the first event, counted from `start`, that the chunk files have, and that is not the one of `parts`.

        Where the files have seals and index of a part, its events were there, and what is not the same may be damaged:
        others are there only if it is so in two files, for an event's record and bytes, or for metadata and data of
        all events of the part.
        """
        expected = index_of_all(parts)
        held = self.sizes.get(start.number, {}).get(layout.IDX, 0) // layout.INDEX_SIZE - start.count
        count = min(len(expected), max(0, held))
        if not count:
            return None
        recorded = np.zeros(len(expected), np.bool_)
        records = _records(self.files, self.path, start.number, start.count, count)
        recorded[:count] = differing_records(expected, records)
        metadata = self._written_over(start.number, layout.META, expected, "metadata", parts)
        data = self._written_over(start.number, layout.DATA, expected, "data", parts)
        others = recorded | metadata | data
        for part in parts if others.any() else ():
            of_part = slice(part.before.count - start.count, part.after.count - start.count)
            if not others[of_part].any() or of_part.stop > held or not self.was_sealed(part):
                continue
            wholly = all(
                differing[of_part].any()
                and np.array_equal(differing[of_part], expected[f"{stream}_size"][of_part] > 0)
                for differing, stream in ((metadata, "metadata"), (data, "data"))
            )
            if not wholly:
                others[of_part] = recorded[of_part] & (metadata | data)[of_part]
        return int(others.argmax()) if others[:count].any() else None

    def _written_over(
        self, number: int, kind: str, expected: NDArray[np.void], stream: str, parts: Sequence[Part]
    ) -> NDArray[np.bool_]:
        """Tell of which events of parts a file has bytes that are not theirs; zeros are what a power cut leaves."""
        over = np.zeros(len(expected), np.bool_)
        ends = expected[f"{stream}_offset"] + expected[f"{stream}_size"]
        size = self.sizes.get(number, {}).get(kind, 0)
        for place, buffers in _touching(parts, kind):
            content = np.frombuffer(b"".join(buffers), np.uint8)
            there = np.frombuffer(
                self.bytes_of(number, kind, place, min(place + len(content), size)), np.uint8
            )
            for begin in range(0, len(there), _COPY_SIZE):
                piece = there[begin : begin + _COPY_SIZE]
                differing = np.flatnonzero((piece != content[begin : begin + len(piece)]) & (piece != 0))
                over[
                    np.unique(
                        np.searchsorted(ends, differing.astype(np.uint64) + np.uint64(place + begin), "right")
                    )
                ] = True
        return over

    def is_others(self, chunk: int, run: SealRun) -> bool:
        """Tell whether, without `sync`, others' metadata is there where the last seal of a run has ours.

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
                return not _is_torn(content, begin)
        return False

    def others_after(self, chunks: Sequence[Chunk], base: Chunk) -> int:
        """Give how many of the last events have no seal, of those after a light journal's base."""
        count = 0
        for chunk in reversed(chunks):
            if chunk.count and chunk.number >= base.number:
                ours = self.sealed(chunk, base)[1]
                count += chunk.count - ours
                if ours:
                    break
        return count

    def divided(self, gap: Gap, full: Mapping[int, Chunk]) -> Iterator[Gap]:
        """Give what is missing of each chunk; `full` has the ends of those that were left for the next one."""
        before = gap.before
        while before.number < gap.after.number:
            end = full.get(before.number)
            if end is None or end.first_id != before.first_id or end.count < before.count:
                break
            if end.count > before.count:
                yield Gap(before, end, gap.place)
            before = end.next()
        if (before.number, before.first_id) != (gap.after.number, gap.after.first_id):
            raise _corrupt(
                self.path,
                layout.JOURNAL_NAME,
                f"has a damaged record at byte {gap.place}, and the end of chunk {before.number}, which that was "
                f"of, is not in {layout.ROSTER_NAME} either; put the files right, or take this one away to have the "
                "events that the chunk files hold by themselves",
            )
        if gap.after.count > before.count:
            yield Gap(before, gap.after, gap.place)

    def fill(self, gap: Gap, chunk_files: ChunkFiles) -> None:
        """Have events that the journal has lost served as far as seals tell of them, or else refused."""
        before, after = gap.before, gap.after
        content = self.bytes_of(before.number, layout.SEALS, before.seals_end, after.seals_end)
        found = list(seals_in(content, key_of(self.owner, before.number)))
        seals = [seal for seal, _ in found]
        ends = [before.count, *(seal.end for seal in seals)]
        known = [seal.first for seal in seals] == ends[:-1] and ends[-1] == after.count
        if known:
            for seal in seals:
                chunk_files.write_again(seal)
        else:
            chunk_files.write_lost(before, after)
        kept = "are as the chunk files have them" if known else "are lost"
        self.report(
            layout.JOURNAL_NAME,
            f"has a damaged record at byte {gap.place}: events {before.end_id} to {after.end_id - 1} {kept}",
        )

    def _by_seals(self, number: int) -> Chunk | None:
        """Give a chunk as its seals have it, if they tell of all its events."""
        seals = self.seals(number)
        if not seals or not _covers(seals, seals[-1].end):
            return None
        last = seals[-1]
        return Chunk(
            number,
            0,
            last.end,
            last.metadata.start + last.metadata.size,
            last.data.start + last.data.size,
            last.descriptor_start + last.count * layout.DESCRIPTOR_SIZE,
            self.sizes[number][layout.SEALS] // SLOT * SLOT,
            last.time,
        )

    def restore(self, chunk: Chunk, kind: str) -> bool:
        """Make the index or descriptors of a chunk again, if its seals tell of all events; keep what was there."""
        seals = self.seals(chunk.number)
        if self.read_only or not _covers(seals, chunk.count):
            return False
        path = os.path.join(self.path, layout.file_name(chunk.number, kind))
        with closing(self.files.open(path, writable=True)) as file:
            if size := self.files.size(path):
                aside = _unused(
                    f"{layout.QUARANTINE_PREFIX}{chunk.number:06d}-{kind}",
                    self.files.list_directory(self.path),
                )
                _move_tail(self.files, self.path, file, range(size), aside)
            for seal in seals:
                start, records = records_of(chunk.number, seal, kind)
                file.write([records.view(np.uint8).data], start)
            file.sync()
        self.files.sync_directory(self.path)
        self.sizes.setdefault(chunk.number, {})[kind] = self.files.size(path)
        return True

    def is_at(self, base: Chunk) -> bool:
        """Tell whether the files of a chunk have the end of `base` somewhere."""
        sizes = self.sizes.get(base.number, {})
        if not base.count:
            return True
        if any(sizes.get(kind, 0) < base.ends[kind] for kind in layout.KINDS):
            return False
        found = _chunk(
            base.number, base.count, _records(self.files, self.path, base.number, base.count - 1, 1)
        )
        return all(found.ends[kind] == base.ends[kind] for kind in layout.KINDS)

    def holds(self, base: Chunk) -> bool:
        """Tell the same, after making index and descriptors again where they are lost."""
        if self.is_at(base):
            return True
        sizes = self.sizes.get(base.number, {})
        if all(sizes.get(kind, 0) >= base.ends[kind] for kind in (layout.META, layout.DATA)):
            lost = [layout.DESC] if sizes.get(layout.DESC, 0) < base.ends[layout.DESC] else []
            for kind in (*lost, layout.IDX):
                if not self.is_at(base) and self.restore(base, kind):
                    self.report(layout.file_name(base.number, kind), "did not fit, and was made again")
        return self.is_at(base)

    def with_seals(self, chunk: Chunk, base: Chunk) -> Chunk:
        """Give a chunk with the end of the seals of its events, those after `base` looked for."""
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
            records = _records(self.files, self.path, chunk.number, count, chunk.count - count)
            while found := slots.run(slot, chunk.count):
                alike = _alike(found[0], records, count) if open_journal else chunk.count
                if found[1] == len(slots) and self.is_others(chunk.number, found[0]):
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


def _touching(parts: Sequence[Part], kind: str) -> list[tuple[int, list[Buffer]]]:
    """Give metadata or data of parts, as far as the journal has it, where it begins; together what touches."""
    runs: list[tuple[int, list[Buffer]]] = []
    stop = -1
    for part in parts:
        buffers = part.metadata if kind == layout.META else part.data
        start, size = part.before.ends[kind], sum(map(len, buffers))
        if not size:
            continue
        if start == stop:
            runs[-1][1].extend(buffers)
        else:
            runs.append((start, list(buffers)))
        stop = start + size
    return runs


def _is_torn(content: memoryview, start: int) -> bool:
    """Tell whether bytes from `start` of a file on have a sector of zeros, as a power cut leaves them."""
    first = -start % _SECTOR
    cuts = range(first, len(content), _SECTOR)
    return any(not piece.any() for piece in np.split(np.frombuffer(content, np.uint8), cuts) if len(piece))


def _alike(run: SealRun, records: NDArray[np.void], first: int) -> int:
    """Give the event up to which seals say the same as the index records of a chunk from event `first` on."""
    if run.first < first:
        return run.first
    records = records[run.first - first : run.end - first]
    alike = np.ones(len(records), np.bool_)
    for name, stream in (("metadata", run.metadata), ("data", run.data)):
        offsets = records[f"{name}_offset"]
        alike &= stream.bounds[: len(records)] == offsets
        alike &= stream.bounds[1 : len(records) + 1] == offsets + records[f"{name}_size"]
    return run.first + (len(records) if alike.all() else int(alike.argmin()))


def _covers(seals: Sequence[Seal], count: int) -> bool:
    """Tell whether seals are of all of the first `count` events of a chunk."""
    firsts = [seal.first for seal in seals]
    return bool(seals) and firsts == [0, *(seal.end for seal in seals[:-1])] and seals[-1].end == count


def _by_journal(found: _Directory, head: Head, ledger: Ledger, *, adopt: bool) -> tuple[list[Chunk], int]:
    """Give the chunks as a full journal has them, after writing its parts over again, and the base's place."""
    base = head.base
    full = {number: chunk for number, chunk in found.roster.items() if number >= base.number}
    for number in full:
        del found.roster[number]  # of a commit that may not have been whole
    chunks = found.settled(base.number)
    settled_end = chunks[-1].end_id if chunks else found.first.first_id
    if base != found.start or settled_end != base.first_id or not found.holds(base):
        raise _corrupt(
            found.path,
            layout.JOURNAL_NAME,
            f"begins after event {base.end_id - 1} in chunk {base.number}, whose files have no such end; put "
            "back the chunk files and journal that belong together",
        )
    replay, displaced = _with_others(found, head)
    chunks.append(base)
    steps = (
        piece
        for step in replay.steps
        for piece in (found.divided(step, full) if isinstance(step, Gap) else [step])
    )
    for number, of_chunk in itertools.groupby(list(steps), lambda step: step.before.number):
        with closing(ChunkFiles(found.files, found.path, number)) as chunk_files:
            for step in of_chunk:
                if isinstance(step, Gap):
                    found.fill(step, chunk_files)
                else:
                    chunk_files.write_data(step)
                    chunk_files.write_records(step)
                    ledger.apply(unpack(memoryview(step.notes)))
                chunks[number - found.first.number :] = [step.after]
    gaps = [step for step in replay.steps if isinstance(step, Gap)]
    if gaps:
        ledger.forget_producers()
        found.report(
            layout.JOURNAL_NAME,
            f"has lost records, the first at byte {gaps[0].place}, and with them all producers, and perhaps cursors",
        )
    for part in replay.spoilt:
        found.report(
            layout.file_name(part.before.number, layout.DATA),
            f"does not have all data of events {part.before.end_id} to {part.after.end_id - 1} as it was to be "
            "written: what it has not is refused",
        )
    committed = chunks[-1]
    if displaced is not None:
        put_behind(found.files, found.path, displaced, committed)
        forget_displaced(found.files, found.path)
        first, place, count = committed.end_id, displaced.start.first_id, displaced.count
        found.adopted.append(Adopted(first, count, place))
        found.report(
            layout.DISPLACED_NAME,
            f"had events that another program appended as {place} to {place + count - 1}, where the journal has "
            f"others: both are kept, those of the other program as {first} to {first + count - 1}",
        )
    if adopt:
        _adopt(found, chunks, replay.rest, ledger)
    for number in range(chunks[-1].number + 1, found.end):
        chunks.append(Chunk(number, chunks[-1].end_id))
    return chunks, base.number


def _with_others(found: _Directory, head: Head) -> tuple[Replay, Displaced | None]:
    """Read the journal, and see whether others' events lie where it would write; put them aside, if so."""
    displaced = read_displaced(found.files, found.path, found.names, head.key, head.generation)
    replay = read_parts(found.files, found.path, head, found.was_stored)
    if replay.broken is not None:
        there = found.others_at([*replay.steps, *replay.rest, replay.broken])
        over = displaced or (displaced_of(*there) if there else None)
        if over is not None:
            replay = read_parts(
                found.files, found.path, head, lambda part: found.was_stored(part) or over.overlaps(part)
            )
    if displaced is None and (there := found.others_at(replay.steps)):
        displaced = put_aside(found.files, found.path, *there, head.key, head.generation)
    return replay, displaced


def _adopt(found: _Directory, chunks: list[Chunk], rest: Sequence[Part], ledger: Ledger) -> None:
    """Take over the whole events that follow the last commit, unless they are the beginning of `rest`, and no more."""
    begin = committed = chunks[-1]
    found.look_again()
    grown: list[tuple[Chunk, list[Part], bool]] = []
    strange = False
    while begin.number < found.end:
        end = _whole_part(found.files, found.path, begin, found.sizes.get(begin.number, {}))
        if end.count == begin.count and begin is not committed:
            break
        parts = [part for part in rest if part.before.number == begin.number]
        own = sum(part.count for part in parts)
        ours = found.first_other(parts, begin) is None
        kept = parts if ours and begin.count + own <= end.count else []
        end = found.with_seals(replace(end, first_id=begin.first_id), begin)
        grown.append((end, kept, ours and end.count <= begin.count + own))
        strange |= end.seals_end > begin.seals_end + sum(len(part.seals) for part in kept)
        begin = end.next()
    while grown and grown[-1][2]:
        grown.pop()
    for end, kept, _ in grown:
        chunks[end.number - chunks[0].number :] = [end]
        for part in kept:
            ledger.apply(unpack(memoryview(part.notes)))
    if grown and strange:
        ledger.forget_producers()
    moved = sum(adopted.count for adopted in found.adopted)
    first = committed.end_id + moved
    if chunks[-1].end_id > first:
        found.adopted.append(Adopted(first, chunks[-1].end_id - first, first))


def _by_index(found: _Directory) -> tuple[list[Chunk], int]:
    """Give the chunks as the index files have them from the base on, and the first that may have been torn."""
    base = found.start
    settled = found.settled(base.number)
    settled_end = settled[-1].end_id if settled else found.first.first_id
    if settled_end != base.first_id:
        raise _corrupt(
            found.path,
            layout.JOURNAL_NAME,
            f"tells of {base.first_id} events before chunk {base.number}, but there are "
            f"{settled_end}; put back the chunk files and journal that belong together",
        )
    start = base
    if not found.holds(base):
        found.report_lost(base)
        settled.append(base)
        start = base.next()
    newest_first: list[Chunk] = []
    tail = max(found.end, start.number)
    for number in reversed(range(start.number, found.end)):
        if newest_first and newest_first[-1].count:
            newest_first.append(found.settled_chunk(number))
        else:
            if number in found.sizes:
                found.check_files(number)
            begin = start if number == start.number else Chunk(number, 0)
            newest_first.append(_whole_part(found.files, found.path, begin, found.sizes.get(number, {})))
            tail = number
    if not newest_first and start.number:
        newest_first.append(start)
    return _with_ids([*settled, *newest_first[::-1]], found.first.first_id), tail


def _by_notes(
    files: FileLayer,
    directory: str,
    chunks: list[Chunk],
    head: Head,
    ledger: Ledger,
    known: int,
    *,
    others: bool,
) -> list[Chunk]:
    """Give the chunks without the part of a batch that they may end with, and bring the ledger up to their end.

    `known` is the number of events that the ledger is of; `others` tells that the last of all events are another's.
    """
    end_id = chunks[-1].end_id if chunks else 0
    ends = [known]
    for part_end, notes in read_notes(files, directory, head):
        ends += [first_id for producer in notes.producers for first_id in producer.first_ids]
        ends.append(part_end)
        ledger.apply(notes)
    if ends[-1] >= end_id and not others:
        end_id = max((end for end in ends if end <= end_id), default=end_id)
        chunks = [_shortened(files, directory, chunk, end_id) for chunk in chunks]
    else:
        ledger.forget_producers()
    ledger.forget_batches(end_id)
    return chunks


def _shortened(files: FileLayer, directory: str, chunk: Chunk, end_id: int) -> Chunk:
    """Give a chunk without the events from `end_id` on."""
    if chunk.end_id <= end_id:
        return chunk
    count = max(0, end_id - chunk.first_id)
    records = _records(files, directory, chunk.number, count - 1, min(count, 1))
    return replace(_chunk(chunk.number, count, records), first_id=min(chunk.first_id, end_id))


def _with_ids(chunks: Sequence[Chunk], first_id: int) -> list[Chunk]:
    """Number the events of all chunks, the first one from `first_id` on."""
    numbered: list[Chunk] = []
    for chunk in chunks:
        numbered.append(replace(chunk, first_id=numbered[-1].end_id if numbered else first_id))
    return numbered


def _cut(files: FileLayer, directory: str, chunks: Sequence[Chunk], names: Sequence[str]) -> list[str]:
    """Move to quarantine what the files of chunks have beyond their end, and put the rest on disk."""
    quarantined: list[str] = []
    present = set(files.list_directory(directory))
    for chunk in chunks:
        for kind, end in chunk.ends.items():
            name = layout.file_name(chunk.number, kind)
            if name in present:
                path = os.path.join(directory, name)
                with closing(files.open(path, writable=True)) as file:
                    if (size := files.size(path)) > end:
                        aside = _unused(f"{layout.QUARANTINE_PREFIX}{chunk.number:06d}-{kind}", names)
                        _move_tail(files, directory, file, range(end, size), aside)
                        quarantined.append(aside)
                    file.sync()
    return quarantined


def _sealed(files: FileLayer, directory: str, number: int, sizes: _Sizes) -> Chunk:
    """Read a chunk that later ones with events follow, and which therefore must be whole."""
    name = layout.file_name(number, layout.IDX)
    size = sizes.get(layout.IDX, 0)
    count, rest = divmod(size, layout.INDEX_SIZE)
    if not count or rest:
        raise _corrupt(
            directory,
            name,
            f"has {size} bytes, but must have a positive multiple of {layout.INDEX_SIZE}, "
            "for later chunks have events",
        )
    last = _records(files, directory, number, count - 1, 1)
    if any(kind not in sizes for kind in layout.KINDS) or not _held(last, sizes).all():
        raise _corrupt(
            directory,
            name,
            "ends with a record of bytes that the chunk lacks, though later chunks have events",
        )
    return replace(_chunk(number, count, last), seals_end=sizes.get(layout.SEALS, 0) // SLOT * SLOT)


def _whole_part(files: FileLayer, directory: str, start: Chunk, sizes: _Sizes) -> Chunk:
    """Find the events of a chunk, after those of `start`, up to the first that is not whole."""
    count = sizes.get(layout.IDX, 0) // layout.INDEX_SIZE
    records = _records(files, directory, start.number, start.count, count - start.count)
    if not len(records):
        return start
    if any(kind not in sizes for kind in layout.KINDS):
        return start
    whole = _held(records, sizes) & _described(files, directory, start, records, sizes)
    for stream in ("metadata", "data", "descriptor"):
        starts = records[f"{stream}_offset"]
        whole[0] &= starts[0] >= getattr(start, f"{stream}_end")
        whole[1:] &= starts[1:] >= starts[:-1] + records[f"{stream}_size"][:-1]
    held = len(records) if whole.all() else int(whole.argmin())
    return _chunk(start.number, start.count + held, records[:held]) if held else start


def _described(
    files: FileLayer, directory: str, start: Chunk, records: NDArray[np.void], sizes: _Sizes
) -> NDArray[np.bool_]:
    """Tell which events have a descriptor that says what their index record does, or one of unusual size."""
    usual = records["descriptor_size"] == layout.DESCRIPTOR_SIZE
    first = start.descriptor_end
    in_order = records["descriptor_offset"] == first + np.arange(len(records), dtype=np.uint64) * np.uint64(
        layout.DESCRIPTOR_SIZE
    )
    count = int((usual & in_order).cumprod().sum())
    count = min(count, max(0, sizes[layout.DESC] - first) // layout.DESCRIPTOR_SIZE)
    found = np.empty(count, layout.DESCRIPTOR_DTYPE)
    if count:
        path = os.path.join(directory, layout.file_name(start.number, layout.DESC))
        with closing(files.open(path, writable=False)) as file:
            file.read(found.view(np.uint8).data, first)
    described = np.ones(len(records), np.bool_)
    described[:count] = (
        (found["chunk"] == start.number)
        & (found["data_offset"] == records["data_offset"][:count])
        & (found["data_size"] == records["data_size"][:count])
    )
    return described


def _records(files: FileLayer, directory: str, number: int, first: int, count: int) -> NDArray[np.void]:
    records = np.empty(count, layout.INDEX_DTYPE)
    if count:
        path = os.path.join(directory, layout.file_name(number, layout.IDX))
        with closing(files.open(path, writable=False)) as file:
            file.read(records.view(np.uint8).data, first * layout.INDEX_SIZE)
    return records


def _held(records: NDArray[np.void], sizes: _Sizes) -> NDArray[np.bool_]:
    return layout.within(records, sizes[layout.META], sizes[layout.DATA], sizes[layout.DESC])


def _chunk(number: int, count: int, records: NDArray[np.void]) -> Chunk:
    """Give a chunk of `count` events, of which `records` are the last, before its first id is known."""
    if not count:
        return Chunk(number, 0)
    metadata_offset, metadata_size, data_offset, data_size, offset, size = records[-1].item()
    return Chunk(number, 0, count, metadata_offset + metadata_size, data_offset + data_size, offset + size)


def _unused(stem: str, names: Sequence[str]) -> str:
    """Give the first name with a number after `stem` that is not among `names`."""
    return next(name for n in itertools.count() if (name := f"{stem}-{n}") not in names)


def _move_tail(files: FileLayer, directory: str, source: File, tail: range, aside: str) -> None:
    """Move the bytes of `tail`, the last of a file, to a new file; the cut itself is not yet durable."""
    buffer = memoryview(bytearray(min(_COPY_SIZE, len(tail))))
    with closing(files.open(os.path.join(directory, aside), writable=True)) as target:
        for position in tail[::_COPY_SIZE]:
            piece = buffer[: tail.stop - position]
            source.read(piece, position)
            target.write([piece], position - tail.start)
        target.sync()
    files.sync_directory(directory)
    source.truncate(tail.start)


def _corrupt(directory: str, name: str, problem: str) -> CorruptPartition:
    path = os.path.join(directory, name)
    return CorruptPartition(f"{path} {problem}", path=path, operation="recover")
