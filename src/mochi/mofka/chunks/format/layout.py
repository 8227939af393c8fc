"""The files of a directory: their names, the original's records in them, and the small files of ours beside.

Chunk N is four files of the original: `.meta` and `.data` hold what the producers sent, back to back; `.desc` one
serialized data descriptor and `.idx` one index record for each event. Their records have no header, magic or checksum,
and all offsets are relative to the chunk's own files. Padding is written as zeros, and never looked at: the original
leaves stale memory there. Sizes and chunk numbers are 32-bit; everything is little-endian.

Beside them lie seals and journal of ours, see there. `mofka.chunks`, the roster, has a record of each full chunk;
`mofka.trimmed` tells the first chunk that is left; `mofka.displaced` is a copy of events that are being moved.
"""

import os
import re
import struct
import uuid
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from mochi.mofka.chunks.errors import StorageError

META, DATA, DESC, IDX = KINDS = ("meta", "data", "desc", "idx")
SEALS = "seals"
ALL_KINDS = (*KINDS, SEALS)
"""The four files of a chunk that the original has too, and ours beside them."""

U32_MAX = 2**32 - 1
LOCK_NAME = "mofka.lock"
JOURNAL_NAME = "mofka.journal"
QUARANTINE_PREFIX = "quarantine-"
OWN_PREFIX = "mofka."
ROSTER_NAME = "mofka.chunks"
TRIMMED_NAME = "mofka.trimmed"
DISPLACED_NAME = "mofka.displaced"
TRIMMED_ASIDE = "mofka.trimmed-new"
LEDGER_NAMES = ("mofka.ledger-0", "mofka.ledger-1")

INDEX_DTYPE = np.dtype(
    {
        "names": [
            "metadata_offset",
            "metadata_size",
            "data_offset",
            "data_size",
            "descriptor_offset",
            "descriptor_size",
        ],
        "formats": ["<u8", "<u4", "<u8", "<u4", "<u8", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40],
        "itemsize": 48,
    }
)
"""A record of `.idx`: where the metadata, data and descriptor of one event are."""

DESCRIPTOR_DTYPE = np.dtype(
    {
        "names": [
            "size",
            "base_size",
            "location_size",
            "chunk",
            "data_offset",
            "data_size",
            "selections",
        ],
        "formats": ["<u8", "<u8", "<u8", "<u4", "<u8", "<u4", "<u8"],
        "offsets": [0, 8, 16, 24, 32, 40, 48],
        "itemsize": 56,
    }
)
"""A record of `.desc`: a serialized data descriptor of an event's whole data, its location included."""

INDEX_SIZE = INDEX_DTYPE.itemsize
DESCRIPTOR_SIZE = DESCRIPTOR_DTYPE.itemsize
_LOCATION_SIZE = 24
_FILE_NAME = re.compile(rf"(?:chunk-([0-9]{{6,}})\.({'|'.join(KINDS)})|mofka-([0-9]{{6,}})\.({SEALS}))")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def file_name(chunk: int, kind: str) -> str:
    """Return the name of a chunk's file of one of `ALL_KINDS`.

    Raises
    ------
    StorageError
        If the chunk's number does not fit the 32 bits that descriptors have for it.
    """
    if chunk > U32_MAX:
        raise StorageError(f"the partition is full: it has all {U32_MAX + 1} chunks the format can number")
    return f"{'mofka' if kind == SEALS else 'chunk'}-{chunk:06d}.{kind}"


def parse_file_name(name: str) -> tuple[int, str] | None:
    """Return the chunk's number and the kind of a file, or None if `name` is not one that `file_name` makes."""
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        return None
    number, kind = int(match[1] or match[3]), match[2] or match[4]
    return (number, kind) if file_name(number, kind) == name else None


def belongs(name: str) -> bool:
    """Tell whether a file of this name is of a partition: a chunk file, or one that the original passes over."""
    return parse_file_name(name) is not None or name.startswith(OWN_PREFIX)


