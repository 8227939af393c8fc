"""The default partition on real files: whole, failing, and after a power cut."""

import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.margo.errors import ConfigError, Fault
from mochi.mofka.chunks import ChunkFiles, Commit, Origin, PartitionDirectory, Remembered
from mochi.mofka.partition import commits, tail
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.contract import Slice
from mochi.mofka.partition.default import DefaultPartition
from mochi.mofka.partition.tail import KEPT
from tests.chunks.chunk_events import events_of
from tests.chunks.recording_files import RecordingFiles
from tests.mofka.partition_io import (
    BreakableFiles,
    Event,
    GatedIo,
    acknowledge,
    append,
    batch_of,
    events_in,
    read,
    read_data,
)

UUID = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"

Open = Callable[..., DefaultPartition]


class Opener:
    """Opens partitions below a directory, and closes them at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / f"topic-{UUID}"
        self._opened: list[tuple[DefaultPartition, GatedIo]] = []

    def open(self, files: Any = None, **fields: Any) -> tuple[DefaultPartition, GatedIo]:
        io = GatedIo(files or BreakableFiles())
        partition = DefaultPartition(
            "topic", UUID, DefaultFields.parse({"path": str(self.path), **fields}), io
        )
        self._opened.append((partition, io))
        return partition, io

    def close(self) -> None:
        for partition, io in self._opened:
            io.gate.set()
            partition.close()
            io.close()


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path)
    yield opener
    opener.close()


def numbered(first: int, count: int) -> list[Event]:
    return [(b"%d" % number, b"data %d" % number) for number in range(first, first + count)]


def stored_in(directory: Path) -> list[Event]:
    with PartitionDirectory.open(directory) as store:
        return events_of(store)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 300)), min_size=1), min_size=1),
    limits=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 900), st.booleans()), max_size=5
    ),
    chunk_size=st.integers(0, 1000),
    kept=st.sampled_from([0, 1, 3000, KEPT]),
)
def test_reads_with_any_limits_give_what_a_list_gives(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[list[tuple[int, int]]],
    limits: list[tuple[int, int, int, bool]],
    chunk_size: int,
    kept: int,
) -> None:
    opener = Opener(tmp_path_factory.mktemp("partition"))
    partition, _ = opener.open(max_chunk_size=chunk_size, sync=False, fd_cache_capacity=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "KEPT", kept)
        reads_give_what_a_list_gives(opener, partition, shape, limits)


def reads_give_what_a_list_gives(
    opener: Opener,
    partition: DefaultPartition,
    shape: list[list[tuple[int, int]]],
    limits: list[tuple[int, int, int, bool]],
) -> None:
    events: list[Event] = []
    for batch in shape:
        new = [(os.urandom(m), os.urandom(d)) for m, d in batch]
        assert append(partition, batch_of(new)) == len(events)
        events += new
    assert partition.count == len(events)
    for first, max_events, max_bytes, with_data in limits:
        first %= len(events)
        found = read(partition, first, max_events, max_bytes, with_data)
        assert isinstance(found, Slice)
        assert found.first == first
        assert 1 <= found.count <= max_events
        expected = events[first : first + found.count]
        assert events_in(found, with_data) == (expected if with_data else [(m, b"") for m, _ in expected])
        pieces = read_data(partition, [(first, [(0, len(events[first][1]))])])
        assert not isinstance(pieces, BaseException)
        assert b"".join(pieces) == events[first][1]
    opener.close()
    assert stored_in(opener.directory) == events


@pytest.mark.parametrize(("operation", "number"), [("write", errno.EIO), ("fdatasync", errno.ENOSPC)])
def test_a_failed_write_or_sync_ends_writing_and_nothing_else(
    opener: Opener, operation: str, number: int
) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    assert append(partition, batch_of(numbered(0, 5))) == 0
    assert partition.error is None
    files.broken[operation] = number
    failure = append(partition, batch_of(numbered(5, 5)))
    assert isinstance(failure, Fault)
    assert failure.code == "storage"
    assert os.strerror(number) in failure.message
    files.broken.clear()
    after = append(partition, batch_of(numbered(5, 5)))
    assert isinstance(after, Fault)
    assert "takes no more events" in after.message
    assert partition.error is not None
    assert partition.count == 5
    found = read(partition, 0, 10, 1000, True)
    assert isinstance(found, Slice)
    assert events_in(found, True) == numbered(0, 5)
    partition.close()
    assert stored_in(opener.directory)[:5] == numbered(0, 5)


def test_a_full_disk_fails_batches_until_there_is_space_again(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    files = BreakableFiles()
    partition, io = opener.open(files)
    assert append(partition, batch_of(numbered(0, 5), Origin(b"p" * 16, 0))) == 0
    files.broken["write"] = errno.ENOSPC
    for _ in range(2):
        failure = append(partition, batch_of(numbered(5, 5), Origin(b"p" * 16, 1)))
        assert isinstance(failure, Fault)
        assert "No space left" in failure.message
        assert partition.error is None
    files.broken.clear()
    io.settle()  # a commit that failed takes with it what comes before it is over
    assert append(partition, batch_of(numbered(5, 5), Origin(b"q" * 16, 0))) == 5
    found = read(partition, 0, 20, 1000, True)
    assert isinstance(found, Slice)
    assert events_in(found, True) == numbered(0, 10)
    partition.close()
    io.close()
    told = [record for record in caplog.records if record.name == "mochi.mofka.partition.commits"]
    assert [record.levelname for record in told] == ["ERROR", "WARNING"]
    assert stored_in(opener.directory) == numbered(0, 10)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_chunk_that_cannot_be_opened_fails_its_batch_and_the_next_one_is_stored(
    opener: Opener, number: int
) -> None:
    files = BreakableFiles()
    partition, io = opener.open(files, max_events_per_chunk=5)
    assert append(partition, batch_of(numbered(0, 5))) == 0
    for _ in range(3):
        files.broken["open"] = number
        failure = append(partition, batch_of(numbered(5, 5)))
        assert isinstance(failure, Fault)
        assert failure.code == "storage"
        assert os.strerror(number) in failure.message
        files.broken.clear()
        io.settle()
    assert append(partition, batch_of(numbered(5, 5))) == 5
    assert partition.error is None
    partition.close()
    assert stored_in(opener.directory) == numbered(0, 10)


@pytest.mark.parametrize("where", ["begin", "finish"])
def test_want_of_memory_fails_a_batch_and_the_next_one_is_stored(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise MemoryError

    partition, io = opener.open()
    name = "write_records" if where == "finish" else "write_data"
    with monkeypatch.context() as patch:
        patch.setattr(ChunkFiles, name, refused)
        failure = append(partition, batch_of([(b"m", bytes(1 << 18))]))
    assert isinstance(failure, Fault)
    assert (failure.code, failure.message) == ("storage", "the server is out of memory")
    io.settle()
    assert append(partition, batch_of(numbered(0, 5))) == 0
    partition.close()
    assert stored_in(opener.directory) == numbered(0, 5)


def test_what_no_thread_can_be_had_for_is_told_so_and_never_stored(opener: Opener) -> None:
    partition, io = opener.open()
    run = io.run

    def refused(_: Callable[[], Any]) -> Any:
        raise OSError(errno.EAGAIN, "no thread can be started now")

    for _ in range(2):
        io.run = refused  # type: ignore[assignment]
        for outcome in (append(partition, batch_of(numbered(9, 1))), acknowledge(partition, "c", 1)):
            assert isinstance(outcome, Fault)
            assert (outcome.code, "no thread" in outcome.message) == ("storage", True)
        io.run = run  # type: ignore[method-assign]
    assert append(partition, batch_of(numbered(0, 5))) == 0
    assert acknowledge(partition, "c", 3) is None
    partition.close()
    assert stored_in(opener.directory) == numbered(0, 5)


def test_what_waits_is_left_to_the_thread_that_is_on_its_way(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition, io = opener.open()
    told: list[Future[int | BaseException]] = [Future() for _ in range(2)]
    io.gate.clear()
    partition.append(batch_of(numbered(0, 5)), told[0].set_result)
    monkeypatch.setattr(partition._commits, "_may_overlap", lambda: True)
    monkeypatch.setattr(io, "run", lambda _: (_ for _ in ()).throw(OSError(errno.EAGAIN, "no thread")))
    partition.append(batch_of(numbered(5, 5)), told[1].set_result)
    io.gate.set()
    assert [future.result(20) for future in told] == [0, 5]


@pytest.mark.usefixtures("nothing_kept")
def test_a_read_that_no_thread_can_be_had_for_is_told_so(opener: Opener) -> None:
    partition, io = opener.open()
    append(partition, batch_of(numbered(0, 5)))
    run = io.run

    def refused(_: Callable[[], Any]) -> Any:
        raise OSError(errno.EAGAIN, "no thread can be started now")

    io.run = refused  # type: ignore[assignment]
    outcome = read(partition, 0, 1, 1, False)
    assert isinstance(outcome, Fault)
    assert outcome.code == "storage"
    io.run = run  # type: ignore[method-assign]
    assert isinstance(read(partition, 0, 1, 1, False), Slice)


def test_a_batch_that_came_while_one_before_it_found_no_space_is_not_stored_behind_the_gap(
    opener: Opener,
) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    later: Future[int | BaseException] = Future()
    first: Future[int | BaseException] = Future()

    def failed(outcome: int | BaseException) -> None:
        files.broken.clear()
        partition.append(batch_of(numbered(5, 5), Origin(b"p" * 16, 1)), later.set_result)
        first.set_result(outcome)

    files.broken["write"] = errno.ENOSPC
    partition.append(batch_of(numbered(0, 5), Origin(b"p" * 16, 0)), failed)
    assert isinstance(first.result(10), Fault)
    assert isinstance(later.result(10), Fault)
    assert append(partition, batch_of(numbered(0, 5), Origin(b"q" * 16, 0))) == 0
    assert [known.identity for known in partition.remembered()] == [b"q" * 16]


@pytest.mark.usefixtures("nothing_kept")
def test_a_failed_read_is_told_and_the_next_one_succeeds(opener: Opener) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    append(partition, batch_of(numbered(0, 5)))
    files.broken["read"] = errno.EIO
    for outcome in (read(partition, 0, 1, 1, False), read_data(partition, [(0, [(0, 1)])])):
        assert isinstance(outcome, Fault)
        assert outcome.code == "storage"
        assert "Input/output error" in outcome.message
    files.broken.clear()
    assert isinstance(read(partition, 0, 1, 1, False), Slice)


def test_an_error_that_nobody_expects_is_told_like_any_other(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    partition, _ = opener.open()

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("no such thing")

    monkeypatch.setattr(PartitionDirectory, "begin", broken)
    monkeypatch.setattr(PartitionDirectory, "read_range", broken)
    outcomes = [append(partition, batch_of(numbered(0, 1))), read(partition, 0, 1, 1, False)]
    outcomes.append(append(partition, batch_of(numbered(0, 1))))
    for outcome in outcomes:
        assert isinstance(outcome, Fault)
        assert (outcome.code, outcome.message) == ("internal", "LookupError: no such thing")
    assert "unexpected error" in caplog.text


@pytest.mark.parametrize(
    ("event_id", "pieces"), [(5, [(0, 1)]), (0, [(0, 7)]), (0, [(7, 0)]), (2**62, [(0, 0)])]
)
def test_data_that_is_not_there_is_out_of_range(
    opener: Opener, event_id: int, pieces: list[tuple[int, int]]
) -> None:
    partition, _ = opener.open()
    append(partition, batch_of(numbered(0, 5)))
    outcome = read_data(partition, [(event_id, pieces)])
    assert isinstance(outcome, Fault)
    assert outcome.code == "out_of_range"


def test_batches_that_come_during_a_commit_share_the_next_one(opener: Opener) -> None:
    files = RecordingFiles()
    partition, io = opener.open(files)
    append(partition, batch_of(numbered(0, 1)))
    io.gate.clear()
    told: list[Future[int | BaseException]] = [Future() for _ in range(50)]
    acknowledged: list[Future[BaseException | None]] = [Future() for _ in range(20)]
    before = len(files.calls)
    for number, future in enumerate(told, 1):
        partition.append(batch_of(numbered(number, 1)), future.set_result)
    for number, stored in enumerate(acknowledged):
        partition.acknowledge(f"consumer {number % 3}", 1, stored.set_result)
    io.gate.set()
    assert [future.result(10) for future in told] == list(range(1, 51))
    assert [stored.result(10) for stored in acknowledged] == [None] * 20
    assert [operation for operation, _ in files.calls[before:]].count("sync") == 1


def test_an_acknowledgement_costs_an_idle_partition_one_sync_and_nothing_when_it_is_stored(
    opener: Opener,
) -> None:
    files = RecordingFiles()
    partition, _ = opener.open(files)
    append(partition, batch_of(numbered(0, 9)))
    before = len(files.calls)
    assert acknowledge(partition, "c", 5) is None
    assert files.calls[before:] == [("write", "mofka.journal"), ("sync", "mofka.journal")]
    assert acknowledge(partition, "c", 5) is None
    assert acknowledge(partition, "c", 3) is None
    assert len(files.calls) == before + 2
    assert partition.cursor("c") == 5


def test_a_cursor_that_cannot_be_stored_is_told_to_its_consumer(opener: Opener) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    append(partition, batch_of(numbered(0, 5)))
    files.broken["fdatasync"] = errno.EIO
    failure = acknowledge(partition, "c", 5)
    assert isinstance(failure, Fault)
    assert failure.code == "storage"


@pytest.mark.parametrize("sync", [True, False])
def test_a_killed_server_comes_back_with_epoch_cursors_and_producers(
    opener: Opener, tmp_path: Path, sync: bool
) -> None:
    partition, _ = opener.open(sync=sync)
    for number in range(3):
        append(partition, batch_of(numbered(5 * number, 5), Origin(b"p" * 16, number)))
    acknowledge(partition, "c", 7)
    shutil.copytree(opener.directory, tmp_path / "killed" / opener.directory.name)
    again = Opener(tmp_path / "killed")
    restarted, _ = again.open(sync=sync)
    assert (restarted.epoch, restarted.count) == (partition.epoch, 15)
    assert restarted.cursor("c") == 7
    assert list(restarted.remembered()) == [Remembered(b"p" * 16, 3, (0, 5, 10))]
    other, _ = Opener(tmp_path / "new").open(sync=sync)
    assert other.epoch != partition.epoch
    again.close()
    other.close()


def test_closing_stores_what_has_arrived_even_while_no_thread_is_free(opener: Opener) -> None:
    partition, io = opener.open()
    io.gate.clear()
    told: list[Any] = []
    for number in range(3):
        partition.append(batch_of(numbered(number, 1)), told.append)
    partition.close()
    assert told == [0, 1, 2]
    assert stored_in(opener.directory) == numbered(0, 3)


class Syncs:
    """Commits wait in their syncs, each until it is let go, in any order; on a disk that is slow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "SLOW_SYNC", 0)
        monkeypatch.setattr(commits, "OVERLAP_BYTES", 0)
        self.begun: queue.SimpleQueue[Commit] = queue.SimpleQueue()
        self.gates: dict[Commit, threading.Event] = {}
        sync = Commit.sync

        def wait(commit: Commit) -> None:
            gate = self.gates[commit] = threading.Event()
            self.begun.put(commit)
            gate.wait(10)
            sync(commit)

        monkeypatch.setattr(Commit, "sync", wait)

    def await_one(self) -> Commit:
        """Wait until the next commit is in its sync."""
        return self.begun.get(timeout=10)

    def let_go(self, commit: Commit) -> None:
        """Let a commit end its sync."""
        self.gates[commit].set()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def begin_three(
    partition: DefaultPartition, syncs: Syncs
) -> tuple[list[Commit], list[Future[int | BaseException]]]:
    """Store one event, and have three commits of two events wait in their syncs, and a batch wait for one."""
    told: list[Future[int | BaseException]] = [Future() for _ in range(5)]
    partition.append(batch_of(numbered(0, 1), Origin(b"p" * 16, 0)), told[0].set_result)
    syncs.let_go(syncs.await_one())
    assert told[0].result(10) == 0
    under_way = []
    for number in range(3):
        batch = batch_of(numbered(1 + 2 * number, 2), Origin(b"p" * 16, 1 + number))
        partition.append(batch, told[1 + number].set_result)
        under_way.append(syncs.await_one())
    partition.append(batch_of(numbered(7, 1), Origin(b"p" * 16, 4)), told[4].set_result)
    return under_way, told


