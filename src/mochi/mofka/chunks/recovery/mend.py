"""Writing what recovery has decided on: each of these may be interrupted anywhere, and done again."""

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing

import numpy as np

from mochi.disk import File, FileLayer
from mochi.mofka.chunks.chunk_files import ChunkFiles
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import DISPLACED_SIZE, Chunk, Displaced
from mochi.mofka.chunks.recovery import cases
from mochi.mofka.chunks.recovery.cases import Gap
from mochi.mofka.chunks.recovery.found import Found, pieces


def remove_dropped(found: Found) -> None:
    """Remove what a crash has left of chunks that were dropped; what is something else stays."""
    for name, is_dropped in found.dropped():
        if is_dropped:
            found.files.remove(os.path.join(found.path, name))
        else:
            found.report(name, "is not of the chunk of this number that was dropped, and is left alone")


def restore(found: Found, chunk: Chunk, kind: str) -> bool:
    """Make the index or descriptors of a chunk again, if its seals tell of all events; keep what was there."""
    seals = found.seals(chunk.number)
    if not cases.cover(seals, chunk.count):
        return False
    path = os.path.join(found.path, layout.file_name(chunk.number, kind))
    with closing(found.files.open(path, writable=True)) as file:
        if size := found.files.size(path):
            names = found.files.list_directory(found.path)
            _quarantine(found.files, found.path, file, range(size), chunk.number, kind, names)
        for seal in seals:
            start, records = seal.records(chunk.number, kind)
            file.write([records.view(np.uint8).data], start)
        file.sync()
    found.files.sync_directory(found.path)
    found.sizes.setdefault(chunk.number, {})[kind] = found.files.size(path)
    return True


def fill(found: Found, gap: Gap, chunk_files: ChunkFiles) -> None:
    """Have events that the journal has lost served as far as seals tell of them, or else refused."""
    before, after = gap.before, gap.after
    seals = found.seals_of(gap)
    for seal in seals:
        chunk_files.write_again(seal)
    if not seals:
        chunk_files.write_lost(before, after)
    kept = "are as the chunk files have them" if seals else "are lost"
    found.report(
        layout.JOURNAL_NAME,
        f"has a damaged record at byte {gap.place}: events {before.end_id} to {after.end_id - 1} {kept}",
    )


def put_aside(found: Found, start: Chunk, end: Chunk) -> Displaced:
    """Copy the events of a chunk from `start` up to `end`, and have the copy on disk; the chunk is not changed."""
    assert found.head is not None
    displaced = Displaced.between(start, end)
    path = os.path.join(found.path, layout.DISPLACED_NAME)
    with closing(found.files.open(path, writable=True)) as target:
        target.truncate(0)
        position = DISPLACED_SIZE
        for kind in (layout.IDX, layout.META, layout.DATA):
            tail = range(start.ends[kind], end.ends[kind])
            source_path = os.path.join(found.path, layout.file_name(start.number, kind))
            with closing(found.files.open(source_path, writable=False)) as source:
                _copy(source, tail, target, position)
            position += len(tail)
        target.sync()
        target.write([displaced.pack(found.head.key, found.head.generation)], 0)  # invariant 3
        target.sync()
    found.files.sync_directory(found.path)
    return displaced


def put_behind(found: Found, displaced: Displaced, end: Chunk) -> None:
    """Append events that were put aside to their chunk, whose end is `end`; then forget the copy."""
    count = displaced.count
    with ExitStack() as opened:
        source, *targets = (
            opened.enter_context(closing(found.files.open(os.path.join(found.path, name), writable=True)))
            for name in (
                layout.DISPLACED_NAME,
                *(layout.file_name(end.number, kind) for kind in layout.KINDS),
            )
        )
        metadata, data, descriptors, index = targets
        records = np.empty(count, layout.INDEX_DTYPE)
        source.read(records.view(np.uint8).data, DISPLACED_SIZE)
        position = DISPLACED_SIZE + count * layout.INDEX_SIZE
        _copy(source, range(position, position + displaced.metadata_bytes), metadata, end.metadata_end)
        position += displaced.metadata_bytes
        _copy(source, range(position, position + displaced.data_bytes), data, end.data_end)
        data_offsets = records["data_offset"] - np.uint64(displaced.start.data_end) + np.uint64(end.data_end)
        metadata_offsets = (
            records["metadata_offset"] - np.uint64(displaced.start.metadata_end) + np.uint64(end.metadata_end)
        )
        described = layout.descriptor_records(end.number, data_offsets, records["data_size"])
        indexed = layout.index_records(
            metadata_offsets, records["metadata_size"], data_offsets, records["data_size"], end.descriptor_end
        )
        descriptors.write([described.view(np.uint8).data], end.descriptor_end)
        index.write([indexed.view(np.uint8).data], end.count * layout.INDEX_SIZE)
        for file in targets:
            file.sync()
    found.files.remove(os.path.join(found.path, layout.DISPLACED_NAME))  # invariant 3
    found.files.sync_directory(found.path)


def cut(found: Found, chunks: Sequence[Chunk]) -> list[str]:
    """Move to quarantine what the files of chunks have beyond their end, and put the rest on disk."""
    quarantined: list[str] = []
    present = set(found.files.list_directory(found.path))
    for chunk in chunks:
        for kind, end in chunk.ends.items():
            name = layout.file_name(chunk.number, kind)
            if name in present:
                path = os.path.join(found.path, name)
                with closing(found.files.open(path, writable=True)) as file:
                    if (size := found.files.size(path)) > end:
                        tail = range(end, size)
                        quarantined.append(
                            _quarantine(found.files, found.path, file, tail, chunk.number, kind, found.names)
                        )
                    file.sync()  # invariant 2
    return quarantined


def _quarantine(
    files: FileLayer, directory: str, source: File, tail: range, number: int, kind: str, names: Sequence[str]
) -> str:
    """Move the bytes of `tail`, the last of a file, to a new file; the cut itself is not yet durable."""
    stem = f"{layout.QUARANTINE_PREFIX}{number:06d}-{kind}"
    aside = next(name for n in itertools.count() if (name := f"{stem}-{n}") not in names)
    with closing(files.open(os.path.join(directory, aside), writable=True)) as target:
        _copy(source, tail, target, 0)
        target.sync()
    files.sync_directory(directory)
    source.truncate(tail.start)  # invariant 1
    return aside


def _copy(source: File, piece: range, target: File, position: int) -> None:
    for content in pieces(source, piece.start, piece.stop):
        target.write([content], position)
        position += len(content)
