"""Opening a partition's directory: what is found is decided on and mended, one thing after the other."""

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from mochi.disk import FileLayer
from mochi.mofka.chunks.catalog import update_roster
from mochi.mofka.chunks.chunk_files import ChunkFiles
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import Head, Mode, Part
from mochi.mofka.chunks.format.layout import Chunk, Displaced
from mochi.mofka.chunks.format.ledger import Ledger, unpack_notes
from mochi.mofka.chunks.journal import Journal, read_head, read_ledger, read_notes, read_records
from mochi.mofka.chunks.recovery import cases, mend
from mochi.mofka.chunks.recovery.cases import BadJournal, Case, Gap, Replay
from mochi.mofka.chunks.recovery.found import Found, corrupt


@dataclass(frozen=True, slots=True)
class Adopted:
    """Events of another program that were taken over.

    Attributes
    ----------
    first, count : int
        The id of the first, and their number.
    place : int
        The id that the first had where they were appended.
    """

    first: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came of opening a directory.

    Attributes
    ----------
    chunks : sequence of Chunk
        All chunks up to the one to append to, at least one.
    quarantined : sequence of str
        Names of the files that now hold what was cut off; empty after an orderly end.
    was : Head or None
        The head of the journal as it was found.
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
    was: Head | None
    head: Head
    ledger: Ledger
    damaged: Sequence[str]
    adopted: Sequence[Adopted] = ()


def recover(files: FileLayer, directory: str, *, adopt: bool = True) -> Recovery:
    """Find the events of a partition and make its end fit to append to; the caller holds the lock.

    Without `adopt`, what follows the last commit of a full journal is not looked at.

    Cost: five look-ups for each chunk; the index of the last chunk that has events, from the journal's base on; and
    after a crash the open journal.

    Raises
    ------
    CorruptPartition
        If the files are not such as a crash could leave.
    StorageError
        If the operating system refuses a call.
    """
    found = Found(files, directory)
    mend.remove_dropped(found)
    head, ledger, known = found.head, Ledger(), 0
    if head is not None:
        if read := read_ledger(files, directory, found.names, head):
            ledger, known = read
        else:
            found.report(
                layout.LEDGER_NAMES[head.generation % 2], "is lost, and with it producers and cursors"
            )
    recovering = _Recovering(found, ledger)
    if head is not None and head.mode == Mode.FULL:
        chunks, tail = recovering.by_journal(head, adopt=adopt)
    else:
        chunks, tail = recovering.by_index()
        if head is not None and head.mode == Mode.LIGHT:
            chunks = recovering.by_notes(chunks, head, known)
        chunks = recovering.with_seals(chunks, tail)
    quarantined = mend.cut(found, [chunk for chunk in chunks if chunk.number >= tail])
    filled = max((chunk.number for chunk in chunks if chunk.count), default=-1)
    least = found.start.number
    chunks = [chunk for chunk in chunks if chunk.number <= max(filled + 1, least)] or [found.first]
    if chunks[-1].number in found.roster or (chunks[-1].count and chunks[-1].number < tail):
        chunks.append(chunks[-1].next())
    update_roster(files, directory, found.owner, found.roster, chunks)
    if head is None or head.mode != Mode.CLOSED:
        with closing(Journal(files, directory, head)) as journal:
            head = journal.begin(chunks[-1], Mode.CLOSED, ledger, chunks[-1].end_id)
    return Recovery(chunks, quarantined, found.head, head, ledger, found.damaged, recovering.adopted)


def is_left_open(files: FileLayer, directory: str) -> bool:
    """Tell whether the journal of a directory was not closed: by a crash, or because a store has it open."""
    head = read_head(files, directory, files.list_directory(directory))
    return head is not None and not head.is_closed


def make_again(files: FileLayer, directory: str, chunk: Chunk, kind: str) -> bool:
    """Make the index or descriptors of a chunk again, whatever they are; the caller holds the lock.

    What was there moves to quarantine. Nothing is changed, and the result is false, unless seals tell of all events.
    """
    return mend.restore(Found(files, directory), chunk, kind)


def survey(files: FileLayer, directory: str) -> Recovery:
    """Find the events that the chunk files of a partition hold, and change nothing; no lock is needed.

    The records of a full journal that a crash left, or that a writer is at, are not looked at. What they have and
    the chunk files have not is not found.

    Raises
    ------
    CorruptPartition, StorageError
        As `recover` does.
    """
    found = Found(files, directory)
    head = found.head or Head(0, 0, Mode.CLOSED, found.owner, Chunk(0, 0))
    ledger, _ = read_ledger(files, directory, found.names, head) or (Ledger(), 0)
    recovering = _Recovering(found, ledger, read_only=True)
    chunks = recovering.with_seals(*recovering.by_index())
    return Recovery(chunks or [found.first], [], found.head, head, ledger, found.damaged)


