"""Appending batches to the chunk files.

Each call of `append` is one commit. With `sync` its parts, one for each chunk that it touches, go to the
journal, and are durable with that; then they are written to the chunk files, which are put on disk when their
chunk is full, when the journal is, and at the end. Large data is written and synced in its place first, and
only its checksum is in the journal. Without `sync` there is no journal.

Invariants: batches are stored whole and in one chunk; a chunk is durable before the next one begins, whatever
`sync` says, so that without a journal a crash leaves damage in the last one only; the journal is open from the
first commit to the orderly end, and never begins again but when the chunk files are on disk; after a failed
write or sync nothing is written any more, for what the kernel drops after a failed sync cannot be written
again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.catalog import Catalog, Chunk
from mochi.mofka.chunks.chunk_files import ChunkFiles, Part
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import PartitionPoisoned, StorageError
from mochi.mofka.chunks.files import FileLayer
from mochi.mofka.chunks.journal import Head, Journal, is_large


class ChunkWriter:
    """The writing side of a partition, for one thread at a time.

    Attributes
    ----------
    error : BaseException or None
        Why nothing is written any more, if so.
    """

    def __init__(
        self, files: FileLayer, directory: str, config: ChunkConfig, catalog: Catalog, head: Head | None
    ) -> None:
        self.error: BaseException | None = None
        self._layer = files
        self._directory = directory
        self._config = config
        self._catalog = catalog
        self._head = head
        self._journal: Journal | None = None
        self._files = ChunkFiles(files, directory, catalog.last.number)

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one commit, and give the id of each one's first event; see `ChunkStore.append`."""
        self._check()
        first_ids = [self._catalog.event_count]
        for batch in batches:
            first_ids.append(first_ids[-1] + batch.count)
        parts = list(self._split(batches))
        if parts:
            try:
                self._commit(parts)
            except BaseException as error:
                self.error = error
                raise
            self._catalog.publish([part.after for part in parts])
        return first_ids[:-1]

    def sync(self) -> None:
        """Put all events on disk in the chunk files; with `sync` in the configuration they are safe already."""
        self._check()
        try:
            self._checkpoint(opened=True)
        except BaseException as error:
            self.error = error
            raise

    def close(self) -> None:
        """Put all events on disk, unless writing has failed, and close the files; once is enough."""
        with ExitStack() as closed:
            closed.callback(self._files.close)
            if self._journal is not None:
                closed.callback(self._journal.close)
            if self.error is None:
                self.error = StorageError(f"the store of {self._directory} is closed", path=self._directory)
                self._checkpoint(opened=False)

    def _check(self) -> None:
        if self.error is not None:
            raise PartitionPoisoned(
                f"{self._directory} takes no more events: {self.error}",
                path=self._directory,
                operation="append",
                errno=getattr(self.error, "errno", None),
            ) from self.error

    def _split(self, batches: Sequence[Batch]) -> Iterator[Part]:
        """Divide a commit by chunk."""
        before = after = self._catalog.last
        group: list[Batch] = []
        for batch in batches:
            if not batch.count:
                continue
            grown = after.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            if after.count and not self._fits(grown):
                if group:
                    yield _part(before, after, group)
                before, group = after.next(), []
                grown = before.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            after = grown
            group.append(batch)
        if group:
            yield _part(before, after, group)

    def _fits(self, chunk: Chunk) -> bool:
        return (
            chunk.count <= self._config.max_events_per_chunk
            and chunk.largest_file <= self._config.max_chunk_size
        )

    def _commit(self, parts: Sequence[Part]) -> None:
        journal = self._ready_journal() if self._config.sync else None
        for part in parts:
            if part.before.number != self._files.number:
                self._rotate(part.before.number)
            if journal is None:
                self._files.write_data(part)
            elif is_large(part):
                self._files.write_data(part)
                self._files.sync([layout.DATA])
                journal.append(part, last=part is parts[-1])
            else:
                journal.append(part, last=part is parts[-1])
                self._files.write_data(part)
            self._files.write_records(part)

    def _ready_journal(self) -> Journal:
        """Give the journal, open and with room for a commit."""
        if self._journal is None:
            self._journal = Journal(self._layer, self._directory, self._head)
            self._journal.begin(self._catalog.last, opened=True)
        elif self._journal.full:
            self._checkpoint(opened=True)
        return self._journal

    def _rotate(self, chunk: int) -> None:
        """Leave the current chunk, durable, for the next one."""
        self._files.sync()
        previous, self._files = self._files, ChunkFiles(self._layer, self._directory, chunk)
        previous.close()

    def _checkpoint(self, *, opened: bool) -> None:
        """Put the chunk files on disk, after which the journal, if there is one, begins again."""
        self._files.sync()
        if self._journal is not None:
            self._journal.begin(self._catalog.last, opened=opened)


def _part(before: Chunk, after: Chunk, batches: Sequence[Batch]) -> Part:
    return Part(
        before,
        after,
        np.concatenate([batch.metadata_sizes for batch in batches]),
        [buffer for batch in batches for buffer in batch.metadata],
        np.concatenate([batch.data_sizes for batch in batches]),
        [buffer for batch in batches for buffer in batch.data],
    )
