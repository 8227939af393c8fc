"""The legacy partition: events in a database and a target, and what becomes of them when either fails."""

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.abt_io.instance import Instance
from mochi.margo.engine import Engine
from mochi.margo.errors import AddressError, ConfigError, ConnectionLost, Fault, MargoError
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Origin
from mochi.mofka.partition import legacy, tail
from mochi.mofka.partition.contract import Slice
from mochi.mofka.partition.legacy import LegacyPartition
from mochi.mofka.partition.legacy_store import LegacyStore
from mochi.warabi import StorageError, Target
from mochi.warabi.config import open_target
from mochi.warabi.memory import MemoryTarget
from mochi.yokan.config import open_database
from mochi.yokan.database import Database
from mochi.yokan.errors import StorageError as DatabaseFailed
from tests.mofka.partition_io import Event, acknowledge, append, batch_of, events_in, read, read_data

NAME = "topic--5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"


def in_map() -> Database:
    return open_database({"database": {"type": "map"}})[0]


@pytest.fixture(autouse=True)
def nothing_kept_in_memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have events read from where they are stored."""
    if "tail" not in request.node.name:
        monkeypatch.setattr(tail, "KEPT", 0)


class Opener:
    """Opens partitions over one database and one target, and closes them."""

    def __init__(self, database: Database, target: Target) -> None:
        self.database = database
        self.target = target
        self._opened: list[LegacyPartition] = []

    def open(self) -> LegacyPartition:
        partition = LegacyPartition("topic", lambda: LegacyStore(NAME, self.database, self.target))
        self._opened.append(partition)
        return partition

    def close(self) -> None:
        for partition in self._opened:
            partition.close()


@pytest.fixture
def opener() -> Iterator[Opener]:
    opener = Opener(FailingDatabase(in_map()), FailingTarget())  # type: ignore[arg-type]
    yield opener
    opener.close()


class FailingDatabase:
    """A database of which calls fail on demand, before or after they have taken effect."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.failures: list[tuple[str, MargoError, bool]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database, name)

        def call(*args: Any, **options: Any) -> Any:
            if self.failures and self.failures[0][0] == name:
                _, error, is_done = self.failures.pop(0)
                if is_done:
                    method(*args, **options)
                raise error
            return method(*args, **options)

        return call


class FailingTarget(MemoryTarget):
    """A target that refuses to make regions on demand."""

    def __init__(self) -> None:
        super().__init__({}, "config")
        self.failures: list[MargoError] = []

    def create_write(self, data: Buffer, *, persist: bool = False) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        return super().create_write(data, persist=persist)


def numbered(first: int, count: int) -> list[Event]:
    return [(b"%d" % number, b"data %d" % number * (number % 3)) for number in range(first, first + count)]


def all_of(partition: LegacyPartition, first: int = 0) -> list[Event]:
    events: list[Event] = []
    while first + len(events) < partition.count:
        found = read(partition, first + len(events), 1000, 1 << 20, True)
        assert isinstance(found, Slice), found
        events += events_in(found, True)
    return events


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 300)), min_size=1), min_size=1),
    limits=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 900), st.booleans()), max_size=5
    ),
    kept=st.sampled_from([0, 1, 3000, 1 << 20]),
)
def test_reads_with_any_limits_give_what_a_list_gives(
    shape: list[list[tuple[int, int]]], limits: list[tuple[int, int, int, bool]], kept: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "KEPT", kept)
        opener = Opener(in_map(), FailingTarget())
        partition = opener.open()
        events: list[Event] = []
        for batch in shape:
            new = [
                (bytes([len(events) + i & 255]) * m, bytes([i + 7 & 255]) * d)
                for i, (m, d) in enumerate(batch)
            ]
            assert append(partition, batch_of(new)) == len(events)
            events += new
        for first, max_events, max_bytes, with_data in limits:
            first %= len(events)
            found = read(partition, first, max_events, max_bytes, with_data)
            assert isinstance(found, Slice)
            assert 1 <= found.count <= max_events
            expected = events[first : first + found.count]
            assert events_in(found, with_data) == [(m, d if with_data else b"") for m, d in expected]
            assert list(found.data_sizes) == [len(d) for _, d in expected]
            taken = sum(len(m) + len(d) * with_data for m, d in expected)
            assert found.count == 1 or taken <= max(max_bytes, sum(map(len, events[first])))
        opener.close()
        assert all_of(opener.open()) == events
        opener.close()


