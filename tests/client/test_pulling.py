"""What consumers give: order of futures, selections of data, callables that fail, end, bounds."""

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest

from diaspora_stream.api import (
    ByteArrayAllocator,
    DataDescriptor,
    Exception,
    FullDataSelector,
    StopEventProcessor,
    TopicHandle,
)
from mochi.mofka.client import consumer as consumer_module
from tests.client.client_server import Server

DATA = bytes(range(100))


@pytest.fixture
def topic(server: Server) -> TopicHandle:
    return server.topic()


def fill(topic: TopicHandle, count: int, data: bytes = DATA) -> None:
    with topic.producer() as producer:
        for number in range(count):
            producer.push(number, data)


def numbers(topic: TopicHandle, name: str) -> list[int | None]:
    with topic.consumer(name) as consumer:
        found = []
        while (event := consumer.pull().wait(100)) is not None:
            found.append(event.event_id)
        return found


def test_futures_get_events_in_the_order_of_the_pulls_not_of_the_waits(topic: TopicHandle) -> None:
    with topic.consumer("c") as consumer:
        futures = [consumer.pull() for _ in range(4)]
        fill(topic, 6)
        assert futures[3].wait(10000).event_id == 3
        assert futures[0].wait(10000).event_id == 0
        assert futures[0].wait().event_id == 0
        assert futures[1].completed
        assert consumer.pull().wait(10000).event_id == 4


def test_a_future_that_timed_out_keeps_its_place_and_a_dropped_one_gives_it_up(topic: TopicHandle) -> None:
    with topic.consumer("c") as consumer:
        kept, dropped = consumer.pull(), consumer.pull()
        assert kept.wait(10) is None
        assert kept.wait(timeout_ms=0.5) is None
        assert dropped.wait(10) is None
        del dropped
        fill(topic, 3)
        assert consumer.pull().wait(10000).event_id == 1
        assert kept.wait().event_id == 0
        lost = consumer.pull()
        while not lost.completed:
            time.sleep(0.01)
        del lost
        assert next(iter(consumer)).event_id == 2


def test_an_event_given_back_wakes_another_thread_that_waits(topic: TopicHandle) -> None:
    with topic.consumer("c") as consumer:
        first = consumer.pull()
        second = consumer.pull()
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(second.wait(10000).event_id))
        thread.start()
        fill(topic, 1)
        assert first.wait(10000).event_id == 0
        first = consumer.pull()
        del first
        fill(topic, 1)
        thread.join()
        assert found == [1]


