"""What a partition remembers beside its events: the recent batches of producers, and the cursors of consumers.

A commit carries notes of what it adds to the ledger; a checkpoint holds the whole of it. Both are written the
same way: `pack_notes` and `unpack_notes`.

Invariants:
1. A producer's batches are numbered without a gap: the number of the last one, and the first ids of some before it,
   say all.
2. Cursors only move forward.
3. No more than `MAX_PRODUCERS` identities are remembered; the one quiet for longest is forgotten first.
"""

import struct
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_PRODUCERS = 16384
"""Identities remembered for each partition, some KiB each; the one quiet for longest is forgotten first."""

REMEMBERED_BATCHES = 64
"""Batches of a producer whose ids a partition can tell again."""

_COUNTS = struct.Struct("<II")
_PRODUCER = struct.Struct("<16sQI")
_CURSOR = struct.Struct("<QI")


class Origin(NamedTuple):
    """Where a batch comes from: its producer's identity (16 bytes), and its number there, from 0."""

    identity: bytes
    sequence: int


class Remembered(NamedTuple):
    """A producer as it is remembered: the number of its next batch, and the first ids of the last ones."""

    identity: bytes
    next: int
    first_ids: tuple[int, ...]


@dataclass(slots=True)
class _Producer:
    next: int
    first_ids: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED_BATCHES))


class Ledger:
    """Producers and cursors of a partition. One thread changes it; any may look up a cursor meanwhile."""

    def __init__(self) -> None:
        self._producers: OrderedDict[bytes, _Producer] = OrderedDict()
        self._cursors: dict[str, int] = {}

    @property
    def cursors(self) -> Mapping[str, int]:
        """The id of the next event by the name of its consumer."""
        return self._cursors

    def producers(self) -> list[Remembered]:
        """Return what is known of each producer, the one quiet for longest first."""
        return [
            Remembered(identity, known.next, tuple(known.first_ids))
            for identity, known in self._producers.items()
        ]

    def producer(self, identity: bytes) -> Remembered | None:
        """Return what is known of one producer."""
        known = self._producers.get(identity)
        return None if known is None else Remembered(identity, known.next, tuple(known.first_ids))

    def note(self, origin: Origin, first_id: int) -> None:
        """Remember a batch that is stored. About 1 µs."""
        known = self._producers.get(origin.identity)
        if known is None or known.next != origin.sequence:
            known = self._producers[origin.identity] = _Producer(origin.sequence)
            if len(self._producers) > MAX_PRODUCERS:
                self._producers.popitem(last=False)
        known.next += 1
        known.first_ids.append(first_id)
        self._producers.move_to_end(origin.identity)

    def advance(self, cursors: Mapping[str, int]) -> None:
        """Move cursors forward; one that is there or further stays."""
        for name, next_id in cursors.items():
            self._cursors[name] = max(next_id, self._cursors.get(name, 0))

    def apply(self, notes: "Notes") -> None:
        """Take over what was noted elsewhere, in the order in which it was."""
        for identity, following, first_ids in notes.producers:
            for sequence, first_id in enumerate(first_ids, following - len(first_ids)):
                self.note(Origin(identity, sequence), first_id)
        self.advance(notes.cursors)

    def forget_batches(self, end_id: int) -> None:
        """Forget batches whose events, from `end_id` on, have not come back, so that they may be sent again."""
        for identity, known in list(self._producers.items()):
            while known.first_ids and known.first_ids[-1] >= end_id:
                known.first_ids.pop()
                known.next -= 1
            if not known.first_ids:
                del self._producers[identity]

    def forget_producers(self) -> None:
        """Forget all producers: better than to take for new what is stored already."""
        self._producers.clear()

    def pack(self) -> bytes:
        """Return all of it as bytes."""
        return pack_notes(self.producers(), self._cursors)


class Notes(NamedTuple):
    """What `unpack_notes` gives: producers with batches of theirs, and cursors."""

    producers: list[Remembered]
    cursors: dict[str, int]


def pack_notes(producers: Iterable[Remembered], cursors: Mapping[str, int]) -> bytes:
    """Return producers with some of their last batches, and cursors, as bytes."""
    known = list(producers)
    pieces = [_COUNTS.pack(len(known), len(cursors))]
    for identity, following, first_ids in known:
        pieces.append(_PRODUCER.pack(identity, following, len(first_ids)))
        pieces.append(struct.pack(f"<{len(first_ids)}Q", *first_ids))
    for name, next_id in cursors.items():
        encoded = name.encode("utf-8", "surrogatepass")
        pieces.append(_CURSOR.pack(next_id, len(encoded)))
        pieces.append(encoded)
    return b"".join(pieces)


def unpack_notes(content: memoryview) -> Notes:
    """Read what `pack_notes` gave."""
    producer_count, cursor_count = _COUNTS.unpack_from(content)
    position = _COUNTS.size
    producers = []
    for _ in range(producer_count):
        identity, following, count = _PRODUCER.unpack_from(content, position)
        position += _PRODUCER.size
        first_ids = struct.unpack_from(f"<{count}Q", content, position)
        position += 8 * count
        producers.append(Remembered(identity, following, first_ids))
    cursors = {}
    for _ in range(cursor_count):
        next_id, size = _CURSOR.unpack_from(content, position)
        position += _CURSOR.size
        cursors[str(content[position : position + size], "utf-8", "surrogatepass")] = next_id
        position += size
    return Notes(producers, cursors)


NO_NOTES = pack_notes((), {})
