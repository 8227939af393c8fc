"""Dropping the oldest chunks of a partition.

A file, `mofka.trimmed`, tells the first chunk that there still is. It is plain text, for whoever comes upon the
directory and misses the chunks before, and ends with a checksum.

Invariants: the file is on disk before a chunk file is removed, and put in its place by a rename, so that wherever a
crash strikes, a chunk is there or gone, and all others keep their ids; what is left of one that is gone is removed when
the directory is opened next; the journal needs no chunk that is gone; readers are told that events have expired before
the files go, and a file that one of them has open is closed when that is done.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
from xxhash import xxh3_64_hexdigest

from mochi.disk.contract import FileLayer
from mochi.disk.fd_cache import FdCache
from mochi.disk.files import syncing
from mochi.mofka.chunks.catalog import Catalog, Chunk
from mochi.mofka.chunks.clock import CLOCK, SECOND, Clock, shown
from mochi.mofka.chunks.errors import REFUSALS, CorruptPartition, StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.retention import Retention

log = logging.getLogger(__name__)

_TEXT = """\
This partition has a retention: its oldest chunks, and the events in them, have been removed.

first chunk: {number}
first event: {first_id}

The events before the first one are gone, and all others keep their ids. The files are those of the original Mofka, but
it must not open this directory any more: it looks for chunk 0, would take the partition for an empty one, and number
its events anew.

