"""What is in a partition's directory when it is opened, after a crash or not.

A crash leaves damage at the end alone: in the last chunk that has events, or in chunks begun after it. There
the partition goes back to the last whole event, and bytes beyond it move to `quarantine-*` files beside, so
that they neither come back as events nor are lost. What is left there is made durable before it counts, for a
process that was killed may not have. Damage that no crash leaves (a missing file, a gap between chunks, a
short file of an earlier chunk) is a `CorruptPartition`, and nothing is touched.

An event is whole if its index record is, and its metadata, data and descriptor lie within their files and
after those of the event before. Trailing chunks without events are normal: the original makes the next
chunk's files early. What a file system puts in place of lost bytes within a file cannot be told from them:
with `sync` the writer's order of work leaves no record of such bytes.
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
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.files import File, FileLayer

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
    """

    chunks: Sequence[Chunk]
    quarantined: Sequence[str]


def recover(files: FileLayer, directory: str) -> Recovery:
    """Find the events of a partition and make its end fit to append to; the caller holds the lock.

    It may be interrupted and run again. Cost: four look-ups and one small read for each chunk, and one pass
    over the index of the last chunk that has events.

    Raises
    ------
    CorruptPartition
        If the files are not such as a crash could leave.
    StorageError
        If the operating system refuses a call.
    """
    names = files.list_directory(directory)
    sizes = _scan(files, directory, names)
    newest_first: list[Chunk] = []
    tail = len(sizes)
    for number in reversed(range(len(sizes))):
        if newest_first and newest_first[-1].count:
            newest_first.append(_sealed(files, directory, number, sizes[number]))
        else:
            newest_first.append(_whole_part(files, directory, number, sizes[number]))
            tail = number
    chunks: list[Chunk] = []
    for chunk in reversed(newest_first):
        chunks.append(replace(chunk, first_id=chunks[-1].end_id if chunks else 0))
    quarantined: list[str] = []
    for chunk in chunks[tail:]:
        for kind, end in _ends(chunk).items():
            if kind in sizes[chunk.number]:
                name = layout.file_name(chunk.number, kind)
                with closing(files.open(os.path.join(directory, name), writable=True)) as file:
                    if (size := sizes[chunk.number][kind]) > end:
                        aside = _unused(f"quarantine-{chunk.number:06d}-{kind}", names)
                        _move_tail(files, directory, file, range(end, size), aside)
                        quarantined.append(aside)
                    file.sync()
    filled = sum(1 for chunk in chunks if chunk.count)
    return Recovery(chunks[: filled + 1] or [Chunk(0, 0)], quarantined)


def _scan(files: FileLayer, directory: str, names: Sequence[str]) -> list[_Sizes]:
    """Give the sizes of the files of each chunk, and see that none is missing."""
    found: dict[int, _Sizes] = {}
    for name in names:
        if parsed := layout.parse_file_name(name):
            number, kind = parsed
            found.setdefault(number, {})[kind] = files.size(os.path.join(directory, name))
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
    return _chunk(number, count, last)


def _whole_part(files: FileLayer, directory: str, number: int, sizes: _Sizes) -> Chunk:
    """Find the events of a chunk up to the first that is not whole."""
    records = _records(files, directory, number, 0, sizes.get(layout.IDX, 0) // layout.INDEX_SIZE)
    if not len(records):
        return Chunk(number, 0)
    whole = _held(records, sizes)
    for stream in ("metadata", "data", "descriptor"):
        starts = records[f"{stream}_offset"]
        whole[1:] &= starts[1:] >= starts[:-1] + records[f"{stream}_size"][:-1]
    count = len(records) if whole.all() else int(whole.argmin())
    return _chunk(number, count, records[:count])


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