def test_eight_threads_share_the_events_and_each_gets_ascending_ids(topic: TopicHandle) -> None:
    shares: list[list[int]] = [[] for _ in range(8)]
    with topic.consumer("c", batch_size=16) as consumer:

        def pull(share: list[int | None]) -> None:
            while (event := consumer.pull().wait(5000)) is not None and event.metadata is not None:
                share.append(event.event_id)

        threads = [threading.Thread(target=pull, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        with topic.producer(batch_size=5) as producer:
            for number in range(4000):
                producer.push(number)
            for _ in threads:
                producer.push(None)
        for thread in threads:
            thread.join()
    assert sorted(number for share in shares for number in share) == list(range(4000))
    assert all(share == sorted(share) for share in shares)


@pytest.mark.parametrize(
    "select",
    [
        FullDataSelector,
        lambda _, d: d.make_sub_view(offset=10, size=20),
        lambda _, d: d.make_sub_view(offset=90, size=20),
        lambda _, d: d.make_sub_view(offset=5, size=0),
        lambda _, d: d.make_stride_view(offset=3, num_blocks=4, block_size=2, gap_size=5),
        lambda _, d: d.make_unstructured_view(segments=[(0, 3), (3, 1), (50, 0), (70, 30)]),
        lambda _, d: (
            d.make_sub_view(offset=20, size=60)
            .make_stride_view(offset=0, num_blocks=5, block_size=4, gap_size=3)
            .make_unstructured_view(segments=[(1, 5), (10, 2)])
        ),
        lambda *_: DataDescriptor(),
        lambda *_: None,
    ],
    ids=["all", "sub", "cut", "empty", "stride", "unstructured", "composed", "nowhere", "none"],
)
def test_a_view_loads_the_bytes_that_it_selects(topic: TopicHandle, select: Any) -> None:
    fill(topic, 3)
    selected = select(None, DataDescriptor("", len(DATA)))
    pieces = [] if selected is None else selected.flatten()
    expected = b"".join(DATA[start : start + size] for start, size in pieces)
    with topic.consumer("c", data_selector=select, data_allocator=ByteArrayAllocator) as consumer:
        for number in range(3):
            event = consumer.pull().wait(10000)
            assert (event.event_id, b"".join(event.data)) == (number, expected)


def uneven(_: Any, descriptor: DataDescriptor) -> tuple[Any, ...]:
    return bytearray(7), bytearray(0), memoryview(bytearray(descriptor.size - 7))


def fortran(_: Any, descriptor: DataDescriptor) -> list[Any]:
    return [np.zeros((descriptor.size // 20, 5), "<f4", order="F")]


def by_elements(_: Any, descriptor: DataDescriptor) -> list[Any]:
    return [np.zeros(descriptor.size, "<f8")]


@pytest.mark.parametrize("allocate", [uneven, fortran, by_elements])
def test_any_writable_memory_serves_as_buffers(topic: TopicHandle, allocate: Any) -> None:
    fill(topic, 2)
    with topic.consumer("c", data_selector=FullDataSelector, data_allocator=allocate) as consumer:
        assert (consumer.data_selector, consumer.data_allocator) == (FullDataSelector, allocate)
        for _ in range(2):
            data = consumer.pull().wait(10000).data
            assert isinstance(data, list)
            found = b"".join(
                bytes(b) if isinstance(b, (bytearray, memoryview)) else b.tobytes("A") for b in data
            )
            assert found[: len(DATA)] == DATA


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda *_: 1 / 0,
        lambda *_: 5,
        lambda *_: DataDescriptor("elsewhere", 10),
        lambda _, d: DataDescriptor(d.location, 10**6),
        lambda _, d: d.make_sub_view(offset=-1, size=2),
    ],
    ids=["raises", "number", "elsewhere", "too large", "bad view"],
)
def test_a_selector_that_fails_for_one_event_fails_that_event_only(topic: TopicHandle, nonsense: Any) -> None:
    fill(topic, 5)

    def select(metadata: Any, descriptor: DataDescriptor) -> Any:
        return nonsense(metadata, descriptor) if metadata == 2 else descriptor

    check_only_2_fails(topic, select, ByteArrayAllocator)


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda *_: 1 / 0,
        lambda *_: None,
        lambda *_: [bytearray(99)],
        lambda *_: [bytearray(101)],
        lambda *_: [],
        lambda *_: [bytes(100)],
        lambda *_: [np.zeros((20, 20), "u1")[:10, :10]],
        lambda *_: ["text"],
    ],
    ids=["raises", "none", "short", "long", "empty", "read-only", "strided", "no buffer"],
)
def test_an_allocator_that_fails_for_one_event_fails_that_event_only(
    topic: TopicHandle, nonsense: Any
) -> None:
    fill(topic, 5)

    def allocate(metadata: Any, descriptor: DataDescriptor) -> Any:
        return nonsense() if metadata == 2 else [bytearray(descriptor.size)]

    check_only_2_fails(topic, FullDataSelector, allocate)


def check_only_2_fails(topic: TopicHandle, select: Any, allocate: Any) -> None:
    with topic.consumer("c", data_selector=select, data_allocator=allocate) as consumer:
        futures = [consumer.pull() for _ in range(5)]
        for number in (0, 1, 3, 4):
            event = futures[number].wait(10000)
            assert (event.metadata, b"".join(event.data)) == (number, DATA)
        for _ in range(2):
            with pytest.raises((Exception, ArithmeticError, TypeError)):
                futures[2].wait(10000)


def test_a_selector_may_use_the_service_but_not_wait_for_its_own_consumer(
    topic: TopicHandle, server: Server
) -> None:
    fill(topic, 3)
    copies = server.topic()
    producer = copies.producer()

    def select(metadata: Any, descriptor: DataDescriptor) -> Any:
        if metadata == 1:
            return consumer.pull().wait(10000)
        producer.push({"copied": metadata}).wait(10000)
        return descriptor

    with topic.consumer("c", data_selector=select, data_allocator=ByteArrayAllocator) as consumer:
        futures = [consumer.pull() for _ in range(3)]
        assert futures[0].wait(10000).metadata == 0
        with pytest.raises(Exception, match="cannot wait for its events"):
            futures[1].wait(10000)
        assert futures[2].wait(10000).metadata == 2
    assert numbers(copies, "check") == [0, 1]


def test_threads_that_wait_while_another_loads_keep_their_time_outs(topic: TopicHandle) -> None:
    fill(topic, 2)
    loading, go_on = threading.Event(), threading.Event()

    def select(_: Any, descriptor: DataDescriptor) -> DataDescriptor:
        loading.set()
        go_on.wait(20)
        return descriptor

    with topic.consumer("c", data_selector=select, data_allocator=ByteArrayAllocator) as consumer:
        found: list[int] = []
        futures = [consumer.pull(), consumer.pull()]
        threads = [threading.Thread(target=lambda f=f: found.append(f.wait(20000).event_id)) for f in futures]
        threads[0].start()
        assert loading.wait(20)
        threads[1].start()
        late = consumer.pull()
        assert late.wait(20) is None
        go_on.set()
        for thread in threads:
            thread.join()
        assert sorted(found) == [0, 1]


def test_data_is_loaded_a_part_at_a_time(topic: TopicHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mochi.mofka.client.loading.LOAD_BYTES", 1000)
    fill(topic, 50)
    allocated: list[int] = []

    def allocate(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
        allocated.append(metadata)
        return [bytearray(descriptor.size)]

    with topic.consumer("c", data_selector=FullDataSelector, data_allocator=allocate) as consumer:
        event = consumer.pull().wait(10000)
        assert (event.event_id, allocated) == (0, list(range(10)))
        for number in range(1, 50):
            event = consumer.pull().wait(10000)
            assert (event.event_id, event.data) == (number, [bytearray(DATA)])
            assert len(allocated) <= number + 10


def test_without_callables_data_comes_and_with_none_it_does_not(topic: TopicHandle) -> None:
    fill(topic, 1)
    fill(topic, 1, b"")
    with topic.consumer("all") as consumer:
        full, empty = consumer.pull().wait(10000), consumer.pull().wait(10000)
        assert (full.data, empty.data) == ([DATA], [b""])
        full.data[0][0] = 255
    with topic.consumer("none", data_selector=None, data_allocator=None) as consumer:
        assert consumer.pull().wait(10000).data == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"data_selector": FullDataSelector},
        {"data_allocator": None},
        {"data_selector": 1, "data_allocator": 2},
        {"batch_size": -1},
        {"targets": "0"},
        {"thread_pool": 2},
        {"name": 5},
    ],
)
def test_arguments_of_a_consumer_of_a_wrong_type_or_half_a_pair_of_callables_are_type_errors(
    topic: TopicHandle, arguments: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="|".join(arguments).rstrip("s")):
        topic.consumer(**{"name": "c", **arguments})


