"""The journal: whole commits in one file beside the chunk files, so that one sync makes a commit durable.

The file begins with two blocks that each hold a head; the valid one of the higher generation counts. A head
says up to where the chunk files are durable (its `base`), and whether the journal is open: then what follows
the base is what the journal says, whatever the chunk files have there. A closed journal says nothing, and the
chunk files are taken as they are. After the heads come the records of the head's generation, one for each
part of a commit, in order, each beginning a block and the last one of a commit marked as such.

Invariants: a head is written after all that it says about the chunk files is on disk, into the block of the
head that it replaces last; a record begins after the one before is on disk, and shares no block with it, so a
crash can tear the last record alone; every record carries the journal's random id in its checksums, its
generation and its place in the sequence, so neither what an earlier generation left nor what came with the
events can pass for a record. All integers are little-endian; checksums are XXH3 of 64 bits.
"""

import os
import re
import secrets
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.chunk_files import Part
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.files import Buffer, FileLayer

_MAGIC = b"mofkajnl"
_VERSION = 1
_BLOCK = 4096
_RECORDS_START = 2 * _BLOCK
_LIMIT = 32 << 20
_LARGE_DATA = 1 << 18
_ZEROS = bytes(1 << 20)
_PIECE = 1 << 20

_HEAD = struct.Struct("<8sI?3xQQ16s6Q")
_RECORD = struct.Struct("<9Q??6x")
_CHECKSUM = struct.Struct("<Q")
_HEAD_SIZE = _HEAD.size + _CHECKSUM.size
_RECORD_SIZE = _RECORD.size + _CHECKSUM.size
_SIZE_BYTES = 4
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@dataclass(frozen=True, slots=True)
class Head:
    """What a journal says of itself.

    Attributes
    ----------
    key : int
        Random number of this journal.
    generation : int
        Counts the heads, from 1.
    opened : bool
        Whether the records tell what follows `base`.
    base : Chunk
        The last chunk as it was when all chunk files were on disk.
    """

    key: int
    generation: int
    opened: bool
    base: Chunk


class Journal:
    """A journal, open to be written, by one thread at a time; made with `head` as its last one, if it has any."""

    def __init__(self, files: FileLayer, directory: str, head: Head | None) -> None:
        self._head = head or Head(secrets.randbits(64), 0, False, Chunk(0, 0))
        self._uuid = _uuid_of(directory)
        self._file = files.open(os.path.join(directory, layout.JOURNAL_NAME), writable=True)
        try:
            self._size = files.size(self._file.path)
            # The last head, which a killed process may not have synced, before the next replaces the other one.
            self._file.sync()
            files.sync_directory(directory)
        except BaseException:
            self._file.close()
            raise

    @property
    def full(self) -> bool:
        """Whether so much came since `begin` that it is time to put the chunk files on disk, and begin again."""
        return self._position + self._beside >= _LIMIT

    def begin(self, base: Chunk, *, opened: bool) -> Head:
        """Begin again without records; all up to `base` must be on disk in the chunk files."""
        self._head = replace(self._head, generation=self._head.generation + 1, opened=opened, base=base)
        content = _pack_head(self._head, self._uuid)
        self._file.write([content.ljust(_BLOCK, b"\0")], self._head.generation % 2 * _BLOCK)
        self._file.sync()
        self._position = _RECORDS_START
        self._beside = 0
        self._sequence = 0
        return self._head

    def append(self, part: Part, *, last: bool) -> None:
        """Put a part of a commit on disk, and with the `last` one the commit.

        Large data (`is_large`) must be on disk in its place before.

        Notes
        -----
        One write and one sync. The file grows by zeros ahead of the records: a sync after writing where the
        file has bytes already takes half the time.
        """
        within = not is_large(part)
        sizes = [array.astype("<u4").view(np.uint8).data for array in (part.metadata_sizes, part.data_sizes)]
        body = [*sizes, *part.metadata, *(part.data if within else ())]
        record = _Record(
            self._head.generation,
            self._sequence,
            part.before.number,
            part.before.end_id,
            part.count,
            part.metadata_bytes,
            part.data_bytes,
            0 if within else _checksum(self._head.key, part.data),
            _checksum(self._head.key, body),
            within,
            last,
        )
        stop = self._position + record.size
        end = stop + -stop % _BLOCK
        filled = end if end <= self._size else stop + -stop % len(_ZEROS)
        header = record.pack(self._head.key)
        self._file.write([header, *body, memoryview(_ZEROS)[: filled - stop]], self._position)
        self._file.sync()
        self._size = max(self._size, filled)
        self._position = end
        self._beside += 0 if within else part.data_bytes
        self._sequence += 1

    def close(self) -> None:
        """Close the file, and leave it as it is."""
        self._file.close()


def is_large(part: Part) -> bool:
    """Tell whether the data of a part stays out of the journal, and is synced in its place instead."""
    return part.data_bytes >= _LARGE_DATA


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
        magic, version, opened, key, generation, owner, *base = _HEAD.unpack_from(block)
        if magic == _MAGIC and version not in (0, _VERSION):
            raise _refused(path, f"is of version {version}, but version {_VERSION} is what can be read here")
        found_head = Head(key, generation, opened, Chunk(*base))
        if _pack_head(found_head, owner) == block:
            heads.append((found_head, owner))
    nothing: tuple[Head | None, bytes] = (None, bytes(16))
    head, owner = max(heads, key=lambda found: found[0].generation) if heads else nothing
    first = _header_at(content, _RECORDS_START, head.key) if head else None
    if (not head and size > _RECORDS_START) or (head and first and first.generation > head.generation):
        raise _refused(
            path,
            "has lost its head, so that the commits in it cannot be told; put the file right, or take it "
            "away to have the events that the chunk files hold by themselves",
        )
    if any(owner) and any(found := _uuid_of(directory)) and found != owner:
        raise _refused(
            path,
            f"is of the partition {uuid.UUID(bytes=owner)}, but the directory is of "
            f"{uuid.UUID(bytes=found)}; put the right one back",
        )
    return head