def owner_of(directory: str) -> bytes:
    """Return the uuid that the name of a partition's directory ends with, zero if it does not end with one."""
    match = _UUID.search(os.path.abspath(directory))
    return uuid.UUID(match[0]).bytes if match else bytes(16)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk at some moment: its events, how far they reach into its files, and when the last ones were stored.

    The time is in nanoseconds since 1970, and 0 where it is not known.
    """

    number: int
    first_id: int
    count: int = 0
    metadata_end: int = 0
    data_end: int = 0
    descriptor_end: int = 0
    seals_end: int = 0
    time: int = 0

    @property
    def end_id(self) -> int:
        """Id after the chunk's last event."""
        return self.first_id + self.count

    @property
    def ends(self) -> dict[str, int]:
        """How many bytes the chunk's files have of it, by kind."""
        return {
            META: self.metadata_end,
            DATA: self.data_end,
            DESC: self.descriptor_end,
            IDX: self.count * INDEX_SIZE,
            SEALS: self.seals_end,
        }

    @property
    def size(self) -> int:
        """Bytes of all of the chunk's files."""
        return sum(self.ends.values())

    @property
    def largest_file(self) -> int:
        """Bytes of the largest of the chunk's four files."""
        return max(self.metadata_end, self.data_end, self.descriptor_end, self.count * INDEX_SIZE)

    def extended(
        self, count: int, metadata_bytes: int, data_bytes: int, seals_bytes: int = 0, time: int = 0
    ) -> "Chunk":
        """Return the chunk as it is when so many events, and bytes of theirs, have been appended."""
        return Chunk(
            self.number,
            self.first_id,
            self.count + count,
            self.metadata_end + metadata_bytes,
            self.data_end + data_bytes,
            self.descriptor_end + count * DESCRIPTOR_SIZE,
            self.seals_end + seals_bytes,
            time,
        )

    def next(self) -> "Chunk":
        """Return the empty chunk that follows."""
        return Chunk(self.number + 1, self.end_id)


def offsets(sizes: NDArray[np.unsignedinteger], start: int) -> NDArray[np.uint64]:
    """Return where each of several runs of bytes begins, when they lie back to back from `start`."""
    ends = np.cumsum(sizes, dtype=np.uint64)
    ends += np.uint64(start)
    ends -= sizes
    return ends


def index_records(
    metadata_offsets: NDArray[np.uint64],
    metadata_sizes: NDArray[np.unsignedinteger],
    data_offsets: NDArray[np.uint64],
    data_sizes: NDArray[np.unsignedinteger],
    descriptor_start: int,
) -> NDArray[np.void]:
    """Build the `.idx` records of n events, whose descriptors are 56 bytes each from `descriptor_start`.

    All sizes must be at most `U32_MAX`, as `Batch` makes sure of. About 15 µs for 1000 events.
    """
    records = np.zeros(len(metadata_sizes), INDEX_DTYPE)
    records["metadata_offset"] = metadata_offsets
    records["metadata_size"] = metadata_sizes
    records["data_offset"] = data_offsets
    records["data_size"] = data_sizes
    records["descriptor_offset"] = np.arange(
        descriptor_start, descriptor_start + len(records) * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE, dtype=np.uint64
    )
    records["descriptor_size"] = DESCRIPTOR_SIZE
    return records


def descriptor_records(
    chunk: int, data_offsets: NDArray[np.uint64], data_sizes: NDArray[np.unsignedinteger]
) -> NDArray[np.void]:
    """Build the `.desc` records of n events: descriptors of whole payloads in `chunk`, without selections.

    All sizes must be at most `U32_MAX`, as `Batch` makes sure of. About 15 µs for 1000 events.
    """
    records = np.zeros(len(data_sizes), DESCRIPTOR_DTYPE)
    records["size"] = data_sizes
    records["base_size"] = data_sizes
    records["location_size"] = _LOCATION_SIZE
    records["chunk"] = chunk
    records["data_offset"] = data_offsets
    records["data_size"] = data_sizes
    return records


def within(
    records: NDArray[np.void], metadata_size: int, data_size: int, descriptor_size: int
) -> NDArray[np.bool_]:
    """Tell which `.idx` records are of events that files of these sizes hold.

    A record of zeros, which a file system may leave at the end of a file, is of none: every event has a
    descriptor.
    """
    held: NDArray[np.bool_] = records["descriptor_size"] != 0
    for stream, end in (("metadata", metadata_size), ("data", data_size), ("descriptor", descriptor_size)):
        start, size = records[f"{stream}_offset"], records[f"{stream}_size"]
        held &= (start <= end) & (start + size <= end)
    return held