def test_the_documents_are_the_originals(opener: Opener) -> None:
    partition = opener.open()
    append(partition, batch_of([(b"first", b"hello"), (b"second", b""), (b"third", b"world!")]))
    metadata = opener.database.doc_list(f"{NAME}--md".encode())
    assert metadata == [(0, b"F"), (1, b"first"), (2, b"second"), (3, b"third")]
    (flag, one, none, three) = [document for _, document in opener.database.doc_list(f"{NAME}--dd".encode())]
    assert (flag, none) == (b"F", b"")
    assert struct.unpack("<QQQQ16sQ", one)[:4] == (5, 5, 24, 0)
    assert struct.unpack("<QQQQ16sQ", three)[:4] == (6, 6, 24, 5)
    region = struct.unpack("<QQQQ16sQ", three)[4]
    assert bytes(opener.target.read(region, [(0, 11)])) == b"helloworld!"
    assert struct.unpack("<QQ", opener.database.get(f"{NAME}--md".encode()) or b"") == (4, 4)


def written_by_the_original(database: Database, target: Target, *, without_last: bool = False) -> None:
    """Write events as the original does: a collection each, one document after another, no notes."""
    names = [f"{NAME}--{kind}".encode() for kind in ("md", "dd")]
    for name in names:
        database.coll_create(name)
        database.doc_store(name, [b"F"])
    region = target.create_write(b"helloworld")
    database.doc_store(names[0], [b"one", b"two", b"three"])
    database.doc_store(names[1], [struct.pack("<QQQQ16sQ", 5, 5, 24, 0, region, 0), bytes(32)])
    if not without_last:
        database.doc_store(names[1], [struct.pack("<QQQQ16sQ", 5, 5, 24, 5, region, 0)])


def test_events_of_the_original_are_there_and_more_can_be_added(opener: Opener) -> None:
    written_by_the_original(opener.database, opener.target)
    partition = opener.open()
    assert all_of(partition) == [(b"one", b"hello"), (b"two", b""), (b"three", b"world")]
    assert append(partition, batch_of([(b"four", b"!")])) == 3
    assert partition.damaged == []
    assert (b"four", b"!") in all_of(partition)


def test_an_event_whose_descriptor_was_never_written_is_told_and_the_others_are_served(
    opener: Opener,
) -> None:
    written_by_the_original(opener.database, opener.target, without_last=True)
    partition = opener.open()
    assert partition.damaged == ["events 2 to 2 have no descriptors: their data is lost"]
    found = read(partition, 0, 10, 1 << 20, True)
    assert isinstance(found, Slice)
    assert events_in(found, True) == [(b"one", b"hello"), (b"two", b"")]
    failed = read(partition, 2, 10, 1 << 20, False)
    assert isinstance(failed, Fault)
    assert (failed.code, failed.details) == ("damaged", {"first": 2, "count": 1})
    assert append(partition, batch_of([(b"four", b"!")])) == 3
    assert all_of(partition, first=3) == [(b"four", b"!")]


def test_producers_and_cursors_are_remembered(opener: Opener) -> None:
    partition = opener.open()
    producers = [bytes([number]) * 16 for number in (1, 2)]
    for sequence in range(70):
        append(partition, batch_of(numbered(2 * sequence, 1), Origin(producers[0], sequence)))
        append(partition, batch_of(numbered(2 * sequence + 1, 1), Origin(producers[1], sequence)))
    assert acknowledge(partition, "reader", 17) is None
    assert acknowledge(partition, "réader/2", 140) is None
    assert acknowledge(partition, "reader", 5) is None
    epoch = partition.epoch
    partition.close()
    partition = opener.open()
    known = list(partition.remembered())
    assert [producer.identity for producer in known] == producers
    assert known[0].next == 70
    assert known[0].first_ids == tuple(range(12, 140, 2))
    assert [partition.cursor(name) for name in ("reader", "réader/2", "nobody")] == [17, 140, 0]
    assert partition.epoch == epoch
    other = Opener(in_map(), opener.target)
    assert other.open().epoch != epoch
    other.close()


