"""What applications may expect of any driver, as tests."""

import itertools
import threading
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest

from diaspora_stream.api import (
    AdaptiveBatchSize,
    ByteArrayAllocator,
    Consumer,
    DataDescriptor,
    Driver,
    Event,
    Exception,
    FullDataSelector,
    Ordering,
    PartitionSelector,
    Serializer,
    StopEventProcessor,
    ThreadPool,
    TopicHandle,
    Validator,
)

PATIENCE_MS = 30_000
"""Milliseconds after which something that ought to happen has not."""

SILENCE_MS = 200
"""Milliseconds that are waited for something that ought not to happen."""


def take(consumer: Consumer, count: int) -> list[Event]:
    """Return the next events; each has to come in time."""
    events: list[Event] = []
    for _ in range(count):
        event = consumer.pull().wait(timeout_ms=PATIENCE_MS)
        assert event is not None, f"{len(events)} of {count} events have come"
        assert event.event_id is not None, (
            f"the topic has come to its end after {len(events)} of {count} events"
        )
        events.append(event)
    return events


def content(event: Event) -> bytes:
    """Return the data of an event, joined."""
    return b"".join(bytes(buffer) for buffer in event.data)


class DriverSuite:
    """Tests of a driver; a subclass gives the fixture `driver`, and tells what the driver is not made for.

    Attributes
    ----------
    topic_options : mapping
        Options of a topic; ``num_partitions`` is set beside them.
    ends : bool
        Whether a consumer comes to the end of the topic when it has had all events, instead of waiting for others.
    has_cursors : bool
        Whether a consumer starts behind the last event acknowledged under its name.
    num_partitions : int
        How many partitions a topic is tried with.
    """

    topic_options: Mapping[str, Any] = MappingProxyType({})
    ends: ClassVar[bool] = False
    has_cursors: ClassVar[bool] = True
    num_partitions: ClassVar[int] = 3

    @pytest.fixture
    def driver(self) -> Driver:
        """Return a driver to be tested; override this."""
        raise NotImplementedError("a subclass of DriverSuite has a fixture named driver")

    @pytest.fixture
    def topic(self, driver: Driver) -> TopicHandle:
        """A topic with one partition."""
        return self.make_topic(driver)

    def one_partition(self) -> dict[str, Any]:
        """Return the options of a topic with one partition."""
        return {**self.topic_options, "num_partitions": 1}

    def make_topic(self, driver: Driver, *, num_partitions: int = 1, **components: Any) -> TopicHandle:
        """Make and open a topic of a new name."""
        name = f"topic-{uuid.uuid4()}"
        options = {**self.topic_options, "num_partitions": num_partitions}
        driver.create_topic(name, options=options, **components)
        return driver.open_topic(name)

    def assert_nothing_more(self, consumer: Consumer) -> None:
        """See that there is no event more."""
        event = consumer.pull().wait(timeout_ms=SILENCE_MS)
        assert event is None or event.event_id is None

    # Topics

    def test_a_topic_that_is_created_exists_and_is_listed(self, driver: Driver) -> None:
        assert not driver.topic_exists("made")
        driver.create_topic("made", options=self.one_partition())
        assert driver.topic_exists("made")
        assert "made" in driver.list_topics()
        topic = driver.open_topic("made")
        assert topic.name == "made"
        assert len(topic.partitions) == 1

    def test_a_topic_is_created_once(self, driver: Driver, topic: TopicHandle) -> None:
        with pytest.raises(Exception, match=topic.name):
            driver.create_topic(topic.name, options=self.one_partition())

    def test_a_topic_that_does_not_exist_cannot_be_opened(self, driver: Driver) -> None:
        with pytest.raises(Exception, match="nowhere"):
            driver.open_topic("nowhere")

    def test_each_opening_gives_a_new_handle(self, driver: Driver, topic: TopicHandle) -> None:
        assert driver.open_topic(topic.name) is not topic

    def test_a_topic_that_is_deleted_is_gone_and_its_name_is_free(
        self, driver: Driver, topic: TopicHandle
    ) -> None:
        topic.producer().push({"old": True}).wait()
        driver.delete_topic(topic.name)
        assert not driver.topic_exists(topic.name)
        with pytest.raises(Exception, match=topic.name):
            driver.delete_topic(topic.name)
        driver.create_topic(topic.name, options=self.one_partition())
        anew = driver.open_topic(topic.name)
        assert anew.producer().push({"new": True}).wait() == 0
        assert [event.metadata for event in take(anew.consumer("c"), 1)] == [{"new": True}]

    @pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 300])
    def test_a_name_that_cannot_be_one_is_refused(self, driver: Driver, name: str) -> None:
        with pytest.raises(Exception):
            driver.create_topic(name, options=self.one_partition())
        assert not driver.topic_exists(name)

    def test_a_component_of_a_wrong_kind_is_refused(self, driver: Driver) -> None:
        wrong: Any = Serializer.from_metadata(type="default")
        with pytest.raises(TypeError):
            driver.create_topic("wrong", options=self.one_partition(), validator=wrong)
        assert not driver.topic_exists("wrong")

    # Producing

    def test_ids_are_given_in_the_order_of_the_pushes(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        futures = [producer.push({"n": n}) for n in range(100)]
        assert [future.wait(timeout_ms=PATIENCE_MS) for future in futures] == list(range(100))
        assert futures[0].completed
        assert futures[0].wait() == 0

    @pytest.mark.parametrize("batch_size", [1, 7, 1000, AdaptiveBatchSize])
    def test_any_batch_size_stores_all(self, topic: TopicHandle, batch_size: int) -> None:
        producer = topic.producer("p", batch_size=batch_size)
        for n in range(500):
            producer.push({"n": n}, bytes([n % 256]) * (n % 5))
        assert producer.flush().wait(timeout_ms=PATIENCE_MS)
        events = take(topic.consumer("c"), 500)
        assert [event.metadata["n"] for event in events] == list(range(500))
        assert [event.event_id for event in events] == list(range(500))
        assert all(content(event) == bytes([n % 256]) * (n % 5) for n, event in enumerate(events))

    def test_a_flush_of_nothing_is_done(self, topic: TopicHandle) -> None:
        flushed = topic.producer("p").flush()
        assert flushed.wait(timeout_ms=PATIENCE_MS)
        assert flushed.completed

    def test_what_a_closed_producer_had_pending_is_stored(self, topic: TopicHandle) -> None:
        with topic.producer("p", batch_size=100) as producer:
            producer.push({"last": True})
        with pytest.raises(Exception, match="closed"):
            producer.push({})
        assert take(topic.consumer("c"), 1)[0].metadata == {"last": True}

    def test_an_adaptive_batch_goes_by_itself(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        future = producer.push({"alone": True})
        if not self.ends:
            assert take(topic.consumer("c"), 1)[0].metadata == {"alone": True}
        assert future.wait(timeout_ms=PATIENCE_MS) == 0

    def test_producers_share_a_topic(self, topic: TopicHandle) -> None:
        producers = [topic.producer(f"p{number}", batch_size=3) for number in range(3)]

        def push(producer: Any, number: int) -> None:
            for n in range(50):
                producer.push([number, n])
            producer.flush().wait(timeout_ms=PATIENCE_MS)

        threads = [threading.Thread(target=push, args=pair[::-1]) for pair in enumerate(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = take(topic.consumer("c"), 150)
        assert sorted(event.event_id for event in events if event.event_id is not None) == list(range(150))
        for number in range(3):
            assert [m[1] for m in (e.metadata for e in events) if m[0] == number] == list(range(50))

    def test_properties_tell_what_was_given(self, topic: TopicHandle) -> None:
        pool = ThreadPool(1)
        producer = topic.producer(
            "p", batch_size=5, max_num_batches=3, ordering=Ordering.Loose, thread_pool=pool
        )
        assert (producer.name, producer.batch_size, producer.max_num_batches) == ("p", 5, 3)
        assert producer.topic is topic
        assert producer.thread_pool is pool
        consumer = topic.consumer("c", batch_size=4, thread_pool=pool)
        assert (consumer.name, consumer.batch_size) == ("c", 4)
        assert consumer.topic is topic
        assert consumer.thread_pool is pool

    # Metadata and data

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"b": 1, "a": [1, 2.0, None, True, "é"]}, {"a": [1, 2.0, None, True, "é"], "b": 1}),
            ('{"text": 1}', {"text": 1}),
            (b"[1, 2]", [1, 2]),
            ('"word"', "word"),
            (None, None),
            (17, 17),
            ([], []),
            ({"tuple": (1, 2)}, {"tuple": [1, 2]}),
            ({"big": 2**64 - 1, "small": -(2**63)}, {"big": 2**64 - 1, "small": -(2**63)}),
        ],
    )
    def test_metadata_comes_back(self, topic: TopicHandle, given: Any, expected: Any) -> None:
        topic.producer().push(given).wait()
        event = take(topic.consumer("c"), 1)[0]
        assert event.metadata == expected
        assert event.metadata is not event.metadata or not isinstance(expected, dict | list)

    def test_keys_come_back_in_order(self, topic: TopicHandle) -> None:
        topic.producer().push({"b": 1, "a": 2, "c": 0}).wait()
        assert list(take(topic.consumer("c"), 1)[0].metadata) == ["a", "b", "c"]

    def test_metadata_that_is_no_json_is_refused_by_push(self, topic: TopicHandle) -> None:
        producer = topic.producer()
        with pytest.raises(Exception):
            producer.push("word")
        with pytest.raises(TypeError):
            producer.push({"object": object()})
        assert producer.push({"good": True}).wait() == 0

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (b"", b""),
            (b"bytes", b"bytes"),
            (bytearray(b"bytearray"), b"bytearray"),
            (memoryview(b"view")[1:], b"iew"),
            (np.arange(4.0), np.arange(4.0).tobytes()),
            ([b"one", bytearray(b"two"), b""], b"onetwo"),
            ((b"a", b"b"), b"ab"),
            (None, b""),
        ],
        ids=["empty", "bytes", "bytearray", "memoryview", "numpy", "list", "tuple", "none"],
    )
    def test_data_comes_back(self, topic: TopicHandle, given: Any, expected: bytes) -> None:
        topic.producer().push({}, given).wait()
        event = take(topic.consumer("c"), 1)[0]
        assert content(event) == expected
        assert isinstance(event.data, list)

    @pytest.mark.parametrize("given", ["text", 5, [b"good", "bad"]])
    def test_data_that_is_none_is_refused(self, topic: TopicHandle, given: Any) -> None:
        producer = topic.producer()
        with pytest.raises(TypeError):
            producer.push({}, given)
        assert producer.push({}, b"good").wait() == 0

    def test_large_and_small_events_go_together(self, topic: TopicHandle) -> None:
        sizes = [0, 1, 5_000_000, 10, 9_000_000, 100]
        producer = topic.producer("p", batch_size=4)
        for size in sizes:
            producer.push({"size": size}, b"d" * size)
        producer.flush().wait(timeout_ms=PATIENCE_MS)
        events = take(topic.consumer("c"), len(sizes))
        assert [(event.metadata["size"], len(content(event))) for event in events] == [(s, s) for s in sizes]

    def test_a_validator_refuses(self, driver: Driver) -> None:
        schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
        validator = Validator.from_metadata(type="schema", schema=schema)
        topic = self.make_topic(driver, validator=validator)
        producer = topic.producer()
        with pytest.raises(Exception, match="n"):
            producer.push({"n": "text"})
        assert producer.push({"n": 1}).wait() == 0
        assert [event.metadata for event in take(topic.consumer("c"), 1)] == [{"n": 1}]

    def test_a_serializer_is_used_on_both_sides(self, driver: Driver) -> None:
        serializer = Serializer.from_metadata(type="schema", schema={"type": "object"})
        topic = self.make_topic(driver, serializer=serializer)
        topic.producer().push({"n": 1}).wait()
        assert take(topic.consumer("c"), 1)[0].metadata == {"n": 1}

    # Partitions

    def test_events_go_to_the_partitions_in_turn(self, driver: Driver) -> None:
        topic = self.make_topic(driver, num_partitions=self.num_partitions)
        assert len(topic.partitions) == self.num_partitions
        producer = topic.producer("p", batch_size=2)
        ids = [producer.push({"n": n}) for n in range(2 * self.num_partitions)]
        producer.flush().wait(timeout_ms=PATIENCE_MS)
        assert [future.wait() for future in ids] == [0] * self.num_partitions + [1] * self.num_partitions
        events = take(topic.consumer("c"), 2 * self.num_partitions)
        assert sorted(event.metadata["n"] for event in events) == list(range(2 * self.num_partitions))

    def test_a_partition_may_be_chosen(self, driver: Driver) -> None:
        selector = PartitionSelector.from_metadata(type="default")
        topic = self.make_topic(driver, num_partitions=self.num_partitions, partition_selector=selector)
        producer = topic.producer("p")
        for n in range(4):
            assert producer.push({"n": n}, partition=1).wait(timeout_ms=PATIENCE_MS) == n
        consumer = topic.consumer("c", targets=[1])
        events = take(consumer, 4)
        assert [event.metadata["n"] for event in events] == [0, 1, 2, 3]
        assert all(event.partition == topic.partitions[1] for event in events)
        self.assert_nothing_more(topic.consumer("other", targets=[0]))

    def test_a_target_that_does_not_exist_is_refused(self, topic: TopicHandle) -> None:
        with pytest.raises(Exception, match="5"):
            topic.consumer("c", targets=[5])

    # Consuming

    def test_an_empty_topic_gives_nothing(self, topic: TopicHandle) -> None:
        self.assert_nothing_more(topic.consumer("c"))

    def test_a_consumer_sees_what_is_pushed_later(self, topic: TopicHandle) -> None:
        consumer = topic.consumer("c")
        producer = topic.producer("p")
        for n in range(3):
            producer.push({"n": n}).wait()
            assert take(consumer, 1)[0].metadata == {"n": n}
        self.assert_nothing_more(consumer)

    def test_a_pull_waits_for_an_event(self, topic: TopicHandle) -> None:
        if self.ends:
            pytest.skip("a consumer of this driver does not wait")
        consumer = topic.consumer("c")
        future = consumer.pull()
        assert not future.completed
        assert future.wait(timeout_ms=SILENCE_MS) is None
        topic.producer("p").push({"late": True}).wait()
        event = future.wait(timeout_ms=PATIENCE_MS)
        assert event is not None
        assert event.metadata == {"late": True}
        assert future.completed
        assert future.wait() is event

    def test_futures_get_events_in_the_order_of_the_pulls(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(4):
            producer.push({"n": n}).wait()
        consumer = topic.consumer("c")
        futures = [consumer.pull() for _ in range(4)]
        events = [future.wait(timeout_ms=PATIENCE_MS) for future in reversed(futures)]
        assert [event.metadata["n"] for event in events if event is not None] == [3, 2, 1, 0]

    def test_a_future_that_is_dropped_gives_its_event_back(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(3):
            producer.push({"n": n}).wait()
        consumer = topic.consumer("c")
        assert take(consumer, 1)[0].metadata == {"n": 0}
        consumer.pull()
        assert [event.metadata["n"] for event in take(consumer, 2)] == [1, 2]

    def test_every_consumer_has_all_events(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(10):
            producer.push({"n": n})
        producer.flush().wait(timeout_ms=PATIENCE_MS)
        for name in ("one", "two"):
            assert [event.metadata["n"] for event in take(topic.consumer(name), 10)] == list(range(10))

    def test_a_consumer_goes_on_behind_what_was_acknowledged(self, topic: TopicHandle) -> None:
        if not self.has_cursors:
            pytest.skip("this driver has no cursors")
        producer = topic.producer("p")
        for n in range(10):
            producer.push({"n": n})
        producer.flush().wait(timeout_ms=PATIENCE_MS)
        consumer = topic.consumer("c")
        events = take(consumer, 10)
        events[5].acknowledge()
        events[3].acknowledge()  # cursors only move forward
        consumer.close()
        assert take(topic.consumer("c"), 1)[0].metadata == {"n": 6}
        assert take(topic.consumer("another"), 1)[0].metadata == {"n": 0}

    def test_a_loop_ends_when_there_is_nothing_for_a_while(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(5):
            producer.push({"n": n}).wait()
        consumer = topic.consumer("c", options={"iteration_timeout_ms": SILENCE_MS})
        assert [event.metadata["n"] for event in itertools.islice(consumer, 2)] == [0, 1]
        assert [event.metadata["n"] for event in consumer] == [2, 3, 4]

    def test_process_calls_for_each_event(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(5):
            producer.push({"n": n}).wait()
        seen: list[int] = []

        def processor(event: Event | None) -> None:
            assert event is not None
            seen.append(event.metadata["n"])
            if len(seen) == 4:
                raise StopEventProcessor

        topic.consumer("c").process(processor, timeout_ms=PATIENCE_MS)
        assert seen == [0, 1, 2, 3]

    def test_a_selector_chooses_a_part_of_the_data(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(6):
            producer.push({"n": n}, bytes(range(10)))
        producer.flush().wait(timeout_ms=PATIENCE_MS)

        def selector(metadata: Any, descriptor: DataDescriptor) -> DataDescriptor | None:
            assert descriptor.size == 10
            if metadata["n"] == 0:
                return None
            if metadata["n"] == 1:
                return descriptor
            return descriptor.make_sub_view(offset=metadata["n"], size=3)

        consumer = topic.consumer("c", data_selector=selector, data_allocator=ByteArrayAllocator)
        assert consumer.data_selector is selector
        assert consumer.data_allocator is ByteArrayAllocator
        events = take(consumer, 6)
        assert [content(event) for event in events] == [
            b"",
            bytes(range(10)),
            *(bytes(range(n, n + 3)) for n in range(2, 6)),
        ]

    def test_an_allocator_gives_the_buffers(self, topic: TopicHandle) -> None:
        topic.producer("p").push({}, b"abcdef").wait()
        given: list[bytearray] = []

        def allocator(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
            given.extend([bytearray(2), bytearray(descriptor.size - 2)])
            return given

        consumer = topic.consumer("c", data_selector=FullDataSelector, data_allocator=allocator)
        event = take(consumer, 1)[0]
        assert event.data[0] is given[0]
        assert [bytes(buffer) for buffer in given] == [b"ab", b"cdef"]

    def test_no_data_is_loaded_without_callables_that_are_none(self, topic: TopicHandle) -> None:
        topic.producer("p").push({"n": 1}, b"data").wait()
        event = take(topic.consumer("c", data_selector=None, data_allocator=None), 1)[0]
        assert event.metadata == {"n": 1}
        assert event.data == []

    def test_a_failing_selector_fails_its_event_alone(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        for n in range(3):
            producer.push({"n": n}, b"data")
        producer.flush().wait(timeout_ms=PATIENCE_MS)

        def selector(metadata: Any, descriptor: DataDescriptor) -> DataDescriptor:
            if metadata["n"] == 1:
                raise ZeroDivisionError
            return descriptor

        consumer = topic.consumer("c", data_selector=selector, data_allocator=ByteArrayAllocator)
        assert take(consumer, 1)[0].metadata == {"n": 0}
        with pytest.raises(ZeroDivisionError):
            consumer.pull().wait(timeout_ms=PATIENCE_MS)
        assert take(consumer, 1)[0].metadata == {"n": 2}

    def test_one_callable_without_the_other_is_refused(self, topic: TopicHandle) -> None:
        with pytest.raises(TypeError):
            topic.consumer("c", data_selector=FullDataSelector)

    def test_events_may_be_kept(self, topic: TopicHandle) -> None:
        producer = topic.producer("p", batch_size=10)
        for n in range(100):
            producer.push({"n": n}, n.to_bytes(4, "little"))
        producer.flush().wait(timeout_ms=PATIENCE_MS)
        consumer = topic.consumer("c", batch_size=10)
        events = take(consumer, 100)
        consumer.close()
        assert [int.from_bytes(content(event), "little") for event in events] == list(range(100))
        assert [event.metadata["n"] for event in events] == list(range(100))

    def test_a_closed_consumer_says_so(self, topic: TopicHandle) -> None:
        consumer = topic.consumer("c")
        consumer.close()
        consumer.close()
        with pytest.raises(Exception, match="closed"):
            consumer.pull().wait(timeout_ms=PATIENCE_MS)

    def test_unsubscribing_ends_the_topic(self, topic: TopicHandle) -> None:
        producer = topic.producer("p")
        producer.push({"n": 0}).wait()
        consumer = topic.consumer("c")
        take(consumer, 1)
        consumer.unsubscribe()
        producer.push({"n": 1}).wait()
        for _ in range(10):  # what was here already may still be pulled
            event = consumer.pull().wait(timeout_ms=PATIENCE_MS)
            assert event is not None
            if event.event_id is None:
                break
        assert event is not None
        assert event.event_id is None
        with pytest.raises(Exception):
            event.acknowledge()

    def test_closing_the_driver_stores_what_is_pending(self, driver: Driver, topic: TopicHandle) -> None:
        producer = topic.producer("p", batch_size=100)
        future = producer.push({"last": True})
        driver.close()
        assert future.wait(timeout_ms=PATIENCE_MS) == 0
        with pytest.raises(Exception, match="closed"):
            driver.open_topic(topic.name)
