"""The layout of the original's driver: three files for a partition, ``metadata``, ``data`` and ``index``.

A record of the index is of one event: offset and size of its metadata, offset and size of its data, each 64 bits,
little-endian. The index is written last, so an event whose record is whole is whole, unless the machine crashed: there
are no checksums. What follows the last whole record is cut off by the next writer.
"""

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from mochi.disk import File, FileLayer
from mochi.mofka.chunks import (
    Batch,
    DamagedEvents,
    DataRequest,
    EventRange,
    OutOfRange,
    PartitionPoisoned,
    format,
    fresh_memory,
)

METADATA, DATA, INDEX = NAMES = ("metadata", "data", "index")

_RECORD = np.dtype([("metadata", "<u8"), ("metadata_size", "<u8"), ("data", "<u8"), ("data_size", "<u8")])
_MOST_EVENTS = 16384
_MAX_SIZE = 2**32 - 1


class OriginalReader:
    """A partition to be read; see `mochi.mofka.files.storage.Reader`. Any thread may read, one refreshes."""

    first_id = 0

    def __init__(self, directory: str, files: FileLayer) -> None:
        self._directory = directory
        self._files = files
        self._opened = ExitStack()
        self._open: dict[str, File] = {}
        self._sizes = dict.fromkeys(NAMES, 0)
        self.event_count = 0
        self.refresh()

    def refresh(self) -> int:
        """Look for new events; return the number of all."""
        count = self._size(INDEX) // _RECORD.itemsize
        if count > self.event_count:
            for name in (METADATA, DATA):
                self._sizes[name] = self._size(name)
            self.event_count = count
        return self.event_count

    def _size(self, name: str) -> int:
        path = os.path.join(self._directory, name)
        return self._files.size(path) if os.path.exists(path) else 0

    def read_range(self, first: int, max_events: int, max_bytes: int, *, with_data: bool) -> EventRange:
        """Read consecutive events, see `mochi.mofka.chunks.ChunkReader.read_range`."""
        records = self._records(first, min(max_events, _MOST_EVENTS))
        sizes = records["metadata_size"] + (records["data_size"] if with_data else np.uint64(0))
        records = records[: max(1, int(np.searchsorted(sizes.cumsum(), max_bytes, "right")))]
        metadata = self._content(records, METADATA)
        return EventRange(
            first,
            records["metadata_size"].astype(np.uint32),
            metadata,
            records["data_size"].astype(np.uint32),
            self._content(records, DATA) if with_data else None,
        )

    def read_data(self, requests: Sequence[DataRequest]) -> list[memoryview]:
        """Read pieces of the data of events, see `mochi.mofka.chunks.ChunkReader.read_data`."""
        found = []
        for event_id, pieces in requests:
            record = self._records(event_id, 1)[0]
            content = fresh_memory(sum(size for _, size in pieces))
            position = 0
            for offset, size in pieces:
                if offset + size > int(record["data_size"]):
                    raise OutOfRange(
                        f"event {event_id} has no bytes {offset} to {offset + size}", operation="read"
                    )
                self._read(DATA, int(record["data"]) + offset, content[position : position + size])
                position += size
            found.append(content)
        return found

    def close(self) -> None:
        """Close the files."""
        self._opened.close()
        self._open.clear()

    def _records(self, first: int, count: int) -> NDArray[np.void]:
        """Read index records, up to the first of an event that is not there."""
        count = min(count, self.event_count - first)
        if first < 0 or count <= 0:
            raise OutOfRange(f"event {first} of a partition of {self.event_count} events", operation="read")
        content = fresh_memory(count * _RECORD.itemsize)
        self._read(INDEX, first * _RECORD.itemsize, content)
        records = np.frombuffer(content, _RECORD)
        sound = np.ones(count, np.bool_)
        for name in (METADATA, DATA):
            start, size = records[name], records[f"{name}_size"]
            end = np.uint64(self._sizes[name])
            sound &= (size <= _MAX_SIZE) & (start <= end) & (start + size <= end)
        if sound[0]:
            return records if sound.all() else records[: int(sound.argmin())]
        bad = int(sound.argmax()) or count
        path = os.path.join(self._directory, INDEX)
        raise DamagedEvents(
            f"{path}: events {first} to {first + bad - 1} refer to bytes that the files do not have",
            path=path,
            first=first,
            count=bad,
        )

    def _content(self, records: NDArray[np.void], name: str) -> memoryview:
        """Read the metadata or data of events, back to back, by one read for each run that touches."""
        starts, sizes = records[name], records[f"{name}_size"]
        ends = starts + sizes
        content = fresh_memory(int(sizes.sum()))
        breaks = [0, *(np.flatnonzero(starts[1:] != ends[:-1]) + 1).tolist(), len(records)]
        position = 0
        for begin, stop in itertools.pairwise(breaks):
            length = int(sizes[begin:stop].sum())
            self._read(name, int(starts[begin]), content[position : position + length])
            position += length
        return content

    def _read(self, name: str, offset: int, target: memoryview) -> None:
        if not target:
            return
        if name not in self._open:
            path = os.path.join(self._directory, name)
            self._open[name] = self._opened.enter_context(closing(self._files.open(path, writable=False)))
        self._open[name].read(target, offset)