def test_a_target_without_room_fails_a_batch_and_no_more(opener: Opener) -> None:
    partition = opener.open()
    assert isinstance(opener.target, FailingTarget)
    opener.target.failures = [StorageError("No space left on device")]
    outcome = append(partition, batch_of([(b"a", b"a")]))
    assert isinstance(outcome, Fault)
    assert "No space left" in str(outcome)
    assert append(partition, batch_of([(b"b", b"b")])) == 0
    assert all_of(partition) == [(b"b", b"b")]
    assert partition.error is None


def test_a_database_that_refuses_fails_a_batch_and_leaves_no_region(opener: Opener) -> None:
    partition = opener.open()
    assert isinstance(opener.database, FailingDatabase)
    assert isinstance(opener.target, FailingTarget)
    opener.database.failures = [("put_multi", DatabaseFailed("no space"), False)]
    outcome = append(partition, batch_of([(b"a", b"a")], Origin(b"p" * 16, 0)))
    assert isinstance(outcome, Fault)
    assert opener.target._regions == {}
    assert append(partition, batch_of([(b"b", b"b")], Origin(b"p" * 16, 0))) == 0
    partition.close()
    assert all_of(opener.open()) == [(b"b", b"b")]


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("verb", ["put_multi", "sync"])
@pytest.mark.parametrize("error", [ConnectionLost("lost"), AddressError("nobody answers")])
def test_a_change_that_nobody_knows_of_is_made_again_and_stored_once(
    opener: Opener, is_done: bool, verb: str, error: MargoError
) -> None:
    partition = opener.open()
    append(partition, batch_of(numbered(0, 3)))
    assert isinstance(opener.database, FailingDatabase)
    opener.database.failures = [(verb, error, is_done), ("get", ConnectionLost("again"), False)]
    assert append(partition, batch_of(numbered(3, 2))) == 3
    assert opener.database.failures == []
    assert acknowledge(partition, "c", 4) is None
    assert all_of(partition) == numbered(0, 5)
    partition.close()
    assert all_of(opener.open()) == numbered(0, 5)


def test_a_failed_sync_ends_storing(opener: Opener) -> None:
    partition = opener.open()
    assert isinstance(opener.database, FailingDatabase)
    opener.database.failures = [("sync", DatabaseFailed("input/output error"), False)]
    for _ in range(2):
        try:
            outcome = append(partition, batch_of([(b"a", b"a")]))
        except Fault as fault:
            outcome = fault
        assert isinstance(outcome, Fault)
        assert "nobody knows" in str(outcome)
    assert partition.error is not None


