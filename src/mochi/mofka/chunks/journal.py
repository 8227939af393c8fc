"""The journal: whole commits in one file beside the chunk files, so that one sync makes a commit durable.

The file begins with two blocks that each hold a head; the valid one of the higher generation counts. A head
says up to where the chunk files are durable (its `base`), and in which mode the journal is:

- `FULL`: what follows the base is what the journal says, whatever the chunk files have there.
- `LIGHT`: the chunk files speak for themselves, as without `sync` they must; the records tell where batches
  end, and have their notes.
- `CLOSED`: there was an orderly end. The journal says nothing, and the chunk files are taken as they are.

After the heads come the records of the head's generation, one for each part of a commit, in order, the last one
of a commit marked as such. Each tells where its part begins in all files of its chunk, so that of a record that is
lost the one behind it tells which events it had, and where. Two ledger files take turns as the heads do: the one of
the head's generation holds the ledger as it was when the generation began.

Invariants: a head is written after all that it says about the chunk files, and its ledger, are on disk, into
the block of the head that it replaces last; in a full journal a record shares no block with the one before, and
says how many before it, of whole commits, were on disk when it was written, so of those that it does not count a crash
may tear any, and of those that it counts none; every record carries the
journal's random id in its checksums, its generation and its place in the sequence, so neither what an earlier
generation left nor what came with the events can pass for a record. A light record is written before the index
records of its part, so a process that is killed leaves no events that the journal does not know; nothing of it
is synced. All integers are little-endian; checksums are XXH3 of 64 bits.
"""

import os
import secrets
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from mochi.disk.contract import Buffer, FileLayer
from mochi.disk.files import syncing
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.chunk_files import Part, joined
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.ledger import Ledger, Notes, unpack
from mochi.mofka.chunks.format.seals import key_of, seals_in, sums_of

_MAGIC = b"mofkajnl"
_LEDGER_MAGIC = b"mofkaldg"
_VERSION = 4
_READ = (3, _VERSION)
_BLOCK = 4096
_RECORDS_START = 2 * _BLOCK
_LIMIT = 32 << 20
_LARGE_DATA = 1 << 17
_ZEROS = bytes(1 << 20)
_PIECE = 1 << 20

_HEAD = struct.Struct("<8sIB3xQQ16s8Q")
_LEDGER = struct.Struct("<8sI4x4Q")
_RECORDS = {3: struct.Struct("<11Q??6x"), 4: struct.Struct("<16Q??6x")}
_LIGHT = struct.Struct("<4Q")
_CHECKSUM = struct.Struct("<Q")
_HEAD_SIZE = _HEAD.size + _CHECKSUM.size
_RECORD_SIZE = _RECORDS[_VERSION].size + _CHECKSUM.size


class Mode(IntEnum):
    """What the records of a journal are for."""

    CLOSED = 0
    FULL = 1
    LIGHT = 2


@dataclass(frozen=True, slots=True)
class Head:
    """What a journal says of itself.

    Attributes
    ----------
    key : int
        Random number of this journal.
    generation : int
        Counts the heads, from 1.
    mode : Mode
        What the records after `base` are for.
    owner : bytes
        The uuid of the partition when the journal was made, zero if its directory had none.
    base : Chunk
        The last chunk as it was when all chunk files were on disk.
    version : int
        Of the format, of its records and ledger too.
    """

    key: int
    generation: int
    mode: Mode
    owner: bytes
    base: Chunk
    version: int = _VERSION

    @property
    def epoch(self) -> int:
        """The partition's epoch: a positive number of 62 bits, the same for as long as the journal lasts."""
        return (self.key >> 2) + 1


