"""Programs of older generations: how the driver was made tells what they rely on."""

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest

import mochi.mofka.client as mofka
from diaspora_stream import generations
from diaspora_stream.errors import ConfigError
from mochi.mofka.client.driver import MofkaDriver
from tests.client.client_server import Server


class Engine:
    """As pymargo's."""

    mid = 12345


@pytest.fixture(autouse=True)
def _nothing_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "_told", {})
    monkeypatch.delenv("MOFKA_METADATA", raising=False)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def selector(metadata: Any, descriptor: mofka.DataDescriptor) -> mofka.DataDescriptor | None:
    return descriptor if metadata["keep"] else None


def broker(metadata: Any, descriptor: mofka.DataDescriptor) -> list[bytearray]:
    return [bytearray(descriptor.size)]


def test_raw_text_is_what_was_pushed(server: Server) -> None:
    with MofkaDriver(str(server.group_file)) as driver:
        driver.create_topic(
            "raw", options={"num_partitions": 1}, serializer=mofka.Serializer.from_metadata("raw")
        )
        topic = driver.open_topic("raw")
        with topic.producer() as producer, topic.consumer("c") as consumer:
            producer.push('{"b": 1,  "a": 2}')
            producer.flush()
            assert consumer.pull().wait(10000).metadata == '{"b": 1,  "a": 2}'


@pytest.mark.parametrize("engine", [(), (Engine(),), ("na+sm",), (12345,), (None, True)])
def test_a_program_of_the_oldest_generation_runs_and_is_told_nothing(
    server: Server, caplog: pytest.LogCaptureFixture, engine: Any
) -> None:
    driver: Any = MofkaDriver(str(server.group_file), *engine)
    topic_name = f"oldest_{len(engine)}_{id(engine)}"
    driver.create_topic(
        topic_name,
        mofka.Validator.from_metadata("default", {}),
        mofka.PartitionSelector.from_metadata({"__type__": "default"}),
        mofka.Serializer.from_metadata(metadata={"type": "default"}),
    )
    driver.add_memory_partition(topic_name, 0)
    topic = driver.open_topic(topic_name)
    pool = mofka.ThreadPool(1)
    producer = topic.producer("p", mofka.AdaptiveBatchSize, pool, mofka.Ordering.Strict)
    assert producer.batch_size() == producer.batch_size == mofka.AdaptiveBatchSize
    assert producer.thread_pool is pool
    for index in range(3):
        future = producer.push({"keep": index > 0, "i": index}, b"abc")
    producer.flush()
    assert future.completed
    consumer = topic.consumer(
        name="c", thread_pool=mofka.ThreadPool(), batch_size=1, data_selector=selector, data_broker=broker
    )
    assert consumer.batch_size() == 1
    found = []
    for _ in range(3):
        event = consumer.pull().wait()
        found.append((json.loads(event.metadata)["i"], event.data))
        event.acknowledge()
    assert found == [(0, []), (1, [bytearray(b"abc")]), (2, [bytearray(b"abc")])]
    topic.mark_as_complete()
    driver.close()
    assert told(caplog) == [
        "mark_as_complete() has flushed what this topic's producers had pushed; consumers are not told of an end: have "
        "them stop at an event that says so, or when there is none for a while"
    ]


@pytest.mark.parametrize("given", [{"data_selector": selector}, {"data_broker": broker}, {}])
def test_the_oldest_programs_may_give_one_callable(server: Server, given: dict[str, Any]) -> None:
    topic = server.topic()
    with topic.producer() as producer:
        producer.push({"keep": True}, b"abc")
    driver: Any = MofkaDriver(server.group_file)
    event = driver.open_topic(topic_name=topic.name).consumer("c", **given).pull().wait()
    assert [bytes(buffer) for buffer in event.data] == [b"abc"]
    made_today: Any = topic
    if given:
        with pytest.raises(TypeError, match="both"):
            made_today.consumer("c", **given)


