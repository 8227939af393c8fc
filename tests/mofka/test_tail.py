"""What a default partition keeps of its newest events, seen through files that count what is read of them."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from mochi.margo.errors import Fault
from mochi.mofka.chunks import Batch, PartitionDirectory
from mochi.mofka.partition import tail
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.contract import Slice
from mochi.mofka.partition.default import DefaultPartition
from tests.mofka.partition_io import (
    BreakableFiles,
    Event,
    GatedIo,
    append,
    batch_of,
    events_in,
    read,
    read_data,
)

UUID = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"


class CountedFiles(BreakableFiles):
    """Real files, and how often they were read.

    Attributes
    ----------
    reads : int
        Number of reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def operation(self, kind: str, path: str) -> None:
        self.reads += kind == "read"
        super().operation(kind, path)


@pytest.fixture
def files() -> CountedFiles:
    return CountedFiles()


@pytest.fixture
def io(files: CountedFiles) -> Iterator[GatedIo]:
    io = GatedIo(files)
    yield io
    io.close()


@pytest.fixture
def partition(tmp_path: Path, files: CountedFiles, io: GatedIo) -> Iterator[DefaultPartition]:
    partition = DefaultPartition("topic", UUID, DefaultFields.parse({"path": str(tmp_path)}), io)
    files.reads = 0
    yield partition
    io.gate.set()
    partition.close()


def events_of(count: int, data_size: int) -> list[Event]:
    return [(b"%d" % number, os.urandom(data_size)) for number in range(count)]


def read_all(partition: DefaultPartition, first: int) -> list[Event]:
    """Read what is there from `first` on, a few events at a time."""
    events: list[Event] = []
    while first + len(events) < partition.count:
        found = read(partition, first + len(events), 7, 1 << 20, True)
        assert isinstance(found, Slice)
        assert found.first == first + len(events)
        events += events_in(found, True)
    return events


@pytest.mark.parametrize("data_size", [0, 10, 100_000])
def test_who_follows_live_reads_no_file(
    partition: DefaultPartition, files: CountedFiles, tmp_path: Path, data_size: int
) -> None:
    stored: list[Event] = []
    for _ in range(30):
        first = partition.count
        new = events_of(10, data_size)
        append(partition, batch_of(new))
        assert read_all(partition, first) == new
        stored += new
    assert files.reads == 0
    partition.close()
    with PartitionDirectory.open(tmp_path / f"topic-{UUID}") as store:
        found = store.read_range(0, 300, 1 << 30, with_data=True)
        assert bytes(found.metadata) == b"".join(metadata for metadata, _ in stored)
        assert found.data is not None
        assert bytes(found.data) == b"".join(data for _, data in stored)


def test_who_lags_reads_the_files_up_to_where_memory_begins(
    partition: DefaultPartition, files: CountedFiles
) -> None:
    events: list[Event] = []
    while len(events) * 100_000 < 3 * tail.KEPT:
        append(partition, batch_of(new := events_of(20, 100_000)))
        events += new
        read(partition, partition.count - 1, 1, 1, False)
    assert files.reads == 0
    assert partition._tail._blocks.cost <= tail.KEPT
    assert read_all(partition, 0) == events
    assert files.reads > 0
    files.reads = 0
    read_all(partition, len(events) - 100)
    assert files.reads == 0


def test_nothing_is_kept_for_nobody_until_somebody_reads(
    partition: DefaultPartition, files: CountedFiles
) -> None:
    new = events_of(20, 100_000)
    while partition.count * 100_000 < 2 * tail.KEPT:
        append(partition, batch_of(new))
    assert partition._tail._blocks.cost == 0
    assert read_all(partition, partition.count - 20) == new
    assert files.reads > 0
    files.reads = 0
    append(partition, batch_of(new))
    assert read_all(partition, partition.count - 20) == new
    assert files.reads == 0


def test_a_batch_larger_than_what_is_kept_is_read_from_the_files(
    partition: DefaultPartition, files: CountedFiles
) -> None:
    before, large, after = events_of(1, 10), events_of(1, tail.KEPT + 1), events_of(1, 10)
    append(partition, batch_of(before))
    append(partition, batch_of(large))
    assert read_all(partition, 0) == before + large
    assert files.reads > 0
    files.reads = 0
    append(partition, batch_of(after))
    assert read_all(partition, 2) == after
    assert files.reads == 0


