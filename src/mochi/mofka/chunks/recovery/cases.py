"""What recovery decides, without I/O: of all that may be in a directory, what it is and what becomes of it.

| found | it is | what becomes of it |
|---|---|---|
| a record of the journal that is not good, and none behind it counts it as on disk | torn | commits end before it |
| the same, and one behind it does count it | lost | its events are served as seals tell of them, or refused |
| large data that is not as its seals say, of a commit that was never on disk | torn | commits end before it |
| the same, of a commit that was on disk | damaged | what is not as it was is refused when it is read |
| parts of a commit that is not whole | torn | they move to quarantine |
| events behind the last commit that it does not explain | foreign | they are taken over |
| events where the journal would write others | foreign | both are kept: they move behind the journal's |
| an event whose record, bytes or descriptor are not all there, at the end | torn | it moves to quarantine |
| the same, and later chunks have events | lost | the chunk is as roster or seals have it, or all is refused |
| index or descriptors that are too short, and seals of all events | damaged | they are made again |
| metadata or data that is too short | lost | the events are refused when they are read |
| seals that are too short | damaged | the events are served without being verified |

Events of another program are told from what a crash of ours left by these signs. The original knows neither lock nor
journal: it attaches a directory whose journal is open, takes what the index tells of for all there is, and appends.

- With a full journal no index record of ours is written before the record in the journal is on disk. So whole events
  behind its last commit are foreign, unless they are the beginning of a commit that is not whole. If they have a seal
  of ours, the last record was damaged since.
- Without `sync` a seal is written before its index records. So whole events without one, at the end, are foreign (or
  ours, after a power cut: then they were acknowledged as well, as far as that goes without `sync`).
- Where the journal would write, and whole events that are not the same follow what is before, these are foreign: they
  were appended to chunk files that were behind the journal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from mochi.disk import Buffer
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import BLOCK, RECORDS_START, Head, Part, Record, record_at
from mochi.mofka.chunks.format.layout import Chunk, Displaced
from mochi.mofka.chunks.format.seals import Seal, SealRun, key_of

_SECTOR = 512

Sizes = dict[str, int]
"""Bytes of each file of a chunk that exists, by kind."""


class Case(Enum):
    """What something in a directory is; see the table above."""

    WHOLE = auto()
    TORN = auto()
    LOST = auto()
    DAMAGED = auto()


def record_case(*, good: bool, was_on_disk: bool) -> Case:
    """Tell what a record of a full journal is."""
    return Case.WHOLE if good else Case.LOST if was_on_disk else Case.TORN


def data_case(*, good: bool, was_on_disk: bool) -> Case:
    """Tell what large data is that a record tells of."""
    return Case.WHOLE if good else Case.DAMAGED if was_on_disk else Case.TORN


def file_case(kind: str, *, restored: bool) -> Case:
    """Tell what a file of a chunk is that is too short, or missing."""
    return Case.DAMAGED if restored or kind == layout.SEALS else Case.LOST


@dataclass(frozen=True, slots=True)
class Gap:
    """What is missing where records are lost that were on disk: events, and notes that nobody knows.

    Attributes
    ----------
    before, after : Chunk
        The last chunk without it, and with it.
    place : int
        Where in the journal the first lost record is.
    """

    before: Chunk
    after: Chunk
    place: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a full journal tells of.

    Attributes
    ----------
    steps : list of Part or Gap
        All whole commits, in order.
    rest : list of Part
        Of a commit at the end that is not whole.
    broken : Part or None
        The part that they end before, if its record is good, and its data is torn.
    damaged : list of Part
        Those of `steps` whose data is.
    """

    steps: list[Part | Gap]
    rest: list[Part]
    broken: Part | None
    damaged: list[Part]


class BadJournal(Exception):
    """A journal that no crash leaves behind; says what is wrong with it."""