def test_the_second_generation_has_values_and_a_flush_that_blocks(server: Server) -> None:
    name = server.topic().name
    driver = mofka.Driver.new("mofka", {"group_file": str(server.group_file)})
    topic = driver.open_topic(name)
    producer = topic.producer("p", batch_size=1000)
    future = producer.push({"i": 1})
    producer.flush()
    assert future.completed
    assert not callable(producer.batch_size)
    assert topic.consumer("c").pull().wait(10000).metadata == {"i": 1}
    assert mofka.Driver.new("mofka", metadata={"group_file": server.group_file}).topic_exists(name)


def test_todays_flush_does_not_block(server: Server) -> None:
    topic = server.topic()
    producer = topic.producer(batch_size=1000)
    server.freeze()
    try:
        future = producer.push({})
        flushed = producer.flush()
        assert not future.completed
        assert flushed.wait(20) is False
    finally:
        server.thaw()
    assert flushed.wait(10000)


def test_text_is_chosen_by_option_or_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = server.topic()
    with topic.producer() as producer:
        producer.push('{"b": 1.0, "a": "\u00e9"}')
        producer.flush().wait(10000)

    def first(*older: Any, **options: Any) -> Any:
        driver = MofkaDriver(*older, **options)
        with driver, driver.open_topic(topic.name).consumer("c") as consumer:
            return consumer.pull().wait(10000).metadata

    value, text = {"a": "\u00e9", "b": 1.0}, '{"a":"\u00e9","b":1.0}'
    path = str(server.group_file)
    assert first(group_file=path) == value
    assert first(group_file=path, metadata="text") == text
    assert first(path) == text
    assert first(path, metadata="value") == value
    monkeypatch.setenv("MOFKA_METADATA", "text")
    assert first(group_file=path) == text
    assert first(group_file=path, metadata="value") == value
    monkeypatch.setenv("MOFKA_METADATA", "value")
    assert first(path) == value
    monkeypatch.setenv("MOFKA_METADATA", "")
    assert first(path) == text
    monkeypatch.setenv("MOFKA_METADATA", "txt")
    with pytest.raises(ConfigError, match=r"MOFKA_METADATA: found 'txt', allowed are 'text' and 'value'"):
        first(path)
    for wrong in (True, ["text"]):
        with pytest.raises(ConfigError, match=r"options\.metadata: found"):
            first(group_file=path, metadata=wrong)


def test_text_of_a_serializer_of_ones_own_is_json(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "diaspora_stream"))
    with MofkaDriver(group_file=server.group_file, metadata="text") as driver:
        serializer = mofka.Serializer.from_metadata(type="reverse-text:plugin_example")
        driver.create_topic("reversed", options={"num_partitions": 1}, serializer=serializer)
        topic = driver.open_topic("reversed")
        with topic.producer() as producer, topic.consumer("c") as consumer:
            producer.push('"abc"')
            producer.flush()
            assert consumer.pull().wait(10000).metadata == '"abc"'


def test_the_end_of_a_topic_without_partitions_is_text_too(server: Server) -> None:
    name = server.topic(0).name
    driver = MofkaDriver(str(server.group_file))
    event = driver.open_topic(name).consumer("c").pull().wait()
    assert (event.event_id, json.loads(event.metadata)) == (None, {})


