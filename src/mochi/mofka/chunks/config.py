"""What can be set about a partition's directory: names, defaults and bounds.

Names and defaults are those of the original (`mofka:src/DefaultPartitionManager.cpp`), but for the retention, which is
ours. The configuration of a `default` partition has these fields, and more.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mochi.mofka.chunks.format.layout import Chunk

SECOND: Final = 1_000_000_000
"""In nanoseconds, as all times here."""


class Retention(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much of a partition is kept; all of it where nothing is set.

    Chunks go whole and from the oldest on, and never the one that is being written. A chunk is as old as its newest
    event.

    Clocks are set back and forth between one run of a server and the next. So a chunk's time is what it says, or what
    one before it said if that is later. One that lies in the future, or is not known, says nothing: such a chunk goes
    when one after it is old enough.

    Attributes
    ----------
    max_bytes : int, optional
        Bytes that the files of all chunks may have together; what is being written may go beyond by itself.
    max_age : float, optional
        Seconds after which events may go.
    """

    max_bytes: Annotated[int, Meta(ge=1, le=2**63 - 1)] | UnsetType = UNSET
    max_age: Annotated[float, Meta(gt=0, le=1e9)] | UnsetType = UNSET

    def __bool__(self) -> bool:
        """Whether anything ever goes."""
        return self.max_bytes is not UNSET or self.max_age is not UNSET

    def expired(self, chunks: Sequence[Chunk], now: int) -> int:
        """Tell how many of the first chunks are to go, `now` being in nanoseconds since 1970."""
        return max(self._too_much(chunks), self.too_old(chunks, now))

    def _too_much(self, chunks: Sequence[Chunk]) -> int:
        count = 0
        if self.max_bytes is not UNSET:
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
        if self.max_age is UNSET:
            return None
        return min((expiry for _, expiry in self._expiries(chunks, now)), default=None)

    def _expiries(self, chunks: Sequence[Chunk], now: int) -> Iterator[tuple[int, int]]:
        """Return the place of each chunk that is not being written and has a time, and when it will be too old."""
        if self.max_age is UNSET:
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


class ChunkConfig(msgspec.Struct, frozen=True):
    """Limits of a chunk, and how its files are used.

    Attributes
    ----------
    max_chunk_size : int
        Bytes that each file of a chunk may have. One batch larger than that has a chunk of its own.
    max_events_per_chunk : int
        Events that a chunk may have. One batch of more events has a chunk of its own.
    sync : bool
        Whether a batch is on disk before `PartitionDirectory.append` returns.
    fd_cache_capacity : int
        Files kept open for reading, at least one.
    retention : Retention
        What `PartitionDirectory.trim` drops; nothing if it is not set.
    """

    max_chunk_size: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 67108864
    max_events_per_chunk: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 1000000
    sync: bool = True
    fd_cache_capacity: Annotated[int, Meta(ge=1, le=2**20)] = 64
    retention: Retention | UnsetType = UNSET

    def __post_init__(self) -> None:
        for name, least in (("max_chunk_size", 0), ("max_events_per_chunk", 0), ("fd_cache_capacity", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")

    @property
    def kept(self) -> Retention:
        """How much is kept."""
        return KEEP_ALL if self.retention is UNSET else self.retention
