"""The store against an oracle, through files that fail, tear, drop and reorder: whatever happens, and then again."""

import contextlib
import errno
import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from msgspec import UNSET

from mochi.disk import Descriptors
from mochi.mofka.chunks import (
    Batch,
    ChunkConfig,
    ExpiredEvents,
    Origin,
    PartitionDirectory,
    Retention,
    StorageError,
)
from mochi.mofka.chunks import journal as journal_module
from mochi.mofka.chunks.writer import Commit
from tests.chunks.chunk_events import Event, batch_of, events_of
from tests.chunks.recording_files import RecordingFiles

CONSUMERS = ("c", "d")
CHANGING = 2
REFUSED = (b"refused", b"")

Sent = list[tuple[Origin, list[Event]]]
"""The batches of a commit."""

sizes = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 30, 200])), min_size=1, max_size=4)
sent = st.lists(st.tuples(st.integers(0, 2), sizes), max_size=3)
moved = st.dictionaries(st.sampled_from(CONSUMERS), st.integers(0, 10**6), max_size=2)


class Storage(RuleBasedStateMachine):
    """Producers and consumers at a store whose process and machine may end at any call.

    What the oracle knows: the events acknowledged; those of commits that are under way, or have failed, which may come
    back (`unsure`, by commit); for each identity the first ids of its batches; the cursors acknowledged, and those
    asked for; how many of the first events were dropped, and how many a trim that failed may have dropped.

    The last of the producers changes the data of its events all the time, so that they may be damaged, and no others:
    `changing` has their metadata. If a power cut comes before a commit that was begun after one of them was stored,
    that one looks torn: `unproven` has the number of events before each such.
    """

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.lives = itertools.count()
        self.names = itertools.count()
        self.marks = itertools.count()
        self.acknowledged: list[Event] = []
        self.unsure: list[Sent] = []
        self.under_way: list[tuple[Commit, Sent, dict[str, int]]] = []
        self.batches: dict[bytes, list[int]] = {}
        self.current = [self.new_identity() for _ in range(3)]
        self.cursors = dict.fromkeys(CONSUMERS, 0)
        self.asked = dict.fromkeys(CONSUMERS, 0)
        self.dropped = self.dropping = 0
        self.changing: set[bytes] = set()
        self.unproven: list[int] = []
        self.proven: dict[Commit, int] = {}

    def new_identity(self) -> bytes:
        identity = next(self.names).to_bytes(16, "big")
        self.batches[identity] = []
        return identity

    @initialize(
        sync=st.booleans(),
        limit=st.sampled_from([3 << 12, 1 << 26]),
        large=st.sampled_from([1, 150, 1 << 18]),
        max_bytes=st.sampled_from([None, 1, 4000]),
        descriptors=st.sampled_from([0, 1 << 20]),
    )
    def begin(self, sync: bool, limit: int, large: int, max_bytes: int | None, descriptors: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(journal_module, "_LIMIT", limit)
        self.patch.setattr(journal_module, "_LARGE_DATA", large)
        self.patch.setattr(journal_module, "_ZEROS", bytes(1 << 14))
        self.config = ChunkConfig(
            max_events_per_chunk=7, sync=sync, retention=Retention(UNSET if max_bytes is None else max_bytes)
        )
        self.descriptors = descriptors
        self.directory = self.base / "0"
        self.open()

    def open(self) -> None:
        self.files = RecordingFiles()
        self.store = PartitionDirectory.open(
            self.directory, self.config, self.files, Descriptors(self.descriptors)
        )
        self.store.when_short(self.settle)

    def settle(self) -> None:
        with contextlib.suppress(StorageError):
            self.store.settle()

    @rule(sent=sent, moved=moved)
    def commit(self, sent: list[tuple[int, list[tuple[int, int]]]], moved: dict[str, int]) -> None:
        self.finish_all()
        self.begin_commit(sent, moved)
        self.finish_all()

    @rule(sent=sent, moved=moved)
    def begin_commit(self, sent: list[tuple[int, list[tuple[int, int]]]], moved: dict[str, int]) -> None:
        batches: Sent = []
        pending = [origin for _, earlier, _ in self.under_way for origin, _ in earlier]
        for producer, shape in sent:
            identity = self.current[producer]
            before = sum(origin.identity == identity for origin in pending)
            origin = Origin(identity, len(self.batches[identity]) + before)
            pending.append(origin)
            events = [
                (b"%d" % next(self.marks) + b"m" * metadata, b"%d." % next(self.marks) * data)
                for metadata, data in shape
            ]
            if producer == CHANGING:
                self.changing.update(metadata for metadata, _ in events)
            batches.append((origin, events))
        cursors = {name: value % (len(self.acknowledged) + 1) for name, value in moved.items()}
        poisoned = self.store.error is not None
        try:
            commit = self.store.begin([self.batch(events, origin) for origin, events in batches], cursors)
            assert not poisoned
        except StorageError:
            self.current = [self.new_identity() for _ in self.current]
            return
        if commit is None:
            assert self.under_way
            return
        for name, value in cursors.items():
            self.asked[name] = max(self.asked[name], value)
        self.under_way.append((commit, batches, cursors))
        self.proven[commit] = len(self.unproven)
        self.unsure = [earlier for _, earlier, _ in self.under_way]

    def batch(self, events: list[Event], origin: Origin) -> Batch:
        if events[0][0] not in self.changing:
            return batch_of(events, origin)
        lent = [bytearray(data) for _, data in events]
        self.files.lent += lent
        made = batch_of(events, origin)
        return Batch(made.metadata_sizes, made.metadata, made.data_sizes, lent, origin)

    def as_pushed(self, found: list[Event], pushed: list[Event]) -> list[Event]:
        """Give events as they were pushed where they may have changed since, or be refused."""
        for number, (have, want) in enumerate(zip(found, pushed, strict=False)):
            if want[0] in self.changing and (have is REFUSED or have[0] == want[0]):
                found[number] = want
        return found

    @rule(which=st.integers(0, 4))
    def sync_commit(self, which: int) -> None:
        waiting = [commit for commit, _, _ in self.under_way if not commit.synced]
        if waiting:
            waiting[which % len(waiting)].sync()

    @rule()
    def finish_commit(self) -> None:
        if not self.under_way:
            return
        commit, batches, cursors = self.under_way.pop(0)
        if not commit.synced:
            commit.sync()
        try:
            firsts = self.store.finish(commit)
        except StorageError:
            assert self.store.event_count == len(self.acknowledged)
            self.current = [self.new_identity() for _ in self.current]
        else:
            assert self.unsure.pop(0) is batches
            if batches:
                del self.unproven[: self.proven[commit]]
                self.proven = dict.fromkeys(self.proven, 0)
            if any(events[0][0] in self.changing for _, events in batches):
                self.unproven.append(len(self.acknowledged))
            for (origin, events), first in zip(batches, firsts, strict=True):
                assert first == len(self.acknowledged)
                self.batches[origin.identity].append(first)
                self.acknowledged += events
            for name, value in cursors.items():
                self.cursors[name] = max(self.cursors[name], value)
                assert self.store.cursors[name] == self.cursors[name]

    def finish_all(self) -> None:
        while self.under_way:
            self.finish_commit()

    @rule(ahead=st.integers(0, 25), number=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EMFILE]))
    def fail_soon(self, ahead: int, number: int) -> None:
        self.files.error = number
        self.files.fail_at = len(self.files.calls) + ahead

    @rule()
    def read(self) -> None:
        found = events_of(self.store, 5, damaged=REFUSED)
        pushed = self.acknowledged[self.dropped :]
        assert self.as_pushed(found, pushed) == pushed

    @rule()
    def trim(self) -> None:
        chunks = self.store.chunks
        kept = chunks[self.config.kept.expired(chunks, 0)].first_id
        self.dropping = max(self.dropping, kept)
        with contextlib.suppress(StorageError):
            self.store.trim()
            assert self.store.first_id == kept or self.under_way
        assert self.store.first_id in (self.dropped, kept)
        self.dropped = self.store.first_id
        if self.dropped:
            with pytest.raises(ExpiredEvents) as raised:
                self.store.read_data([(self.dropped - 1, [])])
            assert (raised.value.first, raised.value.next) == (self.dropped - 1, self.dropped)

    @rule()
    def sync(self) -> None:
        self.finish_all()
        with contextlib.suppress(StorageError):
            self.store.sync()

    @rule()
    def end_in_order(self) -> None:
        self.finish_all()
        unsure = self.store.error is not None
        try:
            self.store.close()
        except StorageError:
            unsure = True
        self.come_back(lost=False, unsure=unsure)

    @rule()
    def kill(self) -> None:
        self.move(lambda target: shutil.copytree(self.directory, target))
        self.come_back(lost=False, unsure=True)

    @rule(data=st.data(), again=st.lists(st.integers(0, 30), max_size=2))
    def cut_the_power(self, data: st.DataObject, again: list[int]) -> None:
        keep_all, drop_all = data.draw(st.booleans()), data.draw(st.booleans())

        def keep() -> bool:
            return keep_all or (not drop_all and data.draw(st.booleans()))

        def tear(size: int) -> int:
            return size if keep_all else data.draw(st.integers(0, size))

        self.move(lambda target: self.files.power_cut(self.directory, target, keep, tear))
        for call in again:
            self.files = RecordingFiles(fail_at=call)
            with contextlib.suppress(StorageError):
                PartitionDirectory.open(self.directory, self.config, self.files)
            self.move(lambda target: self.files.power_cut(self.directory, target, keep, tear))
        self.come_back(lost=not self.config.sync or bool(self.unproven), unsure=True)

    def move(self, leave: Callable[[Path], object]) -> None:
        """Let the directory be what `leave` puts into another one."""
        target = self.base / str(next(self.lives) + 1)
        leave(target)
        self.files.end_process()
        self.directory = target

    def come_back(self, *, lost: bool, unsure: bool) -> None:
        """Open the directory, and compare; without `lost`, all that was acknowledged is there."""
        self.open()
        for problem in self.store.damaged:
            assert "does not have all data" in problem or (lost and "mofka.ledger" in problem)
        assert self.dropped <= self.store.first_id <= self.dropping
        self.dropped = self.dropping = self.store.first_id
        self.under_way.clear()
        possible = self.acknowledged + [
            event for batches in self.unsure for _, events in batches for event in events
        ]
        found = possible[: self.dropped] + events_of(self.store, damaged=REFUSED)
        assert self.as_pushed(found, possible) == possible[: len(found)]
        if self.config.sync:
            assert len(found) >= min([len(self.acknowledged), *self.unproven])
        self.unproven.clear()
        self.proven.clear()
        if not lost:
            assert len(found) >= len(self.acknowledged)
        if not unsure:
            assert len(found) == len(self.acknowledged)
        batch_ends = [len(self.acknowledged)]
        commit_ends = batch_ends[:]
        for batches in self.unsure:
            for origin, events in batches:
                end = batch_ends[-1] + len(events)
                if end <= len(found):
                    self.batches[origin.identity].append(batch_ends[-1])
                batch_ends.append(end)
            commit_ends.append(batch_ends[-1])
        if not lost:
            assert len(found) in (commit_ends if self.config.sync else batch_ends)
        self.acknowledged, self.unsure = found, []
        known = {producer.identity: producer for producer in self.store.producers()}
        for identity, firsts in self.batches.items():
            firsts[:] = [first for first in firsts if first < len(found)]
            producer = known.pop(identity, None)
            if producer is not None:
                assert producer.next == len(firsts)
                first_ids = list(producer.first_ids)
                assert first_ids == (firsts[len(firsts) - len(first_ids) :] if lost else firsts[-64:])
            else:
                assert lost or not firsts
                firsts.clear()  # forgotten for good
        assert not known
        if lost:
            self.current = [self.new_identity() for _ in self.current]
        for name in CONSUMERS:
            stored = self.store.cursors.get(name, 0)
            assert stored <= self.asked[name]
            assert lost or stored >= self.cursors[name]
            self.cursors[name] = self.asked[name] = stored

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.files.end_process()
            self.patch.undo()
        shutil.rmtree(self.base)


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Storage,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_nothing_acknowledged_is_lost_and_nothing_invented() -> None:
    run(40, 20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_same_for_long() -> None:
    run(3000, 50)
