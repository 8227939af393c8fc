"""Which chunks a partition has: in memory, for readers, and on disk, so that opening reads no index of full ones.

| file | what it tells | when it is written |
|---|---|---|
| `mofka.chunks`, the roster | the ends of each full chunk | when the chunk is on disk, and the next one made |
| `mofka.trimmed` | the first chunk that is left, if others were dropped | before a file of the others is removed |

Invariants:
1. Chunks are numbered without a gap, and so are the events over all of them; only the last may be empty.
2. `event_count` is set last, and chunks are dropped by a new list: a reader that takes it first sees whole commits
   alone, without a lock.
3. A chunk that has a record in the roster takes no more events; a record that is torn is none.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import closing
from operator import attrgetter

import numpy as np

from mochi.disk import FileLayer
from mochi.mofka.chunks.errors import CorruptPartition, ExpiredEvents
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import ROSTER_SIZE, Chunk


class Catalog:
    """The chunks of a partition. One thread publishes while any others look up."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = list(chunks)
        self.event_count = self._chunks[-1].end_id

    @property
    def first_id(self) -> int:
        """Id of the first event that is left."""
        return self._chunks[0].first_id

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All chunks, as they are now."""
        return tuple(self._chunks)

    @property
    def last(self) -> Chunk:
        """The chunk that is being written."""
        return self._chunks[-1]

    def publish(self, chunks: Sequence[Chunk]) -> None:
        """Let `chunks` be the last ones, the first of them instead of what it was, and readers see their events."""
        self._chunks[chunks[0].number - self._chunks[0].number :] = chunks
        self.event_count = chunks[-1].end_id  # invariant 2

    def drop(self, end: int) -> None:
        """Let the chunk `end` be the first one."""
        self._chunks = self._chunks[end - self._chunks[0].number :]  # invariant 2

    def find(self, event_id: int) -> Chunk:
        """Return the chunk of an event that has been published; `ExpiredEvents` if it was dropped.

        Cost: binary search over the chunks.
        """
        chunks = self._chunks
        place = bisect_right(chunks, event_id, key=attrgetter("first_id"))
        if not place:
            raise ExpiredEvents(event_id, chunks[0].first_id)
        return chunks[place - 1]


def read_roster(files: FileLayer, directory: str, names: Sequence[str], owner: bytes) -> dict[int, Chunk]:
    """Read the good records of a directory's roster, by the number of the chunk."""
    if layout.ROSTER_NAME not in names:
        return {}
    content = read_whole(files, os.path.join(directory, layout.ROSTER_NAME))
    found = (layout.roster_chunk(content, number, owner) for number in range(len(content) // ROSTER_SIZE))
    return {chunk.number: chunk for chunk in found if chunk is not None}


def add_to_roster(files: FileLayer, directory: str, owner: bytes, chunk: Chunk) -> None:
    """Put the record of a chunk on disk."""
    with closing(files.open(os.path.join(directory, layout.ROSTER_NAME), writable=True)) as file:
        file.write([layout.roster_record(chunk, owner)], chunk.number * ROSTER_SIZE)
        file.sync()
    files.sync_directory(directory)


def shorten_roster(files: FileLayer, directory: str, end: int) -> None:
    """Take away the records of the chunks from `end` on."""
    with closing(files.open(os.path.join(directory, layout.ROSTER_NAME), writable=True)) as file:
        if files.size(file.path) > end * ROSTER_SIZE:
            file.truncate(end * ROSTER_SIZE)
            file.sync()


def update_roster(
    files: FileLayer, directory: str, owner: bytes, known: dict[int, Chunk], chunks: Sequence[Chunk]
) -> None:
    """Let the records on disk, of which `known` are believed, be those of all `chunks` but the last."""
    path = os.path.join(directory, layout.ROSTER_NAME)
    exists = layout.ROSTER_NAME in files.list_directory(directory)
    *full, last = chunks
    end = last.number * ROSTER_SIZE
    missing = [chunk for chunk in full if known.get(chunk.number) != chunk]
    if not missing and (not exists or files.size(path) <= end):
        return
    with closing(files.open(path, writable=True)) as file:
        for chunk in missing:
            file.write([layout.roster_record(chunk, owner)], chunk.number * ROSTER_SIZE)
        if files.size(path) > end:
            file.truncate(end)
        file.sync()
    files.sync_directory(directory)


def read_first(files: FileLayer, directory: str, names: Sequence[str]) -> Chunk:
    """Read which chunk is the first that is left; it is returned without its events.

    Raises
    ------
    CorruptPartition
        If the file that tells it is damaged.
    """
    if layout.TRIMMED_NAME not in names:
        return Chunk(0, 0)
    path = os.path.join(directory, layout.TRIMMED_NAME)
    first = layout.trimmed_chunk(bytes(read_whole(files, path)))
    if first is None:
        raise CorruptPartition(
            f"{path} is damaged, so that the first chunk, and the ids of its events, are not known; put the file right",
            path=path,
            operation="recover",
        )
    return first


def write_first(files: FileLayer, directory: str, first: Chunk) -> None:
    """Have it on disk that `first` is the first chunk that is left."""
    path = os.path.join(directory, layout.TRIMMED_NAME)
    aside = os.path.join(directory, layout.TRIMMED_ASIDE)
    with closing(files.open(aside, writable=True)) as file:
        file.truncate(0)
        file.write([layout.trimmed_text(first)], 0)
        file.sync()
    files.rename(aside, path)
    files.sync_directory(directory)


def read_whole(files: FileLayer, path: str, most: int | None = None) -> memoryview:
    """Read a file, or the first bytes of one."""
    size = files.size(path)
    content = np.empty(size if most is None else min(size, most), np.uint8).data
    with closing(files.open(path, writable=False)) as file:
        file.read(content, 0)
    return content