def test_what_is_kept_does_not_change_with_the_buffers_that_it_came_in(partition: DefaultPartition) -> None:
    lent = bytearray(b"x" * 200_000)
    sizes = np.array([2], np.uint32), np.array([200_000], np.uint32)
    append(partition, Batch(sizes[0], [bytearray(b"m1")], sizes[1], [lent]))
    lent[:] = b"y" * 200_000
    sizes[0][:] = 1
    assert read_all(partition, 0) == [(b"m1", b"x" * 200_000)]


def test_what_a_slow_reader_holds_is_not_written_over(partition: DefaultPartition) -> None:
    events = events_of(20, 100_000)
    append(partition, batch_of(events))
    held = read(partition, 0, 20, 1 << 30, True)
    assert isinstance(held, Slice)
    while partition.count * 100_000 < 3 * tail.KEPT:
        append(partition, batch_of(events_of(20, 100_000)))
        read(partition, partition.count - 1, 1, 1, False)
    assert partition._tail._blocks.first > 20
    assert events_in(held, True) == events


def test_pieces_of_recent_data_are_those_asked_for_and_read_from_no_file(
    partition: DefaultPartition, files: CountedFiles
) -> None:
    events = events_of(20, 1000)
    append(partition, batch_of(events))
    wanted = [(7, [(0, 10), (990, 10)]), (3, [(5, 1)]), (7, [(0, 0)])]
    found = read_data(partition, wanted)
    assert not isinstance(found, BaseException)
    expected = [events[number][1][at : at + size] for number, pieces in wanted for at, size in pieces]
    assert b"".join(found) == b"".join(expected)
    assert files.reads == 0
    outcome = read_data(partition, [(3, [(999, 2)])])
    assert isinstance(outcome, Fault)
    assert outcome.code == "out_of_range"


def test_what_is_not_committed_is_not_read(partition: DefaultPartition, io: GatedIo) -> None:
    append(partition, batch_of(events_of(5, 10)))
    io.gate.clear()
    told: Future[int | BaseException] = Future()
    partition.append(batch_of(events_of(5, 10)), told.set_result)
    found = read(partition, 0, 100, 1 << 20, True)
    assert isinstance(found, Slice)
    assert (found.count, partition.count) == (5, 5)
    io.gate.set()
    assert told.result(20) == 5
    assert len(read_all(partition, 0)) == 10


@pytest.mark.parametrize(
    ("operation", "number"), [("write", errno.EIO), ("write", errno.ENOSPC), ("fdatasync", errno.EIO)]
)
def test_nothing_is_kept_of_a_commit_that_failed(
    partition: DefaultPartition, files: CountedFiles, io: GatedIo, operation: str, number: int
) -> None:
    events = events_of(5, 10)
    append(partition, batch_of(events))
    files.broken[operation] = number
    assert isinstance(append(partition, batch_of(events_of(5, 10))), Fault)
    files.broken.clear()
    assert read_all(partition, 0) == events
    io.settle()  # a commit that failed takes with it what comes before it is over
    if number == errno.ENOSPC:
        more = events_of(5, 10)
        assert append(partition, batch_of(more)) == 5
        events += more
    found = read(partition, 0, 100, 1 << 20, True)
    assert isinstance(found, Slice)
    assert events_in(found, True) == events


def test_what_has_expired_is_not_given_though_it_is_in_memory(tmp_path: Path, io: GatedIo) -> None:
    fields = DefaultFields.parse(
        {"path": str(tmp_path), "max_events_per_chunk": 10, "retention": {"max_bytes": 10_000}}
    )
    partition = DefaultPartition("topic", UUID, fields, io)
    stored: list[Event] = []
    for _ in range(10):
        append(partition, batch_of(new := events_of(10, 500)))
        stored += new
    io.settle()  # what is dropped goes after the commit
    first = partition.first
    assert 0 < first < 100
    for outcome in (read(partition, first - 1, 1, 1, True), read_data(partition, [(first - 1, [(0, 1)])])):
        assert isinstance(outcome, Fault)
        assert outcome.code == "expired"
    assert read_all(partition, first) == stored[first:]
    partition.close()


def test_events_of_one_byte_each_cost_no_more_than_what_may_be_kept(
    partition: DefaultPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 1 << 18)
    new: list[Event] = [(b"1", b"")] * 8000
    for _ in range(20):
        append(partition, batch_of(new))
        assert read_all(partition, partition.count - 5) == new[-5:]
    assert 0 < partition._tail._blocks.cost <= 1 << 18