class Journal:
    """A journal, open to be written; made with `head` as its last one, if it has any.

    It belongs to one thread at a time, but for its `file`, which any may sync.

    Attributes
    ----------
    file : File
        Where the heads and records are.
    """

    def __init__(self, files: FileLayer, directory: str, head: Head | None) -> None:
        self._head = head or Head(
            secrets.randbits(64), 0, Mode.CLOSED, layout.owner_of(directory), Chunk(0, 0)
        )
        with ExitStack() as opened:
            self.file, *self._ledgers = (
                opened.enter_context(closing(files.open(os.path.join(directory, name), writable=True)))
                for name in (layout.JOURNAL_NAME, *layout.LEDGER_NAMES)
            )
            self._size = files.size(self.file.path)
            # The last head, which a killed process may not have synced, before the next replaces the other one.
            with syncing(self.file.path):
                self.file.sync()
            with syncing(directory):
                files.sync_directory(directory)
            self._opened = opened.pop_all()

    @property
    def head(self) -> Head:
        """The head written last."""
        return self._head

    @property
    def full(self) -> bool:
        """Whether so much came since `begin` that it is time to put the chunk files on disk, and begin again."""
        return self._position + self._beside >= _LIMIT

    def begin(self, base: Chunk, mode: Mode, ledger: Ledger, event_count: int) -> Head:
        """Begin again without records; all up to `base` must be on disk in the chunk files.

        `ledger` is of the first `event_count` events. All is on disk on return, except where a light journal goes
        on from the same base.
        """
        synced = not (mode == self._head.mode == Mode.LIGHT and base == self._head.base)
        head = replace(
            self._head, generation=self._head.generation + 1, mode=mode, base=base, version=_VERSION
        )
        turn = head.generation % 2
        self._ledgers[turn].write([_pack_ledger(head, event_count, ledger)], 0)
        if synced:
            with syncing(self._ledgers[turn].path):
                self._ledgers[turn].sync()
        self.file.write([_pack_head(head).ljust(_BLOCK, b"\0")], turn * _BLOCK)
        if synced:
            with syncing(self.file.path):
                self.file.sync()
        self._head = head
        self._position = _RECORDS_START
        self._beside = 0
        self._sequence = 0
        self._settled = 0
        return self._head

    def write(self, part: Part, *, last: bool) -> int:
        """Write a part of a commit to a full journal, the `last` one or not, and give the number of records.

        The part is on disk when `file` has been synced, and its data before or after that, where it is large
        (`is_large`).

        Notes
        -----
        One write. The file grows by zeros ahead of the records: a sync after writing where the file has bytes
        already takes half the time.
        """
        within = not is_large(part.data_bytes)
        record = _Record(
            _VERSION,
            self._head.generation,
            self._sequence,
            self._settled,
            part.before,
            part.count,
            len(part.notes),
            len(part.seals),
            part.metadata_bytes,
            part.data_bytes,
            _checksum(self._head.key, (part.notes, part.seals)),
            within,
            last,
        )
        stop = self._position + record.size
        end = stop + -stop % _BLOCK
        filled = end if end <= self._size else stop + -stop % len(_ZEROS)
        header = record.pack(self._head.key)
        body = [part.notes, part.seals, *part.metadata, *(part.data if within else ())]
        self.file.write([header, *body, memoryview(_ZEROS)[: filled - stop]], self._position)
        self._size = max(self._size, filled)
        self._position = end
        self._beside += 0 if within else part.data_bytes
        self._sequence += 1
        return self._sequence

    def settle(self, records: int) -> None:
        """Take note that the first `records` records are on disk, with all that they tell of, and no commit in part.

        Of a commit that is not whole recovery cuts off what there is, and may be interrupted in the middle of it.
        """
        self._settled = records

    def note(self, part: Part) -> None:
        """Write the notes of a part to a light journal, and where it ends. One write, about 8 µs."""
        content = (
            _LIGHT.pack(self._head.generation, self._sequence, part.after.end_id, len(part.notes))
            + part.notes
        )
        self.file.write(
            [content + _CHECKSUM.pack(xxh3_64_intdigest(content, self._head.key))], self._position
        )
        self._position += len(content) + _CHECKSUM.size
        self._sequence += 1

    def close(self) -> None:
        """Close the files, and leave them as they are."""
        self._opened.close()


def is_large(size: int) -> bool:
    """Tell whether so many bytes of data stay out of the journal, and are synced in their place instead."""
    return size >= _LARGE_DATA


