"""What a `legacy` partition keeps, and where: metadata and descriptors in a database, data in a target of blobs.

The collections ``<topic>--<uuid>--md`` and ``--dd`` are the original's: event e is document e + 1 of both. The first
holds its metadata, the second a descriptor that names a region and what of it is the event's data, or nothing. Beside
them lie keys of ours, which the original passes over: the epoch, the last batches of each producer, and cursors. All
calls block; those that change something must not overlap.

What is promised is what the backends can give. On disk, an event that was stored is there after a crash of the
machine; in memory, as long as the server lives.

Invariants
----------
1. The data of a commit is in its region, persisted, before anything names it. A commit becomes visible by one change of
   the database, which takes documents, both collections' records and all notes along.
2. A change of which nobody knows whether it was made is made again until it is known: it is the same change, and
   nobody else writes here. Until then nothing else is told or stored.
"""

import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mochi.margo.errors import Fault, MargoError
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, Ledger, Remembered, format
from mochi.warabi import InvalidArguments, InvalidRegion, Target
from mochi.yokan.database import Database
from mochi.yokan.layout import CollectionRecord, document_key

MAX_PUT: Final = 8 << 20
"""Bytes of documents that go in one change of the database; more is written before, where nobody looks yet."""

PAGE: Final = 256
"""Events looked up at a time."""

_COST = 64
_FIRST_DOCUMENT = b"F"
_EPOCH = struct.Struct("<Q")
_DESCRIPTOR = np.dtype(
    [
        ("size", "<u8"),
        ("whole", "<u8"),
        ("location", "<u8"),
        ("offset", "<u8"),
        ("region", "V16"),
        ("views", "<u8"),
    ]
)
_LOCATION_SIZE = 24


class Placed(NamedTuple):
    """Where an event's data is; no region where it has none."""

    region: bytes
    offset: int
    size: int


class Wanted(NamedTuple):
    """Parts of the data of an event, each an offset in that data and a length."""

    event: int
    place: Placed
    parts: Sequence[tuple[int, int]]


class Stored(NamedTuple):
    """Consecutive events as they are stored."""

    metadata: list[bytes]
    places: list[Placed | None]
    """None where the descriptor is damaged or missing."""