def test_commits_on_a_slow_disk_overlap_and_are_told_in_order(opener: Opener, syncs: Syncs) -> None:
    partition, _ = opener.open()
    (first, second, third), told = begin_three(partition, syncs)
    syncs.let_go(third)
    fourth = syncs.await_one()
    syncs.let_go(second)
    assert not any(future.done() for future in told[1:])
    assert partition.count == 1
    syncs.let_go(first)
    assert [future.result(10) for future in told[1:4]] == [1, 3, 5]
    syncs.let_go(fourth)
    assert told[4].result(10) == 7
    found = read(partition, 0, 20, 1000, True)
    assert isinstance(found, Slice)
    assert events_in(found, True) == numbered(0, 8)
    partition.close()
    assert stored_in(opener.directory) == numbered(0, 8)


def test_all_that_follows_a_commit_whose_sync_fails_fails_as_well(opener: Opener, syncs: Syncs) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    (first, second, third), told = begin_three(partition, syncs)
    files.broken["fdatasync"] = errno.EIO
    syncs.let_go(first)
    assert isinstance(told[1].result(10), Fault)
    syncs.let_go(third)
    syncs.let_go(second)
    for future in told[1:]:
        outcome = future.result(10)
        assert isinstance(outcome, Fault)
        assert "Input/output error" in outcome.message
    assert partition.count == 1
    assert partition.error is not None
    partition.close()


