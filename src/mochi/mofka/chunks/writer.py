"""Appending batches to the chunk files.

Each call of `append` is one commit, of batches and of cursors. With `sync` its parts, one for each chunk that
it touches, go to the journal, and are durable with that; then they are written to the chunk files, which are
put on disk when their chunk is full, when the journal is, and at the end. Large data is written and synced in
its place first, and only its seal is in the journal. Without `sync` the journal is a light one, which keeps
the ledger alone, and is not synced.

Invariants: batches are stored whole and in one chunk; a chunk is durable before the next one begins, whatever
`sync` says, so that without `sync` a crash leaves damage in the last one only; the journal is open from the
first commit to the orderly end, and its base moves only when the chunk files are on disk; after a failed
sync nothing is written any more, for what the kernel drops then cannot be written again, and likewise after any
failed call but one that found no space: what that commit has written is cut off again, the journal begins anew,
and the next commit may have better luck.
"""

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from mochi.mofka.chunks import layout
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.catalog import Catalog, Chunk
from mochi.mofka.chunks.chunk_files import ChunkFiles, Part
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import PartitionPoisoned, StorageError, SyncFailed
from mochi.mofka.chunks.files import FileLayer
from mochi.mofka.chunks.journal import Head, Journal, Mode, is_large
from mochi.mofka.chunks.ledger import NO_NOTES, Ledger, Remembered, pack
from mochi.mofka.chunks.roster import add_to_roster, shorten_roster
from mochi.mofka.chunks.seals import Seal, Stream, key_of, sums_of


class ChunkWriter:
    """The writing side of a partition, for one thread at a time.

    Attributes
    ----------
    error : BaseException or None
        Why nothing is written any more, if so.
    """

    def __init__(
        self,
        files: FileLayer,
        directory: str,
        config: ChunkConfig,
        catalog: Catalog,
        ledger: Ledger,
        head: Head,
    ) -> None:
        self.error: BaseException | None = None
        self._layer = files
        self._directory = directory
        self._config = config
        self._catalog = catalog
        self._ledger = ledger
        self._owner = head.owner
        self._mode = Mode.FULL if config.sync else Mode.LIGHT
        self._head = head
        self._journal: Journal | None = None
        self._unfinished = False
        self._files = ChunkFiles(files, directory, catalog.last.number)

    def append(self, batches: Sequence[Batch], cursors: Mapping[str, int]) -> list[int]:
        """Store batches and cursors in one commit, and give the first id of each; see `ChunkStore.append`."""
        self._check()
        if self._unfinished:
            try:
                self._take_back()
            except BaseException as error:
                self._failed(error)
                raise
        first_ids = [self._catalog.event_count]
        for batch in batches:
            first_ids.append(first_ids[-1] + batch.count)
        parts = list(self._split(batches, cursors))
        if parts:
            try:
                self._commit(parts)
            except BaseException as error:
                self._failed(error)
                raise
            for batch, first_id in zip(batches, first_ids, strict=False):
                if batch.origin is not None:
                    self._ledger.note(batch.origin, first_id)
            self._ledger.advance(cursors)
            self._catalog.publish([part.after for part in parts])
        return first_ids[:-1]

    def _failed(self, error: BaseException) -> None:
        """Take a commit back that found no space; after any other failure write no more."""
        self._unfinished = True
        try:
            if not _is_out_of_space(error):
                raise error
            self._take_back()
        except BaseException as worse:
            if not _is_out_of_space(worse):
                self.error = worse

    def _take_back(self) -> None:
        """Cut off what a commit that failed has written, and have the journal forget it."""
        last = self._catalog.last
        for number in range(self._files.number, last.number - 1, -1):
            self._files.close()
            self._files = ChunkFiles(self._layer, self._directory, number)
            self._files.cut(last if number == last.number else Chunk(number, last.end_id))
        shorten_roster(self._layer, self._directory, last.number)
        self._checkpoint(self._mode)
        self._unfinished = False

    def sync(self) -> None:
        """Put all events on disk in the chunk files; with `sync` in the configuration they are safe already."""
        self._check()
        try:
            self._checkpoint(self._mode)
        except BaseException as error:
            self.error = error
            raise

    def release(self, number: int) -> None:
        """See to it that the journal does not need the chunks before `number`; a light one never does."""
        self._check()
        journal = self._journal
        if journal is not None and self._mode == Mode.FULL and journal.head.base.number < number:
            try:
                self._checkpoint(self._mode)
            except BaseException as error:
                self._failed(error)
                raise

    def close(self) -> None:
        """Put all events on disk, unless writing has failed, and close the files; once is enough."""
        with ExitStack() as closed:
            closed.callback(self._files.close)
            if self._journal is not None:
                closed.callback(self._journal.close)
            if self.error is None:
                self.error = StorageError(f"the store of {self._directory} is closed", path=self._directory)
                if self._unfinished:
                    self._take_back()
                self._checkpoint(Mode.CLOSED)

    def _check(self) -> None:
        if self.error is not None:
            raise PartitionPoisoned(
                f"{self._directory} takes no more events: {self.error}",
                path=self._directory,
                operation="append",
                errno=getattr(self.error, "errno", None),
            ) from self.error

    def _split(self, batches: Sequence[Batch], cursors: Mapping[str, int]) -> Iterator[Part]:
        """Divide a commit by chunk; the last part has the cursors."""
        before = after = self._catalog.last
        group: list[Batch] = []
        for batch in batches:
            if not batch.count:
                continue
            grown = after.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            if after.count and not self._fits(grown):
                if group:
                    yield _part(self._owner, before, group)
                before, group = after.next(), []
                grown = before.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            after = grown
            group.append(batch)
        if group or cursors:
            yield _part(self._owner, before, group, cursors)

    def _fits(self, chunk: Chunk) -> bool:
        return (
            chunk.count <= self._config.max_events_per_chunk
            and chunk.largest_file <= self._config.max_chunk_size
        )

    def _commit(self, parts: Sequence[Part]) -> None:
        journal = self._ready_journal()
        full = self._catalog.last
        for part in parts:
            if part.before.number != self._files.number:
                self._rotate(full, part.before.number)
            if self._mode == Mode.LIGHT:
                journal.note(part)
                self._files.write_data(part)
            elif is_large(part):
                self._files.write_data(part)
                self._files.sync([layout.DATA])
                journal.append(part, last=part is parts[-1])
            else:
                journal.append(part, last=part is parts[-1])
                self._files.write_data(part)
            if part.count:
                self._files.write_records(part)
            full = part.after

    def _ready_journal(self) -> Journal:
        """Give the journal, begun and with room for a commit."""
        if self._journal is None:
            self._journal = Journal(self._layer, self._directory, self._head)
            self._begin(self._catalog.last, self._mode)
        elif self._journal.full and self._mode == Mode.FULL:
            self._checkpoint(self._mode)
        elif self._journal.full:
            self._begin(self._journal.head.base, self._mode)
        return self._journal

    def _rotate(self, full: Chunk, chunk: int) -> None:
        """Leave the chunk that is full, durable, for the next one."""
        self._files.sync()
        previous, self._files = self._files, ChunkFiles(self._layer, self._directory, chunk)
        previous.close()
        add_to_roster(self._layer, self._directory, self._owner, full)

    def _checkpoint(self, mode: Mode) -> None:
        """Put the chunk files on disk, after which the journal, if there is one, begins again."""
        self._files.sync()
        if self._journal is not None:
            self._begin(self._catalog.last, mode)

    def _begin(self, base: Chunk, mode: Mode) -> None:
        assert self._journal is not None
        self._journal.begin(base, mode, self._ledger, self._catalog.event_count)


