"""The bytes of the journal and of the ledger files beside it.

The journal begins with two blocks that each hold a head; the valid one of the higher generation counts. Records follow.
Of a full journal there is one for each part of a commit, the last one of a commit marked as such. Those of a light one
are notes, and where they end. Two ledger files take turns as the heads do.

All integers are little-endian; checksums are XXH3 of 64 bits. Each record carries the journal's random key in its
checksums, its generation and its place in the sequence. So neither what an earlier generation left, nor what came with
the events, passes for a record.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from mochi.disk import Buffer
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.ledger import Ledger, Notes, unpack_notes
from mochi.mofka.chunks.format.seals import key_of, seals_in, sums_of

BLOCK = 4096
RECORDS_START = 2 * BLOCK
VERSION = 4
READ = (3, VERSION)
"""Versions that can be read; the last one is written."""

_MAGIC = b"mofkajnl"
_LEDGER_MAGIC = b"mofkaldg"
_HEAD = struct.Struct("<8sIB3xQQ16s8Q")
_LEDGER = struct.Struct("<8sI4x4Q")
_RECORDS = {3: struct.Struct("<11Q??6x"), 4: struct.Struct("<16Q??6x")}
_LIGHT = struct.Struct("<4Q")
_CHECKSUM = struct.Struct("<Q")
_HEAD_SIZE = _HEAD.size + _CHECKSUM.size
HEADS_SIZE = RECORDS_START + _RECORDS[VERSION].size + _CHECKSUM.size
"""Bytes that hold both heads, and the header of the first record."""


class Mode(IntEnum):
    """What the records of a journal are for."""

    CLOSED = 0
    """There was an orderly end. The journal says nothing; the chunk files are taken as they are."""
    FULL = 1
    """What follows the base is what the journal says, whatever the chunk files have there."""
    LIGHT = 2
    """The chunk files speak for themselves; the records tell where batches end, and have their notes."""


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
    version: int = VERSION

    @property
    def epoch(self) -> int:
        """The partition's epoch: a positive number of 62 bits, the same for as long as the journal lasts."""
        return (self.key >> 2) + 1

    @property
    def is_closed(self) -> bool:
        """Whether there was an orderly end."""
        return self.mode == Mode.CLOSED

    def pack(self) -> bytes:
        """Return the bytes of a head."""
        content = _HEAD.pack(
            _MAGIC, self.version, self.mode, self.key, self.generation, self.owner, *astuple(self.base)
        )
        return content + _CHECKSUM.pack(checksum(0, [content]))

    def ledger_from(self, content: memoryview) -> tuple[Ledger, int] | None:
        """Read the ledger file of this head: the ledger, and of how many events it was; None if it is none."""
        if len(content) < _LEDGER.size + _CHECKSUM.size:
            return None
        magic, version, key, generation, event_count, size = _LEDGER.unpack_from(content)
        end = _LEDGER.size + size
        if (magic, version, key, generation) != (_LEDGER_MAGIC, self.version, self.key, self.generation):
            return None
        if content[end : end + _CHECKSUM.size] != _CHECKSUM.pack(checksum(self.key, [content[:end]])):
            return None
        ledger = Ledger()
        ledger.apply(unpack_notes(content[_LEDGER.size : end]))
        return ledger, event_count

    def pack_ledger(self, event_count: int, ledger: Ledger) -> bytes:
        """Return the content of the ledger file of this head."""
        content = ledger.pack()
        header = _LEDGER.pack(_LEDGER_MAGIC, VERSION, self.key, self.generation, event_count, len(content))
        return header + content + _CHECKSUM.pack(checksum(self.key, [header, content]))

    def pack_notes(self, sequence: int, end_id: int, notes: bytes) -> bytes:
        """Return a record of a light journal."""
        content = _LIGHT.pack(self.generation, sequence, end_id, len(notes)) + notes
        return content + _CHECKSUM.pack(xxh3_64_intdigest(content, self.key))

    def notes_in(self, content: memoryview) -> Iterator[tuple[int, Notes]]:
        """Read a light journal: for each record the id after its part's last event, and its notes."""
        position, count = RECORDS_START, 0
        while position + _LIGHT.size + _CHECKSUM.size <= len(content):
            generation, sequence, end_id, size = _LIGHT.unpack_from(content, position)
            stop = position + _LIGHT.size + size
            record = content[position:stop]
            if (generation, sequence) != (self.generation, count) or (
                content[stop : stop + _CHECKSUM.size] != _CHECKSUM.pack(xxh3_64_intdigest(record, self.key))
            ):
                break
            yield end_id, unpack_notes(record[_LIGHT.size :])
            position, count = stop + _CHECKSUM.size, count + 1


