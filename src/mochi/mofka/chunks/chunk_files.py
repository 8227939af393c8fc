"""The files of one chunk, open to be written: the one place where events become bytes of the format.

Writing is at given places, so that the same part can be written again: the writer does so once, and recovery
does it over from the journal. Invariant: writing a part twice leaves the bytes that writing it once does.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mochi.disk.contract import Buffer, File, FileLayer
from mochi.disk.files import syncing
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.seals import Seal, void_slots


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


class ChunkFiles:
    """The files of the chunk `number`, made where they are missing, and their names on disk."""

    def __init__(self, layer: FileLayer, directory: str, number: int) -> None:
        self.number = number
        self._layer = layer
        self._directory = directory
        with ExitStack() as opened:
            self._files: dict[str, File] = {}
            for kind in layout.ALL_KINDS:
                path = os.path.join(directory, layout.file_name(number, kind))
                self._files[kind] = opened.enter_context(closing(layer.open(path, writable=True)))
            with syncing(directory):
                layer.sync_directory(directory)
            self._opened = opened.pop_all()

    @property
    def data(self) -> File:
        """The file of the data."""
        return self._files[layout.DATA]

    def write_data(self, part: Part) -> None:
        """Write the data of a part to its place."""
        if part.data_bytes and part.data:
            self.data.write(part.data, part.before.data_end)

    def write_records(self, part: Part) -> None:
        """Write metadata, seals, descriptors and index records of a part to their places, the index last."""
        before = part.before
        index = index_of(part)
        descriptors = layout.descriptor_records(before.number, index["data_offset"], part.data_sizes)
        if part.metadata_bytes:
            self._files[layout.META].write(part.metadata, before.metadata_end)
        self._files[layout.SEALS].write([part.seals], before.seals_end)
        self._files[layout.DESC].write([descriptors.view(np.uint8).data], before.descriptor_end)
        self._files[layout.IDX].write([index.view(np.uint8).data], before.count * layout.INDEX_SIZE)

    def write_again(self, seal: Seal) -> None:
        """Write descriptors and index records of the events of a seal to their places, the index last."""
        for kind in (layout.DESC, layout.IDX):
            place, records = records_of(self.number, seal, kind)
            self._files[kind].write([records.view(np.uint8).data], place)

    def write_lost(self, before: Chunk, after: Chunk) -> None:
        """Have the events between two ends of the chunk refused, for nothing tells where they are."""
        count = after.count - before.count
        slots = void_slots(before.count, after.seals_end - before.seals_end)
        self._files[layout.SEALS].write([slots], before.seals_end)
        self._files[layout.DESC].write([bytes(count * layout.DESCRIPTOR_SIZE)], before.descriptor_end)
        self._files[layout.IDX].write([bytes(count * layout.INDEX_SIZE)], before.count * layout.INDEX_SIZE)

    def sync(self, kinds: Iterable[str] = layout.ALL_KINDS) -> None:
        """Return when what was written to the files of these kinds is on disk."""
        with syncing(self._directory):
            self._layer.sync_all([self._files[kind] for kind in kinds])

    def cut(self, chunk: Chunk) -> None:
        """Cut the files to the end of `chunk`."""
        for kind, end in chunk.ends.items():
            if self._layer.size(self._files[kind].path) > end:
                self._files[kind].truncate(end)

    def close(self) -> None:
        """Close the files; once is enough."""
        self._opened.close()


def index_of(part: Part) -> NDArray[np.void]:
    """Give the index records of a part."""
    before = part.before
    return layout.index_records(
        layout.offsets(part.metadata_sizes, before.metadata_end),
        part.metadata_sizes,
        layout.offsets(part.data_sizes, before.data_end),
        part.data_sizes,
        before.descriptor_end,
    )


def records_of(chunk: int, seal: Seal, kind: str) -> tuple[int, NDArray[np.void]]:
    """Give the records that a chunk's index, or its descriptors, should have of the events of a seal, and where."""
    data_offsets = layout.offsets(seal.data.sizes, seal.data.start)
    if kind == layout.DESC:
        return seal.descriptor_start, layout.descriptor_records(chunk, data_offsets, seal.data.sizes)
    metadata_offsets = layout.offsets(seal.metadata.sizes, seal.metadata.start)
    return seal.first * layout.INDEX_SIZE, layout.index_records(
        metadata_offsets, seal.metadata.sizes, data_offsets, seal.data.sizes, seal.descriptor_start
    )


def joined(sizes: Sequence[NDArray[np.unsignedinteger]]) -> NDArray[np.unsignedinteger]:
    """Give the sizes of events that follow each other as one array."""
    if len(sizes) == 1:
        return sizes[0]
    return np.concatenate(sizes) if sizes else np.empty(0, np.uint32)
