"""The `legacy` partition: metadata in a yokan database, data in a warabi target, of this server or of others.

One thread stores, and makes one commit of all that has come meanwhile; another reads. Both are started with the
partition. The newest events are read from memory, see `mochi.mofka.partition.tail`.

Invariants
----------
1. Commits are made in the order of the calls of `append`.
2. Who waits is told in that order, once it is known whether the events are stored.
3. A commit that was not stored has changed nothing, and the next one goes on.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Condition
from typing import Any, TypeVar

import numpy as np

from mochi.margo.errors import (
    AddressError,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    Fault,
    MargoError,
)
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, Pieces, Remembered
from mochi.mofka.partition.contract import LargeEvent, Slice, reading
from mochi.mofka.partition.cursors import Cursors
from mochi.mofka.partition.legacy_store import PAGE, LegacyStore, Placed, Wanted, as_fault, damaged
from mochi.mofka.partition.tail import Tail
from mochi.mofka.protocol import SIZE
from mochi.mofka.workers import Workers

T = TypeVar("T")

UNSURE = (ConnectionLost, DeadlineExceeded, AddressError)
"""Errors after which a change of the database may have been made."""

PATIENCE = 30.0
"""Seconds in which it must be known whether a change was made; else the partition takes no more events."""

LONGEST_PAUSE = 1.0

log = logging.getLogger(__name__)


class LegacyPartition:
    """A partition in a database and a target.

    Parameters
    ----------
    where : str
        What it is called in the log.
    open_store : callable
        Opens the store; blocks.
    close : callable
        Lets go of database and target, once nothing uses them any more.

    Raises
    ------
    ConfigError
        The store cannot be opened.
    """

    keeps_buffers = False
    first = 0
    lent_size = 64 << 20

    def __init__(
        self, where: str, open_store: Callable[[], LegacyStore], close: Callable[[], None] = lambda: None
    ) -> None:
        self.config: dict[str, Any] = {}
        self.error: Fault | None = None
        self._where = where
        self._close = close
        try:
            self._store = open_store()
        except MargoError as error:
            raise ConfigError("config", f"{where} cannot be opened: {error}") from error
        self.count = self._store.count
        self.epoch = self._store.epoch
        self.damaged: Sequence[str] = self._store.damaged
        for problem in self.damaged:
            log.error("%s: %s", where, problem)
        self._cursors = Cursors(self._store.ledger.cursors)
        self._tail = Tail(self.count)
        self._changed = Condition()
        self._batches: list[tuple[Batch, Callable[[int | BaseException], None]]] = []
        self._acknowledged: dict[str, list[Callable[[BaseException | None], None]]] = {}
        self._is_closed = False
        self._reading = Workers(1, "mofka-legacy-read")
        self._writing = Workers(1, "mofka-legacy-write")
        self._stored_all = self._writing.submit(self._store_what_comes)

    def remembered(self) -> Iterable[Remembered]:
        """Tell the producers whose recent batches were stored."""
        return self._store.ledger.producers()

    def cursor(self, consumer: str) -> int:
        """Return the id of the next event of a consumer, as it last said."""
        return self._cursors[consumer]

    def acknowledge(self, consumer: str, next_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Have a cursor stored by the next commit, if it is not stored already."""
        with self._changed:
            self._check()
            is_stored = self._store.ledger.cursors.get(consumer, 0) >= next_id
            if not is_stored:
                self._cursors.advance(consumer, next_id)
                self._acknowledged.setdefault(consumer, []).append(done)
                self._changed.notify()
        if is_stored:
            done(None)

    def receive(self, sizes: int, metadata: int, data: int) -> list[memoryview]:
        """Return memory of its own for a batch."""
        return [memoryview(bytearray(size)) for size in (sizes, metadata, data)]

    def append(self, batch: Batch, done: Callable[[int | BaseException], None]) -> None:
        """Have a batch stored by the next commit."""
        with self._changed:
            self._check()
            self._batches.append((batch, done))
            self._changed.notify()

    def _check(self) -> None:
        if self._is_closed:
            raise Fault("closed", "the partition is closed")
        if self.error is not None:
            raise self.error

    def _store_what_comes(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._batches or self._acknowledged or self._is_closed)
                batches, self._batches = self._batches, []
                acknowledged, self._acknowledged = self._acknowledged, {}
            if not (batches or acknowledged):
                return
            self._store_one(batches, acknowledged)

    def _store_one(
        self,
        batches: Sequence[tuple[Batch, Callable[[int | BaseException], None]]],
        acknowledged: dict[str, list[Callable[[BaseException | None], None]]],
    ) -> None:
        """Make one commit, and tell who waits for it."""
        failure = self.error
        placed: list[tuple[Batch, bytes]] = []
        if failure is None:
            try:
                for batch, _ in batches:
                    placed.append((batch, self._store.place(batch)))
                self._commit(placed, {consumer: self._cursors[consumer] for consumer in acknowledged})
            except Exception as error:
                failure = as_fault(error)
                self._give_up(placed)
        first = self.count
        if failure is None:
            self._tail.keep([batch for batch, _ in placed])
            self.count = self._store.count
        for batch, done in batches:
            done(first if failure is None else failure)
            first += batch.count
        for told in acknowledged.values():
            for done_with_cursor in told:
                done_with_cursor(failure)

    def _commit(self, placed: Sequence[tuple[Batch, bytes]], cursors: dict[str, int]) -> None:
        store = self._store
        change = store.prepare(placed, cursors)
        try:
            store.put(change)
        except UNSURE as error:
            self._until_known(error, store.check, partial(store.put, change))
        try:
            store.sync()
        except UNSURE as error:
            self._until_known(error, store.check, store.sync)
        except MargoError as error:
            raise self._ended(error) from error
        store.committed(placed, cursors)

    def _until_known(self, cause: MargoError, *again: Callable[[], None]) -> None:
        """Do something again until it is known to be done; where that takes too long, end storing."""
        log.warning("%s: storing again what nobody knows of: %s", self._where, cause)
        deadline, pause = time.monotonic() + PATIENCE, 0.05
        while True:
            try:
                for step in again:
                    step()
                return
            except UNSURE as error:
                if time.monotonic() > deadline or self._is_closed:
                    raise self._ended(error) from error
            except MargoError as error:
                raise self._ended(error) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _ended(self, cause: MargoError) -> Fault:
        """Take no more events: nobody knows what is stored."""
        self.error = Fault("storage", f"nobody knows whether the last events are stored: {cause}")
        return self.error

    def _give_up(self, placed: Sequence[tuple[Batch, bytes]]) -> None:
        """Erase the regions of batches that are not stored; if that fails, they only take room."""
        if self.error is not None:
            return
        for _, region in placed:
            try:
                self._store.give_up(region)
            except Exception as error:
                log.warning("%s: the data of a batch that is not stored stays: %s", self._where, error)

    def expires_in(self) -> None:
        """Keep all events: a legacy partition has no retention."""

    def expire(self) -> None:
        """Do nothing."""

    def _read(self, read: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        if self._is_closed:
            raise Fault("closed", "the partition is closed")
        self._reading.put(reading(read, done, as_fault))

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> Slice | None:
        """Return events that are in memory, and have others read from database and target."""
        kept = self._tail.read(first, max_events, max_bytes, with_data)
        if kept is None:
            most = min(max_events, self.count - first, PAGE)
            self._read(lambda: self._load(first, most, max_bytes, with_data), done)
        return kept

    def _load(self, first: int, most: int, max_bytes: int, with_data: bool) -> Slice:
        stored = self._store.load(first, most)
        wanted: list[Wanted] = []
        size = 0
        for event, (metadata, place) in enumerate(zip(stored.metadata, stored.places, strict=True), first):
            size += len(metadata) + (place.size if with_data and place is not None else 0)
            if not wanted and size > max_bytes:
                raise LargeEvent(size)
            if place is None or size > max_bytes:
                break
            wanted.append(Wanted(event, place, [(0, place.size)]))
        if not wanted:
            raise damaged(first, first, "where its data is, is lost")
        data: list[Buffer] = []
        if with_data:
            try:
                data = self._store.read(wanted)
            except Fault as fault:
                if fault.code != "damaged" or fault.details["first"] == first:
                    raise
                wanted = wanted[: fault.details["first"] - first]
                data = self._store.read(wanted)
        metadata_of = stored.metadata[: len(wanted)]
        return Slice(
            first,
            np.array([len(each) for each in metadata_of], SIZE),
            [b"".join(metadata_of)],
            np.array([each.place.size for each in wanted], SIZE),
            data,
        )

    def read_data(self, pieces: Pieces, done: Callable[[Sequence[Buffer] | BaseException], None]) -> None:
        """Read pieces of events' data, at once where all events are in memory."""
        outcome: Sequence[Buffer] | BaseException | None
        try:
            outcome = self._tail.read_data(pieces)
        except Fault as fault:
            outcome = fault
        if outcome is None:
            self._read(lambda: self._pieces(pieces), done)
        else:
            done(outcome)

    def _pieces(self, pieces: Pieces) -> Sequence[Buffer]:
        events, place_of = np.unique(pieces.events, return_inverse=True)
        for event_id in events[:1].tolist() + events[-1:].tolist():
            if not 0 <= event_id < self.count:
                raise Fault("out_of_range", f"event {event_id} is not one of the {self.count} there are")
        places: list[Placed] = []
        for event_id, place in zip(events.tolist(), self._store.places(events.tolist()), strict=True):
            if place is None:
                raise damaged(event_id, event_id, "where its data is, is lost")
            places.append(place)
        sizes = np.array([place.size for place in places], np.int64)[place_of]
        if (bad := pieces.beyond(sizes)) is not None:
            raise Fault("out_of_range", f"there are no {pieces.text(bad, int(sizes[bad]))}")
        each = zip(*(numbers.tolist() for numbers in (pieces.events, place_of, *pieces[1:])), strict=True)
        return self._store.read(
            [Wanted(event_id, places[place], [(offset, length)]) for event_id, place, offset, length in each]
        )

    def remove(self) -> list[str]:
        """Remove all that is stored, once the partition is closed, and return paths of what stays: none. Blocks."""
        try:
            return self._store.remove()
        finally:
            self._close()

    def close(self) -> None:
        """Store what has arrived, and let go of database and target; idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._stored_all.result()
        self._writing.close()
        self._reading.close()
        self._close()