def test_all_that_follows_a_commit_that_finds_no_space_fails_as_well(opener: Opener, syncs: Syncs) -> None:
    files = BreakableFiles()
    partition, _ = opener.open(files)
    (first, second, third), told = begin_three(partition, syncs)
    files.broken["write"] = errno.ENOSPC
    syncs.let_go(first)
    assert isinstance(told[1].result(10), Fault)
    files.broken.clear()
    syncs.let_go(second)
    syncs.let_go(third)
    assert all(isinstance(future.result(10), Fault) for future in told[2:])
    assert partition.error is None
    again: Future[int | BaseException] = Future()
    partition.append(batch_of(numbered(1, 4), Origin(b"q" * 16, 0)), again.set_result)
    syncs.let_go(syncs.await_one())
    assert again.result(10) == 1
    partition.close()
    assert stored_in(opener.directory) == numbered(0, 5)


def test_closing_waits_for_the_commits_under_way(opener: Opener, syncs: Syncs) -> None:
    partition, _ = opener.open()
    under_way, told = begin_three(partition, syncs)
    closing = threading.Thread(target=partition.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    for commit in under_way:
        syncs.let_go(commit)
    syncs.let_go(syncs.await_one())
    closing.join(10)
    assert [future.result(0) for future in told] == [0, 1, 3, 5, 7]
    with pytest.raises(Fault, match="closed"):
        partition.append(batch_of(numbered(1, 1)), told[0].set_result)


def test_what_was_acknowledged_survives_a_power_cut_that_drops_all_that_is_not_synced(
    opener: Opener, tmp_path: Path
) -> None:
    files = RecordingFiles()
    partition, _ = opener.open(files, max_events_per_chunk=10)
    for number in range(12):
        assert append(partition, batch_of(numbered(3 * number, 3))) == 3 * number
        left = tmp_path / f"left-{number}"
        files.power_cut(opener.directory, left, keep=lambda: False, tear=lambda size: size)
        assert stored_in(left) == numbered(0, 3 * number + 3)


def test_without_sync_a_power_cut_takes_events_and_leaves_the_partition_sound(
    opener: Opener, tmp_path: Path
) -> None:
    files = RecordingFiles()
    partition, _ = opener.open(files, max_events_per_chunk=10, sync=False)
    for number in range(12):
        append(partition, batch_of(numbered(3 * number, 3)))
    files.power_cut(opener.directory, tmp_path / "left", keep=lambda: False, tear=lambda size: size)
    left = stored_in(tmp_path / "left")
    assert left == numbered(0, len(left))
    assert len(left) < 36


def test_damage_in_the_middle_of_a_range_does_not_make_its_events_large(opener: Opener) -> None:
    partition, _ = opener.open()
    for number in range(8):
        append(partition, batch_of([(b"m%d" % number, bytes([65 + number]) * 100_000)]))
    partition.close()
    with (opener.directory / "chunk-000000.data").open("r+b") as file:
        file.seek(550_000)
        file.write(b"!")
    partition, _ = opener.open()
    outcomes: Queue[Slice | BaseException] = Queue()
    partition.read(0, 8, 700_000, True, outcomes.put)
    found = outcomes.get(timeout=20)
    assert isinstance(found, Slice)
    assert events_in(found, True) == [(b"m%d" % n, bytes([65 + n]) * 100_000) for n in range(5)]


def test_the_log_says_of_a_new_directory_that_there_are_no_events(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    partition, _ = opener.open()
    assert caplog.messages == [
        f"topic 'topic', partition {UUID}: begins without events, for there was no {opener.directory}"
    ]
    partition.close()
    opener.open()
    assert len(caplog.messages) == 1


def test_a_directory_in_use_cannot_be_opened_twice(opener: Opener) -> None:
    opener.open()
    with pytest.raises(ConfigError, match="locked by process") as raised:
        opener.open()
    assert raised.value.where == "config.partition.path"


@pytest.mark.parametrize("name", ["producers.data_buffer_pool", "consumers.desc_buffer_pool"])
def test_buffers_that_the_machine_cannot_give_are_refused_and_leave_nothing(
    opener: Opener, name: str
) -> None:
    part, pool = name.split(".")
    with pytest.raises(ConfigError, match=str(2**48)) as raised:
        opener.open(**{part: {pool: {"first_size": 2**48}}})
    assert raised.value.where == f"config.partition.{name}"
    assert not opener.directory.exists()


def test_a_path_that_cannot_be_made_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = BreakableFiles()
    for path in (tmp_path / "file" / "below", Path("/proc/nobody/may/write/here")):
        with pytest.raises(ConfigError, match=str(path.parts[1])) as raised:
            Opener(path).open(files)
        assert raised.value.where == "config.partition.path"
    files.broken["mkdir"] = errno.EACCES
    with pytest.raises(ConfigError, match="Permission denied"):
        Opener(tmp_path / "new").open(files)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