def replayed(
    content: memoryview, head: Head, has_data: Callable[[Part], bool], was_stored: Callable[[Part], bool]
) -> Replay:
    """Tell all whole commits in the content of a full journal, in order.

    Parameters
    ----------
    has_data : callable
        Tells whether large data is in its place, as the seals of its part say.
    was_stored : callable
        Tells whether the commit of a part had been on disk, by other signs than records.

    Raises
    ------
    BadJournal
        If records that follow each other tell of events that do not; or if a record of version 3 is lost.
    """
    steps: list[Part | Gap] = []
    damaged: list[Part] = []
    whole = sequence = 0
    settled: int | None = None
    broken: Part | None = None
    state, position = head.base, RECORDS_START
    while True:
        record = record_at(content, position, head)
        good = record is not None and record.sequence == sequence
        if not good and settled is None:
            settled = _settled(content, position, head)
        counted = not good and (settled or 0) > sequence
        behind = _next_record(content, position, head, sequence) if counted else None
        case = record_case(good=good, was_on_disk=behind is not None)
        if case is Case.TORN:
            break
        if case is Case.LOST:
            assert behind is not None
            place, (position, record) = position, behind
            if head.version == 3:
                raise BadJournal(
                    f"has a damaged record at byte {place}, and a good one of event {record.first_id} at byte "
                    f"{position}, which was written when that was on disk; put the file right, or take it away "
                    "to have the events that the chunk files hold by themselves"
                )
            steps.append(Gap(state, record.before, place))
            state, whole = record.before, len(steps)
        assert record is not None
        before = state if record.before.number == state.number else state.next()
        if (record.before.number, record.first_id) != (before.number, before.end_id):
            raise BadJournal(
                f"goes on with event {record.first_id} in chunk {record.before.number}, at byte {position}, "
                f"though event {state.end_id} in chunk {state.number} or the next is due"
            )
        part = record.part(before, content[position:], key_of(head.owner, before.number))
        if not record.within and not has_data(part):
            settled = _settled(content, position, head) if settled is None else settled
            on_disk = settled > record.sequence or was_stored(part)
            if data_case(good=False, was_on_disk=on_disk) is Case.TORN:
                broken = part
                break
            damaged.append(part)
        steps.append(part)
        state = part.after
        if record.last:
            whole = len(steps)
        sequence = record.sequence + 1
        position += record.size + -record.size % BLOCK
    rest = [step for step in steps[whole:] if isinstance(step, Part)]
    return Replay(steps[:whole], rest, broken, [part for part in damaged if part in steps[:whole]])


def _settled(content: memoryview, position: int, head: Head) -> int:
    """Return how many records were on disk, with their commits, as far as good records from a place on say."""
    found = (record_at(content, place, head) for place in range(position, len(content), BLOCK))
    return max((record.settled for record in found if record), default=0)


def _next_record(content: memoryview, after: int, head: Head, sequence: int) -> tuple[int, Record] | None:
    """Return the first good record behind a place, and its own, of those later than `sequence`."""
    for place in range(after + BLOCK, len(content), BLOCK):
        record = record_at(content, place, head)
        if record is not None and record.sequence > sequence:
            return place, record
    return None


def whole_events(start: Chunk, records: NDArray[np.void], descriptors: NDArray[np.void], sizes: Sizes) -> int:
    """Tell how many of the events of a chunk behind `start` are whole, up to the first that is not.

    An event is whole if its metadata, data and descriptor lie within their files and after those of the event before.
    A descriptor of the usual size must also be of this chunk, and say the same as the index record. What a file
    system puts in place of lost bytes within a file cannot be told from them: journal and seals are there for that.

    Parameters
    ----------
    records : array of INDEX_DTYPE
        The index behind `start`; all four files exist if there are any.
    descriptors : array of DESCRIPTOR_DTYPE
        The descriptors of as many of the first of them as have usual ones that follow each other.
    """
    count = len(descriptors)
    whole = held(records, sizes)
    whole[:count] &= (
        (descriptors["chunk"] == start.number)
        & (descriptors["data_offset"] == records["data_offset"][:count])
        & (descriptors["data_size"] == records["data_size"][:count])
    )
    for stream in ("metadata", "data", "descriptor"):
        starts = records[f"{stream}_offset"]
        whole[0] &= starts[0] >= getattr(start, f"{stream}_end")
        whole[1:] &= starts[1:] >= starts[:-1] + records[f"{stream}_size"][:-1]
    return len(records) if whole.all() else int(whole.argmin())