def read_head(files: FileLayer, directory: str, names: Sequence[str]) -> Head | None:
    """Read the head of the journal of a directory, or None if there is no journal (that was ever begun).

    Raises
    ------
    CorruptPartition
        If the journal is of another partition or version, or has records but no valid head.
    """
    if layout.JOURNAL_NAME not in names:
        return None
    path = os.path.join(directory, layout.JOURNAL_NAME)
    heads = []
    size = files.size(path)
    content = _read(files, path, min(size, _RECORDS_START + _RECORD_SIZE))
    for position in range(0, min(size, _RECORDS_START), _BLOCK):
        block = bytes(content[position : position + _HEAD_SIZE]).ljust(_HEAD_SIZE, b"\0")
        magic, version, mode, key, generation, owner, *base = _HEAD.unpack_from(block)
        if magic == _MAGIC and version not in (0, *_READ):
            known = " and ".join(map(str, _READ))
            raise _refused(path, f"is of version {version}, but versions {known} are what can be read here")
        found_head = Head(key, generation, mode, owner, Chunk(*base), version)
        if _pack_head(found_head) == block:
            heads.append(found_head)
    head = max(heads, key=lambda found: found.generation) if heads else None
    newer = head is not None and any(
        (first := _header_at(content, _RECORDS_START, head.key, version))
        and first.generation > head.generation
        for version in _READ
    )
    if newer or (not head and size > _RECORDS_START):
        raise _refused(
            path,
            "has lost its head, so that the commits in it cannot be told; put the file right, or take it "
            "away to have the events that the chunk files hold by themselves",
        )
    if head and any(head.owner) and any(found := layout.owner_of(directory)) and found != head.owner:
        raise _refused(
            path,
            f"is of the partition {uuid.UUID(bytes=head.owner)}, but the directory is of "
            f"{uuid.UUID(bytes=found)}; put the right one back",
        )
    return head


def read_ledger(
    files: FileLayer, directory: str, names: Sequence[str], head: Head
) -> tuple[Ledger, int] | None:
    """Read the ledger that the head's generation began with, and of how many events it was; None if it is lost."""
    name = layout.LEDGER_NAMES[head.generation % 2]
    if name not in names:
        return None
    path = os.path.join(directory, name)
    content = _read(files, path, files.size(path))
    if len(content) < _LEDGER.size + _CHECKSUM.size:
        return None
    magic, version, key, generation, event_count, size = _LEDGER.unpack_from(content)
    end = _LEDGER.size + size
    if (magic, version, key, generation) != (_LEDGER_MAGIC, head.version, head.key, head.generation):
        return None
    checksum = content[end : end + _CHECKSUM.size]
    if checksum != _CHECKSUM.pack(_checksum(head.key, [content[:end]])):
        return None
    ledger = Ledger()
    ledger.apply(unpack(content[_LEDGER.size : end]))
    return ledger, event_count


def read_notes(files: FileLayer, directory: str, head: Head) -> list[tuple[int, Notes]]:
    """Read a light journal: for each record the id after its part's last event, and its notes."""
    path = os.path.join(directory, layout.JOURNAL_NAME)
    content = _read(files, path, files.size(path))
    found: list[tuple[int, Notes]] = []
    position = _RECORDS_START
    while position + _LIGHT.size + _CHECKSUM.size <= len(content):
        generation, sequence, end_id, size = _LIGHT.unpack_from(content, position)
        stop = position + _LIGHT.size + size
        record = content[position:stop]
        if (generation, sequence) != (head.generation, len(found)) or (
            content[stop : stop + _CHECKSUM.size] != _CHECKSUM.pack(xxh3_64_intdigest(record, head.key))
        ):
            break
        found.append((end_id, unpack(record[_LIGHT.size :])))
        position = stop + _CHECKSUM.size
    return found


@dataclass(frozen=True, slots=True)
class Gap:
    """What is missing where records are damaged that were on disk: events, and notes that nobody knows.

    Attributes
    ----------
    before, after : Chunk
        The last chunk without it, and with it.
    place : int
        Where in the journal the first damaged record is.
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
        The part that they end before, if its record is good, and its data is not.
    spoilt : list of Part
        Those of `steps` whose data is not what was written, though it was on disk.
    """

    steps: list[Part | Gap]
    rest: list[Part]
    broken: Part | None
    spoilt: list[Part]