def _is_out_of_space(error: BaseException) -> bool:
    """Tell whether a call failed for want of space, in a way that leaves all that was written before as it was."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, SyncFailed)


def _part(
    owner: bytes, before: Chunk, batches: Sequence[Batch], cursors: Mapping[str, int] | None = None
) -> Part:
    producers = []
    first_id = before.end_id
    for batch in batches:
        if batch.origin is not None:
            identity, sequence = batch.origin
            producers.append(Remembered(identity, sequence + 1, (first_id,)))
        first_id += batch.count
    metadata_sizes = _joined([batch.metadata_sizes for batch in batches])
    data_sizes = _joined([batch.data_sizes for batch in batches])
    metadata = [buffer for batch in batches for buffer in batch.metadata]
    data = [buffer for batch in batches for buffer in batch.data]
    sealed = b""
    after = before
    if batches:
        key = key_of(owner, before.number)
        seal = Seal(
            before.count,
            before.descriptor_end,
            time.time_ns(),
            Stream(before.metadata_end, metadata_sizes, sums_of(metadata, key)),
            Stream(before.data_end, data_sizes, sums_of(data, key)),
        )
        sealed = seal.pack(key)
        bytes_of = (
            sum(batch.metadata_bytes for batch in batches),
            sum(batch.data_bytes for batch in batches),
        )
        after = before.extended(seal.count, *bytes_of, len(sealed), seal.time)
    return Part(
        before,
        after,
        metadata_sizes,
        metadata,
        data_sizes,
        data,
        sealed,
        pack(producers, cursors or {}) if producers or cursors else NO_NOTES,
    )


def _joined(sizes: Sequence[NDArray[np.unsignedinteger]]) -> NDArray[np.unsignedinteger]:
    return np.concatenate(sizes) if sizes else np.empty(0, np.uint32)
