"""What may be pushed, in which forms and batches, and what comes out at the other end."""

import json
import threading
from typing import Any

import numpy as np
import pytest

from diaspora_stream.api import AdaptiveBatchSize, Exception, TopicHandle, Validator
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from tests.client.client_server import Server

GRID = np.arange(12, dtype=np.float32).reshape(3, 4)
RECORDS = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", ">f8")])


@pytest.fixture
def topic(server: Server) -> TopicHandle:
    return server.topic()


def received(topic: TopicHandle, count: int) -> list[tuple[Any, bytes]]:
    with topic.consumer("reader") as consumer:
        events = [consumer.pull().wait(10000) for _ in range(count)]
        assert consumer.pull().wait(20) is None
    assert [event.event_id for event in events] == list(range(count))
    return [(event.metadata, b"".join(event.data)) for event in events]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view"), b"a view"),
        (b"", b""),
        (None, b""),
        ([], b""),
        ((), b""),
        ([b"one", bytearray(b" two"), memoryview(b" three")], b"one two three"),
        ((b"a", b"", b"b"), b"ab"),
        (GRID, GRID.tobytes()),
        (GRID.T, GRID.tobytes()),
        (np.asfortranarray(GRID), GRID.tobytes("F")),
        ([GRID, np.int64(7)], GRID.tobytes() + np.int64(7).tobytes()),
        (np.array(2.5), np.array(2.5).tobytes()),
        (np.empty((0, 3)), b""),
        ([np.empty(0), b"x"], b"x"),
        (RECORDS, RECORDS.tobytes()),
        (GRID.astype(">f4"), GRID.astype(">f4").tobytes()),
    ],
)
def test_all_bytes_of_the_data_arrive(topic: TopicHandle, data: Any, expected: bytes) -> None:
    with topic.producer() as producer:
        assert producer.push({}, data).wait(10000) == 0
    assert received(topic, 1) == [({}, expected)]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (["text"], TypeError),
        ([[b"nested"]], TypeError),
        (5, TypeError),
        (np.array(["2020-01-01"], "M8[D]"), TypeError),
        (np.array([{}, None]), TypeError),
        (GRID[:, ::2], Exception),
    ],
    ids=str,
)
def test_data_that_is_no_data_is_refused_and_harms_no_other_event(
    topic: TopicHandle, data: Any, error: type[BaseException]
) -> None:
    with topic.producer(batch_size=10) as producer:
        producer.push(1)
        with pytest.raises(error):
            producer.push(2, data)
        producer.push(3)
    assert received(topic, 2) == [(1, b""), (3, b"")]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ('{"b": 1, "a": [1.0, null]}', {"a": [1.0, None], "b": 1}),
        (b'"word"', "word"),
        (bytearray(b"[1]"), [1]),
        (None, None),
        ((1, 2), [1, 2]),
        ({1: 2}, {"1": 2}),
        (float("nan"), None),
        ({"é": "ü"}, {"é": "ü"}),
    ],
    ids=str,
)
def test_metadata_is_json_text_or_a_value(topic: TopicHandle, metadata: Any, expected: Any) -> None:
    with topic.producer() as producer:
        producer.push(metadata)
    assert received(topic, 1) == [(expected, b"")]


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("word", Exception),
        ("{", Exception),
        (b"\xff", Exception),
        ({"a": "\ud800"}, Exception),
        (circular(), Exception),
        ({"a": np.arange(2)}, TypeError),
    ],
    ids=["word", "open", "not utf-8", "surrogate", "circular", "numpy"],
)
def test_metadata_that_is_not_json_is_refused_at_the_push(
    topic: TopicHandle, metadata: Any, error: type[BaseException]
) -> None:
    with topic.producer() as producer, pytest.raises(error):
        producer.push(metadata)
    assert received(topic, 0) == []


