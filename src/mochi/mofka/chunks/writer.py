"""Appending batches to the chunk files.

A commit, of batches and of cursors, has three steps: `begin` writes what makes it durable, `Commit.sync` puts that on
disk, and `finish` writes the rest and lets readers see it. While one is being synced, others may be begun.

With `sync` in the configuration the parts of a commit, one for each chunk that it touches, go to the journal. With that
they are durable, and are written to the chunk files then. Large data is written in its place at once and synced
together with the journal, which has only its seal. Without `sync` the journal is a light one, which keeps the ledger
alone, and is not synced.

Invariants:
1. Batches are stored whole and in one chunk. A chunk is durable before the next one begins, whatever `sync` says: so
   without `sync` a crash leaves damage in the last one only.
2. The journal is open from the first commit to the orderly end, and its base moves only when the chunk files are on
   disk.
3. Commits are begun and finished in one order. One that begins a chunk, or the journal anew, waits for all before it,
   and so does one that follows a failure.
4. Commits under way at the same time sync by descriptors of their own, opened before they write: the kernel tells each
   descriptor once of a failure, and would tell it to one of them alone.
5. After a failed sync nothing is written any more, for what the kernel drops then cannot be written again; likewise
   after any other failure but a want that passes, of space, descriptors or memory. Then what the commit, and those
   begun after it, have written is cut off, the journal begins anew, and the next commit may have better luck.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mochi.disk import Buffer, File, FileLayer, KeptFiles
from mochi.mofka.chunks.catalog import Catalog, add_to_roster, shorten_roster
from mochi.mofka.chunks.chunk_files import ChunkFiles
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import PartitionPoisoned, StorageError, SyncFailed
from mochi.mofka.chunks.events import Batch
from mochi.mofka.chunks.format.journal import Head, Mode, Part, joined
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.ledger import NO_NOTES, Ledger, Remembered, pack_notes
from mochi.mofka.chunks.format.seals import Seal, Stream, key_of, sums_of
from mochi.mofka.chunks.journal import Journal, is_large
from mochi.mofka.chunks.retention import CLOCK
from mochi.shortage import is_shortage


class Commit:
    """Batches and cursors on their way to disk; made by `ChunkWriter.begin`.

    Attributes
    ----------
    batches : sequence of Batch
        What it stores.
    synced : bool
        Whether `sync` has returned.
    seconds : float
        How long it took.
    error : BaseException or None
        What has failed so far.
    cursors, parts, first_id, own, close_own, unsynced, records
        For the writer.
    """

    def __init__(
        self,
        layer: FileLayer,
        batches: Sequence[Batch],
        cursors: Mapping[str, int],
        parts: Sequence[Part],
        first_id: int,
    ) -> None:
        self.batches = batches
        self.cursors = cursors
        self.parts = parts
        self.first_id = first_id
        self.own: Sequence[File] = ()
        self.unsynced: Sequence[File] = ()
        self.records = 0
        self.synced = False
        self.seconds = 0.0
        self.error: BaseException | None = None
        self.close_own: Callable[[], None] = ExitStack().close
        self._layer = layer

    def open_own(self, files: Sequence[File]) -> None:
        """Open files again, to be synced by this commit alone; none is left open if one cannot be opened."""
        with ExitStack() as opened:
            self.own = [
                opened.enter_context(closing(self._layer.open(file.path, writable=True))) for file in files
            ]
            self.close_own = opened.pop_all().close

    def sync(self) -> None:
        """Return when what `begin` wrote is on disk, or has failed; from any thread, beside other commits."""
        start = time.monotonic()
        try:
            if self.error is None:
                self.put_on_disk()
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - start
        self.synced = True

    def put_on_disk(self) -> None:
        """Sync the files that hold what was written."""
        if self.unsynced:
            self._layer.sync_all(self.unsynced)


class ChunkWriter:
    """The writing side of a partition, for one thread at a time.

    Parameters
    ----------
    files : KeptFiles
        Used by nobody else; in use while commits are under way, and for each other call.

    Attributes
    ----------
    error : BaseException or None
        Why nothing is written any more, if so.
    """

    def __init__(
        self,
        files: KeptFiles,
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
        self._end = catalog.last
        self._under_way: deque[Commit] = deque()
        self._failure: BaseException | None = None
        with files.in_use():
            self._files = ChunkFiles(files, directory, catalog.last.number)

    def begin(self, batches: Sequence[Batch], cursors: Mapping[str, int]) -> Commit | None:
        """Begin a commit; see `PartitionDirectory.begin`."""
        self._check()
        commit = None
        self._layer.use()
        try:
            commit = self._begin_commit(batches, cursors)
        finally:
            if commit is None:
                self._layer.rest()
        return commit

    def _begin_commit(self, batches: Sequence[Batch], cursors: Mapping[str, int]) -> Commit | None:
        if self._failure is not None and not self._under_way:
            self._take_back()
        parts = list(self._split(batches, cursors))
        commit = Commit(self._layer, batches, cursors, parts, self._end.end_id)
        if self._under_way:
            if self._must_be_alone(parts):  # invariant 3
                return None
            try:
                commit.open_own(self._to_sync(parts))  # invariant 4
            except StorageError:
                return None
        self._under_way.append(commit)
        try:
            self._write(commit)
        except BaseException as error:
            commit.error = error
        if parts:
            self._end = parts[-1].after
        return commit

    def finish(self, commit: Commit) -> list[int]:
        """Finish the commit that was begun first of those under way; see `PartitionDirectory.finish`."""
        assert commit is self._under_way[0]  # invariant 3
        try:
            return self._finish_commit(commit)
        finally:
            self._layer.rest()

    def _finish_commit(self, commit: Commit) -> list[int]:
        commit.close_own()
        try:
            error = commit.error or self._failure
            if error is not None:
                raise error
            if commit.parts:
                self._write_rest(commit.parts[-1])
        except BaseException as error:
            self._under_way.popleft()
            self._failed(error)
            raise
        self._under_way.popleft()
        try:
            return self._publish(commit)
        except BaseException as error:
            self.error = error  # it is stored, and not all of what is kept in memory says so
            raise

    def _publish(self, commit: Commit) -> list[int]:
        """Let readers see a commit that is stored, and give the id of the first event of each batch."""
        if self._journal is not None and commit.records:
            self._journal.settle(commit.records)
        first_ids = [commit.first_id]
        for batch in commit.batches:
            if batch.origin is not None and commit.parts:
                self._ledger.note(batch.origin, first_ids[-1])
            first_ids.append(first_ids[-1] + batch.count)
        if commit.parts:
            self._ledger.advance(commit.cursors)
            self._catalog.publish([part.after for part in commit.parts])
        return first_ids[:-1]

    def _must_be_alone(self, parts: Sequence[Part]) -> bool:
        """Tell whether a commit must wait until those under way are finished."""
        return (
            self._failure is not None
            or self._under_way[-1].error is not None
            or self._journal is None
            or self._journal.full
            or any(part.before.number != self._files.number for part in parts)
        )

    def _failed(self, error: BaseException) -> None:
        """Take a commit back that met a want which passes, and those after it; after other failures write no more."""
        self._failure = self._failure or error
        if not _passes(error):
            self.error = self.error or error  # invariant 5
        elif not self._under_way:
            with suppress(
                BaseException
            ):  # the next commit tries again, or finds that nothing is written any more
                self._take_back()

    def _take_back(self) -> None:
        """Cut off what commits that failed have written, and have the journal forget it."""
        last = self._catalog.last
        try:
            for number in range(self._files.number, last.number - 1, -1):
                self._files.close()
                self._files = ChunkFiles(self._layer, self._directory, number)
                self._files.cut(last if number == last.number else Chunk(number, last.end_id))
            shorten_roster(self._layer, self._directory, last.number)
            self._checkpoint(self._mode)
        except BaseException as error:
            if not _passes(error):
                self.error = error
            raise
        self._end = last
        self._failure = None

    def sync(self) -> None:
        """Put all events on disk in the chunk files; with `sync` in the configuration they are safe already."""
        self._check()
        self._make_sure(partial(self._checkpoint, self._mode))

    def settle(self) -> None:
        """Put on disk what was written, unless commits are under way, so that no file must stay open for it."""
        if self.error is None and not self._under_way and (unsynced := self._layer.unsynced()):
            self._make_sure(partial(self._sync_all, unsynced))

    def _sync_all(self, files: Sequence[File]) -> None:
        self._layer.sync_all(files)

    def _make_sure(self, put_on_disk: Callable[[], None]) -> None:
        with self._layer.in_use():
            try:
                put_on_disk()
            except BaseException as error:
                self._failed(error)
                raise

    def release(self, number: int) -> bool:
        """Tell whether the journal needs no chunk before `number`, and see to it unless commits are under way."""
        self._check()
        journal = self._journal
        if journal is None or self._mode == Mode.LIGHT or journal.head.base.number >= number:
            return True
        if self._under_way:
            return False
        self._make_sure(partial(self._checkpoint, self._mode))
        return True

    def close(self) -> None:
        """Put all events on disk, unless writing has failed, and close the files; once is enough."""
        with self._layer.in_use(), ExitStack() as closed:
            closed.callback(self._files.close)
            if self._journal is not None:
                closed.callback(self._journal.close)
            if self.error is None:
                self.error = StorageError(f"the store of {self._directory} is closed", path=self._directory)
                if self._failure is not None:
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
        before = after = self._end
        group: list[Batch] = []
        for batch in batches:
            if not batch.count:
                continue
            grown = after.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            if after.count and not self._fits(grown):
                if group:
                    yield _part(self._owner, self._mode, before, group)
                before, group = after.next(), []
                grown = before.extended(batch.count, batch.metadata_bytes, batch.data_bytes)
            after = grown
            group.append(batch)
        if group or cursors:
            yield _part(self._owner, self._mode, before, group, cursors)

    def _fits(self, chunk: Chunk) -> bool:
        return (
            chunk.count <= self._config.max_events_per_chunk
            and chunk.largest_file <= self._config.max_chunk_size
        )

    def _write(self, commit: Commit) -> None:
        """Write what makes a commit durable; all of it but the last part is done with on return."""
        if not commit.parts:
            return
        journal = self._ready_journal()
        full = self._end
        for part in commit.parts:
            if part.before.number != self._files.number:
                self._rotate(full, part.before.number)
            is_last = part is commit.parts[-1]
            if self._mode == Mode.LIGHT:
                journal.note(part)
                self._files.write_data(part)
            else:
                if is_large(part.data_bytes):
                    self._files.write_data(part)
                commit.records = journal.write(part, last=is_last)
                commit.unsynced = commit.own or self._to_sync([part])
            if not is_last:
                commit.put_on_disk()
                self._write_rest(part)
            full = part.after

    def _to_sync(self, parts: Sequence[Part]) -> list[File]:
        """Return the files that hold what makes a commit durable, when a part of it, if any, has been written."""
        if self._mode == Mode.LIGHT or self._journal is None or not parts:
            return []
        return (
            [self._files.data, self._journal.file] if is_large(parts[-1].data_bytes) else [self._journal.file]
        )

    def _write_rest(self, part: Part) -> None:
        """Write to the chunk files what they do not have yet of a part that is durable."""
        if self._mode == Mode.FULL and not is_large(part.data_bytes):
            self._files.write_data(part)
        if part.count:
            self._files.write_records(part)

    def _ready_journal(self) -> Journal:
        """Return the journal, begun and with room for a commit."""
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
        self._files.sync()  # invariant 1
        previous, self._files = self._files, ChunkFiles(self._layer, self._directory, chunk)
        previous.close()
        add_to_roster(self._layer, self._directory, self._owner, full)

    def _checkpoint(self, mode: Mode) -> None:
        """Put the chunk files on disk, after which the journal, if there is one, begins again."""
        self._files.sync()  # invariant 2
        if self._journal is not None:
            self._begin(self._catalog.last, mode)

    def _begin(self, base: Chunk, mode: Mode) -> None:
        assert self._journal is not None
        self._journal.begin(base, mode, self._ledger, self._catalog.event_count)


def _passes(error: BaseException) -> bool:
    """Tell whether a call failed by a want that passes, and left all that was written before as it was."""
    return is_shortage(error) and not isinstance(error, SyncFailed)


def _part(
    owner: bytes,
    mode: Mode,
    before: Chunk,
    batches: Sequence[Batch],
    cursors: Mapping[str, int] | None = None,
) -> Part:
    """Make a part of batches, and of cursors.

    What goes into the journal is copied, and the copy is summed and written. Large batches are written from their own
    memory, which may change after it was summed. So each of them has a seal of its own, and is then the only one that
    is damaged. Small ones among them are copied, and share one.
    """
    producers = []
    first_id = before.end_id
    for batch in batches:
        if batch.origin is not None:
            identity, sequence = batch.origin
            producers.append(Remembered(identity, sequence + 1, (first_id,)))
        first_id += batch.count
    key = key_of(owner, before.number)
    now = time.time_ns()
    journalled = mode == Mode.FULL and not is_large(sum(batch.data_bytes for batch in batches))
    after = before
    metadata: list[Buffer] = []
    data: list[Buffer] = []
    sealed: list[Seal] = []
    packed: list[bytes] = []
    for together in _groups(batches):
        of_metadata = [buffer for batch in together for buffer in batch.metadata]
        of_data = [buffer for batch in together for buffer in batch.data]
        if journalled or len(together) > 1:
            of_data = [b"".join(of_data)]
        seal = Seal(
            after.count,
            after.descriptor_end,
            now,
            _stream(after.metadata_end, [batch.metadata_sizes for batch in together], of_metadata, key),
            _stream(after.data_end, [batch.data_sizes for batch in together], of_data, key),
        )
        sealed.append(seal)
        packed.append(seal.pack(key))
        metadata += of_metadata
        data += of_data
        after = after.extended(
            seal.count,
            sum(batch.metadata_bytes for batch in together),
            sum(batch.data_bytes for batch in together),
            len(packed[-1]),
            CLOCK.now(),
        )
    return Part(
        before,
        after,
        joined([seal.metadata.sizes for seal in sealed]),
        metadata,
        joined([seal.data.sizes for seal in sealed]),
        data,
        b"".join(packed),
        pack_notes(producers, cursors or {}) if producers or cursors else NO_NOTES,
    )


def _groups(batches: Sequence[Batch]) -> list[list[Batch]]:
    """Divide batches into large ones, and runs of small ones."""
    groups: list[list[Batch]] = []
    open_group = False
    for batch in batches:
        large = is_large(batch.data_bytes)
        if open_group and not large:
            groups[-1].append(batch)
        else:
            groups.append([batch])
        open_group = not large
    return groups


def _stream(
    start: int, sizes: Sequence[NDArray[np.unsignedinteger]], content: Sequence[Buffer], key: int
) -> Stream:
    return Stream(start, joined(sizes), sums_of(content, key))
