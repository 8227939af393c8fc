"""Events that another program has appended behind a crash of ours.

The original knows neither lock nor journal: it attaches a directory whose journal is open, takes what the index tells
of for all there is, and appends behind that. What it appends is told from what our own crash left by these signs:

- With a full journal no index record of ours is written before the record in the journal is on disk. So whole events
  behind its last commit are another's, unless the journal has the beginning of a commit that is not whole, and they are
  that; or unless they have a seal of ours: then the last record was damaged since.
- Without `sync` a seal is written before its index records. So whole events without one, at the end, are another's (or
  ours, after a power cut: then they were acknowledged as well, as far as that goes without `sync`).
- Where the journal would write, and whole events that are not the same follow what is before, these are another's: it
  appended to chunk files that were behind the journal.

The last are moved behind what the journal writes. A file beside, `mofka.displaced`, has a copy of them until that is
done, so that it may be interrupted at any call.

Invariants: the file counts once its head is whole, for the journal's generation that it names; its head is written when
the rest is on disk; it is removed when the events are on disk in their new places.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mochi.disk.contract import File, FileLayer
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.chunk_files import Part, index_of
from mochi.mofka.chunks.format import layout

_MAGIC = b"mofkadsp"
_HEAD = struct.Struct("<8s8Q")
_CHECKSUM = struct.Struct("<Q")
_START = _HEAD.size + _CHECKSUM.size
_PIECE = 1 << 20


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
class Displaced:
    """Events that lie where the journal would write: those of a chunk from `start` on, `count` of them."""

    start: Chunk
    count: int
    metadata_bytes: int
    data_bytes: int

    def overlaps(self, part: Part) -> bool:
        """Tell whether they lie on data of a part."""
        start = self.start
        return (
            part.before.number == start.number
            and part.before.data_end < start.data_end + self.data_bytes
            and start.data_end < part.after.data_end
        )


def differing_records(expected: NDArray[np.void], found: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which of the index records found are not as expected, but for their padding."""
    differing = np.zeros(len(found), np.bool_)
    for name in layout.INDEX_DTYPE.names or ():
        differing |= expected[name][: len(found)] != found[name]
    return differing


def index_of_all(parts: Sequence[Part]) -> NDArray[np.void]:
    """Give the index records that parts of a chunk, which follow each other, have there."""
    records = [index_of(part) for part in parts]
    return np.concatenate(records) if records else np.empty(0, layout.INDEX_DTYPE)


def read_displaced(
    files: FileLayer, directory: str, names: Sequence[str], key: int, generation: int
) -> Displaced | None:
    """Read which events were put aside in this generation of the journal, and not all moved; None if there are none."""
    if layout.DISPLACED_NAME not in names:
        return None
    path = os.path.join(directory, layout.DISPLACED_NAME)
    if files.size(path) < _START:
        return None
    head = np.empty(_START, np.uint8).data
    with closing(files.open(path, writable=False)) as file:
        file.read(head, 0)
    magic, of, number, first_id, count, metadata_start, data_start, metadata_bytes, data_bytes = (
        _HEAD.unpack_from(head)
    )
    content = bytes(head[: _HEAD.size])
    if magic != _MAGIC or of != generation or bytes(head[_HEAD.size :]) != _checksum(content, key):
        return None
    start = Chunk(number, first_id, 0, metadata_start, data_start)
    return Displaced(start, count, metadata_bytes, data_bytes)


def displaced_of(start: Chunk, end: Chunk) -> Displaced:
    """Give the events of a chunk from `start` up to `end`."""
    return Displaced(
        Chunk(start.number, start.end_id, 0, start.metadata_end, start.data_end),
        end.count - start.count,
        end.metadata_end - start.metadata_end,
        end.data_end - start.data_end,
    )


def put_aside(
    files: FileLayer, directory: str, start: Chunk, end: Chunk, key: int, generation: int
) -> Displaced:
    """Copy the events of a chunk from `start` up to `end`, and have the copy on disk; the chunk is not changed."""
    displaced = displaced_of(start, end)
    content = _HEAD.pack(
        _MAGIC,
        generation,
        start.number,
        start.end_id,
        displaced.count,
        start.metadata_end,
        start.data_end,
        displaced.metadata_bytes,
        displaced.data_bytes,
    )
    with closing(files.open(os.path.join(directory, layout.DISPLACED_NAME), writable=True)) as target:
        target.truncate(0)
        position = _START
        for kind in (layout.IDX, layout.META, layout.DATA):
            tail = range(start.ends[kind], end.ends[kind])
            with closing(
                files.open(os.path.join(directory, layout.file_name(start.number, kind)), writable=False)
            ) as source:
                _copy(source, tail, target, position)
            position += len(tail)
        target.sync()
        target.write([content + _checksum(content, key)], 0)
        target.sync()
    files.sync_directory(directory)
    return displaced


def put_behind(files: FileLayer, directory: str, displaced: Displaced, end: Chunk) -> None:
    """Append events that were put aside to their chunk, whose end is `end`, and have them on disk there."""
    count = displaced.count
    with ExitStack() as opened:
        source, *targets = (
            opened.enter_context(closing(files.open(os.path.join(directory, name), writable=True)))
            for name in (
                layout.DISPLACED_NAME,
                *(layout.file_name(end.number, kind) for kind in layout.KINDS),
            )
        )
        metadata, data, descriptors, index = targets
        records = np.empty(count, layout.INDEX_DTYPE)
        source.read(records.view(np.uint8).data, _START)
        position = _START + count * layout.INDEX_SIZE
        _copy(source, range(position, position + displaced.metadata_bytes), metadata, end.metadata_end)
        position += displaced.metadata_bytes
        _copy(source, range(position, position + displaced.data_bytes), data, end.data_end)
        data_offsets = records["data_offset"] - np.uint64(displaced.start.data_end) + np.uint64(end.data_end)
        described = layout.descriptor_records(end.number, data_offsets, records["data_size"])
        metadata_offsets = (
            records["metadata_offset"] - np.uint64(displaced.start.metadata_end) + np.uint64(end.metadata_end)
        )
        indexed = layout.index_records(
            metadata_offsets, records["metadata_size"], data_offsets, records["data_size"], end.descriptor_end
        )
        descriptors.write([described.view(np.uint8).data], end.descriptor_end)
        index.write([indexed.view(np.uint8).data], end.count * layout.INDEX_SIZE)
        for file in targets:
            file.sync()


def forget_displaced(files: FileLayer, directory: str) -> None:
    """Remove the copy of events that have their places, or that were never put aside whole."""
    files.remove(os.path.join(directory, layout.DISPLACED_NAME))
    files.sync_directory(directory)


def _copy(source: File, piece: range, target: File, position: int) -> None:
    buffer = memoryview(bytearray(min(_PIECE, len(piece))))
    for begin in piece[::_PIECE]:
        content = buffer[: piece.stop - begin]
        source.read(content, begin)
        target.write([content], position + begin - piece.start)


def _checksum(content: bytes, key: int) -> bytes:
    return _CHECKSUM.pack(xxh3_64_intdigest(content, key))
