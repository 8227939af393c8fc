"""What is in a partition's directory when it is opened, after a crash or not.

With a full journal the partition goes back to the last whole commit of it: the chunk files up to the
journal's base are taken as they are, and the parts that follow are written over again. Otherwise (no journal,
a light one, or one closed in order) the chunk files speak for themselves, and the partition goes back to the
last whole event: so partitions of the original are opened, and what it appended to one of ours. A light journal
tells where batches end, and cuts off what is there of the last one if it is not whole.

Producers are remembered as far as their events came back, and not at all if there are events that the light
journal does not know of, as a power cut may leave them: their batches could be taken twice.

Bytes beyond the end move to `quarantine-*` files beside, so that they neither come back as events nor are
lost. What is left there is made durable before it counts, for a process that was killed may not have. A crash
leaves damage at the end alone: behind the base, or without a journal in the last chunk that has events and in
those begun after it. Damage that no crash leaves (a missing file, a gap between chunks, a short file of an
earlier chunk, chunk files that end before the base) is a `CorruptPartition`, and nothing is touched.

An event is whole if its index record is, and its metadata, data and descriptor lie within their files and
after those of the event before. Trailing chunks without events are normal: the original makes the next
chunk's files early. What a file system puts in place of lost bytes within a file cannot be told from them:
the journal is there for that.
"""

import itertools
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.chunk_files import ChunkFiles
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.files import File, FileLayer
from mochi.mofka.chunks.journal import Head, Journal, Mode, read_head, read_ledger, read_notes, read_parts
from mochi.mofka.chunks.ledger import Ledger, unpack
from mochi.mofka.chunks.seals import SLOT, key_of, seals_in

_COPY_SIZE = 1 << 20

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
    """

    chunks: Sequence[Chunk]
    quarantined: Sequence[str]
    head: Head
    ledger: Ledger


def recover(files: FileLayer, directory: str) -> Recovery:
    """Find the events of a partition and make its end fit to append to; the caller holds the lock.

    It may be interrupted and run again. Cost: four look-ups and one small read for each chunk; the index of
    the last chunk that has events, from the journal's base on; and after a crash the open journal.

    Raises
    ------
    CorruptPartition
        If the files are not such as a crash could leave.
    StorageError
        If the operating system refuses a call.
    """
    names = files.list_directory(directory)
    sizes = _scan(files, directory, names)
    head = read_head(files, directory, names)
    ledger, known = Ledger(), 0
    if head is not None and (found := read_ledger(files, directory, names, head)):
        ledger, known = found
    if head is not None and head.mode == Mode.FULL:
        chunks, tail = _by_journal(files, directory, sizes, head, ledger)
    else:
        chunks, tail = _by_index(files, directory, sizes, head)
        if head is not None and head.mode == Mode.LIGHT:
            chunks = _by_notes(files, directory, chunks, head, ledger, known)
        chunks = [
            _with_seals(files, directory, chunk, head, sizes) if chunk.number >= tail else chunk
            for chunk in chunks
        ]
    quarantined = _cut(files, directory, chunks[tail:], names)
    filled = max((chunk.number for chunk in chunks if chunk.count), default=-1)
    chunks = chunks[: filled + 2] or [Chunk(0, 0)]
    if head is None or head.mode != Mode.CLOSED:
        with closing(Journal(files, directory, head)) as journal:
            head = journal.begin(chunks[-1], Mode.CLOSED, ledger, chunks[-1].end_id)
    return Recovery(chunks, quarantined, head, ledger)


def _by_journal(
    files: FileLayer, directory: str, sizes: Sequence[_Sizes], head: Head, ledger: Ledger
) -> tuple[list[Chunk], int]:
    """Give the chunks as a full journal has them, after writing its parts over again, and the base's place."""
    base = head.base
    chunks = [
        _sealed(files, directory, number, sizes[number]) for number in range(min(base.number, len(sizes)))
    ]
    chunks = _with_ids(chunks)
    if (chunks[-1].end_id if chunks else 0) != base.first_id or not _is_at(files, directory, sizes, base):
        raise _corrupt(
            directory,
            layout.JOURNAL_NAME,
            f"begins after event {base.end_id - 1} in chunk {base.number}, whose files have no such end; put "
            "back the chunk files and journal that belong together",
        )
    parts = read_parts(files, directory, head)
    chunks.append(base)
    for number, of_chunk in itertools.groupby(parts, lambda part: part.before.number):
        with closing(ChunkFiles(files, directory, number)) as chunk_files:
            for part in of_chunk:
                chunk_files.write_data(part)
                chunk_files.write_records(part)
                ledger.apply(unpack(memoryview(part.notes)))
                chunks[number:] = [part.after]
    for number in range(len(chunks), len(sizes)):
        chunks.append(Chunk(number, chunks[-1].end_id))
    return chunks, base.number


def _by_index(
    files: FileLayer, directory: str, sizes: Sequence[_Sizes], head: Head | None
) -> tuple[list[Chunk], int]:
    """Give the chunks as the index files have them, and the first that may have been torn."""
    newest_first: list[Chunk] = []
    tail = len(sizes)
    for number in reversed(range(len(sizes))):
        if newest_first and newest_first[-1].count:
            newest_first.append(_sealed(files, directory, number, sizes[number]))
        else:
            start = Chunk(number, 0)
            if head is not None and head.base.number == number and _is_at(files, directory, sizes, head.base):
                start = head.base
            newest_first.append(_whole_part(files, directory, start, sizes[number]))
            tail = number
    return _with_ids(newest_first[::-1]), tail


