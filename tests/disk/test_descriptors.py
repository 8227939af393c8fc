"""Descriptors of many partitions: who gives them up, and that nothing is lost by it."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mochi.disk import File, PosixFile, PosixFiles, SyncFailed
from mochi.disk.descriptors import Descriptors, Holder, Holders
from mochi.mofka.chunks import ChunkConfig, PartitionDirectory, StorageError
from tests.chunks.chunk_events import Event, batch_of, events_of

PROGRAM = Path(__file__).with_name("many_partitions.py")


def open_files(directory: Path) -> list[str]:
    """Give the names of the files below a directory that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if path.startswith(f"{directory}{os.sep}"):
            found.append(os.path.basename(path))
    return sorted(found)


class Named(Holder):
    """A holder that says of itself whether it is unsynced."""

    def __init__(self) -> None:
        super().__init__()
        self.dirty = False

    def is_unsynced(self) -> bool:
        return self.dirty


class WhoGivesUp(RuleBasedStateMachine):
    """Holders against an oracle: all in the order of their last rest, with the number of their users."""

    def __init__(self) -> None:
        super().__init__()
        self.holders = Holders(0)
        self.named = [Named() for _ in range(5)]
        self.users = dict.fromkeys(self.named, 0)
        self.resting: list[Named] = []

    def use_one(self, holder: Named) -> None:
        self.users[holder] += 1
        if holder in self.resting:
            self.resting.remove(holder)

    @rule(which=st.integers(0, 4))
    def use(self, which: int) -> None:
        self.holders.use(self.named[which])
        self.use_one(self.named[which])

    @precondition(lambda self: any(self.users.values()))
    @rule(which=st.integers(0, 4), dirty=st.booleans())
    def rest(self, which: int, dirty: bool) -> None:
        used = [holder for holder in self.named if self.users[holder]]
        holder = used[which % len(used)]
        holder.dirty = dirty
        self.holders.rest(holder)
        self.users[holder] -= 1
        if not self.users[holder]:
            self.resting.append(holder)

    @rule(which=st.integers(0, 4))
    def forget(self, which: int) -> None:
        holder = self.named[which]
        self.holders.forget(holder)
        if holder in self.resting:
            self.resting.remove(holder)

    @rule()
    def take_idle(self) -> None:
        idle = [holder for holder in self.resting if not holder.dirty]
        assert self.holders.idle() is (idle[0] if idle else None)
        if idle:
            self.resting.remove(idle[0])

    @rule()
    def take_unsynced(self) -> None:
        unsynced = [holder for holder in self.resting if holder.dirty]
        assert self.holders.unsynced() is (unsynced[0] if unsynced else None)
        if unsynced:
            self.use_one(unsynced[0])

    @invariant()
    def users_are_counted(self) -> None:
        assert [holder.users for holder in self.named] == list(self.users.values())


def test_the_one_that_rests_for_longest_gives_up_first_and_no_one_in_use() -> None:
    run_state_machine_as_test(WhoGivesUp, settings=settings(max_examples=50, deadline=None))


def opened(directory: Path, descriptors: Descriptors, **fields: int | bool) -> PartitionDirectory:
    store = PartitionDirectory.open(directory, ChunkConfig(**fields), descriptors=descriptors)  # type: ignore[arg-type]
    store.when_short(store.settle)
    return store


def test_a_partition_that_is_not_used_keeps_its_lock_alone(tmp_path: Path) -> None:
    descriptors = Descriptors(11)
    stores = [opened(tmp_path / str(number), descriptors) for number in range(3)]
    for store in stores:
        store.append([batch_of([(b"m", b"d")])])
    open_now = open_files(tmp_path)
    assert open_now.count("mofka.lock") == 3
    assert len(open_now) == 11
    assert descriptors.holders.open == 11
    assert len(open_files(tmp_path / "2")) == 9
    for store in stores:
        store.close()
    assert open_files(tmp_path) == []
    assert descriptors.holders.open == 0


def test_what_is_not_synced_stays_open_until_it_is(tmp_path: Path) -> None:
    descriptors = Descriptors(0)
    store = PartitionDirectory.open(tmp_path / "p", descriptors=descriptors)
    assert open_files(tmp_path) == ["mofka.lock"]
    store.append([batch_of([(b"m", b"d")])])
    assert len(open_files(tmp_path)) == 9
    store.settle()
    assert open_files(tmp_path) == ["mofka.lock"]
    store.append([batch_of([(b"n", b"d")])])
    assert events_of(store) == [(b"m", b"d"), (b"n", b"d")]
    store.close()


