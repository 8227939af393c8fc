"""The memory partition against a plain list of events."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo.errors import Fault
from mochi.mofka.chunks import Retention
from mochi.mofka.partition import blocks
from mochi.mofka.partition.blocks import MERGED_BYTES, MERGED_EVENTS, OVERHEAD
from mochi.mofka.partition.contract import Slice
from mochi.mofka.partition.memory import MemoryPartition
from tests.mofka.partition_io import Event, append, batch_of, events_in, read, read_data

sizes = st.one_of(st.integers(0, 20), st.sampled_from([MERGED_BYTES // 2, MERGED_BYTES]))
batches = st.lists(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=8), min_size=1, max_size=40)


def made(partition: MemoryPartition, shape: Sequence[Sequence[tuple[int, int]]]) -> list[Event]:
    """Append batches of events of these sizes, each event with content of its own; return all events."""
    events: list[Event] = []
    for batch in shape:
        new = [
            (bytes([len(events) + i & 0xFF]) * m, bytes([len(events) + i + 7 & 0xFF]) * d)
            for i, (m, d) in enumerate(batch)
        ]
        assert append(partition, batch_of(new)) == len(events)
        events += new
        assert partition.count == len(events)
    return events


@given(shape=batches, data=st.data())
def test_reads_with_any_limits_give_what_a_list_gives(
    shape: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    partition = MemoryPartition({})
    events = made(partition, shape)
    for _ in range(5):
        first = data.draw(st.integers(0, len(events) - 1))
        max_events = data.draw(st.integers(1, len(events) + 5))
        max_bytes = data.draw(st.one_of(st.integers(0, 100), st.integers(0, 4 * MERGED_BYTES)))
        with_data = data.draw(st.booleans())
        found = read(partition, first, max_events, max_bytes, with_data)
        assert isinstance(found, Slice)
        assert found.first == first
        assert 1 <= found.count <= max_events
        expected = events[first : first + found.count]
        assert events_in(found, with_data) == (expected if with_data else [(m, b"") for m, _ in expected])
        assert list(found.data_sizes) == [len(d) for _, d in expected]
        weights = [len(m) + len(d) * with_data for m, d in events[first : first + max_events]]
        assert found.count == max(1, int(np.searchsorted(np.cumsum(weights), max_bytes, "right")))


def test_events_pushed_one_by_one_do_not_cost_a_block_each() -> None:
    partition = MemoryPartition({})
    for number in range(4 * MERGED_EVENTS):
        append(partition, batch_of([(b"%d" % number, b"")]))
    assert partition._blocks.cost < 100 * OVERHEAD
    found = read(partition, 0, 10**6, 1 << 20, False)
    assert isinstance(found, Slice)
    assert events_in(found, False) == [(b"%d" % number, b"") for number in range(4 * MERGED_EVENTS)]


@given(shape=batches, max_bytes=st.sampled_from([1, 100, 3 * MERGED_BYTES]), data=st.data())
def test_with_a_retention_the_newest_events_are_there_and_the_others_are_told_as_expired(
    shape: list[list[tuple[int, int]]], max_bytes: int, data: st.DataObject
) -> None:
    partition = MemoryPartition({}, Retention(max_bytes))
    events = made(partition, shape)
    left = events[partition.first :]
    assert left
    newest = len(shape[-1])
    if sum(len(m) + len(d) for m, d in events) <= max_bytes:
        assert partition.first == 0
    elif partition.first < len(events) - newest:
        assert sum(len(m) + len(d) for m, d in left) <= max(max_bytes, MERGED_BYTES)
    found: list[Event] = []
    while len(found) < len(left):
        piece = read(partition, partition.first + len(found), 5, MERGED_BYTES, True)
        assert isinstance(piece, Slice)
        found += events_in(piece, True)
    assert found == left
    if partition.first:
        gone = data.draw(st.integers(0, partition.first - 1))
        for outcome in (read(partition, gone, 5, 100, True), read_data(partition, [(gone, [])])):
            assert isinstance(outcome, Fault)
            assert (outcome.code, outcome.details) == ("expired", {"first": gone, "next": partition.first})


def test_want_of_memory_while_a_batch_is_added_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = MemoryPartition({})
    events = [(b"%d" % number, b"data") for number in range(6)]
    for event in events[:2]:
        append(partition, batch_of([event]))

    def refused(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_merge", refused)
        with pytest.raises(MemoryError):
            append(partition, batch_of([(b"lost", b"")]))
    for event in events[2:]:
        append(partition, batch_of([event]))
    assert partition.count == len(events)
    for first in range(len(events)):
        found = read(partition, first, 10, 1000, True)
        assert isinstance(found, Slice)
        assert events_in(found, True) == events[first : first + found.count]