def test_an_older_name_is_told_once_where_the_program_is_not_that_old(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    topic: Any = server.topic()
    for number in range(3):
        topic.consumer(f"c{number}", data_broker=broker, data_selector=selector)
        topic.producer("p", max_batch=5)
    assert [line for line in told(caplog) if "today" in line] == [
        "consumer(): data_broker is called data_allocator today",
        "producer(): max_batch is called max_num_batches today",
    ]


def test_a_wrong_argument_of_an_older_name_names_todays(server: Server) -> None:
    topic: Any = server.topic()
    with pytest.raises(TypeError, match=r"data_allocator must be callables, not 3") as caught:
        topic.consumer("c", data_broker=3, data_selector=selector)
    assert caught.value.__notes__ == ["data_broker is what data_allocator was called"]
    with pytest.raises(TypeError, match="max_num_batches must be an int"):
        topic.producer("p", max_batch="5")
    with pytest.raises(TypeError, match="data_allocator twice: data_broker is what it was called"):
        topic.consumer("c", data_allocator=broker, data_broker=broker, data_selector=selector)
    driver: Any = MofkaDriver
    path = str(server.group_file)
    for given, options in (
        ((path, 1.5), {}),
        ((None,), {}),
        (({"group_file": path},), {}),
        ((path, None, True, 1), {}),
        ((path,), {"group_file": path}),
    ):
        with pytest.raises(TypeError, match=r"today's form is MofkaDriver\(group_file='mofka\.json'\)"):
            driver(*given, **options)
    any_driver: Any = mofka.Driver
    with pytest.raises(TypeError, match=r"Driver\.new\('mofka'"):
        any_driver("mofka", {"group_file": path})


def test_the_oldest_names_of_the_driver_are_there(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    older: Any = mofka
    path = str(server.group_file)
    for service in (
        older.Client(Engine()).connect(path),
        older.Client(mid=12345).connect(path),
        older.Client(path, "na+sm"),
        older.Client(group_file=path),
        older.ServiceHandle(path),
    ):
        assert isinstance(service, older.ServiceHandle)
        assert service.num_servers == 1
    assert told(caplog) == []
    with pytest.raises(AttributeError, match="has no attribute 'Clent'"):
        older.Clent  # noqa: B018


class Stranger(mofka.Validator):
    """A validator that describes itself as one that is not installed here."""

    description: ClassVar[dict[str, Any]]

    def validate(self, metadata: Any) -> None: ...

    def to_metadata(self) -> dict[str, Any]:
        return self.description


class StrangeSelector(mofka.PartitionSelector):
    """A partition selector of the same kind."""

    def set_partitions(self, partitions: Any) -> None: ...

    def select(self, metadata: Any, requested: int | None = None) -> int:
        return 0

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "mine:libmine.so"}


@pytest.mark.parametrize(
    ("description", "pushes"),
    [
        ({"type": "schema", "schema": {"required": "x", "type": "object"}}, True),
        ({"type": "schema", "schema": {"properties": {"x": {"pattern": "[[:nothing:]](?"}}}}, True),
        ({"type": "mine:libmine.so", "x": 1}, False),
    ],
)
def test_a_topic_opens_whatever_its_validator_is(
    server: Server, description: dict[str, Any], pushes: bool
) -> None:
    driver = server.driver()
    name = f"strange_{id(description)}"
    Stranger.description = description
    driver.create_topic(name, options={"num_partitions": 1}, validator=Stranger())
    topic = driver.open_topic(name)
    with topic.producer() as producer, topic.consumer("c") as consumer:
        if pushes:
            assert producer.push({}).wait(10000) == 0
            assert consumer.pull().wait(10000).metadata == {}
        else:
            with pytest.raises(mofka.Exception, match=r"nobody can push here.*libmine\.so"):
                producer.push({})
            assert consumer.pull().wait(20) is None


def test_a_topic_opens_whatever_its_partition_selector_is(server: Server) -> None:
    driver = server.driver()
    driver.create_topic("selected", options={"num_partitions": 2}, partition_selector=StrangeSelector())
    topic = driver.open_topic("selected")
    with topic.producer() as producer, topic.consumer("c") as consumer:
        with pytest.raises(mofka.Exception, match=r"nobody can push here.*libmine\.so"):
            producer.push({})
        assert consumer.pull().wait(20) is None


def test_none_is_no_component_and_no_callable(server: Server) -> None:
    driver = server.driver()
    driver.create_topic(
        "without",
        options={"num_partitions": 1},
        validator=None,
        partition_selector=None,
        serializer=None,
        schema=None,
    )
    topic = driver.open_topic("without")
    with topic.producer(thread_pool=None, options=None) as producer:
        producer.push({}, b"abc")
    consumer = topic.consumer("c", data_selector=None, data_allocator=None, targets=None, thread_pool=None)
    assert consumer.pull().wait(10000).data == []
