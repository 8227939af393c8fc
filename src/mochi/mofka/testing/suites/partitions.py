"""What a provider may expect of any partition, as tests; see `mochi.mofka.partition.contract`."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mochi.margo.errors import Fault
from mochi.mofka.chunks import KEEP_ALL, Origin, Remembered, Retention
from mochi.mofka.partition.contract import LargeEvent, Partition, Slice
from mochi.mofka.testing.suites.calls import (
    Event,
    acknowledge,
    append,
    batch_of,
    events_in,
    read,
    read_data,
)

SHAPES = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)
"""Batches, as the sizes of metadata and data of their events."""

properties = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Place(Protocol):
    """Where the events of one partition are kept, while it is opened again and again."""

    def open(self, retention: Retention = KEEP_ALL) -> Partition:
        """Open the partition; one that was opened before is closed by then."""

    def close(self) -> None:
        """Let go of all that was opened."""


Places = Callable[[], Place]


def of_shape(shape: Sequence[Sequence[tuple[int, int]]]) -> list[list[Event]]:
    """Return batches of events of these sizes, each event with content of its own."""
    batches: list[list[Event]] = []
    number = 0
    for sizes in shape:
        batches.append([])
        for metadata, data in sizes:
            batches[-1].append((bytes([number & 255]) * metadata, bytes([number + 7 & 255]) * data))
            number += 1
    return batches


def numbered(first: int, count: int) -> list[Event]:
    """Return events with content of their own."""
    return [(b"%d" % number, b"data %d" % number * (number % 4)) for number in range(first, first + count)]


def read_all(partition: Partition, first: int | None = None) -> list[Event]:
    """Read all events that there are, a few at a time."""
    first = partition.first if first is None else first
    events: list[Event] = []
    while first + len(events) < partition.count:
        found = read(partition, first + len(events), 7, 1 << 20, True)
        assert isinstance(found, Slice), found
        assert found.first == first + len(events)
        events += events_in(found, True)
    return events


class PartitionSuite:
    """Tests of a type of partition; a subclass gives the fixture `places`, and tells what the type is not made for.

    Attributes
    ----------
    survives : bool
        Whether events, cursors and producers are there again once a partition is opened again.
    retains : bool
        Whether a retention can be asked for.
    """

    survives = True
    retains = True

    @pytest.fixture
    def places(self) -> Places:
        """Return a function that makes a new, empty place for a partition."""
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.fixture
    def place(self, places: Places) -> Iterator[Place]:
        """An empty place."""
        with closing(places()) as place:
            yield place

    @pytest.fixture
    def partition(self, place: Place) -> Partition:
        """An empty partition."""
        return place.open()

    # Events in, events out

    def test_a_new_partition_is_empty_and_sound(self, partition: Partition) -> None:
        assert (partition.first, partition.count) == (0, 0)
        assert partition.error is None
        assert list(partition.damaged) == []
        assert list(partition.remembered()) == []
        assert partition.epoch > 0
        assert partition.expires_in() is None
        json.dumps(partition.config)

    def test_ids_are_dense_and_in_the_order_of_calls(self, partition: Partition) -> None:
        told: list[tuple[int | BaseException, int]] = []
        news = threading.Condition()

        def done(outcome: int | BaseException) -> None:
            with news:
                told.append((outcome, partition.count))
                news.notify_all()

        first_ids = []
        stored: list[Event] = []
        for number in range(40):
            events = numbered(len(stored), 1 + number % 3)
            first_ids.append(len(stored))
            stored += events
            partition.append(batch_of(events), done)
        with news:
            assert news.wait_for(lambda: len(told) == len(first_ids), 20)
        assert [outcome for outcome, _ in told] == first_ids
        ends = [*first_ids[1:], len(stored)]
        assert all(count >= end for (_, count), end in zip(told, ends, strict=True)), (
            "told before it can be read"
        )
        assert read_all(partition) == stored

    @properties
    @given(shape=SHAPES, data=st.data())
    def test_reads_with_any_limits_give_what_a_list_gives(
        self, places: Places, shape: list[list[tuple[int, int]]], data: st.DataObject
    ) -> None:
        with closing(places()) as place:
            partition = place.open()
            events: list[Event] = []
            for batch in of_shape(shape):
                assert append(partition, batch_of(batch)) == len(events)
                events += batch
            for _ in range(4):
                first = data.draw(st.integers(0, len(events) - 1))
                max_events = data.draw(st.integers(1, len(events) + 5))
                max_bytes = data.draw(st.integers(0, 2000))
                with_data = data.draw(st.booleans())
                found = read(partition, first, max_events, max_bytes, with_data)
                assert isinstance(found, Slice)
                assert found.first == first
                assert 1 <= found.count <= max_events
                expected = events[first : first + found.count]
                assert events_in(found, with_data) == [(m, d if with_data else b"") for m, d in expected]
                assert found.data_sizes.tolist() == [len(d) for _, d in expected]
                taken = sum(len(m) + len(d) * with_data for m, d in expected)
                assert found.count == 1 or taken <= max(max_bytes, sum(map(len, events[first])))

    def test_an_event_larger_than_the_limit_says_how_large_it_is(self, partition: Partition) -> None:
        append(partition, batch_of([(b"m" * 100, b"d" * 5000), (b"n", b"e")]))
        told: Future[Slice | BaseException] = Future()
        outcome = partition.read(0, 10, 50, True, told.set_result) or told.result(20)
        if isinstance(outcome, LargeEvent):
            assert outcome.size > 50
        found = read(partition, 0, 10, 50, True)
        assert isinstance(found, Slice)
        assert events_in(found, True) == [(b"m" * 100, b"d" * 5000)]

    def test_events_may_be_empty(self, partition: Partition) -> None:
        events = [(b"", b""), (b"m", b""), (b"", b"d"), (b"", b"")]
        for event in events:
            append(partition, batch_of([event]))
        assert append(partition, batch_of(events)) == 4
        assert read_all(partition) == events * 2

    @properties
    @given(shape=SHAPES, data=st.data())
    def test_pieces_of_data_are_those_asked_for(
        self, places: Places, shape: list[list[tuple[int, int]]], data: st.DataObject
    ) -> None:
        with closing(places()) as place:
            partition = place.open()
            batches = of_shape(shape)
            for batch in batches:
                append(partition, batch_of(batch))
            events = [event for batch in batches for event in batch]
            asked, expected = [], b""
            for event_id in data.draw(st.lists(st.integers(0, len(events) - 1), max_size=8)):
                content = events[event_id][1]
                pieces = []
                for _ in range(data.draw(st.integers(0, 3))):
                    offset = data.draw(st.integers(0, len(content)))
                    length = data.draw(st.integers(0, len(content) - offset))
                    pieces.append((offset, length))
                    expected += content[offset : offset + length]
                asked.append((event_id, pieces))
            found = read_data(partition, asked)
            assert not isinstance(found, BaseException), found
            assert b"".join(found) == expected

    @pytest.mark.parametrize(
        ("event_id", "offset", "length"),
        [(3, 0, 0), (-1, 0, 1), (0, -1, 1), (0, 0, -1), (0, 3, 3), (0, 6, 0)],
    )
    def test_data_that_is_not_there_is_out_of_range(
        self, partition: Partition, event_id: int, offset: int, length: int
    ) -> None:
        append(partition, batch_of([(b"m", b"12345")] * 3))
        found = read_data(partition, [(event_id, [(offset, length)])])
        assert isinstance(found, Fault)
        assert found.code == "out_of_range"
        assert append(partition, batch_of([(b"m", b"")])) == 3

    def test_buffers_for_a_batch_may_be_asked_for_from_any_thread(self, partition: Partition) -> None:
        shares: list[list[memoryview]] = [[] for _ in range(4)]

        def ask(share: list[memoryview]) -> None:
            for _ in range(50):
                share += partition.receive(16, 100, 1000)

        threads = [threading.Thread(target=ask, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for number in range(20):
            assert append(partition, batch_of(numbered(number, 1))) == number
        for thread in threads:
            thread.join(20)
        buffers = [buffer for share in shares for buffer in share]
        assert len(buffers) == 4 * 50 * 3
        for number, buffer in enumerate(buffers):
            buffer[:] = bytes([number & 255]) * len(buffer)
        assert all(bytes(buffer) == bytes([n & 255]) * len(buffer) for n, buffer in enumerate(buffers))
        assert read_all(partition) == numbered(0, 20)

    # Cursors

    def test_cursors_move_forward_only_and_each_by_itself(self, partition: Partition) -> None:
        append(partition, batch_of(numbered(0, 10)))
        assert partition.cursor("a") == 0
        assert acknowledge(partition, "a", 4) is None
        assert acknowledge(partition, "a", 2) is None
        assert acknowledge(partition, "b", 7) is None
        assert acknowledge(partition, "a", 4) is None
        assert (partition.cursor("a"), partition.cursor("b"), partition.cursor("c")) == (4, 7, 0)

    def test_there_is_room_for_so_many_names_of_consumers(self, partition: Partition) -> None:
        append(partition, batch_of(numbered(0, 2)))
        longest = "c" * (1 << 20)
        outcomes: list[BaseException | None] = []
        for number in range(10):
            try:
                outcomes.append(acknowledge(partition, longest + str(number), 1))
            except Fault as error:
                outcomes.append(error)
        refused = [error for error in outcomes if error is not None]
        assert refused
        assert all(isinstance(error, Fault) and error.code == "too_many_consumers" for error in refused)
        assert partition.cursor(longest + "0") == 1
        assert append(partition, batch_of(numbered(2, 1))) == 2

    # Opened again

    def test_opened_again_it_is_the_same_or_another_epoch(self, place: Place) -> None:
        partition = place.open()
        for number in range(3):
            append(partition, batch_of(numbered(5 * number, 5), Origin(b"p" * 16, number)))
        append(partition, batch_of(numbered(15, 1)))
        acknowledge(partition, "c", 7)
        epoch = partition.epoch
        place.close()
        again = place.open()
        if not self.survives:
            assert (again.first, again.count, again.cursor("c")) == (0, 0, 0)
            assert again.epoch != epoch
            return
        assert (again.first, again.count, again.epoch) == (0, 16, epoch)
        assert again.cursor("c") == 7
        assert list(again.remembered()) == [Remembered(b"p" * 16, 3, (0, 5, 10))]
        assert list(again.damaged) == []
        assert append(again, batch_of(numbered(16, 4))) == 16
        assert read_all(again) == numbered(0, 20)

    def test_two_partitions_have_different_epochs(self, places: Places) -> None:
        with closing(places()) as one, closing(places()) as other:
            assert one.open().epoch != other.open().epoch

    def test_closing_finishes_what_has_been_taken(self, place: Place) -> None:
        partition = place.open()
        told: list[int | BaseException] = []
        for number in range(20):
            partition.append(batch_of(numbered(number, 1)), told.append)
        partition.close()
        assert told == list(range(20))
        place.close()
        if self.survives:
            assert read_all(place.open()) == numbered(0, 20)

    # Retention

    @contextmanager
    def retained(self, place: Place, retention: Retention) -> Iterator[Partition]:
        """A partition with a retention, where the type has one."""
        if not self.retains:
            pytest.skip("partitions of this type keep everything")
        yield place.open(retention)

    def test_with_a_retention_the_oldest_events_are_told_as_expired(self, place: Place) -> None:
        with self.retained(place, Retention(max_bytes=200_000)) as partition:
            events = [(b"%d" % number, bytes([number & 255]) * 10_000) for number in range(200)]
            for first in range(0, 200, 4):
                assert append(partition, batch_of(events[first : first + 4])) == first
            partition.expire()
            assert 0 < partition.first < partition.count == 200
            first = partition.first
            assert read_all(partition, first) == events[first:]
            for gone in (0, first - 1):
                for outcome in (
                    read(partition, gone, 5, 100, True),
                    read_data(partition, [(gone, [(0, 1)])]),
                ):
                    assert isinstance(outcome, Fault)
                    assert (outcome.code, outcome.details) == ("expired", {"first": gone, "next": first})

    def test_with_an_age_it_says_when_something_is_to_expire(self, place: Place) -> None:
        with self.retained(place, Retention(max_age=3600)) as partition:
            append(partition, batch_of(numbered(0, 3)))
            seconds = partition.expires_in()
            assert seconds is None or 0 < seconds <= 2 * 3600
            partition.expire()
            assert read_all(partition) == numbered(0, 3)

    # Bounds

    def test_sizes_are_told_exactly(self, partition: Partition) -> None:
        sizes = [0, 1, 255, 256, 65535, 65536, 1 << 20]
        events = [(b"m" * (size % 1000), b"d" * size) for size in sizes]
        append(partition, batch_of(events))
        found = read(partition, 0, len(events), 1 << 24, False)
        assert isinstance(found, Slice)
        assert found.data_sizes.dtype == np.uint32
        assert found.data_sizes.tolist() == sizes
        assert read_all(partition) == events
