"""The face of the chunk files: a partition's directory, opened.

Begin and finish commits from one thread at a time, and sync them from any; read from any threads, meanwhile too. A
forked child must not use the store, and keeps its lock held as long as it lives.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Self

from msgspec import UNSET
from msgspec.structs import replace

from mochi.disk import Descriptors, FdCache, FileLayer, KeptFiles, Overlay, PosixFiles, RoomyFiles
from mochi.mofka.chunks.catalog import Catalog
from mochi.mofka.chunks.config import ChunkConfig
from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.events import Batch
from mochi.mofka.chunks.format.layout import QUARANTINE_PREFIX
from mochi.mofka.chunks.format.ledger import Remembered
from mochi.mofka.chunks.place import made_and_locked
from mochi.mofka.chunks.reader import ChunkReader
from mochi.mofka.chunks.recovery import Recovery, recover
from mochi.mofka.chunks.retention import Trimmer
from mochi.mofka.chunks.writer import ChunkWriter, Commit


class PartitionDirectory(ChunkReader):
    """A partition's directory, locked and recovered; made by `open`.

    It writes what the original's `default` partition reads, and reads what that writes. Its own files (lock,
    journal, ledgers, quarantine) have names that the original passes over. If the original opens the directory after a
    crash with `sync`, before a store does, the chunk files need not hold all that was acknowledged; what it appends is
    kept.

    Attributes
    ----------
    config : ChunkConfig
        As given to `open`.
    epoch : int
        Positive number of 62 bits, drawn when the directory was opened first, and the same for as long as its
        journal lasts.
    quarantined : sequence of str
        Files that hold what was cut off when the directory was opened; see `mochi.mofka.chunks.recovery`.
    adopted : sequence of Adopted
        Events that another program had appended after a crash, and that were taken over then.
    """

    def __init__(
        self,
        files: FileLayer,
        cache: FdCache,
        directory: str,
        config: ChunkConfig,
        recovery: Recovery,
        catalog: Catalog,
        writer: ChunkWriter,
        kept: KeptFiles,
        resources: ExitStack,
    ) -> None:
        super().__init__(files, cache, directory, recovery, catalog, resources)
        self.config = config
        self.epoch = recovery.head.epoch
        self.quarantined = recovery.quarantined
        self.adopted = recovery.adopted
        self._ledger = recovery.ledger
        self._writer = writer
        self._trimmer = Trimmer(files, directory, config.kept, catalog, cache, writer.release)
        self._kept = kept

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        config: ChunkConfig | None = None,
        files: FileLayer | None = None,
        descriptors: Descriptors | None = None,
    ) -> Self:
        """Open a partition's directory, made with its parents if missing, at its last whole commit.

        Without a journal that a crash left, that is the last whole event. If this fails, nothing is left of a
        directory, or of files in an empty one, that it has made.

        Parameters
        ----------
        directory : path
            The partition's own directory.
        config : ChunkConfig, optional
            Defaults to the original's defaults. It may differ from one time to the next.
        files : FileLayer, optional
            Defaults to `PosixFiles`.
        descriptors : Descriptors, optional
            Those of the process, which all its stores share; defaults to some of the store's own.

        Raises
        ------
        PartitionLocked
            If another store, of any process, has the directory open.
        CorruptPartition
            If files are missing or damaged as no crash leaves them; nothing is changed then.
        StorageError
            If the operating system refuses a call.
        """
        path = os.fspath(directory)
        config = config or ChunkConfig()
        descriptors = descriptors or Descriptors()
        kept = KeptFiles(files or PosixFiles(), descriptors)
        files = RoomyFiles(files or PosixFiles(), descriptors)
        with made_and_locked(files, path) as lock, ExitStack() as resources:
            recovery = recover(files, path)
            catalog = Catalog(recovery.chunks)
            cache = resources.enter_context(closing(FdCache(files, config.fd_cache_capacity, descriptors)))
            resources.callback(descriptors.forget, kept)
            writer = resources.enter_context(
                closing(ChunkWriter(kept, path, config, catalog, recovery.ledger, recovery.head))
            )
            opened = ExitStack()
            opened.enter_context(closing(lock))
            descriptors.keep()
            opened.callback(descriptors.closed)
            opened.push(resources.pop_all())
            return cls(files, cache, path, config, recovery, catalog, writer, kept, opened)

    @classmethod
    def open_to_read(
        cls,
        directory: str | os.PathLike[str],
        config: ChunkConfig | None = None,
        files: FileLayer | None = None,
        descriptors: Descriptors | None = None,
    ) -> Self:
        """Open a partition's directory that cannot be written; arguments and errors as of `open`.

        All that is stored can be read, what a crash left in the journal too, and nothing is taken or dropped. What
        recovery would change is kept in temporary files.
        """
        path = os.fspath(directory)
        with ExitStack() as resources:
            overlay = resources.enter_context(closing(Overlay(files or PosixFiles(), QUARANTINE_PREFIX)))
            store = cls.open(path, replace(config or ChunkConfig(), retention=UNSET), overlay, descriptors)
            store._writer.error = StorageError(f"the file system of {path} is read-only", path=path)
            opened = resources.pop_all()
            opened.push(store._resources)
            store._resources = opened
            return store

    @property
    def cursors(self) -> Mapping[str, int]:
        """The id of the next event by the name of its consumer, as far as stored; a view that changes."""
        return self._ledger.cursors

    def producers(self) -> list[Remembered]:
        """Return the producers whose recent batches are remembered; from the appending thread."""
        return self._ledger.producers()

    @property
    def error(self) -> BaseException | None:
        """Why no more events are taken, or None."""
        return self._writer.error

    def begin(self, batches: Sequence[Batch], cursors: Mapping[str, int] | None = None) -> Commit | None:
        """Begin to store batches and cursors in one commit: all of them, or none that a reader of this store sees.

        The commit's `sync` is called next, from any thread, and then `finish`. Meanwhile others may be begun. The
        buffers of the batches are read until then. Cursors only move forward. The origins of batches are remembered
        with them, as `producers` tells. A batch that would carry a file of the chunk past `max_chunk_size`, or the
        chunk past `max_events_per_chunk`, begins the next chunk, unless the chunk is empty. A chunk is on disk
        before the next begins, with or without `sync`.

        Parameters
        ----------
        batches : sequence of Batch
            May be empty.
        cursors : mapping of str to int, optional
            Id of the next event by the name of its consumer.

        Returns
        -------
        Commit or None
            None if it cannot be begun before those under way are finished; nothing was done then.

        Raises
        ------
        PartitionPoisoned
            If a write or sync has failed before, or the store is closed.

        Notes
        -----
        Beside the system calls, about 60 µs for 1000 events. One write, two with large data; every 32 MiB or so the
        files of the chunk are synced, which may take tens of ms.
        """
        return self._writer.begin(batches, cursors or {})

    def finish(self, commit: Commit) -> list[int]:
        """Let readers see a commit that has been synced, the first of those under way.

        With `sync` in the configuration it is on disk, and after a crash all of it is there or none; without, it
        survives the end of the process.

        Returns
        -------
        list of int
            Id of the first event of each batch.

        Raises
        ------
        StorageError
            If a write or sync of this commit, or of one before that was under way with it, has failed. No id is used
            up. Where there was a want that passes, of space, descriptors or memory, what was written is taken back, and
            a later commit may succeed. After any other failure no events are taken; reading goes on. Whether the events
            are there when the directory is opened again is not known.
        MemoryError
            Likewise.

        Notes
        -----
        About 50 µs for 1000 events, and four or five writes, however many the batches.
        """
        return self._writer.finish(commit)

    def append(self, batches: Sequence[Batch], cursors: Mapping[str, int] | None = None) -> list[int]:
        """Store batches and cursors in one commit: `begin`, `Commit.sync` and `finish`, with none under way."""
        commit = self.begin(batches, cursors)
        if commit is None:
            raise RuntimeError("a commit is under way")
        commit.sync()
        return self.finish(commit)

    def trim(self) -> int:
        """Drop the chunks that `config.retention` no longer keeps; see `mochi.mofka.chunks.retention.Trimmer.run`."""
        return self._trimmer.run()

    def expires_in(self) -> float | None:
        """Tell in how many seconds there is something to `trim` for its age; None without any."""
        return self._trimmer.expires_in()

    def sync(self) -> None:
        """Put all events on disk; while no commit is under way. A failure ends writing, as in `finish`."""
        self._writer.sync()

    def settle(self) -> None:
        """Put on disk what was written, so that its files may be closed; nothing while a commit is under way.

        A failure ends writing, as in `finish`.
        """
        self._writer.settle()

    def when_short(self, settle: Callable[[], None]) -> None:
        """Have `settle` called, by any thread, where the process lacks descriptors that this store keeps.

        It is to call `settle` of this object if nobody uses the writing side just now, and otherwise to do nothing.
        Whoever calls it may be in the middle of a commit of another store.
        """
        self._kept.when_short = settle

    def close(self) -> None:
        """Put all events on disk, and let go of files and lock; a second call does nothing.

        Raises
        ------
        StorageError
            If the last sync fails; everything is let go of nevertheless.
        """
        self._resources.close()