def usual_descriptors(start: Chunk, records: NDArray[np.void], size: int) -> int:
    """Tell how many of the first events behind `start` have descriptors of the usual size, within a file of `size`."""
    usual = records["descriptor_size"] == layout.DESCRIPTOR_SIZE
    first = start.descriptor_end
    in_order = records["descriptor_offset"] == first + np.arange(len(records), dtype=np.uint64) * np.uint64(
        layout.DESCRIPTOR_SIZE
    )
    count = int((usual & in_order).cumprod().sum())
    return min(count, max(0, size - first) // layout.DESCRIPTOR_SIZE)


def held(records: NDArray[np.void], sizes: Sizes) -> NDArray[np.bool_]:
    """Tell which index records are of events that files of these sizes hold."""
    return layout.within(records, sizes[layout.META], sizes[layout.DATA], sizes[layout.DESC])


def ended_by(number: int, count: int, records: NDArray[np.void]) -> Chunk:
    """Return a chunk of `count` events, of which `records` are the last, before its first id is known."""
    if not count:
        return Chunk(number, 0)
    metadata_offset, metadata_size, data_offset, data_size, offset, size = records[-1].item()
    return Chunk(number, 0, count, metadata_offset + metadata_size, data_offset + data_size, offset + size)


def sealed_by(number: int, seals: Sequence[Seal], seals_end: int) -> Chunk | None:
    """Return a chunk as its seals have it, before its first id is known; None if they do not tell of all its events."""
    if not seals or not cover(seals, seals[-1].end):
        return None
    last = seals[-1]
    return Chunk(
        number,
        0,
        last.end,
        last.metadata.start + last.metadata.size,
        last.data.start + last.data.size,
        last.descriptor_start + last.count * layout.DESCRIPTOR_SIZE,
        seals_end,
        last.time,
    )


def cover(seals: Sequence[Seal], count: int, first: int = 0) -> bool:
    """Tell whether seals are of all events of a chunk from `first` up to `count`, and of no others."""
    ends = [first, *(seal.end for seal in seals)]
    return bool(seals) and [seal.first for seal in seals] == ends[:-1] and ends[-1] == count


def with_ids(chunks: Sequence[Chunk], first_id: int) -> list[Chunk]:
    """Number the events of all chunks, the first one from `first_id` on."""
    numbered: list[Chunk] = []
    for chunk in chunks:
        numbered.append(replace(chunk, first_id=numbered[-1].end_id if numbered else first_id))
    return numbered


def alike(run: SealRun, records: NDArray[np.void], first: int) -> int:
    """Return the event up to which seals say the same as the index records of a chunk from event `first` on."""
    if run.first < first:
        return run.first
    records = records[run.first - first : run.end - first]
    same = np.ones(len(records), np.bool_)
    for name, stream in (("metadata", run.metadata), ("data", run.data)):
        offsets = records[f"{name}_offset"]
        same &= stream.bounds[: len(records)] == offsets
        same &= stream.bounds[1 : len(records) + 1] == offsets + records[f"{name}_size"]
    return run.first + (len(records) if same.all() else int(same.argmin()))


def is_torn(content: memoryview, start: int) -> bool:
    """Tell whether bytes from `start` of a file on have a sector of zeros, as a power cut leaves them."""
    first = -start % _SECTOR
    cuts = range(first, len(content), _SECTOR)
    return any(not piece.any() for piece in np.split(np.frombuffer(content, np.uint8), cuts) if len(piece))


def last_parts(steps: Sequence[Part | Gap]) -> list[Part]:
    """Return those of the last steps that are parts of one chunk and follow each other."""
    parts: list[Part] = []
    for step in reversed(steps):
        if isinstance(step, Gap) or (parts and step.before.number != parts[0].before.number):
            break
        parts.insert(0, step)
    return parts


def index_of_all(parts: Sequence[Part]) -> NDArray[np.void]:
    """Return the index records that parts of a chunk, which follow each other, have there."""
    records = [part.index() for part in parts]
    return np.concatenate(records) if records else np.empty(0, layout.INDEX_DTYPE)


def differing_records(expected: NDArray[np.void], found: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell of each index record that is expected whether another was found, padding apart."""
    differing = np.zeros(len(expected), np.bool_)
    for name in layout.INDEX_DTYPE.names or ():
        differing[: len(found)] |= expected[name][: len(found)] != found[name]
    return differing


def touching(parts: Sequence[Part], kind: str) -> list[tuple[int, list[Buffer]]]:
    """Return metadata or data of parts, as far as the journal has it, where it begins; together what touches."""
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


def first_foreign(
    parts: Sequence[Part],
    held: int,
    recorded: NDArray[np.bool_],
    metadata: NDArray[np.bool_],
    data: NDArray[np.bool_],
    was_sealed: Callable[[Part], bool],
) -> int | None:
    """Return the first of the events that chunk files have, where parts would be written, that is not one of these.

    Where the files have seals and index of a part, its events were there, and what is not the same may be damaged.
    Others are there only if it is so in two files: for an event's record and bytes, or for metadata and data of all
    events of the part.

    Parameters
    ----------
    held : int
        How many index records the files have there.
    recorded, metadata, data : bool array, of an entry for each event of the parts
        Whether its index record, metadata or data is another's.
    was_sealed : callable
        Tells whether the files have the seals of a part.
    """
    others = recorded | metadata | data
    expected = index_of_all(parts)
    start = parts[0].before.count if parts else 0
    for part in parts if others.any() else ():
        of_part = slice(part.before.count - start, part.after.count - start)
        if not others[of_part].any() or of_part.stop > held or not was_sealed(part):
            continue
        wholly = all(
            differing[of_part].any()
            and np.array_equal(differing[of_part], expected[f"{stream}_size"][of_part] > 0)
            for differing, stream in ((metadata, "metadata"), (data, "data"))
        )
        if not wholly:
            others[of_part] = recorded[of_part] & (metadata | data)[of_part]
    return int(others.argmax()) if others[:held].any() else None


def overlap(displaced: Displaced, part: Part) -> bool:
    """Tell whether events that are to be moved lie on data of a part."""
    start = displaced.start
    return (
        part.before.number == start.number
        and part.before.data_end < start.data_end + displaced.data_bytes
        and start.data_end < part.after.data_end
    )
