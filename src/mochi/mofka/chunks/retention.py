"""Which of a partition's oldest chunks are to go. No I/O.

Chunks go whole and from the oldest on, and never the one that is being written. A chunk is as old as its newest event.

Clocks are set back and forth between one run of a server and the next, so a chunk's time is what it says, or what one
before it said if that is later; one that lies in the future, or is not known, says nothing: such a chunk goes when one
after it is old enough. What time it is, is told by `mochi.mofka.chunks.clock`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.clock import SECOND


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a partition is kept; all of it where nothing is set.

    Attributes
    ----------
    max_bytes : int, optional
        Bytes that the files of all chunks may have together; what is being written may go beyond by itself.
    max_age : float, optional
        Seconds after which events may go.
    """

    max_bytes: int | None = None
    max_age: float | None = None

    def __bool__(self) -> bool:
        """Whether anything ever goes."""
        return self.max_bytes is not None or self.max_age is not None

    def expired(self, chunks: Sequence[Chunk], now: int) -> int:
        """Tell how many of the first chunks are to go, `now` being in nanoseconds since 1970."""
        return max(self._too_much(chunks), self.too_old(chunks, now))

    def _too_much(self, chunks: Sequence[Chunk]) -> int:
        count = 0
        if self.max_bytes is not None:
            size = sum(chunk.size for chunk in chunks)
            while size > self.max_bytes and count < len(chunks) - 1:
                size -= chunks[count].size
                count += 1
        return count

    def too_old(self, chunks: Sequence[Chunk], now: int) -> int:
        """Tell how many of the first chunks are to go for their age."""
        return max((place + 1 for place, expiry in self._expiries(chunks, now) if expiry <= now), default=0)

    def next_expiry(self, chunks: Sequence[Chunk], now: int) -> int | None:
        """Tell when the next chunk is too old, in nanoseconds since 1970; None without one."""
        if self.max_age is None:
            return None
        return min((expiry for _, expiry in self._expiries(chunks, now)), default=None)

    def _expiries(self, chunks: Sequence[Chunk], now: int) -> Iterator[tuple[int, int]]:
        """Give the place of each chunk that is not being written and has a time, and when it will be too old."""
        if self.max_age is None:
            return
        age = int(self.max_age * SECOND)
        latest = 0
        for place, chunk in enumerate(chunks[:-1]):
            if chunk.time > now:
                yield place, chunk.time + age
            elif chunk.time:
                latest = max(latest, chunk.time)
                yield place, latest + age


KEEP_ALL = Retention()