def test_a_sync_that_fails_where_room_is_made_ends_the_partition_it_is_of_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PosixFiles, files: list[File]) -> None:
        raise SyncFailed("no such luck", errno=errno.EIO)

    descriptors = Descriptors(9)
    first, second = (PartitionDirectory.open(tmp_path / name, descriptors=descriptors) for name in "ab")
    told: list[Exception] = []

    def settle() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(PosixFiles, "sync_all", broken)
            try:
                first.settle()
            except StorageError as error:
                told.append(error)

    first.when_short(settle)
    first.append([batch_of([(b"m", b"d")])])
    assert second.append([batch_of([(b"m", b"d")])]) == [0]
    assert isinstance(told[0], SyncFailed)
    assert first.error is told[0]
    assert second.error is None
    assert events_of(first) == [(b"m", b"d")]
    first.close()
    second.close()


def test_a_file_that_was_taken_away_while_it_was_closed_is_not_made_anew(tmp_path: Path) -> None:
    store = opened(tmp_path / "p", Descriptors(0))
    store.append([batch_of([(b"m", b"d")])])
    store.settle()
    os.unlink(tmp_path / "p" / "chunk-000000.meta")
    with pytest.raises(StorageError, match="ENOENT"):
        store.append([batch_of([(b"n", b"d")])])
    assert store.error is not None
    assert not (tmp_path / "p" / "chunk-000000.meta").exists()
    store.close()


class Scarce(PosixFiles):
    """Real files, of which the system lets so many be open at a time."""

    def __init__(self, directory: Path, limit: int) -> None:
        super().__init__()
        self._directory = directory
        self.limit = limit

    def _check(self, path: str) -> None:
        if len(open_files(self._directory)) >= self.limit:
            raise StorageError.refused("open", path, OSError(errno.EMFILE, "Too many open files"))

    def open(self, path: str, *, writable: bool) -> PosixFile:
        self._check(path)
        return super().open(path, writable=writable)

    def sync_directory(self, path: str) -> None:
        self._check(path)
        super().sync_directory(path)


def test_where_the_system_gives_no_descriptor_others_are_closed(tmp_path: Path) -> None:
    descriptors = Descriptors()
    files = Scarce(tmp_path, 14)
    stores = []
    for number in range(4):
        store = PartitionDirectory.open(
            tmp_path / str(number), ChunkConfig(max_events_per_chunk=3), files, descriptors
        )
        store.when_short(store.settle)
        stores.append(store)
    for turn in range(8):
        for store in stores:
            assert store.append([batch_of([(b"%d" % turn, b"d")] * 2)]) == [2 * turn]
    files.limit = 0
    with pytest.raises((OSError, StorageError)) as refused:
        stores[0].append([batch_of([(b"lost", b"")])])
    assert refused.value.errno == errno.EMFILE
    files.limit = 14
    assert stores[0].append([batch_of([(b"8", b"d")])]) == [16]
    for store in stores:
        assert store.error is None
        assert events_of(store)[:16] == [(b"%d" % (n // 2), b"d") for n in range(16)]
        store.close()


@pytest.mark.parametrize("capacity", [0, 12, 40])
def test_many_threads_write_and_read_many_partitions_with_few_descriptors(
    tmp_path: Path, capacity: int
) -> None:
    descriptors = Descriptors(capacity)
    stores = []
    locks = []

    def settle_of(store: PartitionDirectory, lock: threading.Lock) -> Callable[[], None]:
        def settle() -> None:
            if lock.acquire(blocking=False):
                try:
                    store.settle()
                finally:
                    lock.release()

        return settle

    for number in range(12):
        lock = threading.Lock()
        store = opened(tmp_path / str(number), descriptors, max_events_per_chunk=7, fd_cache_capacity=2)
        store.when_short(settle_of(store, lock))
        stores.append(store)
        locks.append(lock)
    expected: list[list[Event]] = [[] for _ in stores]

    def work(seed: int) -> None:
        random = Random(seed)
        for turn in range(60):
            number = random.randrange(len(stores))
            if turn % 3 == 2:
                known = expected[number][:]
                assert events_of(stores[number], max_events=5)[: len(known)] == known
                continue
            with locks[number]:
                events = [(b"%d of %d" % (turn, seed), b"%d" % number)]
                stores[number].append([batch_of(events)])
                expected[number] += events

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    for number, store in enumerate(stores):
        assert store.error is None
        assert events_of(store) == expected[number]
        store.close()
    assert open_files(tmp_path) == []
    assert descriptors.holders.open == 0
    for number in range(len(stores)):
        with PartitionDirectory.open(tmp_path / str(number)) as store:
            assert events_of(store) == expected[number]


def most_open(tmp_path: Path, *counts: int) -> int:
    """Open as many partitions as there are in a process of its own."""
    directory = Path("/dev/shm", f"mofka-{os.getpid()}-{tmp_path.name}")
    directory = directory if directory.parent.is_dir() else tmp_path
    command = [sys.executable, str(PROGRAM), str(directory), *map(str, counts)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_far_more_partitions_than_descriptors_for_all_their_files(tmp_path: Path) -> None:
    assert most_open(tmp_path, 512, 300, 15, 5) < 512


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_2500_partitions_and_100_being_written_fit_into_4096_descriptors(tmp_path: Path) -> None:
    assert most_open(tmp_path, 4096, 2500, 100, 20) < 4096