_ROSTER = struct.Struct("<8Q")
_CHECKSUM = struct.Struct("<Q")
ROSTER_SIZE = _ROSTER.size + _CHECKSUM.size
"""Bytes of a record of the roster; that of chunk k is the k-th."""


def roster_record(chunk: Chunk, owner: bytes) -> bytes:
    """Return the record of a full chunk."""
    content = _ROSTER.pack(*astuple(chunk))
    return content + _CHECKSUM.pack(xxh3_64_intdigest(owner + content))


def roster_chunk(content: memoryview, number: int, owner: bytes) -> Chunk | None:
    """Return the chunk that a record in a roster tells of; None if it is torn, or of another partition."""
    place = number * ROSTER_SIZE
    chunk = Chunk(*_ROSTER.unpack_from(content, place))
    record = content[place : place + ROSTER_SIZE]
    return chunk if chunk.number == number and record == roster_record(chunk, owner) else None


_TRIMMED = """\
This partition has a retention: its oldest chunks, and the events in them, have been removed.

first chunk: {number}
first event: {first_id}

The events before the first one are gone, and all others keep their ids. The files are those of the original Mofka, but
it must not open this directory any more: it looks for chunk 0, would take the partition for an empty one, and number
its events anew.

checksum: """
_TRIMMED_FORM = re.compile(
    re.escape(_TRIMMED).replace(r"\{number\}", r"(\d+)").replace(r"\{first_id\}", r"(\d+)")
    + "([0-9a-f]{16})\n"
)


def trimmed_text(first: Chunk) -> bytes:
    """Return what tells people, and us, that `first` is the first chunk that is left."""
    text = _TRIMMED.format(number=first.number, first_id=first.first_id).encode()
    return text + f"{xxh3_64_hexdigest(text)}\n".encode()


def trimmed_chunk(content: bytes) -> Chunk | None:
    """Return the first chunk that is left, without its events; None if the text is damaged."""
    found = _TRIMMED_FORM.fullmatch(content.decode(errors="replace"))
    first = Chunk(int(found[1]), int(found[2])) if found else None
    return first if first is not None and trimmed_text(first) == content else None


_DISPLACED_MAGIC = b"mofkadsp"
_DISPLACED = struct.Struct("<8s8Q")
DISPLACED_SIZE = _DISPLACED.size + _CHECKSUM.size
"""Bytes of the head of displaced events; their index records, metadata and data follow."""


@dataclass(frozen=True, slots=True)
class Displaced:
    """Events that lie where the journal would write: those of a chunk from `start` on, `count` of them."""

    start: Chunk
    count: int
    metadata_bytes: int
    data_bytes: int

    @classmethod
    def between(cls, start: Chunk, end: Chunk) -> "Displaced":
        """Return the events of a chunk from `start` up to `end`."""
        return cls(
            Chunk(start.number, start.end_id, 0, start.metadata_end, start.data_end),
            end.count - start.count,
            end.metadata_end - start.metadata_end,
            end.data_end - start.data_end,
        )

    def pack(self, key: int, generation: int) -> bytes:
        """Return the head of a copy of them, which counts for this generation of the journal alone."""
        start = self.start
        content = _DISPLACED.pack(
            _DISPLACED_MAGIC,
            generation,
            start.number,
            start.first_id,
            self.count,
            start.metadata_end,
            start.data_end,
            self.metadata_bytes,
            self.data_bytes,
        )
        return content + _CHECKSUM.pack(xxh3_64_intdigest(content, key))

    @classmethod
    def unpack(cls, head: bytes, key: int, generation: int) -> "Displaced | None":
        """Read the head of a copy; None if it is not whole, or of another generation."""
        _, _, number, first_id, count, metadata_start, data_start, metadata_bytes, data_bytes = (
            _DISPLACED.unpack_from(head)
        )
        start = Chunk(number, first_id, 0, metadata_start, data_start)
        found = cls(start, count, metadata_bytes, data_bytes)
        return found if found.pack(key, generation) == head else None
