"""Appending batches to the chunk files.

Each call of `append` is one commit. For each chunk that it touches, metadata, data and descriptors are
written, then made durable, and only then the index records that refer to them: an index record on disk is
proof of its event.

Invariants: batches are stored whole and in one chunk; a chunk is durable before the next one begins, whatever
`sync` says, so that a crash leaves damage in the last one only; after a failed write or sync nothing is
written any more, for what the kernel drops after a failed sync cannot be written again.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.catalog import Catalog, Chunk
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import PartitionPoisoned, StorageError
from mochi.mofka.chunks.files import File, FileLayer


class ChunkWriter:
    """The writing side of a partition, for one thread at a time.

    Attributes
    ----------
    error : BaseException or None
        Why nothing is written any more, if so.
    """

    def __init__(self, files: FileLayer, directory: str, config: ChunkConfig, catalog: Catalog) -> None:
        self.error: BaseException | None = None
        self._layer = files
        self._directory = directory
        self._config = config
        self._catalog = catalog
        self._files = self._open(catalog.last.number)

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one commit, and give the id of each one's first event; see `ChunkStore.append`."""
        self._check()
        first_ids = [self._catalog.event_count]
        for batch in batches:
            first_ids.append(first_ids[-1] + batch.count)
        try:
            written = [self._write(before, after, group) for before, after, group in self._split(batches)]
        except BaseException as error:
            self.error = error
            raise
        self._catalog.publish(written)
        return first_ids[:-1]

    def sync(self) -> None:
        """Make all events durable, which they already are if the configuration has `sync`."""
        self._check()
        try:
            self._sync(layout.KINDS)
        except BaseException as error:
            self.error = error
            raise

    def close(self) -> None:
        """Make all events durable, unless writing has failed, and close the files; once is enough."""
        opened, self._files = self._files, {}
        with ExitStack() as closed:
            for file in opened.values():
                closed.callback(file.close)
            if self.error is None:
                self.error = StorageError(f"the store of {self._directory} is closed", path=self._directory)
                for file in opened.values():
                    file.sync()

    def _check(self) -> None:
        if self.error is not None:
            raise PartitionPoisoned(
                f"{self._directory} takes no more events: {self.error}",
                path=self._directory,
                operation="append",
                errno=getattr(self.error, "errno", None),
            ) from self.error

    def _split(self, batches: Sequence[Batch]) -> Iterator[tuple[Chunk, Chunk, list[Batch]]]:
        """Divide a commit by chunk: the chunk before, the chunk after, and the batches that it takes."""
        before = after = self._catalog.last
        group: list[Batch] = []
        for batch in batches:
            grown = after.with_batch(batch)
            if after.count and not self._fits(grown):
                yield before, after, group
                before, grown, group = after.next(), after.next().with_batch(batch), []
            after = grown
            group.append(batch)
        yield before, after, group

    def _fits(self, chunk: Chunk) -> bool:
        return (
            chunk.count <= self._config.max_events_per_chunk
            and chunk.largest_file <= self._config.max_chunk_size
        )

    def _write(self, before: Chunk, after: Chunk, batches: Sequence[Batch]) -> Chunk:
        """Write batches at the end of the chunk `before`, which makes it `after`."""
        if before.number != self._catalog.last.number:
            self._rotate(before.number)
        if after.count == before.count:
            return after
        metadata_sizes = np.concatenate([batch.metadata_sizes for batch in batches])
        data_sizes = np.concatenate([batch.data_sizes for batch in batches])
        metadata_offsets = layout.offsets(metadata_sizes, before.metadata_end)
        data_offsets = layout.offsets(data_sizes, before.data_end)
        descriptors = layout.descriptor_records(before.number, data_offsets, data_sizes)
        index = layout.index_records(
            metadata_offsets, metadata_sizes, data_offsets, data_sizes, before.descriptor_end
        )
        touched = [layout.DESC]
        if after.metadata_end > before.metadata_end:
            touched.append(layout.META)
            metadata = [buffer for batch in batches for buffer in batch.metadata]
            self._files[layout.META].write(metadata, before.metadata_end)
        if after.data_end > before.data_end:
            touched.append(layout.DATA)
            data = [buffer for batch in batches for buffer in batch.data]
            self._files[layout.DATA].write(data, before.data_end)
        self._files[layout.DESC].write([descriptors.view(np.uint8).data], before.descriptor_end)
        if self._config.sync:
            self._sync(touched)
        self._files[layout.IDX].write([index.view(np.uint8).data], before.count * layout.INDEX_SIZE)
        if self._config.sync:
            self._sync([layout.IDX])
        return after

    def _rotate(self, chunk: int) -> None:
        """Leave the current chunk, durable, for the next one."""
        if not self._config.sync:
            self._sync(layout.KINDS)
        previous, self._files = self._files, self._open(chunk)
        for file in previous.values():
            file.close()

    def _sync(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self._files[kind].sync()

    def _open(self, chunk: int) -> dict[str, File]:
        """Open the four files of a chunk, and make those that are missing."""
        with ExitStack() as opened:
            files = {}
            for kind in layout.KINDS:
                path = os.path.join(self._directory, layout.file_name(chunk, kind))
                files[kind] = opened.enter_context(closing(self._layer.open(path, writable=True)))
            self._layer.sync_directory(self._directory)
            opened.pop_all()
        return files