def head_at(content: memoryview, position: int) -> tuple[Head | None, int | None]:
    """Return the head at a position, if there is a good one, and of which version one there claims to be."""
    block = bytes(content[position : position + _HEAD_SIZE]).ljust(_HEAD_SIZE, b"\0")
    magic, version, mode, key, generation, owner, *base = _HEAD.unpack_from(block)
    head = Head(key, generation, mode, owner, Chunk(*base), version)
    return head if head.pack() == block else None, version if magic == _MAGIC else None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a commit adds to one chunk.

    Attributes
    ----------
    before, after : Chunk
        The chunk without the part, and with it.
    metadata_sizes, data_sizes : unsigned integer array, shape (n,)
        Bytes of each event.
    metadata, data : sequence of buffers
        The content, back to back; `data` is empty where it is in its place already.
    seals : bytes
        The seals of its events, packed, back to back.
    notes : bytes
        What the part adds to the ledger.
    """

    before: Chunk
    after: Chunk
    metadata_sizes: NDArray[np.unsignedinteger]
    metadata: Sequence[Buffer]
    data_sizes: NDArray[np.unsignedinteger]
    data: Sequence[Buffer]
    seals: bytes
    notes: bytes

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self.metadata_sizes)

    @property
    def metadata_bytes(self) -> int:
        """Bytes of all metadata."""
        return self.after.metadata_end - self.before.metadata_end

    @property
    def data_bytes(self) -> int:
        """Bytes of all data."""
        return self.after.data_end - self.before.data_end

    def index(self) -> NDArray[np.void]:
        """Return its index records."""
        before = self.before
        return layout.index_records(
            layout.offsets(self.metadata_sizes, before.metadata_end),
            self.metadata_sizes,
            layout.offsets(self.data_sizes, before.data_end),
            self.data_sizes,
            before.descriptor_end,
        )


def joined(sizes: Sequence[NDArray[np.unsignedinteger]]) -> NDArray[np.unsignedinteger]:
    """Return the sizes of events that follow each other as one array."""
    if len(sizes) == 1:
        return sizes[0]
    return np.concatenate(sizes) if sizes else np.empty(0, np.uint32)


class Record(NamedTuple):
    """The header of a record of a full journal. Its body is notes, seals, metadata, and small data.

    The checksum is of notes and seals, which have those of the rest. Of version 3 only the number of the chunk, and
    the id of the first event, are known of `before`. `settled` records before it, of whole commits, were on disk when
    it was written. Of those that it does not count a crash may tear any, and of those that it counts none.
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
        """Return the bytes of the header, of the newest version."""
        _, generation, sequence, settled, before, *rest = self
        header = _RECORDS[VERSION].pack(
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
        return header + _CHECKSUM.pack(checksum(key, [header]))

    def part(self, before: Chunk, content: memoryview, key: int) -> Part:
        """Return the part that a record tells of, when its bytes are the first of `content`."""
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
        if checksum(head.key, (notes, packed)) != self.checksum:
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


def header_at(content: memoryview, position: int, key: int, version: int) -> Record | None:
    """Return the header of the record at a position, if there is a good one."""
    form = _RECORDS[version]
    stop = position + form.size
    header = content[position:stop]
    if content[stop : stop + _CHECKSUM.size] != _CHECKSUM.pack(checksum(key, [header])):
        return None
    if len(header) < form.size:
        return None
    generation, sequence, settled, *rest = form.unpack(header)
    if version == 3:
        chunk, first_id, *rest = rest
        before = Chunk(chunk, first_id)
    else:
        before, rest = Chunk(*rest[:7]), rest[7:]
    return Record(version, generation, sequence, settled, before, *rest)


def record_at(content: memoryview, position: int, head: Head) -> Record | None:
    """Return the header of a record of the head's generation, if both it and the body are good."""
    record = header_at(content, position, head.key, head.version)
    if record is None or record.generation != head.generation:
        return None
    return record if record.is_good(content[position:], head) else None


def checksum(key: int, buffers: Iterable[Buffer]) -> int:
    """Return the checksum of buffers that follow each other."""
    summed = xxh3_64(seed=key)
    for buffer in buffers:
        summed.update(buffer)
    return summed.intdigest()
