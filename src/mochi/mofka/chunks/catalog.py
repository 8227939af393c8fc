"""Which events are in which chunk, and how many there are: what the writer tells the readers.

It holds one record a chunk and nothing for each event: where an event is stands in its chunk's `.idx`.

Invariants: chunks are numbered without a gap, and so are the events over all of them; a chunk's record
never claims bytes that are not written; only the last chunk may be empty. `event_count` is set last, so a
reader that takes it first sees whole commits alone, without a lock; chunks are dropped by a new list.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from mochi.mofka.chunks.errors import ExpiredEvents
from mochi.mofka.chunks.format.layout import DATA, DESC, DESCRIPTOR_SIZE, IDX, INDEX_SIZE, META, SEALS


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk at some moment: its events, how far they reach into its files, and when the last ones were stored.

    The time is in nanoseconds since 1970, and 0 where it is not known.
    """

    number: int
    first_id: int
    count: int = 0
    metadata_end: int = 0
    data_end: int = 0
    descriptor_end: int = 0
    seals_end: int = 0
    time: int = 0

    @property
    def end_id(self) -> int:
        """Id after the chunk's last event."""
        return self.first_id + self.count

    @property
    def ends(self) -> dict[str, int]:
        """How many bytes the chunk's files have of it, by kind."""
        return {
            META: self.metadata_end,
            DATA: self.data_end,
            DESC: self.descriptor_end,
            IDX: self.count * INDEX_SIZE,
            SEALS: self.seals_end,
        }

    @property
    def size(self) -> int:
        """Bytes of all of the chunk's files."""
        return sum(self.ends.values())

    @property
    def largest_file(self) -> int:
        """Bytes of the largest of the chunk's four files."""
        return max(self.metadata_end, self.data_end, self.descriptor_end, self.count * INDEX_SIZE)

    def extended(
        self, count: int, metadata_bytes: int, data_bytes: int, seals_bytes: int = 0, time: int = 0
    ) -> "Chunk":
        """Give the chunk as it is when so many events, and bytes of theirs, have been appended."""
        return Chunk(
            self.number,
            self.first_id,
            self.count + count,
            self.metadata_end + metadata_bytes,
            self.data_end + data_bytes,
            self.descriptor_end + count * DESCRIPTOR_SIZE,
            self.seals_end + seals_bytes,
            time,
        )

    def next(self) -> "Chunk":
        """Give the empty chunk that follows."""
        return Chunk(self.number + 1, self.end_id)


class Catalog:
    """The chunks of a partition. One thread publishes while any others look up."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = list(chunks)
        self.event_count = self._chunks[-1].end_id

    @property
    def first_id(self) -> int:
        """Id of the first event that there still is."""
        return self._chunks[0].first_id

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All chunks, as they are now."""
        return tuple(self._chunks)

    @property
    def last(self) -> Chunk:
        """The chunk that is being written."""
        return self._chunks[-1]

    def publish(self, chunks: Sequence[Chunk]) -> None:
        """Let `chunks` be the last ones, the first of them instead of what it was, and readers see their events."""
        self._chunks[chunks[0].number - self._chunks[0].number :] = chunks
        self.event_count = chunks[-1].end_id

    def drop(self, end: int) -> None:
        """Let the chunk `end` be the first one."""
        self._chunks = self._chunks[end - self._chunks[0].number :]

    def find(self, event_id: int) -> Chunk:
        """Give the chunk of an event that has been published; `ExpiredEvents` if it was dropped.

        Cost: binary search over the chunks.
        """
        chunks = self._chunks
        place = bisect_right(chunks, event_id, key=attrgetter("first_id"))
        if not place:
            raise ExpiredEvents(event_id, chunks[0].first_id)
        return chunks[place - 1]
