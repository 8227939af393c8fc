"""Handles go to other processes by what makes them anew, events by value."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from diaspora_stream.api import (
    Consumer,
    Event,
    Exception,
    FullDataSelector,
    Producer,
    ThreadPool,
    TopicHandle,
)
from diaspora_stream.generations import OLDEST
from mochi.mofka.client.driver import MofkaDriver
from tests.client.client_server import Server

SPAWN = multiprocessing.get_context("spawn")


def allocate(metadata: Any, descriptor: Any) -> list[bytearray]:
    return [bytearray(descriptor.size)]


def push(producer: Producer, number: int) -> int | None:
    return producer.push({"n": number}, b"x" * number).wait()


def pull(consumer: Consumer) -> Event:
    event = consumer.pull().wait(20000)
    assert event is not None
    event.acknowledge()
    return event


def names(driver: MofkaDriver) -> list[str]:
    with driver:
        return list(driver.list_topics())


def push_from(topic: TopicHandle, first: int) -> None:
    with topic.producer() as producer:
        for number in range(first, first + 10):
            producer.push({"n": number})


def test_a_pool_of_processes_pushes_and_pulls_through_what_it_is_given(server: Server) -> None:
    topic = server.topic()
    producer = topic.producer("p", batch_size=3, thread_pool=ThreadPool(1))
    consumer = topic.consumer("c", batch_size=1)
    with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        ids = list(pool.map(push, [producer] * 6, range(6)))
        assert sorted(ids) == list(range(6))  # type: ignore[type-var]
        events = [pool.submit(pull, consumer).result() for _ in range(6)]
        assert topic.name in pool.submit(names, topic.driver).result()  # type: ignore[arg-type]
    assert [event.event_id for event in events] == list(range(6))
    assert sorted(event.metadata["n"] for event in events) == list(range(6))
    for event in events:
        assert [bytes(data) for data in event.data] == [b"x" * event.metadata["n"]]
        assert event.partition == topic.partitions[0]
        with pytest.raises(Exception, match="acknowledge it where it was pulled"):
            event.acknowledge()


def test_spawned_processes_open_a_topic_that_they_are_given(server: Server) -> None:
    topic = server.topic(2)
    processes = [SPAWN.Process(target=push_from, args=(topic, 10 * n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with topic.consumer("c") as consumer:
        assert sorted(consumer.pull().wait(10000).metadata["n"] for _ in range(20)) == list(range(20))


def test_a_pickle_has_the_path_and_the_options_and_not_the_token(server: Server) -> None:
    token = server.token
    assert token
    driver: Any = MofkaDriver(str(server.group_file), timeout_ms=1234)
    topic = driver.open_topic(server.topic().name)
    for handle in (driver, topic, topic.producer(), topic.consumer("c")):
        pickled = pickle.dumps(handle)
        assert token not in pickled
        assert token.hex().encode() not in pickled
    again = pickle.loads(pickle.dumps(driver))
    assert again is not driver
    assert again.options == {
        "group_file": str(server.group_file),
        "timeout_ms": 1234,
        "metadata": "text",
    }
    assert again.generation == OLDEST
    assert pickle.loads(pickle.dumps(topic)).generation == OLDEST


def test_topics_that_are_made_anew_share_a_driver_that_nobody_closes(server: Server) -> None:
    topic = server.topic()
    first, second = (pickle.loads(pickle.dumps(topic)) for _ in range(2))
    assert first is not second
    assert first.driver is second.driver
    assert first.driver is not topic.driver
    topic.driver.close()
    assert first.producer().push({}).wait(10000) == 0


def test_what_a_producer_and_a_consumer_were_made_with_goes_with_them(server: Server) -> None:
    topic = server.topic(3)
    pool = topic.driver.make_thread_pool(2)
    producer = topic.producer("p", batch_size=7, max_num_batches=3, options={"not_finite": "raise"})
    consumer = topic.consumer(
        "c",
        batch_size=9,
        targets=[2],
        thread_pool=pool,
        data_selector=FullDataSelector,
        data_allocator=allocate,
        options={"iteration_timeout_ms": 10},
    )
    made, consumed = pickle.loads(pickle.dumps((producer, consumer)))
    assert (made.name, made.batch_size, made.max_num_batches) == ("p", 7, 3)
    assert made.thread_pool is made.topic.driver.default_thread_pool
    assert made.topic is consumed.topic
    with pytest.raises(Exception, match="not finite"):
        made.push(float("nan"))
    assert consumed.made_with["targets"] == [2]
    assert consumed.thread_pool.thread_count == 2
    assert consumed.data_selector is FullDataSelector
    assert consumed.data_allocator is allocate
    assert list(consumed) == []
    nothing = topic.consumer("n", data_selector=None, data_allocator=None)
    again = pickle.loads(pickle.dumps(nothing))
    assert again.data_selector is None
    assert again.made_with["data_selector"] is None  # which is not the same as none given


def test_a_copy_of_a_handle_is_the_handle(server: Server) -> None:
    topic = server.topic()
    producer = topic.producer()
    producer.push({"a": [1]}, b"abc").wait(10000)
    consumer = topic.consumer("c")
    event = consumer.pull().wait(10000)
    for handle in (topic.driver, topic, producer, consumer, event, ThreadPool(1)):
        assert copy.deepcopy({"of": handle})["of"] is handle
    for handle in (topic.driver, topic, producer, consumer):
        assert copy.copy(handle) is handle
    assert copy.copy(event).metadata == event.metadata


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_events_are_pickled_by_value(server: Server, protocol: int) -> None:
    topic = server.topic()
    topic.producer().push({"a": [1]}, b"abc").wait(10000)
    event = topic.consumer("c").pull().wait(10000)
    again = pickle.loads(pickle.dumps(event, protocol))
    twice = pickle.loads(pickle.dumps(again, protocol))
    for found in (again, twice):
        assert (found.metadata, found.event_id, found.partition) == ({"a": [1]}, 0, topic.partitions[0])
        assert [bytes(data) for data in found.data] == [b"abc"]
        assert isinstance(found.data[0], memoryview)
        found.metadata["a"].append(2)
        assert found.metadata == {"a": [1]}


def test_data_of_events_may_go_out_of_band(server: Server) -> None:
    topic = server.topic()
    topic.producer().push({}, b"abc" * 1000).wait(10000)
    event = topic.consumer("c").pull().wait(10000)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(event, 5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    (buffer,) = buffers
    assert bytes(buffer) == b"abc" * 1000
    assert bytes(pickle.loads(pickled, buffers=buffers).data[0]) == b"abc" * 1000


def test_a_topic_that_is_gone_is_named_where_it_is_made_anew(server: Server) -> None:
    with server.driver() as driver:
        name = f"gone_{uuid4().hex}"
        driver.create_topic(name, options={"num_partitions": 1})
        pickled = pickle.dumps(driver.open_topic(name))
        driver.delete_topic(name)
    with pytest.raises(Exception, match=f"topic '{name}' does not exist"):
        pickle.loads(pickled)
