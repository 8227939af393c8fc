"""The files of one chunk, open to be written: by the writer, and again by recovery, from the journal.

Invariant: writing a part twice leaves the bytes that writing it once does, for each has its place.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack, closing

import numpy as np

from mochi.disk import File, FileLayer
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import Part
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import Seal, void_slots


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
        index = part.index()
        descriptors = layout.descriptor_records(before.number, index["data_offset"], part.data_sizes)
        if part.metadata_bytes:
            self._files[layout.META].write(part.metadata, before.metadata_end)
        self._files[layout.SEALS].write([part.seals], before.seals_end)
        self._files[layout.DESC].write([descriptors.view(np.uint8).data], before.descriptor_end)
        self._files[layout.IDX].write([index.view(np.uint8).data], before.count * layout.INDEX_SIZE)

    def write_again(self, seal: Seal) -> None:
        """Write descriptors and index records of the events of a seal to their places, the index last."""
        for kind in (layout.DESC, layout.IDX):
            place, records = seal.records(self.number, kind)
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
        self._layer.sync_all([self._files[kind] for kind in kinds])

    def cut(self, chunk: Chunk) -> None:
        """Cut the files to the end of `chunk`."""
        for kind, end in chunk.ends.items():
            if self._layer.size(self._files[kind].path) > end:
                self._files[kind].truncate(end)

    def close(self) -> None:
        """Close the files; once is enough."""
        self._opened.close()
