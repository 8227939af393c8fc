"""Dropping the oldest chunks of a partition, by a clock that only moves forward.

What is to go is told by `Retention`. `mofka.trimmed` tells the first chunk that is left.

A machine's clock is set by people, and by programs that find it wrong; a jump ahead would make all events old at once.
So it is read when the process starts, and what has passed since is counted by one that nobody sets, which runs on while
the machine sleeps.

Invariants:
1. `mofka.trimmed` is on disk before a chunk file is removed, and put in its place by a rename. Wherever a crash
   strikes, a chunk is there or gone, and all others keep their ids; what is left of one that is gone is removed at the
   next opening.
2. The journal needs no chunk that is gone.
3. Readers are told that events have expired before the files go; a file that one of them has open is closed when that
   is done.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET

from mochi.disk import FdCache, FileLayer
from mochi.mofka.chunks.catalog import Catalog, write_first
from mochi.mofka.chunks.config import SECOND, Retention
from mochi.mofka.chunks.errors import StorageError
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.layout import Chunk

NOTABLE: Final = 60 * SECOND
"""A jump of the machine's clock that is told, in nanoseconds."""

log = logging.getLogger(__name__)


def _since_boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """Time that only moves forward. Any thread.

    Parameters
    ----------
    wall : callable
        The machine's clock, in nanoseconds since 1970.
    steady : callable
        One that nobody sets, in nanoseconds.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = _since_boot,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._jump = 0

    def now(self) -> int:
        """Return the time, in nanoseconds since 1970; log once if the machine's clock has been set."""
        now = self._steady() + self._offset
        jump = self._wall() - now
        if abs(jump - self._jump) >= NOTABLE:
            self._jump = jump
            log.warning(
                "the clock of this machine was set, and is %s %s of where it would be; until this server starts "
                "again, events age by what has passed",
                shown(abs(jump)),
                "ahead" if jump > 0 else "short",
            )
        return now


def shown(nanoseconds: int) -> str:
    """Say how long something is, in the unit that suits it."""
    seconds = nanoseconds / SECOND
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


CLOCK: Final = Clock()
"""That of this process."""


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
            if not self._release(first.number):  # invariant 2
                return 0
            self._tell(dropped, self._retention.too_old(chunks, now), now)
            write_first(self._files, self._directory, Chunk(first.number, first.first_id))  # invariant 1
            self._catalog.drop(first.number)  # invariant 3
        self._look_ahead()
        self._remove(dropped)
        return len(dropped)

    def _tell_of_gap(self, chunks: Sequence[Chunk], now: int) -> None:
        """Name a jump of the machine's clock while nothing ran here, or what may be one, before it counts."""
        newest = max(chunk.time for chunk in chunks)
        max_age = self._retention.max_age
        if max_age is UNSET or not newest:
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
        if self._retention.max_age is not UNSET and too_old == len(dropped):
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
            or (max_bytes is not UNSET and self._full_bytes + last.size > max_bytes)
            or (self._next_expiry is not None and self._next_expiry <= self._clock.now())
        )

    def _look_ahead(self) -> None:
        chunks = self._catalog.chunks
        self._last = chunks[-1].number
        self._full_bytes = sum(chunk.size for chunk in chunks[:-1])
        self._next_expiry = self._retention.next_expiry(chunks, self._clock.now())

    def _remove(self, chunks: Sequence[Chunk]) -> None:
        """Remove the files of chunks; the first refusal is raised once all others are gone."""
        refusal: StorageError | None = None
        for chunk in chunks:
            paths = [
                os.path.join(self._directory, layout.file_name(chunk.number, kind))
                for kind in layout.ALL_KINDS
            ]
            for path in paths:
                try:
                    self._files.remove(path)
                except StorageError as error:
                    if error.errno != errno.ENOENT:
                        refusal = refusal or error
            self._cache.forget(paths)
        if refusal is not None:
            raise refusal