def test_a_name_that_is_too_long_is_refused_in_plain_words(topic: TopicHandle) -> None:
    with pytest.raises(Exception, match="at most 1024 characters, and this one has 1025"):
        topic.consumer("c" * 1025)
    topic.consumer("c" * 1024).close()


def test_cursors_start_the_next_consumer_after_the_last_acknowledged_event(topic: TopicHandle) -> None:
    fill(topic, 5)
    with topic.consumer("c") as consumer:
        events = [consumer.pull().wait(10000) for _ in range(5)]
        events[2].acknowledge()
        events[0].acknowledge()
    assert numbers(topic, "c") == [3, 4]
    assert numbers(topic, "other") == [0, 1, 2, 3, 4]


def test_targets_choose_partitions_and_others_are_out_of_range(server: Server) -> None:
    topic = server.topic(3)
    with topic.producer() as producer:
        for number in range(9):
            producer.push(number)
    with topic.consumer("c", targets=[2, 0, 2]) as consumer:
        found = sorted(consumer.pull().wait(10000).metadata for _ in range(6))
        assert consumer.pull().wait(20) is None
    assert found == [0, 2, 3, 5, 6, 8]
    with pytest.raises(Exception, match=r"target 3 .* partitions 0 to 2"):
        topic.consumer("c", targets=[0, 3])


def test_events_outlive_their_consumer_and_the_buffers_that_are_reused(topic: TopicHandle) -> None:
    fill(topic, 300)
    consumer = topic.consumer("c", batch_size=10)
    events = [consumer.pull().wait(10000) for _ in range(300)]
    consumer.close()
    del consumer
    gc.collect()
    assert [(event.metadata, bytes(event.data[0])) for event in events] == [(n, DATA) for n in range(300)]


def test_a_closed_consumer_says_so_and_an_unsubscribed_one_ends(topic: TopicHandle) -> None:
    fill(topic, 3)
    consumer = topic.consumer("c")
    assert consumer.pull().wait(10000).event_id == 0
    consumer.unsubscribe()
    assert [event.event_id for event in consumer] == [1, 2]
    assert consumer.pull().wait().event_id is None
    consumer.close()
    consumer.close()
    with pytest.raises(Exception, match=r"'c' .* is closed"):
        consumer.pull().wait()


def test_what_is_not_pulled_stays_with_the_server(
    topic: TopicHandle, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64 << 10
    monkeypatch.setattr(consumer_module, "MAX_CREDIT", 1 << 20)
    with topic.consumer("c", batch_size=4, max_num_batches=100) as consumer:
        fill(topic, 400, bytes(size))
        assert consumer.pull().wait(10000).event_id == 0
        time.sleep(0.5)
        server.freeze()
        try:
            found = []
            while (event := consumer.pull().wait(300)) is not None:
                found.append(event.event_id)
        finally:
            server.thaw()
        assert len(found) * size <= (1 << 20) + (4 << 20)
        found += [consumer.pull().wait(10000).event_id for _ in range(399 - len(found))]
        assert found == list(range(1, 400))


def test_process_calls_the_processor_for_each_event_until_it_stops(topic: TopicHandle) -> None:
    fill(topic, 10)
    seen: list[Any] = []

    def process(event: Any) -> None:
        seen.append(event.metadata)
        if event.metadata == 4:
            raise StopEventProcessor

    with topic.consumer("c") as consumer:
        consumer.process(process)
        assert seen == [0, 1, 2, 3, 4]
        consumer.process(lambda event: seen.append(event and event.metadata), timeout_ms=30, max_events=6)
    assert seen[5:] == [5, 6, 7, 8, 9, None]