def read_parts(files: FileLayer, directory: str, head: Head, was_stored: Callable[[Part], bool]) -> Replay:
    """Read all whole commits in a full journal, in order; nothing is changed.

    They end before the first record that is torn, or whose large data is, unless that was on disk once: as a later
    record says, or `was_stored` of large data. Then the record, or the data, was damaged later, or the data's memory
    changed while it was written.

    Cost: the journal is read whole, and large data that its records tell of.

    Parameters
    ----------
    was_stored : callable
        Tells whether the commit of a part had been on disk, by other signs.

    Raises
    ------
    CorruptPartition
        If records that follow each other tell of events that do not; or if a record of version 3 is damaged that
        was on disk.
    """
    path = os.path.join(directory, layout.JOURNAL_NAME)
    content = _read(files, path, files.size(path))
    steps: list[Part | Gap] = []
    spoilt: list[Part] = []
    whole = sequence = 0
    settled: int | None = None
    broken: Part | None = None
    state, position = head.base, _RECORDS_START
    while True:
        record = _record_at(content, position, head)
        is_next = record is not None and record.sequence == sequence
        if record is None or not is_next:
            settled = _settled(content, position, head) if settled is None else settled
            behind = _next_record(content, position, head, sequence) if settled > sequence else None
            if behind is None:
                break
            place, (position, record) = position, behind
            if head.version == 3:
                raise _refused(
                    path,
                    f"has a damaged record at byte {place}, and a good one of event {record.first_id} at byte "
                    f"{position}, which was written when that was on disk; put the file right, or take it away "
                    "to have the events that the chunk files hold by themselves",
                )
            steps.append(Gap(state, record.before, place))
            state, whole = record.before, len(steps)
        before = state if record.before.number == state.number else state.next()
        if (record.before.number, record.first_id) != (before.number, before.end_id):
            raise _refused(
                path,
                f"goes on with event {record.first_id} in chunk {record.before.number}, at byte {position}, "
                f"though event {state.end_id} in chunk {state.number} or the next is due",
            )
        part = record.part(before, content[position:], key_of(head.owner, before.number))
        if not record.within and not _has_data(files, directory, head.owner, part):
            settled = _settled(content, position, head) if settled is None else settled
            if settled <= record.sequence and not was_stored(part):
                broken = part
                break
            spoilt.append(part)
        steps.append(part)
        state = part.after
        if record.last:
            whole = len(steps)
        sequence = record.sequence + 1
        position += record.size + -record.size % _BLOCK
    rest = [step for step in steps[whole:] if isinstance(step, Part)]
    return Replay(steps[:whole], rest, broken, [part for part in spoilt if part in steps[:whole]])


def _settled(content: memoryview, position: int, head: Head) -> int:
    """Give how many records were on disk, with their commits, as far as good records from a place on say."""
    found = (_record_at(content, place, head) for place in range(position, len(content), _BLOCK))
    return max((record.settled for record in found if record), default=0)


def _next_record(content: memoryview, after: int, head: Head, sequence: int) -> tuple[int, "_Record"] | None:
    """Give the first good record behind a place, and its own, of those later than `sequence`."""
    for place in range(after + _BLOCK, len(content), _BLOCK):
        record = _record_at(content, place, head)
        if record is not None and record.sequence > sequence:
            return place, record
    return None


def _has_data(files: FileLayer, directory: str, owner: bytes, part: Part) -> bool:
    """Tell whether large data is in its place."""
    path = os.path.join(directory, layout.file_name(part.before.number, layout.DATA))
    key = key_of(owner, part.before.number)
    if files.size(path) < part.after.data_end:
        return False
    return all(
        np.array_equal(sums_of(_pieces(files, path, seal.data.start, seal.data.size), key), seal.data.sums)
        for seal, _ in seals_in(memoryview(part.seals), key)
    )


