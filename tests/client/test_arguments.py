"""What applications give as names, numbers and paths: taken for what it stands for, or refused where it is given."""

import enum
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diaspora_stream.api import AdaptiveBatchSize, Driver, Exception, TopicHandle
from diaspora_stream.errors import ConfigError, InvalidMetadata
from tests.client.client_server import Server


class Number:
    """As the integers of other packages are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.fixture(scope="module")
def topic(server: Server) -> TopicHandle:
    return server.topic(2)


@pytest.fixture(scope="module")
def filled(server: Server) -> TopicHandle:
    topic = server.topic(2)
    with topic.producer(batch_size=1) as producer:
        for index in range(4):
            producer.push({"i": index}, partition=index % 2).wait(10000)
    return topic


def read(topic: TopicHandle, targets: Any, count: int) -> list[int]:
    with topic.consumer("reader", targets=targets) as consumer:
        found = [consumer.pull().wait(10000).metadata["i"] for _ in range(count)]
        assert consumer.pull().wait(20) is None
    return sorted(found)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (lambda: None, [0, 1, 2, 3]),
        (list, [0, 1, 2, 3]),
        (lambda: [1], [1, 3]),
        (lambda: {Number(1), Number(1)}, [1, 3]),
        (lambda: np.array([0]), [0, 2]),
        (lambda: np.array([0, 1]), [0, 1, 2, 3]),
        (lambda: np.arange(0), [0, 1, 2, 3]),
        (lambda: (target for target in [0]), [0, 2]),
        (lambda: iter([np.uint8(1)]), [1, 3]),
    ],
)
def test_targets_are_read_once_whatever_gives_them(
    filled: TopicHandle, targets: Callable[[], Iterable[Any] | None], expected: list[int]
) -> None:
    assert read(filled, targets(), len(expected)) == expected


@pytest.mark.parametrize("targets", [0, False, "", b"", "0", [0.0], ["0"], [True], [-1], [2**70], [None]])
def test_targets_that_are_no_numbers_of_partitions_are_type_errors(topic: TopicHandle, targets: Any) -> None:
    with pytest.raises(TypeError, match="target"):
        topic.consumer("c", targets=targets)


@pytest.mark.parametrize("kind", [int, Number, np.int64, np.uint8])
def test_whatever_stands_for_an_integer_is_one(server: Server, topic: TopicHandle, kind: Any) -> None:
    producer = topic.producer(batch_size=kind(3), max_num_batches=kind(1))
    assert (producer.batch_size, producer.max_num_batches) == (3, 1)
    assert isinstance(producer.push({}, partition=kind(1)).wait(10000), int)
    with topic.consumer("c", batch_size=kind(3), max_num_batches=kind(1)) as consumer:
        assert (consumer.batch_size, consumer.max_num_batches) == (3, 1)
    assert server.driver().make_thread_pool(kind(1)).thread_count == 1


@pytest.mark.parametrize("number", [-1, 2**64, 2**70, 1.0, "1", True, None, math.nan])
def test_numbers_out_of_range_are_refused_where_they_are_given(topic: TopicHandle, number: Any) -> None:
    with topic.producer() as producer:
        for name in ("batch_size", "max_num_batches"):
            for make in (topic.producer, topic.consumer):
                with pytest.raises(TypeError, match=f"{name} must be an int"):
                    make("c", **{name: number})
        if number is not None:
            with pytest.raises(TypeError, match="partition must be an int"):
                producer.push({}, partition=number)


def test_the_largest_numbers_are_taken(filled: TopicHandle) -> None:
    for size in (2**63 - 1, 2**63, AdaptiveBatchSize - 1, AdaptiveBatchSize):
        with filled.consumer("big", batch_size=size, max_num_batches=size, targets=[0]) as consumer:
            assert consumer.pull().wait(10000) is not None
    assert filled.producer(batch_size=0).batch_size == AdaptiveBatchSize


def test_names_that_are_no_text_are_refused_where_they_are_given(server: Server, topic: TopicHandle) -> None:
    driver = server.driver()
    threads = threading.active_count()
    calls: list[Callable[[Any], Any]] = [
        topic.consumer,
        topic.producer,
        driver.open_topic,
        driver.topic_exists,
        driver.delete_topic,
        driver.create_topic,
    ]
    for call in calls:
        with pytest.raises(Exception, match=r"name.*(not Unicode|not allowed)"):
            call("\ud800")
    for call in calls[:-1]:
        with pytest.raises(TypeError, match=r"name.* must be a str"):
            call(5)
    assert threading.active_count() == threads


class Text(str):
    """Text of a type of its own."""

    def __str__(self) -> str:
        return "something else"


class Kind(str, enum.Enum):  # noqa: UP042, a StrEnum is another thing
    ONE = '{"a":1}'


class Bytes(bytes):
    """Bytes of a type of their own."""


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (Text('{"a":1}'), {"a": 1}),
        (Kind.ONE, {"a": 1}),
        (np.str_('{"a":1}'), {"a": 1}),
        (Bytes(b'{"a":1}'), {"a": 1}),
        ({"x": [Bytes(b"a"), np.bytes_(b"a")]}, {"x": ["YQ==", "YQ=="]}),
        ({Text("k"): Text("v")}, {"k": "v"}),
        ({"x": np.int32(1), "y": np.bool_(True)}, {"x": 1, "y": True}),
    ],
)
def test_what_derives_from_text_bytes_or_numbers_is_what_it_derives_from(
    server: Server, metadata: Any, expected: Any
) -> None:
    topic = server.topic()
    with topic.producer() as producer, topic.consumer("c") as consumer:
        producer.push(metadata)
        producer.flush().wait(10000)
        assert consumer.pull().wait(10000).metadata == expected


def test_metadata_is_no_memoryview(topic: TopicHandle) -> None:
    with topic.producer() as producer, pytest.raises(TypeError, match="not a memoryview"):
        producer.push(memoryview(b"{}"))


def test_a_producer_may_refuse_numbers_that_are_not_finite(server: Server) -> None:
    topic = server.topic()
    with topic.producer(options={"not_finite": "raise"}) as strict, topic.producer() as other:
        for number in (math.nan, -math.inf, np.float32("inf")):
            with pytest.raises(InvalidMetadata, match="at '/a/b' is not finite"):
                strict.push({"a": {"b": number}})
        strict.push({"a": None, "b": 1.5}).wait(10000)
        other.push({"a": math.nan}).wait(10000)
    with topic.consumer("c") as consumer:
        assert [consumer.pull().wait(10000).metadata for _ in range(2)] == [
            {"a": None, "b": 1.5},
            {"a": None},
        ]
    with pytest.raises(ConfigError, match="'null' and 'raise'"):
        topic.producer(options={"not_finite": "none"})


def test_a_group_file_may_be_a_path_or_lie_in_the_home(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Driver(backend="mofka", options={"group_file": server.group_file}).close()
    monkeypatch.setenv("HOME", str(server.directory))
    Driver(backend="mofka", options={"group_file": "~/mofka.json"}).close()
    with pytest.raises(Exception, match="home of no user"):
        Driver(backend="mofka", options={"group_file": "~nobody-here/mofka.json"})


def test_a_relative_group_file_stays_where_it_was_when_the_driver_was_made(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(server.directory)
    with Driver(backend="mofka", options={"group_file": "mofka.json"}) as driver:
        monkeypatch.chdir(tmp_path)
        os.utime(server.group_file)  # as if it had changed: it is read again
        driver._group.refresh()  # type: ignore[attr-defined]
        assert driver._group.path == str(server.group_file)  # type: ignore[attr-defined]
        driver.list_topics()


def test_a_path_of_a_topic_in_the_home_is_the_home_of_who_creates_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with server.driver() as driver:
        options = {"num_partitions": 1, "config": {"type": "default", "partition": {"path": "~/data"}}}
        driver.create_topic("at_home", options=options)
        (partition,) = driver.open_topic("at_home").partitions
        driver.delete_topic("at_home")
    assert (tmp_path / "data").is_dir(), partition
    assert not (server.directory / "~").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"partition": {"max_chunk_size": 2**70}}},
        {"dependencies": {"pool": "\ud800"}},
        {"config": {"type": "\ud800"}},
        {"config": {"partition": {"retention": {"max_age": np.arange(2)}}}},
    ],
)
def test_options_that_cannot_be_sent_are_refused_where_they_are_given(
    server: Server, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="options"):
        server.driver().create_topic("unsent", options={"num_partitions": 1, **options})


def test_components_that_cannot_be_sent_are_refused_where_they_are_given(server: Server) -> None:
    with server.driver() as driver:
        with pytest.raises(ConfigError, match="Validator: cannot be sent"):
            driver.create_topic("unsent", options={"num_partitions": 1}, schema={"const": 10**30})
        assert not driver.topic_exists("unsent")


@pytest.mark.parametrize("count", [0, -1, 2**70, math.nan, math.inf, "2", True, None, [1]])
def test_numbers_of_partitions_out_of_range_are_refused(server: Server, count: Any) -> None:
    with pytest.raises(ConfigError, match=r"options\.num_partitions: must be a number from 1 to 1048576"):
        server.driver().create_topic("unmade", options={"num_partitions": count})


def test_none_is_no_options_and_what_is_no_object_is_named(server: Server) -> None:
    topic = server.topic()
    with topic.producer(options=None) as producer, topic.consumer("c", options=None) as consumer:  # type: ignore[arg-type]
        producer.push({}).wait(10000)
        assert consumer.pull().wait(10000) is not None
    for make in (topic.producer, topic.consumer):
        with pytest.raises(ConfigError, match="options: must be an object"):
            make("c", options=[1])  # type: ignore[arg-type]
    with server.driver() as driver:
        driver.create_topic("without", options=None)
        driver.create_topic("of_numpy", options={"num_partitions": np.int64(2)})
        assert len(driver.open_topic("of_numpy").partitions) == 2


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 2**70, True, "5"])
def test_time_outs_that_are_none_are_refused(server: Server, timeout: Any) -> None:
    with pytest.raises(ConfigError, match=r"options\.timeout_ms: must be a positive number"):
        server.driver(timeout_ms=timeout)


def test_a_group_file_that_is_not_there_yet_is_waited_for(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later.json"

    class AsTold(logging.Handler):
        """Has the service ready once it is told that somebody waits for it."""

        def emit(self, record: logging.LogRecord) -> None:
            path.write_bytes(server.group_file.read_bytes())

    handler = AsTold()
    logging.getLogger("mochi.flock.group_file").addHandler(handler)
    try:
        with Driver(backend="mofka", options={"group_file": path, "group_file_timeout_ms": 60000}) as driver:
            driver.list_topics()
    finally:
        logging.getLogger("mochi.flock.group_file").removeHandler(handler)
    (record,) = caplog.records
    assert str(path) in record.message
    assert record.levelno == logging.WARNING


def test_a_missing_group_file_is_named_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"options\.group_file: .*none\.json: no such group file"):
        Driver(backend="mofka", options={"group_file": tmp_path / "none.json", "group_file_timeout_ms": 0})
    with pytest.raises(ConfigError, match=r"there is no directory .*nowhere"):
        Driver(backend="mofka", options={"group_file": tmp_path / "nowhere" / "mofka.json"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"pipe: the group file cannot be read: is a pipe"):
        Driver(backend="mofka", options={"group_file": tmp_path / "pipe"})
    assert caplog.records == []


def test_ctrl_c_at_a_command_is_no_traceback(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    server.freeze()
    commands = [
        ["diaspora-ctl", "topic", "list", "--driver", "mofka", "--driver.group_file", str(server.group_file)],
        ["bedrock-query", "na+sm", "-f", str(server.group_file)],
        ["bedrock-query", "na+sm", "-f", str(tmp_path / "later.json"), "-w", "60"],
        ["bedrock-shutdown", "na+sm", "-f", str(server.group_file)],
    ]
    # A command is interrupted where it waits: after its main thread has begun to sleep.
    program = """