class LegacyStore:
    """The events of one partition.

    Parameters
    ----------
    name : str
        ``<topic>--<uuid>``.
    database : Database
    target : Target

    Attributes
    ----------
    count : int
        Number of events.
    epoch : int
        Another one when the database has begun anew without the events.
    ledger : Ledger
        Producers and cursors.
    damaged : list of str
        What was found to be lost when it was opened.

    Raises
    ------
    MargoError
        The database does not answer, or what it holds is none of this partition.
    """

    def __init__(self, name: str, database: Database, target: Target) -> None:
        self._database = database
        self._target = target
        self._metadata = f"{name}--md".encode()
        self._descriptors = f"{name}--dd".encode()
        self._epoch_key = f"{name}--epoch".encode()
        self._producer_prefix = f"{name}--producer--".encode()
        self._cursor_prefix = f"{name}--cursor--".encode()
        self.ledger = Ledger()
        self.damaged: list[str] = []
        self.count = self._opened()
        self.epoch = self._epoch()
        self._recall()

    def _opened(self) -> int:
        """Make the collections if they are missing, and return the number of events."""
        record = self._record(self._metadata)
        if record is None:
            first = CollectionRecord(1, 1).pack()
            begun = [(document_key(name, 0), _FIRST_DOCUMENT) for name in (self._metadata, self._descriptors)]
            self._database.put_multi(
                [(self._metadata, first), (self._descriptors, first), *begun, self._new_epoch()]
            )
            self._database.sync()
            return 0
        described = self._record(self._descriptors) or CollectionRecord(0, 1)
        if described.next_id < record.next_id:
            missing = f"events {max(described.next_id - 1, 0)} to {record.next_id - 2}"
            self.damaged.append(f"{missing} have no descriptors: their data is lost")
        return record.next_id - 1

    def _record(self, name: bytes) -> CollectionRecord | None:
        return CollectionRecord.unpack(self._database.get(name))

    def _new_epoch(self) -> tuple[bytes, bytes]:
        return self._epoch_key, _EPOCH.pack(secrets.randbits(62) + 1)

    def _epoch(self) -> int:
        found = self._database.get(self._epoch_key)
        if found is None or len(found) != _EPOCH.size:  # the original has none
            self._database.put_multi([self._new_epoch()])
            self._database.sync()
            found = self._database.get(self._epoch_key)
        assert found is not None
        return int(_EPOCH.unpack(found)[0])

    def _recall(self) -> None:
        """Read what is remembered of producers, the one quiet for longest first, and the cursors."""
        known: list[Remembered] = []
        for _, value in self._pairs(self._producer_prefix):
            known += format.unpack_notes(memoryview(value)).producers
        known.sort(key=lambda producer: producer.first_ids[-1])
        cursors = {
            key[len(self._cursor_prefix) :].decode("utf-8", "surrogatepass"): _EPOCH.unpack(value)[0]
            for key, value in self._pairs(self._cursor_prefix)
        }
        self.ledger.apply(format.Notes(known, cursors))
        forgotten = {producer.identity for producer in known} - {
            each.identity for each in self.ledger.producers()
        }
        self._database.erase_multi([self._producer_prefix + each.hex().encode() for each in forgotten])

    def _pairs(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        start = b""
        while page := self._database.list_keyvals(start, prefix, PAGE):
            yield from page
            start = page[-1][0]

    def place(self, batch: Batch) -> bytes:
        """Put the data of a batch into a region of its own, persisted; return its name, empty if there is no data."""
        if not batch.data_bytes:
            return b""
        data = batch.data[0] if len(batch.data) == 1 else b"".join(batch.data)
        return self._target.create_write(data, persist=True)

    def give_up(self, region: bytes) -> None:
        """Erase a region that nothing names."""
        if region:
            self._target.erase(region)

    def prepare(
        self, batches: Sequence[tuple[Batch, bytes]], cursors: Mapping[str, int]
    ) -> list[tuple[bytes, bytes]]:
        """Return the change of the database that stores batches, with their regions, and moves cursors.

        What is too much for one change has been written by then, where nobody sees it before.
        """
        following = self.count
        documents: list[tuple[bytes, bytes]] = []
        for batch, region in batches:
            documents += self._documents(following + 1, batch, region)
            following += batch.count
        record = CollectionRecord(following + 1, following + 1).pack()
        notes = [(self._metadata, record), (self._descriptors, record), *self._notes(batches, cursors)]
        while sum(len(value) + _COST for _, value in documents) > MAX_PUT:
            early: list[tuple[bytes, bytes]] = []
            size = 0
            while documents and (not early or size + len(documents[0][1]) <= MAX_PUT // 2):
                size += len(documents[0][1]) + _COST
                early.append(documents.pop(0))
            self._database.put_multi(early)
        return [*documents, *notes]

    def _documents(self, number: int, batch: Batch, region: bytes) -> list[tuple[bytes, bytes]]:
        ends = np.cumsum(batch.metadata_sizes, dtype=np.int64).tolist()
        metadata = memoryview(batch.metadata[0] if len(batch.metadata) == 1 else b"".join(batch.metadata))
        sizes = batch.data_sizes.astype(np.uint64)
        described = np.zeros(batch.count, _DESCRIPTOR)
        described["size"] = described["whole"] = sizes
        described["location"] = _LOCATION_SIZE
        described["offset"] = np.cumsum(sizes) - sizes
        if region:
            described["region"] = np.void(region)
        packed, width = described.tobytes(), _DESCRIPTOR.itemsize
        documents = []
        start = 0
        for index, (end, size) in enumerate(zip(ends, sizes.tolist(), strict=True)):
            descriptor = packed[index * width : (index + 1) * width] if size else b""
            documents.append((document_key(self._metadata, number + index), bytes(metadata[start:end])))
            documents.append((document_key(self._descriptors, number + index), descriptor))
            start = end
        return documents

    def _notes(
        self, batches: Sequence[tuple[Batch, bytes]], cursors: Mapping[str, int]
    ) -> list[tuple[bytes, bytes]]:
        noted = Ledger()
        identities = {batch.origin.identity for batch, _ in batches if batch.origin is not None}
        noted.apply(format.Notes([known for each in identities if (known := self.ledger.producer(each))], {}))
        self._note(noted, batches)
        return [
            *(
                (self._producer_prefix + producer.identity.hex().encode(), format.pack_notes([producer], {}))
                for producer in noted.producers()
            ),
            *(
                (self._cursor_prefix + name.encode("utf-8", "surrogatepass"), _EPOCH.pack(next_id))
                for name, next_id in cursors.items()
            ),
        ]

    def _note(self, ledger: Ledger, batches: Sequence[tuple[Batch, bytes]]) -> None:
        following = self.count
        for batch, _ in batches:
            if batch.origin is not None:
                ledger.note(batch.origin, following)
            following += batch.count

    def put(self, change: Sequence[tuple[bytes, bytes]]) -> None:
        """Make a change; it may be made again."""
        self._database.put_multi(change)

    def sync(self) -> None:
        """Return when all changes are durable, as far as the database is."""
        self._database.sync()

    def check(self) -> None:
        """Check that the database is still the one that it was; `Fault` ``storage`` if it has begun anew."""
        if self._database.get(self._epoch_key) != _EPOCH.pack(self.epoch):
            raise Fault("storage", "the database has begun anew, without the events of this partition")

    def committed(self, batches: Sequence[tuple[Batch, bytes]], cursors: Mapping[str, int]) -> None:
        """Take note that a change was made."""
        self._note(self.ledger, batches)
        self.ledger.advance(cursors)
        self.count += sum(batch.count for batch, _ in batches)

    def load(self, first: int, most: int) -> Stored:
        """Return events from `first` on, at most `most` of those that are there.

        Raises
        ------
        Fault
            ``damaged``: the metadata of the first one is not there.
        """
        metadata = self._column(self._metadata, first, most)
        if not metadata or metadata[0] is None:
            raise damaged(first, first, "its metadata is missing")
        whole = metadata.index(None) if None in metadata else len(metadata)
        descriptors = self._column(self._descriptors, first, whole)
        return Stored(
            [each for each in metadata[:whole] if each is not None],
            [_place_of(each) for each in descriptors],
        )

    def places(self, events: Sequence[int]) -> list[Placed | None]:
        """Return where the data of some events is; None where that is damaged."""
        found = self._database.doc_load(self._descriptors, [event + 1 for event in events])
        return [_place_of(each) for each in found]

    def _column(self, name: bytes, first: int, most: int) -> list[bytes | None]:
        """Return documents of consecutive events, None where one is missing."""
        page = self._database.doc_list(name, first + 1, most)
        found: list[bytes | None] = [None] * most
        for number, document in page:
            if number - first - 1 < most:
                found[number - first - 1] = document
        return found

    def read(self, wanted: Sequence[Wanted]) -> list[Buffer]:
        """Return parts of events' data, those of one region by one call.

        Raises
        ------
        Fault
            ``damaged``: names the events whose region is gone. Those before them are there.
        """
        pieces: list[Buffer] = []
        for region, group in groupby(wanted, lambda each: each.place.region):
            events = list(group)
            parts = [
                (each.place.offset + offset, length)
                for each in events
                for offset, length in each.parts
                if length
            ]
            if region and parts:
                try:
                    pieces.append(self._target.read(region, parts))
                except (InvalidRegion, InvalidArguments) as error:
                    raise damaged(events[0].event, events[-1].event, str(error)) from error
        return pieces

    def remove(self) -> list[str]:
        """Remove all of the partition from database and target; return nothing that stays."""
        for start in range(0, self.count, PAGE):
            stored = self.places(range(start, min(start + PAGE, self.count)))
            for region in {place.region for place in stored if place is not None and place.region}:
                try:
                    self._target.erase(region)
                except InvalidRegion:
                    continue
        for name in (self._metadata, self._descriptors):
            if self._database.coll_exists(name):
                self._database.coll_drop(name)
        for prefix in (self._producer_prefix, self._cursor_prefix):
            self._database.erase_range(prefix)
        self._database.erase_multi([self._epoch_key])
        self._database.sync()
        return []


def _place_of(document: bytes | None) -> Placed | None:
    if document is None:
        return None
    if not document:
        return Placed(b"", 0, 0)
    if len(document) < _DESCRIPTOR.itemsize:
        return Placed(b"", 0, 0) if not any(document) else None
    found: NDArray[np.void] = np.frombuffer(document, _DESCRIPTOR, 1)
    entry = found[0]
    if entry["location"] != _LOCATION_SIZE or entry["views"] or entry["size"] != entry["whole"]:
        return None
    return Placed(bytes(entry["region"]), int(entry["offset"]), int(entry["size"]))


def damaged(first: int, last: int, problem: str) -> Fault:
    """Return what is told of events that are lost."""
    text = f"events {first} to {last} are damaged: {problem}"
    return Fault("damaged", text, {"first": first, "count": last - first + 1})


def as_fault(error: Exception) -> Fault:
    """Return what a client is told of an error of a backend."""
    if isinstance(error, Fault) and error.code in ("damaged", "out_of_range", "closed", "storage"):
        return error
    if isinstance(error, MargoError):
        return Fault("storage", str(error))
    return Fault("internal", f"{type(error).__name__}: {error}")