class Limited(Validator, name="limited_for_pushing"):
    """Takes small numbers."""

    def validate(self, metadata: Any) -> None:
        if metadata > 5:
            raise ArithmeticError(metadata)

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "limited_for_pushing"}


class Lines(Serializer, name="lines_for_pushing"):
    """Writes JSON, but no bytes for a str."""

    def serialize(self, metadata: Any) -> Any:
        return metadata if isinstance(metadata, str) else bytearray(json.dumps(metadata), "ascii")

    def deserialize(self, data: Any) -> Any:
        return json.loads(bytes(data))

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "lines_for_pushing"}


class Wild(PartitionSelector, name="wild_for_pushing"):
    """Takes the partition that the metadata names, whatever it is."""

    def set_partitions(self, partitions: Any) -> None:
        self.count = len(partitions)

    def select(self, metadata: Any, requested: int | None = None) -> Any:
        return metadata

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "wild_for_pushing"}


def test_a_validator_that_raises_costs_its_event_only(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("limited", options={"num_partitions": 1}, validator=Limited())
    topic = driver.open_topic("limited")
    with topic.producer(batch_size=100) as producer:
        producer.push(1)
        with pytest.raises(ArithmeticError):
            producer.push(6)
        producer.push(2)
    assert received(topic, 2) == [(1, b""), (2, b"")]


def test_a_serializer_that_gives_no_bytes_costs_its_event_only(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("lines", options={"num_partitions": 1}, serializer=Lines())
    topic = driver.open_topic("lines")
    with topic.producer(batch_size=100) as producer:
        producer.push(1)
        with pytest.raises(TypeError):
            producer.push('"text"')
        producer.push({"a": 2})
    assert received(topic, 2) == [(1, b""), ({"a": 2}, b"")]


def test_a_selector_that_chooses_no_partition_costs_its_event_only(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("wild", options={"num_partitions": 2}, partition_selector=Wild())
    topic = driver.open_topic("wild")
    with topic.producer() as producer:
        assert producer.push(0).wait() == 0
        for chosen in (2, -1, "0", None, 1.0):
            with pytest.raises(Exception, match="chose"):
                producer.push(json.dumps(chosen))
        assert producer.push(1).wait() == 0


@pytest.mark.parametrize("partition", [-1, "0", 1.5])
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_partition_that_is_no_number_is_a_type_error(
    server: Server, partitions: int, partition: Any
) -> None:
    with server.topic(partitions).producer() as producer, pytest.raises(TypeError, match="partition"):
        producer.push({}, partition=partition)


@pytest.mark.parametrize("batch_size", [1, 3, 100_000, AdaptiveBatchSize])
@pytest.mark.parametrize("max_num_batches", [0, 1, 100])
def test_events_have_dense_ids_in_the_order_of_the_pushes(
    topic: TopicHandle, batch_size: int, max_num_batches: int
) -> None:
    with topic.producer(batch_size=batch_size, max_num_batches=max_num_batches) as producer:
        futures = [producer.push(number, bytes([number % 256])) for number in range(1000)]
        assert producer.flush().wait(10000) is True
        assert all(future.completed for future in futures)
        assert [future.wait() for future in futures] == list(range(1000))
    assert received(topic, 1000) == [(number, bytes([number % 256])) for number in range(1000)]


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1:0"])
def test_large_and_small_events_arrive_whole_and_in_order(start_server: Any, address: str) -> None:
    topic = start_server(address).topic()
    sizes = [0, 1, (8 << 20) + 1, 5, 64 << 20, 64 << 10, 0, (4 << 20) + 1, (4 << 20) + 1, 3]
    with topic.producer() as producer:
        for number, size in enumerate(sizes):
            producer.push({"n": number}, bytes([number]) * size)
    with topic.consumer("reader") as consumer:
        for number, size in enumerate(sizes):
            event = consumer.pull().wait(20000)
            (view,) = event.data
            assert (event.metadata, len(view)) == ({"n": number}, size)
            assert not size or view == bytes([number]) * size


@pytest.mark.parametrize("batch_size", [7, AdaptiveBatchSize])
@pytest.mark.parametrize("producers", [1, 8])
def test_eight_threads_keep_their_order_and_share_the_ids(
    server: Server, batch_size: int, producers: int
) -> None:
    topic = server.topic()
    made = [topic.producer(batch_size=batch_size) for _ in range(producers)]
    ids: list[list[Any]] = [[] for _ in range(8)]

    def push(thread: int) -> None:
        producer = made[thread % producers]
        futures = [producer.push({"thread": thread, "n": n}, bytes(n % 50)) for n in range(1500)]
        ids[thread] = [future.wait(20000) for future in futures]

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(own == sorted(own) for own in ids)
    assert sorted(number for own in ids for number in own) == list(range(12000))
    found = received(topic, 12000)
    for thread, own in enumerate(ids):
        assert [found[number][0] for number in own] == [{"thread": thread, "n": n} for n in range(1500)]


def test_an_event_goes_out_when_it_is_waited_for_or_flushed_and_not_before(topic: TopicHandle) -> None:
    producer = topic.producer(batch_size=1000)
    first = producer.push(1)
    assert not first.completed
    assert not first.completed()
    assert first.wait(timeout_ms=10000) == 0
    assert first.completed
    second, third = producer.push(2), producer.push(3)
    flush = producer.flush()
    assert flush.wait(10000.0) is True
    assert (second.wait(0), third.wait(-1), third.wait()) == (1, 2, 2)
    assert producer.flush().completed
    assert producer.flush().wait() is True


def test_a_closed_producer_takes_no_event(server: Server) -> None:
    for partitions in (1, 2):
        producer = server.topic(partitions).producer("late")
        producer.push(1)
        producer.close()
        producer.close()
        for _ in range(2):
            with pytest.raises(Exception, match=r"'late'.* is closed"):
                producer.push(2)
        with pytest.raises(Exception, match=r"'late'.* is closed"):
            producer.flush()


def test_a_failure_that_a_future_told_is_not_told_again_at_the_end(topic: TopicHandle) -> None:
    with topic.producer(batch_size=10) as producer:
        told, untold = producer.push(1), producer.push(2)
        producer._lanes[0].fail(Exception("refused"))  # type: ignore[attr-defined]
        for future in (told, untold, told):
            with pytest.raises(Exception, match="refused"):
                future.wait()
        assert producer.push(3).wait(10000) == 0
    producer = topic.producer(batch_size=10)
    producer.push(4)
    producer._lanes[0].fail(Exception("refused, and nobody asked"))  # type: ignore[attr-defined]
    assert producer.push(5).wait(10000) == 1
    with pytest.raises(Exception, match="nobody asked"):
        producer.close()


def test_a_topic_without_partitions_refuses_pushes_and_ends_at_once(server: Server) -> None:
    topic = server.topic(0)
    with topic.producer() as producer, pytest.raises(Exception, match="no partition"):
        producer.push({})
    with topic.consumer("reader") as consumer:
        end = consumer.pull().wait()
        assert (end.event_id, end.metadata, end.data, end.partition) == (None, {}, [], {})
        with pytest.raises(Exception, match="no event"):
            end.acknowledge()
        assert list(consumer) == []


@pytest.mark.parametrize("options", [{"wen_full": "block"}, {"when_full": "wait"}])
def test_producer_options_that_are_unknown_are_refused(topic: TopicHandle, options: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="when_full"):
        topic.producer(options=options)


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": -1}, {"max_num_batches": -1}, {"thread_pool": 2}, {"name": 5}],
)
def test_arguments_of_a_producer_of_a_wrong_type_or_out_of_range_are_type_errors(
    topic: TopicHandle, arguments: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=next(iter(arguments))):
        topic.producer(**arguments)