import signal, sys, threading, time
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name=sys.argv[1])
sys.argv = sys.argv[1:]
main = command.load()
def interrupt():
    time.sleep(0.5)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
sys.exit(main())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=20)
            assert "Traceback" not in errors
            assert process.returncode == 130, errors
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        ("add_custom_partition", (0, 5), "partition_type must be a str"),
        ("add_custom_partition", (0, "memory", 5), "partition_config must be a dict"),
        ("add_custom_partition", (0, "memory", {}, ["pool"]), "dependencies must be a dict"),
        ("add_custom_partition", ("0",), "server_rank must be an int"),
        ("add_memory_partition", (True,), "server_rank must be an int"),
        ("add_memory_partition", (-1,), "server_rank must be an int"),
        ("add_memory_partition", (0, 5), "pool must be a str"),
        ("add_default_partition", (0, 5), "io_controller must be a str"),
        ("add_legacy_partition", (0, None), "metadata must be a str"),
        ("add_metadata_provider", (0, 5), "database_type must be a str"),
        ("add_metadata_provider", (0, "map", 5), "database_config must be a dict"),
        ("add_metadata_provider", (0, "map", {}, 5), "dependencies must be a dict"),
        ("add_data_provider", (0, "memory", "{}"), "target_config must be a dict"),
        ("add_default_data_provider", (0, "{}"), "config must be a dict"),
    ],
)
def test_arguments_of_another_type_are_type_errors(
    server: Server, topic: TopicHandle, call: str, arguments: Any, named: str
) -> None:
    driver: Any = topic.driver
    given = arguments if call.endswith("provider") else (topic.name, *arguments)
    with pytest.raises(TypeError, match=named):
        getattr(driver, call)(*given)
    make: Any = Driver
    for backend in (5, ["mofka"]):
        with pytest.raises(TypeError, match="the name of a driver must be a str"):
            make(backend=backend)
        with pytest.raises(TypeError, match="the name of a driver must be a str"):
            make.new(backend)
    for pool in (0, False, 2, "pool"):
        for made in (topic.producer, topic.consumer):
            with pytest.raises(TypeError, match="thread_pool must be a ThreadPool"):
                made("c", thread_pool=pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [Number(0), np.int64(0), np.uint8(0)])
def test_a_rank_is_whatever_stands_for_an_integer(server: Server, rank: Any) -> None:
    topic = server.topic()
    driver: Any = topic.driver
    driver.add_memory_partition(topic.name, rank)
    assert len(driver.open_topic(topic.name).partitions) == 2
    with pytest.raises(Exception, match="server_rank 1 does not exist, the service has servers 0 to 0"):
        driver.add_memory_partition(topic.name, 1)
