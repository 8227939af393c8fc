"""Reading a partition's directory beside the process that writes it.

A store tells its own readers of a commit by its catalog; other processes have the files alone. A commit is whole there
when the index records of all its events are, for they are written last, and its seal tells how many that are. So a
follower takes chunks by their seals, as far as the index reaches.

Invariants:
1. No event is seen that recovery would take back, after a crash of the writer.
2. A chunk is left for the next one when that has events, which it only gets once the other is full.
3. What has no seals, as events of the original, is seen as it was when the directory was opened, or when its chunk is
   left.
"""

import errno
import os
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import numpy as np

from mochi.disk import Descriptors, FdCache, FileLayer
from mochi.mofka.chunks.catalog import Catalog
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import CorruptPartition, StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import SLOT, Slots, key_of
from mochi.mofka.chunks.reader import ChunkReader
from mochi.mofka.chunks.recovery import Recovery, survey

_AHEAD = 1 << 20
"""Bytes of seals that are read at a time."""

_ATTEMPTS = 4
_PAUSE = 0.01
"""Seconds between two looks at a directory that seems damaged."""


class ChunkFollower(ChunkReader):
    """A partition's directory, read while another process may write it; made by `follow`."""

    def __init__(
        self,
        files: FileLayer,
        cache: FdCache,
        directory: str,
        recovery: Recovery,
        catalog: Catalog,
        resources: ExitStack,
    ) -> None:
        super().__init__(files, cache, directory, recovery, catalog, resources)
        self._files = files
        self._directory = directory
        self._owner = recovery.head.owner
        self.refresh()

    def refresh(self) -> int:
        """Look for events that were committed meanwhile; return the number of all. For one thread at a time.

        Three look-ups if there are none.
        """
        while True:
            last = self._catalog.last
            follows = self._events_in(last.number + 1) > 0
            grown = self._grown(last)
            if not follows:
                if grown.count > last.count and not last.count and not self._is_complete(last.number - 1):
                    self._survey()
                elif grown is not last:
                    self._catalog.publish([grown])
                return self._catalog.event_count
            if grown.count < self._events_in(last.number):
                self._survey()
                if self._catalog.last.number == last.number:
                    return self._catalog.event_count
            else:
                self._catalog.publish([grown, grown.next()])

    def _is_complete(self, number: int) -> bool:
        """Tell whether all events of a chunk have been seen."""
        chunks = [chunk for chunk in self._catalog.chunks if chunk.number == number]
        return not chunks or chunks[0].count == self._events_in(number)

    def _survey(self) -> None:
        """Take all chunks as they are found, for there are events that no seal tells of."""
        chunks = _surveyed(self._files, self._directory).chunks
        if chunks[-1].end_id >= self._catalog.event_count:
            self._catalog.publish(
                [chunk for chunk in chunks if chunk.number >= self._catalog.chunks[0].number]
            )

    def _grown(self, chunk: Chunk) -> Chunk:
        """Return a chunk with the events of the seals that are new, as far as its index has all of them."""
        count = self._events_in(chunk.number)
        if count <= chunk.count:
            return chunk
        path = os.path.join(self._directory, layout.file_name(chunk.number, layout.SEALS))
        end = self._size(path) // SLOT * SLOT
        ahead = _AHEAD
        with closing(self._files.open(path, writable=False)) as file:
            while chunk.count < count and chunk.seals_end < end:
                content = np.empty(min(ahead, end - chunk.seals_end), np.uint8).data
                file.read(content, chunk.seals_end)
                found, ended = self._sealed(chunk, Slots(content, key_of(self._owner, chunk.number)), count)
                if ended or (found is chunk and chunk.seals_end + len(content) == end):
                    return found
                ahead = ahead * 8 if found is chunk else _AHEAD
                chunk = found
        return chunk

    @staticmethod
    def _sealed(chunk: Chunk, slots: Slots, count: int) -> tuple[Chunk, bool]:
        """Return a chunk with the events of good seals, and tell whether one is of events behind the first `count`."""
        start, slot = chunk.seals_end, 0
        while found := slots.run(slot, count):
            run, slot = found
            if run.end > count:
                return chunk, True
            chunk = replace(
                chunk,
                count=max(chunk.count, run.end),
                metadata_end=int(run.metadata.bounds[-1]),
                data_end=int(run.data.bounds[-1]),
                descriptor_end=run.descriptor_start + run.count * layout.DESCRIPTOR_SIZE,
                seals_end=start + slot * SLOT,
                time=run.time,
            )
        return chunk, False

    def _events_in(self, number: int) -> int:
        """Tell how many index records a chunk has."""
        return (
            self._size(os.path.join(self._directory, layout.file_name(number, layout.IDX)))
            // layout.INDEX_SIZE
        )

    def _size(self, path: str) -> int:
        try:
            return self._files.size(path)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return 0
            raise


def _surveyed(files: FileLayer, directory: str) -> Recovery:
    """Survey a directory; again if something seems wrong, for it may have been looked at in the middle of a change."""
    for _ in range(_ATTEMPTS):
        with suppress(CorruptPartition):
            recovery = survey(files, directory)
            if not recovery.damaged:
                return recovery
        time.sleep(_PAUSE)
    return survey(files, directory)


def follow(directory: str | os.PathLike[str], files: FileLayer) -> ChunkFollower:
    """Open a partition's directory to read it while another process may write it. Nothing is changed, nor locked.

    Raises
    ------
    CorruptPartition, StorageError
        As `PartitionDirectory.open` does.
    """
    path = os.fspath(directory)
    recovery = _surveyed(files, path)
    *full, last = recovery.chunks
    if last.seals_end:
        last = Chunk(last.number, last.first_id)
    catalog = Catalog([*full, last])
    with ExitStack() as resources:
        cache = resources.enter_context(
            closing(FdCache(files, ChunkConfig().fd_cache_capacity, Descriptors()))
        )
        return ChunkFollower(files, cache, path, recovery, catalog, resources.pop_all())