class OriginalStore:
    """A partition to be written; see `mochi.mofka.files.storage.Store`.

    Raises
    ------
    PartitionLocked
        Another process writes it.
    """

    def __init__(self, directory: str, files: FileLayer, *, is_durable: bool) -> None:
        self.is_durable = is_durable
        self._directory = directory
        self._error: BaseException | None = None
        with ExitStack() as opened:
            opened.enter_context(closing(files.lock(os.path.join(directory, format.LOCK_NAME))))
            self._open = {
                name: opened.enter_context(closing(files.open(os.path.join(directory, name), writable=True)))
                for name in NAMES
            }
            self._ends = {name: files.size(os.path.join(directory, name)) for name in NAMES}
            if torn := self._ends[INDEX] % _RECORD.itemsize:
                self._ends[INDEX] -= torn
                self._open[INDEX].truncate(self._ends[INDEX])
            self._opened = opened.pop_all()

    @property
    def event_count(self) -> int:
        """Number of events."""
        return self._ends[INDEX] // _RECORD.itemsize

    def append(self, batch: Batch) -> int:
        """Store a batch; return the id of its first event."""
        if self._error is not None:
            raise PartitionPoisoned(
                f"{self._directory} takes no more events: {self._error}", path=self._directory
            )
        first = self.event_count
        records = np.empty(batch.count, _RECORD)
        for name, sizes in ((METADATA, batch.metadata_sizes), (DATA, batch.data_sizes)):
            records[name] = format.offsets(sizes, self._ends[name])
            records[f"{name}_size"] = sizes
        written = {METADATA: batch.metadata, DATA: batch.data, INDEX: [records.view(np.uint8).data]}
        try:
            for name, content in written.items():
                self._open[name].write(content, self._ends[name])
            if self.is_durable:
                self.sync()
        except BaseException as error:
            self._take_back(error)
            raise
        self._ends[METADATA] += batch.metadata_bytes
        self._ends[DATA] += batch.data_bytes
        self._ends[INDEX] += records.nbytes
        return first

    def _take_back(self, error: BaseException) -> None:
        """Cut off what was written in vain; if that fails, nothing is written any more."""
        try:
            for name in (INDEX, DATA, METADATA):
                self._open[name].truncate(self._ends[name])
        except BaseException:
            self._error = error

    def sync(self) -> None:
        """Put on disk what was written."""
        try:
            for name in (DATA, METADATA, INDEX):
                self._open[name].sync()
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        """Put on disk what was written, and let go of files and lock."""
        with self._opened:
            if self._error is None:
                self.sync()