def _by_notes(
    files: FileLayer, directory: str, chunks: list[Chunk], head: Head, ledger: Ledger, known: int
) -> list[Chunk]:
    """Give the chunks without the part of a batch that they may end with, and bring the ledger up to their end.

    `known` is the number of events that the ledger is of.
    """
    end_id = chunks[-1].end_id if chunks else 0
    ends = [known]
    for part_end, notes in read_notes(files, directory, head):
        ends += [first_id for producer in notes.producers for first_id in producer.first_ids]
        ends.append(part_end)
        ledger.apply(notes)
    if ends[-1] >= end_id:
        end_id = max((end for end in ends if end <= end_id), default=end_id)
        chunks = [_shortened(files, directory, chunk, end_id) for chunk in chunks]
    else:
        ledger.forget_producers()
    ledger.forget_batches(end_id)
    return chunks


def _with_seals(
    files: FileLayer, directory: str, chunk: Chunk, head: Head | None, sizes: Sequence[_Sizes]
) -> Chunk:
    """Give a chunk with the end of the seals of its events, those after the journal's base read one by one."""
    known = head is not None and head.base.number == chunk.number and head.base.count <= chunk.count
    end, time = (head.base.seals_end, head.base.time) if head is not None and known else (0, 0)
    size = sizes[chunk.number].get(layout.SEALS, 0)
    if size > end:
        content = np.empty(size - end, np.uint8).data
        with closing(
            files.open(os.path.join(directory, layout.file_name(chunk.number, layout.SEALS)), writable=False)
        ) as file:
            file.read(content, end)
        start = end
        for seal, stop in seals_in(
            content, key_of(head.owner if head else layout.owner_of(directory), chunk.number)
        ):
            if seal.end > chunk.count:
                break
            end, time = start + stop, seal.time
    return replace(chunk, seals_end=min(end, size), time=time)


def _shortened(files: FileLayer, directory: str, chunk: Chunk, end_id: int) -> Chunk:
    """Give a chunk without the events from `end_id` on."""
    if chunk.end_id <= end_id:
        return chunk
    count = max(0, end_id - chunk.first_id)
    records = _records(files, directory, chunk.number, count - 1, min(count, 1))
    return replace(_chunk(chunk.number, count, records), first_id=min(chunk.first_id, end_id))


def _with_ids(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Number the events of all chunks."""
    numbered: list[Chunk] = []
    for chunk in chunks:
        numbered.append(replace(chunk, first_id=numbered[-1].end_id if numbered else 0))
    return numbered


def _is_at(files: FileLayer, directory: str, sizes: Sequence[_Sizes], base: Chunk) -> bool:
    """Tell whether the files of a chunk have the end of `base` somewhere."""
    if base.number >= len(sizes) or any(
        sizes[base.number].get(kind, 0) < _ends(base)[kind] for kind in layout.KINDS
    ):
        return False
    if not base.count:
        return True
    found = _chunk(base.number, base.count, _records(files, directory, base.number, base.count - 1, 1))
    return all(_ends(found)[kind] == _ends(base)[kind] for kind in layout.KINDS)


def _cut(files: FileLayer, directory: str, chunks: Sequence[Chunk], names: Sequence[str]) -> list[str]:
    """Move to quarantine what the files of chunks have beyond their end, and put the rest on disk."""
    quarantined: list[str] = []
    present = set(files.list_directory(directory))
    for chunk in chunks:
        for kind, end in _ends(chunk).items():
            name = layout.file_name(chunk.number, kind)
            if name in present:
                path = os.path.join(directory, name)
                with closing(files.open(path, writable=True)) as file:
                    if (size := files.size(path)) > end:
                        aside = _unused(f"quarantine-{chunk.number:06d}-{kind}", names)
                        _move_tail(files, directory, file, range(end, size), aside)
                        quarantined.append(aside)
                    file.sync()
    return quarantined


def _scan(files: FileLayer, directory: str, names: Sequence[str]) -> list[_Sizes]:
    """Give the sizes of the files of each chunk, and see that none is missing."""
    found: dict[int, _Sizes] = {}
    for name in names:
        if parsed := layout.parse_file_name(name):
            number, kind = parsed
            found.setdefault(number, {})[kind] = files.size(os.path.join(directory, name))
    found = {number: sizes for number, sizes in found.items() if set(sizes) != {layout.SEALS}}
    for number in range(len(found)):
        sizes = found.get(number)
        if sizes is None:
            raise _corrupt(
                directory,
                layout.file_name(number, layout.IDX),
                f"is missing, though there is a chunk {max(found)}; put the chunk's files back",
            )
        for kind in layout.KINDS:
            if kind not in sizes and any(sizes.values()):
                others = ", ".join(f"{size} bytes in .{other}" for other, size in sizes.items())
                raise _corrupt(
                    directory, layout.file_name(number, kind), f"is missing, though the chunk has {others}"
                )
    return [found[number] for number in range(len(found))]


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
    if not _held(last, sizes).all():
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
    whole = _held(records, sizes)
    for stream in ("metadata", "data", "descriptor"):
        starts = records[f"{stream}_offset"]
        whole[0] &= starts[0] >= getattr(start, f"{stream}_end")
        whole[1:] &= starts[1:] >= starts[:-1] + records[f"{stream}_size"][:-1]
    held = len(records) if whole.all() else int(whole.argmin())
    return _chunk(start.number, start.count + held, records[:held]) if held else start


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


def _ends(chunk: Chunk) -> dict[str, int]:
    return {
        layout.META: chunk.metadata_end,
        layout.DATA: chunk.data_end,
        layout.DESC: chunk.descriptor_end,
        layout.IDX: chunk.count * layout.INDEX_SIZE,
        layout.SEALS: chunk.seals_end,
    }


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