class _Recovering:
    """What is done to a directory, of which `ledger` is the last that was written whole."""

    def __init__(self, found: Found, ledger: Ledger, *, read_only: bool = False) -> None:
        self.adopted: list[Adopted] = []
        self._found = found
        self._ledger = ledger
        self._read_only = read_only

    # Chunks that others follow

    def _settled(self, end: int) -> list[Chunk]:
        """Return the chunks up to `end`, which others follow."""
        found = self._found
        chunks = [self._settled_chunk(number) for number in range(found.first.number, end)]
        return cases.with_ids(chunks, found.first.first_id)

    def _settled_chunk(self, number: int) -> Chunk:
        """Return a chunk that others follow: from the roster, else by its index, else by its seals."""
        chunk = self._found.roster.get(number)
        if chunk is None:
            try:
                chunk = self._found.indexed_chunk(number)
            except CorruptPartition:
                chunk = self._found.sealed_chunk(number)
                if chunk is None:
                    raise
        self._report_lost(chunk)
        return chunk

    def _report_lost(self, chunk: Chunk) -> None:
        """Report what the files of a chunk lack; make its index or descriptors again if it is these."""
        if not chunk.count:
            return
        sizes = self._found.sizes.get(chunk.number, {})
        for kind in layout.ALL_KINDS:
            end, size = chunk.ends[kind], sizes.get(kind, 0)
            if size >= end:
                continue
            name = layout.file_name(chunk.number, kind)
            has = f"has {size} of {end} bytes" if kind in sizes else "is missing"
            events = f"events {chunk.first_id} to {chunk.end_id - 1}"
            case = cases.file_case(kind, restored=self._restore(chunk, kind))
            if case is Case.LOST:
                self._found.report(name, f"{has}: some or all of {events} are lost")
            elif kind == layout.SEALS:
                self._found.report(name, f"{has}: {events} are served without being verified")
            else:
                self._found.report(name, f"{has}, and was made again")

    def _restore(self, chunk: Chunk, kind: str) -> bool:
        """Make the index or descriptors of a chunk again, if that may be and its seals tell of all events."""
        restorable = kind in (layout.IDX, layout.DESC) and not self._read_only
        return restorable and mend.restore(self._found, chunk, kind)

    def _holds(self, base: Chunk) -> bool:
        """Tell whether the files have the end of `base`; index and descriptors are made again where they are lost."""
        found = self._found
        if found.is_at(base):
            return True
        sizes = found.sizes.get(base.number, {})
        if all(sizes.get(kind, 0) >= base.ends[kind] for kind in (layout.META, layout.DATA)):
            lost = [layout.DESC] if sizes.get(layout.DESC, 0) < base.ends[layout.DESC] else []
            for kind in (*lost, layout.IDX):
                if not found.is_at(base) and self._restore(base, kind):
                    found.report(layout.file_name(base.number, kind), "did not fit, and was made again")
        return found.is_at(base)

    # By a full journal

    def by_journal(self, head: Head, *, adopt: bool) -> tuple[list[Chunk], int]:
        """Return the chunks as a full journal has them, after writing its parts over again, and the base's place."""
        found, base = self._found, head.base
        full = {number: chunk for number, chunk in found.roster.items() if number >= base.number}
        for number in full:
            del found.roster[number]  # of a commit that may not have been whole
        chunks = self._settled(base.number)
        settled_end = chunks[-1].end_id if chunks else found.first.first_id
        if base != found.start or settled_end != base.first_id or not self._holds(base):
            raise corrupt(
                found.path,
                layout.JOURNAL_NAME,
                f"begins after event {base.end_id - 1} in chunk {base.number}, whose files have no such end; put "
                "back the chunk files and journal that belong together",
            )
        replay, displaced = self._replayed(head)
        chunks.append(base)
        steps = [
            piece
            for step in replay.steps
            for piece in (found.divided(step, full) if isinstance(step, Gap) else [step])
        ]
        for number, of_chunk in itertools.groupby(steps, lambda step: step.before.number):
            with closing(ChunkFiles(found.files, found.path, number)) as chunk_files:
                for step in of_chunk:
                    if isinstance(step, Gap):
                        mend.fill(found, step, chunk_files)
                    else:
                        chunk_files.write_data(step)
                        chunk_files.write_records(step)
                        self._ledger.apply(unpack_notes(memoryview(step.notes)))
                    chunks[number - found.first.number :] = [step.after]
        self._report_damaged(replay)
        committed = chunks[-1]
        if displaced is not None:
            self._move_behind(displaced, committed)
        if adopt:
            self._adopt(chunks, replay.rest)
        for number in range(chunks[-1].number + 1, found.end):
            chunks.append(Chunk(number, chunks[-1].end_id))
        return chunks, base.number

    def _replayed(self, head: Head) -> tuple[Replay, Displaced | None]:
        """Read the journal, and see whether foreign events lie where it would write; put them aside, if so."""
        found = self._found
        displaced = found.displaced()
        content = read_records(found.files, found.path)
        try:
            replay = cases.replayed(content, head, found.has_data, found.was_stored)
            if replay.broken is not None:
                there = found.foreign_at([*replay.steps, *replay.rest, replay.broken])
                over = displaced or (Displaced.between(*there) if there else None)
                if over is not None:
                    replay = cases.replayed(
                        content,
                        head,
                        found.has_data,
                        lambda part: found.was_stored(part) or cases.overlap(over, part),
                    )
        except BadJournal as error:
            raise corrupt(found.path, layout.JOURNAL_NAME, str(error)) from None
        if displaced is None and (there := found.foreign_at(replay.steps)):
            displaced = mend.put_aside(found, *there)
        return replay, displaced

    def _report_damaged(self, replay: Replay) -> None:
        """Report what the journal has lost, and data that is damaged."""
        gaps = [step for step in replay.steps if isinstance(step, Gap)]
        if gaps:
            self._ledger.forget_producers()  # invariant 4
            self._found.report(
                layout.JOURNAL_NAME,
                f"has lost records, the first at byte {gaps[0].place}, and with them all producers, and perhaps "
                "cursors",
            )
        for part in replay.damaged:
            self._found.report(
                layout.file_name(part.before.number, layout.DATA),
                f"does not have all data of events {part.before.end_id} to {part.after.end_id - 1} as it was to be "
                "written: what it has not is refused",
            )

    def _move_behind(self, displaced: Displaced, committed: Chunk) -> None:
        """Take over events that were put aside, as those that follow the last commit."""
        mend.put_behind(self._found, displaced, committed)
        first, place, count = committed.end_id, displaced.start.first_id, displaced.count
        self.adopted.append(Adopted(first, count, place))
        self._found.report(
            layout.DISPLACED_NAME,
            f"had events that another program appended as {place} to {place + count - 1}, where the journal has "
            f"others: both are kept, those of the other program as {first} to {first + count - 1}",
        )

    def _adopt(self, chunks: list[Chunk], rest: Sequence[Part]) -> None:
        """Take over the whole events that follow the last commit, unless they are only the beginning of `rest`."""
        found = self._found
        begin = committed = chunks[-1]
        found.look_again()
        grown: list[tuple[Chunk, list[Part], bool]] = []
        strange = False
        while begin.number < found.end:
            end = found.whole(begin)
            if end.count == begin.count and begin is not committed:
                break
            parts = [part for part in rest if part.before.number == begin.number]
            own = sum(part.count for part in parts)
            ours = found.first_foreign(parts, begin) is None
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
                self._ledger.apply(unpack_notes(memoryview(part.notes)))
        if grown and strange:
            self._ledger.forget_producers()  # invariant 4
        moved = sum(adopted.count for adopted in self.adopted)
        first = committed.end_id + moved
        if chunks[-1].end_id > first:
            self.adopted.append(Adopted(first, chunks[-1].end_id - first, first))

    # By the index

    def by_index(self) -> tuple[list[Chunk], int]:
        """Return the chunks as the index files have them from the base on, and the first that may have been torn."""
        found = self._found
        base = found.start
        settled = self._settled(base.number)
        settled_end = settled[-1].end_id if settled else found.first.first_id
        if settled_end != base.first_id:
            raise corrupt(
                found.path,
                layout.JOURNAL_NAME,
                f"tells of {base.first_id} events before chunk {base.number}, but there are "
                f"{settled_end}; put back the chunk files and journal that belong together",
            )
        start = base
        if not self._holds(base):
            self._report_lost(base)
            settled.append(base)
            start = base.next()
        newest_first: list[Chunk] = []
        tail = max(found.end, start.number)
        for number in reversed(range(start.number, found.end)):
            if newest_first and newest_first[-1].count:
                newest_first.append(self._settled_chunk(number))
            else:
                if number in found.sizes:
                    found.check_files(number)
                newest_first.append(found.whole(start if number == start.number else Chunk(number, 0)))
                tail = number
        if not newest_first and start.number:
            newest_first.append(start)
        return cases.with_ids([*settled, *newest_first[::-1]], found.first.first_id), tail

    def by_notes(self, chunks: list[Chunk], head: Head, known: int) -> list[Chunk]:
        """Return the chunks without the part of a batch that they may end with, by a light journal.

        The ledger, which is of the first `known` events, is brought up to their end.
        """
        found, ledger = self._found, self._ledger
        foreign = found.foreign_after(chunks, head.base)
        end_id = chunks[-1].end_id if chunks else 0
        ends = [known]
        for part_end, notes in read_notes(found.files, found.path, head):
            ends += [first_id for producer in notes.producers for first_id in producer.first_ids]
            ends.append(part_end)
            ledger.apply(notes)
        if ends[-1] >= end_id and not foreign:
            end_id = max((end for end in ends if end <= end_id), default=end_id)
            chunks = [found.shortened(chunk, end_id) for chunk in chunks]
        else:
            ledger.forget_producers()  # invariant 4
        ledger.forget_batches(end_id)
        if foreign:
            first = chunks[-1].end_id - foreign
            self.adopted.append(Adopted(first, foreign, first))
        return chunks

    def with_seals(self, chunks: list[Chunk], tail: int) -> list[Chunk]:
        """Return chunks with the ends of their seals, those from `tail` on looked for."""
        base = self._found.head.base if self._found.head else Chunk(0, 0)
        return [self._found.with_seals(chunk, base) if chunk.number >= tail else chunk for chunk in chunks]