def test_a_database_that_begins_anew_is_not_written_to(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = opener.open()
    append(partition, batch_of(numbered(0, 3)))
    assert isinstance(opener.database, FailingDatabase)
    other = in_map()
    opener.database.failures = [("put_multi", ConnectionLost("lost"), False)]
    original = opener.database.__getattr__

    def replaced(name: str) -> Any:
        if name == "get":
            opener.database._database = other  # type: ignore[attr-defined]
        return original(name)

    monkeypatch.setattr(FailingDatabase, "__getattr__", lambda self, name: replaced(name))
    outcome = append(partition, batch_of(numbered(3, 1)))
    assert isinstance(outcome, Fault)
    assert "begun anew" in str(outcome)
    assert other.count() == 0


def test_a_database_that_never_answers_ends_storing(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "PATIENCE", 0.1)
    partition = opener.open()
    assert isinstance(opener.database, FailingDatabase)
    opener.database.failures = [("put_multi", ConnectionLost("lost"), True)]
    opener.database.failures += [("get", ConnectionLost("lost"), False)] * 100
    outcome = append(partition, batch_of(numbered(0, 1)))
    assert isinstance(outcome, Fault)
    assert "nobody knows" in str(outcome)
    assert partition.error is outcome


def test_metadata_larger_than_one_change_becomes_visible_at_once(opener: Opener) -> None:
    partition = opener.open()
    events = [(bytes([65 + number]) * (1 << 20), b"") for number in range(20)]
    assert append(partition, batch_of(events)) == 0
    partition.close()
    assert all_of(opener.open()) == events


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_region_that_is_gone_costs_its_events_and_no_others(opener: Opener, gone: int) -> None:
    partition = opener.open()
    for number in range(3):
        append(partition, batch_of([(b"%d" % number, b"a"), (b"%d" % number, b"b")]))
    assert isinstance(opener.target, FailingTarget)
    opener.target.erase(list(opener.target._regions)[gone])
    served: list[bytes] = []
    at = 0
    while at < 6:
        found = read(partition, at, 10, 1 << 20, True)
        if isinstance(found, Fault):
            assert (found.code, found.details) == ("damaged", {"first": 2 * gone, "count": 2})
            at = 2 * gone + 2
        else:
            assert isinstance(found, Slice)
            served += [metadata for metadata, _ in events_in(found, True)]
            at += found.count
    assert served == [b"%d" % number for number in range(3) if number != gone for _ in range(2)]
    failed = read_data(partition, [(0, []), (5, [(0, 1)]), (2 * gone, [(0, 1)])])
    assert isinstance(failed, Fault)


def test_removal_leaves_nothing(opener: Opener) -> None:
    partition = opener.open()
    for number in range(5):
        append(partition, batch_of(numbered(100 * number, 100), Origin(b"p" * 16, number)))
    acknowledge(partition, "c", 3)
    partition.close()
    assert partition.remove() == []
    assert opener.database.count() == 0
    assert isinstance(opener.target, FailingTarget)
    assert opener.target._regions == {}


def test_what_waits_shares_a_commit_in_order(opener: Opener) -> None:
    gate = threading.Event()

    class Slow(FailingTarget):
        def create_write(self, data: Buffer, *, persist: bool = False) -> bytes:
            assert gate.wait(20)
            return super().create_write(data, persist=persist)

    opener.target = Slow()
    partition = opener.open()
    told: list[int | BaseException] = []
    is_told = threading.Semaphore(0)

    def done(outcome: int | BaseException) -> None:
        told.append(outcome)
        is_told.release()

    for number in range(10):
        partition.append(batch_of(numbered(3 * number, 3)), done)
    gate.set()
    for _ in range(10):
        assert is_told.acquire(timeout=20)
    assert told == list(range(0, 30, 3))
    assert all_of(partition) == numbered(0, 30)


def test_the_tail_is_read_from_memory(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = opener.open()
    append(partition, batch_of(numbered(0, 5)))
    monkeypatch.setattr(LegacyStore, "load", lambda *_: pytest.fail("read from the store"))
    assert all_of(partition) == numbered(0, 5)


def test_after_the_end_nothing_is_taken(opener: Opener) -> None:
    partition = opener.open()
    append(partition, batch_of(numbered(0, 5)))
    partition.close()
    for refused in (
        lambda: append(partition, batch_of(numbered(5, 1))),
        lambda: acknowledge(partition, "c", 1),
        lambda: read(partition, 0, 1, 1, True),
    ):
        with pytest.raises(Fault, match="closed"):
            refused()


def test_a_database_that_does_not_answer_is_no_partition(opener: Opener) -> None:
    assert isinstance(opener.database, FailingDatabase)
    opener.database.failures = [("get", AddressError("nobody answers at tcp://x"), False)]
    with pytest.raises(ConfigError, match="cannot be opened: nobody answers"):
        opener.open()


def test_files_keep_all_of_it(tmp_path: Path) -> None:
    engine = Engine("na+sm")
    database = {"database": {"type": "rocksdb", "config": {"path": str(tmp_path / "db")}}}
    target = {
        "target": {"type": "abtio", "config": {"path": str(tmp_path / "blobs"), "create_if_missing": True}}
    }

    def opened() -> tuple[Opener, Callable[[], None]]:
        made = open_target(target, lambda settings: Instance("blobs", engine.default_pool, settings))
        opener = Opener(open_database(database)[0], made.target)

        def close() -> None:
            opener.close()
            opener.database.close()  # type: ignore[attr-defined]
            assert made.io is not None
            made.io.close()
            made.target.close()

        return opener, close

    opener, close = opened()
    partition = opener.open()
    for number in range(20):
        assert (
            append(partition, batch_of(numbered(50 * number, 50), Origin(b"p" * 16, number))) == 50 * number
        )
    assert acknowledge(partition, "c", 500) is None
    close()
    opener, close = opened()
    partition = opener.open()
    assert all_of(partition) == numbered(0, 1000)
    assert partition.cursor("c") == 500
    assert [producer.next for producer in partition.remembered()] == [20]
    close()
    engine.finalize()
    engine.run()