checksum: """
_FORM = re.compile(
    re.escape(_TEXT).replace(r"\{number\}", r"(\d+)").replace(r"\{first_id\}", r"(\d+)") + "([0-9a-f]{16})\n"
)


def read_first(files: FileLayer, directory: str, names: Sequence[str]) -> Chunk:
    """Give the first chunk that there still is in a directory, without its events.

    Raises
    ------
    CorruptPartition
        If the file that tells it is damaged.
    """
    if layout.TRIMMED_NAME not in names:
        return Chunk(0, 0)
    path = os.path.join(directory, layout.TRIMMED_NAME)
    content = np.empty(files.size(path), np.uint8).data
    with closing(files.open(path, writable=False)) as file:
        file.read(content, 0)
    found = _FORM.fullmatch(bytes(content).decode(errors="replace"))
    if found is not None:
        first = Chunk(int(found[1]), int(found[2]))
        if _pack(first) == content:
            return first
    raise CorruptPartition(
        f"{path} is damaged, so that the first chunk, and the ids of its events, are not known; put the file right",
        path=path,
        operation="recover",
    )


def write_first(files: FileLayer, directory: str, first: Chunk) -> None:
    """Have it on disk that `first` is the first chunk that there still is."""
    path = os.path.join(directory, layout.TRIMMED_NAME)
    aside = os.path.join(directory, layout.TRIMMED_ASIDE)
    content = _pack(first)
    with closing(files.open(aside, writable=True)) as file:
        file.truncate(0)
        file.write([content], 0)
        with syncing(aside):
            file.sync()
    files.rename(aside, path)
    with syncing(directory):
        files.sync_directory(directory)


def _pack(first: Chunk) -> bytes:
    text = _TEXT.format(number=first.number, first_id=first.first_id).encode()
    return text + f"{xxh3_64_hexdigest(text)}\n".encode()


class Trimmer:
    """Drops the chunks of an open partition that its retention no longer keeps; belongs to the appending thread.

    Parameters
    ----------
    release : callable
        Has the journal begin at the chunk of a number at the earliest; false if it does not, for the moment.
    clock : Clock
        By which chunks age.
    """

    def __init__(
        self,
        files: FileLayer,
        directory: str,
        retention: Retention,
        catalog: Catalog,
        cache: FdCache,
        release: Callable[[int], bool],
        clock: Clock = CLOCK,
    ) -> None:
        self._files = files
        self._directory = directory
        self._retention = retention
        self._catalog = catalog
        self._cache = cache
        self._release = release
        self._clock = clock
        self._has_begun = False
        self._last = -1
        self._full_bytes = 0
        self._next_expiry: int | None = None

    def expires_in(self) -> float | None:
        """Tell in how many seconds the next chunk is too old; None without one. Any thread.

        Cost: 0.3 µs for each chunk.
        """
        now = self._clock.now()
        expiry = self._retention.next_expiry(self._catalog.chunks, now)
        return None if expiry is None else (expiry - now) / SECOND

    def run(self) -> int:
        """Drop what is to go, and return how many chunks that are; none yet if commits under way are in the way.

        Raises
        ------
        StorageError
            If the operating system refuses a call. Chunks are dropped or not, and another call goes on from there;
            a file that cannot be removed stays until the directory is opened next.

        Notes
        -----
        About 2 µs where nothing is to go and no chunk was begun. Else two syncs, two more if the journal begins at
        a chunk that goes, and five files to remove for each chunk.
        """
        if not self._retention or not self._is_due():
            return 0
        chunks = self._catalog.chunks
        now = self._clock.now()
        if not self._has_begun:
            self._has_begun = True
            self._tell_of_gap(chunks, now)
        dropped = chunks[: self._retention.expired(chunks, now)]
        if dropped:
            first = chunks[len(dropped)]
            if not self._release(first.number):
                return 0
            self._tell(dropped, self._retention.too_old(chunks, now), now)
            write_first(self._files, self._directory, Chunk(first.number, first.first_id))
            self._catalog.drop(first.number)
        self._look_ahead()
        self._remove(dropped)
        return len(dropped)

    def _tell_of_gap(self, chunks: Sequence[Chunk], now: int) -> None:
        """Name a jump of the machine's clock while nothing ran here, or what may be one, before it counts."""
        newest = max(chunk.time for chunk in chunks)
        max_age = self._retention.max_age
        if max_age is None or not newest:
            return
        if newest > now:
            log.warning(
                "%s: by the clock of this machine, its newest event will be stored in %s: the clock was ahead then, or "
                "is behind now; until then no event is too old",
                self._directory,
                shown(newest - now),
            )
        elif now - newest > max_age * SECOND:
            log.warning(
                "%s: by the clock of this machine, its newest event is %s old, and max_age is %s: nothing was stored "
                "for so long, or the clock was set ahead",
                self._directory,
                shown(now - newest),
                shown(int(max_age * SECOND)),
            )

    def _tell(self, dropped: Sequence[Chunk], too_old: int, now: int) -> None:
        """Log what goes, and why."""
        reason = f"they are more than max_bytes, {self._retention.max_bytes}"
        if self._retention.max_age is not None and too_old == len(dropped):
            known = [chunk.time for chunk in dropped if 0 < chunk.time <= now]
            age = shown(now - max(known)) if known else "older than what follows them"
            reason = f"the newest of them is {age} old, and max_age is {shown(int(self._retention.max_age * SECOND))}"
        log.info(
            "%s: events %d to %d are dropped, which are %d chunks: %s",
            self._directory,
            dropped[0].first_id,
            dropped[-1].end_id - 1,
            len(dropped),
            reason,
        )

    def _is_due(self) -> bool:
        last = self._catalog.last
        max_bytes = self._retention.max_bytes
        return (
            last.number != self._last
            or (max_bytes is not None and self._full_bytes + last.size > max_bytes)
            or (self._next_expiry is not None and self._next_expiry <= self._clock.now())
        )

    def _look_ahead(self) -> None:
        chunks = self._catalog.chunks
        self._last = chunks[-1].number
        self._full_bytes = sum(chunk.size for chunk in chunks[:-1])
        self._next_expiry = self._retention.next_expiry(chunks, self._clock.now())

    def _remove(self, chunks: Sequence[Chunk]) -> None:
        """Remove the files of chunks; the first refusal is raised once all others are gone."""
        refusal: StorageError | OSError | None = None
        for chunk in chunks:
            paths = [
                os.path.join(self._directory, layout.file_name(chunk.number, kind))
                for kind in layout.ALL_KINDS
            ]
            for path in paths:
                try:
                    self._files.remove(path)
                except REFUSALS as error:
                    if error.errno != errno.ENOENT:
                        refusal = refusal or error
            self._cache.forget(paths)
        if refusal is not None:
            raise refusal