def read_parts(files: FileLayer, directory: str, head: Head) -> list[Part]:
    """Read the parts of all whole commits in an open journal, in order; nothing is changed.

    Cost: the journal is read whole, and large data that its records tell of.

    Raises
    ------
    CorruptPartition
        If records that follow each other tell of events that do not, if data is not what its record says, or
        if a damaged record has good ones after it.
    """
    path = os.path.join(directory, layout.JOURNAL_NAME)
    content = _read(files, path, files.size(path))
    records: list[_Record] = []
    parts: list[Part] = []
    whole = 0
    state, position = head.base, _RECORDS_START
    while (record := _record_at(content, position, head.key)) and (
        (record.generation, record.sequence) == (head.generation, len(parts))
    ):
        before = state if record.chunk == state.number else state.next()
        if (record.chunk, record.first_id) != (before.number, before.end_id):
            raise _refused(
                path,
                f"goes on with event {record.first_id} in chunk {record.chunk}, at byte {position}, "
                f"though event {state.end_id} in chunk {state.number} or the next is due",
            )
        records.append(record)
        parts.append(record.part(before, content[position:]))
        state = parts[-1].after
        if record.last:
            whole = len(parts)
        position += record.size + -record.size % _BLOCK
    due = (head.generation, len(parts))
    for later in range(position, len(content), _BLOCK):
        record = _record_at(content, later, head.key)
        if record and (record.generation, record.sequence) > due:
            raise _refused(
                path,
                f"has a damaged record at byte {position}, and a good one of event {record.first_id} after "
                f"it at byte {later}; put the file right, or take it away to have the events that the chunk "
                "files hold by themselves",
            )
    for record, part in zip(records[:whole], parts, strict=False):
        if not record.within:
            _check_data(files, directory, head.key, record, part.before)
    return parts[:whole]


def _check_data(files: FileLayer, directory: str, key: int, record: "_Record", before: Chunk) -> None:
    """See that large data is in its place."""
    path = os.path.join(directory, layout.file_name(record.chunk, layout.DATA))
    if _checksum(key, _pieces(files, path, before.data_end, record.data_bytes)) != record.data_checksum:
        raise _refused(
            path,
            f"does not have the data of events {record.first_id} to {record.first_id + record.events - 1} at "
            f"byte {before.data_end} that the journal tells of",
        )


class _Record(NamedTuple):
    """The header of a record. Its body is the sizes of metadata, those of data, the metadata, and small data."""

    generation: int
    sequence: int
    chunk: int
    first_id: int
    events: int
    metadata_bytes: int
    data_bytes: int
    data_checksum: int
    checksum: int
    within: bool
    last: bool

    @property
    def size(self) -> int:
        """Bytes of header and body."""
        content = self.metadata_bytes + (self.data_bytes if self.within else 0)
        return _RECORD_SIZE + 2 * _SIZE_BYTES * self.events + content

    def pack(self, key: int) -> bytes:
        """Give the bytes of the header."""
        header = _RECORD.pack(*self)
        return header + _CHECKSUM.pack(_checksum(key, [header]))

    def part(self, before: Chunk, content: memoryview) -> Part:
        """Give the part that a record tells of, when its bytes are the first of `content`."""
        data_sizes = _RECORD_SIZE + _SIZE_BYTES * self.events
        metadata = data_sizes + _SIZE_BYTES * self.events
        data = metadata + self.metadata_bytes
        return Part(
            before,
            before.extended(self.events, self.metadata_bytes, self.data_bytes),
            np.frombuffer(content[_RECORD_SIZE:data_sizes], "<u4"),
            [content[metadata:data]],
            np.frombuffer(content[data_sizes:metadata], "<u4"),
            [content[data : self.size]] if self.within else [],
        )


def _header_at(content: memoryview, position: int, key: int) -> _Record | None:
    """Give the header of the record at a position, if there is a good one."""
    header = content[position : position + _RECORD_SIZE]
    if len(header) < _RECORD_SIZE:
        return None
    record = _Record(*_RECORD.unpack_from(header))
    return record if record.pack(key) == header else None


def _record_at(content: memoryview, position: int, key: int) -> _Record | None:
    """Give the header of the record at a position, if both it and the body are good."""
    record = _header_at(content, position, key)
    if record is None:
        return None
    body = content[position + _RECORD_SIZE : position + record.size]
    return record if _checksum(key, [body]) == record.checksum else None


def _pack_head(head: Head, owner: bytes) -> bytes:
    content = _HEAD.pack(_MAGIC, _VERSION, head.opened, head.key, head.generation, owner, *astuple(head.base))
    return content + _CHECKSUM.pack(_checksum(0, [content]))


def _uuid_of(directory: str) -> bytes:
    """Give the uuid that the name of a partition's directory ends with, zero if it does not end with one."""
    match = _UUID.search(os.path.abspath(directory))
    return uuid.UUID(match[0]).bytes if match else bytes(16)


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