class _Record(NamedTuple):
    """The header of a record. Its body is notes, seals, metadata, and small data.

    The checksum is of notes and seals, which have those of the rest. Of version 3 only the number of the chunk, and
    the id of the first event, are known of `before`.
    """

    version: int
    generation: int
    sequence: int
    settled: int
    before: Chunk
    events: int
    notes_bytes: int
    seals_bytes: int
    metadata_bytes: int
    data_bytes: int
    checksum: int
    within: bool
    last: bool

    @property
    def first_id(self) -> int:
        """Id of its first event."""
        return self.before.end_id

    @property
    def header_size(self) -> int:
        """Bytes of the header."""
        return _RECORDS[self.version].size + _CHECKSUM.size

    @property
    def size(self) -> int:
        """Bytes of header and body."""
        content = self.metadata_bytes + (self.data_bytes if self.within else 0)
        return self.header_size + self.notes_bytes + self.seals_bytes + content

    def pack(self, key: int) -> bytes:
        """Give the bytes of the header, of the newest version."""
        _, generation, sequence, settled, before, *rest = self
        header = _RECORDS[_VERSION].pack(
            generation,
            sequence,
            settled,
            before.number,
            before.first_id,
            before.count,
            before.metadata_end,
            before.data_end,
            before.descriptor_end,
            before.seals_end,
            *rest,
        )
        return header + _CHECKSUM.pack(_checksum(key, [header]))

    def part(self, before: Chunk, content: memoryview, key: int) -> Part:
        """Give the part that a record tells of, when its bytes are the first of `content`."""
        notes, packed, metadata, data = self._body(content)
        seals = [seal for seal, _ in seals_in(packed, key)]
        after = before
        if seals:
            after = before.extended(
                self.events, self.metadata_bytes, self.data_bytes, self.seals_bytes, seals[-1].time
            )
        return Part(
            before,
            after,
            joined([seal.metadata.sizes for seal in seals]),
            [metadata],
            joined([seal.data.sizes for seal in seals]),
            [data] if self.within else [],
            bytes(packed),
            bytes(notes),
        )

    def is_good(self, content: memoryview, head: Head) -> bool:
        """Tell whether the body is as it was written, when the record's bytes are the first of `content`."""
        if len(content) < self.size:
            return False
        notes, packed, metadata, data = self._body(content)
        if _checksum(head.key, (notes, packed)) != self.checksum:
            return False
        key = key_of(head.owner, self.before.number)
        metadata_at = data_at = events = seals_end = 0
        for seal, seals_end in seals_in(packed, key):  # noqa: B007
            metadata_from, metadata_at = metadata_at, metadata_at + seal.metadata.size
            data_from, data_at = data_at, data_at + seal.data.size
            events += seal.count
            if not np.array_equal(sums_of([metadata[metadata_from:metadata_at]], key), seal.metadata.sums):
                return False
            if self.within and not np.array_equal(sums_of([data[data_from:data_at]], key), seal.data.sums):
                return False
        found = (seals_end, events, metadata_at, data_at)
        return found == (self.seals_bytes, self.events, self.metadata_bytes, self.data_bytes)

    def _body(self, content: memoryview) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        seals = self.header_size + self.notes_bytes
        metadata = seals + self.seals_bytes
        data = metadata + self.metadata_bytes
        return (
            content[self.header_size : seals],
            content[seals:metadata],
            content[metadata:data],
            content[data : self.size],
        )


def _header_at(content: memoryview, position: int, key: int, version: int) -> _Record | None:
    """Give the header of the record at a position, if there is a good one."""
    form = _RECORDS[version]
    stop = position + form.size
    header = content[position:stop]
    if content[stop : stop + _CHECKSUM.size] != _CHECKSUM.pack(_checksum(key, [header])):
        return None
    if len(header) < form.size:
        return None
    generation, sequence, settled, *rest = form.unpack(header)
    if version == 3:
        chunk, first_id, *rest = rest
        before = Chunk(chunk, first_id)
    else:
        before, rest = Chunk(*rest[:7]), rest[7:]
    return _Record(version, generation, sequence, settled, before, *rest)


def _record_at(content: memoryview, position: int, head: Head) -> _Record | None:
    """Give the header of a record of the head's generation, if both it and the body are good."""
    record = _header_at(content, position, head.key, head.version)
    if record is None or record.generation != head.generation:
        return None
    return record if record.is_good(content[position:], head) else None


def _pack_head(head: Head) -> bytes:
    base = astuple(head.base)
    content = _HEAD.pack(_MAGIC, head.version, head.mode, head.key, head.generation, head.owner, *base)
    return content + _CHECKSUM.pack(_checksum(0, [content]))


def _pack_ledger(head: Head, event_count: int, ledger: Ledger) -> bytes:
    content = ledger.pack()
    header = _LEDGER.pack(_LEDGER_MAGIC, _VERSION, head.key, head.generation, event_count, len(content))
    return header + content + _CHECKSUM.pack(_checksum(head.key, [header, content]))


def _checksum(key: int, buffers: Iterable[Buffer]) -> int:
    checksum = xxh3_64(seed=key)
    for buffer in buffers:
        checksum.update(buffer)
    return checksum.intdigest()


def _read(files: FileLayer, path: str, size: int) -> memoryview:
    """Read the first bytes of a file."""
    content = np.empty(size, np.uint8).data
    with closing(files.open(path, writable=False)) as file:
        file.read(content, 0)
    return content


def _pieces(files: FileLayer, path: str, offset: int, size: int) -> Iterator[memoryview]:
    """Read bytes of a file, one piece at a time."""
    with closing(files.open(path, writable=False)) as file:
        for position in range(offset, offset + size, _PIECE):
            piece = np.empty(min(_PIECE, offset + size - position), np.uint8).data
            file.read(piece, position)
            yield piece


def _refused(path: str, problem: str) -> CorruptPartition:
    return CorruptPartition(f"{path} {problem}", path=path, operation="recover")
