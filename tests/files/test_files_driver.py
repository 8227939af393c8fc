"""The files driver as several processes use it, and what comes of crashes and forks; every process is a real one."""

import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, Event, TopicHandle
from diaspora_stream.ctl.main import main as ctl
from diaspora_stream.errors import ConfigError, DiasporaError, EventsDamaged, TopicNotFound
from mochi.mofka.files import watching

PATIENCE_MS = 60_000

PRELUDE = """
import os, signal, sys, threading
from diaspora_stream.api import *
driver = Driver(backend="files", options={"root_path": sys.argv[1], "timeout_ms": 60000})
topic = driver.open_topic(sys.argv[2])
def say(text):
    print(text, flush=True)
"""

Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def driver(root: Path) -> Iterator[Driver]:
    with Driver(backend="files", options={"root_path": root}) as driver:
        yield driver


@pytest.fixture
def topic(driver: Driver) -> TopicHandle:
    driver.create_topic("t")
    return driver.open_topic("t")


@pytest.fixture
def run(root: Path) -> Iterator[Run]:
    """Starts a Python program that has `driver`, `topic` and `say`."""
    processes: list[subprocess.Popen[str]] = []

    def start(program: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(root), "t"],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def pulled(topic: TopicHandle, name: str, count: int, **options: Any) -> list[Event]:
    with topic.consumer(name, **options) as consumer:
        return [next_of(consumer) for _ in range(count)]


def next_of(consumer: Any) -> Event:
    event: Event | None = consumer.pull().wait(timeout_ms=PATIENCE_MS)
    assert event is not None
    return event


WRITER = """
producer = topic.producer("p", batch_size=7)
say("ready")
n = 0
while True:
    future = producer.push({"n": n}, n.to_bytes(4, "little") * (n % 9))
    n += 1
    if n % 500 == 0:
        future.wait()
        say(n)
"""


def data_of(n: int) -> bytes:
    return n.to_bytes(4, "little") * (n % 9)


def test_processes_read_while_another_writes(topic: TopicHandle, run: Run) -> None:
    reader = """
    consumer = topic.consumer(sys.stdin.readline().strip())
    say("ready")
    for n in range(20000):
        event = consumer.pull().wait(timeout_ms=60000)
        assert event.event_id == n and event.metadata == {"n": n}, (n, event)
        assert bytes(event.data[0]) == n.to_bytes(4, "little") * (n % 9)
    event.acknowledge()
    say("done")
    """
    readers = [run(reader) for _ in range(2)]
    for number, each in enumerate(readers):
        assert each.stdin is not None
        print(f"reader{number}", file=each.stdin, flush=True)
        assert line(each) == "ready"
    writer = run(WRITER.replace("while True", "while n < 20000"))
    assert line(writer) == "ready"
    for each in readers:
        assert line(each) == "done", each.stderr and each.stderr.read()
    with topic.consumer("reader0", options={"iteration_timeout_ms": 100}) as again:
        assert list(again) == []


@pytest.mark.parametrize("behavior", ["buffered", "on_flush", "immediate"])
def test_a_writer_that_is_killed_loses_nothing_that_was_stored(
    root: Path, topic: TopicHandle, run: Run, behavior: str
) -> None:
    opening = f"""
    driver = Driver(backend="files", options={{"root_path": sys.argv[1], "flush_behavior": "{behavior}"}})
    topic = driver.open_topic("t")
    """
    beside = topic.consumer("beside")
    stored = 0
    for _ in range(3):
        writer = run(textwrap.dedent(opening) + WRITER.replace("n = 0", f"n = {stored}"))
        assert line(writer) == "ready"
        told = int(line(writer))
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        told = max([told, *map(int, writer.stdout.read().split())])
        # The next one takes the place of the killed one, and nobody has seen an event that is not there any more.
        with topic.producer("next") as producer:
            count = producer.push({"n": None}).wait()
            assert count is not None
        assert count >= told
        seen = [next_of(beside) for _ in range(count + 1 - stored)]
        events = pulled(topic, "whole", count + 1)
        assert [event.event_id for event in events] == list(range(count + 1))
        assert [event.metadata for event in events[stored:]] == [event.metadata for event in seen]
        assert [event.metadata["n"] for event in events[stored:count]] == list(range(stored, count))
        assert all(bytes(event.data[0]) == data_of(event.metadata["n"]) for event in events[stored:count])
        stored = count + 1


def test_a_second_writer_is_told_who_writes_and_has_its_turn_afterwards(topic: TopicHandle, run: Run) -> None:
    writer = run(
        """
        producer = topic.producer()
        producer.push({}).wait()
        say("holds")
        sys.stdin.readline()
        producer.close()
        say("closed")
        sys.stdin.readline()
        """
    )
    assert line(writer) == "holds"
    producer = topic.producer()
    with pytest.raises(DiasporaError, match=f"process {writer.pid} "):
        producer.push({})
    assert writer.stdin is not None
    print(file=writer.stdin, flush=True)
    assert line(writer) == "closed"
    assert producer.push({}).wait() == 1


def test_each_process_may_write_a_partition_of_its_own(driver: Driver, root: Path, run: Run) -> None:
    driver.create_topic("t", options={"num_partitions": 3})
    topic = driver.open_topic("t")
    program = """
    rank = int(sys.stdin.readline())
    with topic.producer() as producer:
        for n in range(100):
            producer.push({"n": n, "rank": rank}, partition=rank)
    say("done")
    """
    writers = [run(program) for _ in range(3)]
    for rank, writer in enumerate(writers):
        assert writer.stdin is not None
        print(rank, file=writer.stdin, flush=True)
    for writer in writers:
        assert line(writer) == "done"
    events = pulled(topic, "c", 300)
    for rank in range(3):
        assert [e.metadata["n"] for e in events if e.metadata["rank"] == rank] == list(range(100))


def test_a_forked_child_has_neither_the_events_nor_the_lock_of_its_parent(topic: TopicHandle) -> None:
    producer = topic.producer("p", batch_size=1000)
    pending = producer.push({"of": "parent"})
    consumer = topic.consumer("c")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            answers = []
            for ask in (lambda: producer.push({"of": "child"}), lambda: pending.wait()):
                try:
                    ask()
                    answers.append("no error")
                except DiasporaError as error:
                    answers.append(str(error))
            os.write(write, "\n".join(answers).encode())
            signal.pause()
        finally:
            os._exit(1)
    try:
        told, pushed = os.read(read, 4096).decode().split("\n")
        assert f"process {os.getpid()} " in told
        assert "parent" in pushed
        assert pending.wait() == 0
        producer.close()
        # The child lives, and the lock is free.
        with topic.producer() as another:
            assert another.push({"of": "another"}).wait() == 1
        assert [next_of(consumer).metadata["of"] for _ in range(2)] == ["parent", "another"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_writes_once_its_parent_is_done(topic: TopicHandle) -> None:
    producer = topic.producer("p", batch_size=1000)
    producer.push({"of": "parent"}).wait()
    consumer = topic.consumer("c")
    next_of(consumer).acknowledge()
    topic_of_child = topic.producer("child", batch_size=1000)
    producer.close()

    def write() -> None:
        topic_of_child.push({"of": "child"})
        assert next_of(topic.consumer("other")).metadata == {"of": "parent"}

    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert next_of(consumer).metadata == {"of": "child"}


def test_what_is_pending_at_the_end_of_a_program_is_stored(topic: TopicHandle, run: Run) -> None:
    program = run(
        "producer = topic.producer(batch_size=100)\nproducer.push({'last': 1})\nproducer.push({'last': 2})"
    )
    assert program.wait(60) == 0
    assert [event.metadata["last"] for event in pulled(topic, "c", 2)] == [1, 2]


def test_what_a_dropped_producer_had_pending_is_stored_and_its_lock_is_given_back(
    topic: TopicHandle, run: Run
) -> None:
    producer = topic.producer(batch_size=100)
    producer.push({"dropped": True})
    del producer
    assert pulled(topic, "c", 1)[0].metadata == {"dropped": True}
    other = run("with topic.producer() as producer:\n    say(producer.push({}).wait())")
    assert line(other) == "1"


def test_cursors_are_shared_by_processes_and_survive_them(topic: TopicHandle, run: Run) -> None:
    with topic.producer() as producer:
        for n in range(10):
            producer.push({"n": n})
    other = run(
        """
        consumer = topic.consumer("a name/with: anything é")
        for _ in range(4):
            event = consumer.pull().wait(60000)
        event.acknowledge()
        say("done")
        """
    )
    assert line(other) == "done"
    assert pulled(topic, "a name/with: anything é", 1)[0].metadata == {"n": 4}
    assert pulled(topic, "a name/with: anything", 1)[0].metadata == {"n": 0}
    assert pulled(topic, "x" * 1000, 1)[0].metadata == {"n": 0}


def test_a_cursor_behind_events_that_a_crash_took_hides_none_that_come(
    root: Path, topic: TopicHandle
) -> None:
    with topic.producer() as producer:
        for n in range(5):
            producer.push({"n": n})
    pulled(topic, "c", 5)[-1].acknowledge()
    partition = root / "t" / "partitions" / "00000000"
    for path in [*partition.glob("chunk-*"), *partition.glob("mofka*")]:
        path.unlink()  # as if the machine had crashed before any of it was on disk
    (partition / "chunk-000000.idx").touch()
    with topic.producer() as producer:
        assert producer.push({"n": "new"}).wait() == 0
    assert pulled(topic, "c", 1)[0].metadata == {"n": "new"}


def test_a_damaged_event_is_told_and_the_others_are_read(root: Path, topic: TopicHandle) -> None:
    with topic.producer(batch_size=1) as producer:
        for n in range(3):
            producer.push({"n": n}, b"data %d" % n)
    with open(root / "t" / "partitions" / "00000000" / "chunk-000000.data", "r+b") as file:
        file.seek(7)
        file.write(b"X")
    with topic.consumer("c") as consumer:
        assert next_of(consumer).metadata == {"n": 0}
        with pytest.raises(EventsDamaged) as caught:
            next_of(consumer)
        assert (caught.value.first, caught.value.next) == (1, 2)
        assert next_of(consumer).metadata == {"n": 2}


def test_without_inotify_new_events_are_looked_for(
    topic: TopicHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "file_system", lambda path: 0x6969)  # NFS
    with topic.consumer("c") as consumer:
        future = consumer.pull()
        with topic.producer() as producer:
            producer.push({"n": 1})
        event = future.wait(timeout_ms=PATIENCE_MS)
    assert event is not None
    assert event.metadata == {"n": 1}


def test_inotify_tells_of_new_events(topic: TopicHandle, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if watching.file_system(str(root)) not in watching._LOCAL:
        pytest.skip("this file system is not watched")
    monkeypatch.setattr(watching, "SELDOM", 3600.0)
    with topic.consumer("c") as consumer:
        future = consumer.pull()
        assert future.wait(timeout_ms=100) is None
        with topic.producer() as producer:
            producer.push({"n": 1})
        event = future.wait(timeout_ms=PATIENCE_MS)
    assert event is not None


def test_threads_that_wait_each_have_an_event(topic: TopicHandle) -> None:
    consumer = topic.consumer("c")
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(next_of(consumer).metadata["n"])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    with topic.producer() as producer:
        for n in range(8):
            producer.push({"n": n})
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == list(range(8))


def test_ctrl_c_ends_a_wait_and_loses_no_event(topic: TopicHandle, run: Run) -> None:
    program = run(
        """
        consumer = topic.consumer("c")
        say("waits")
        try:
            consumer.pull().wait()
        except KeyboardInterrupt:
            say("interrupted")
        say(consumer.pull().wait(60000).metadata)
        """
    )
    assert line(program) == "waits"
    select.select([], [], [], 0.2)
    program.send_signal(signal.SIGINT)
    assert line(program) == "interrupted"
    with topic.producer() as producer:
        producer.push("1")
    assert line(program) == "1"


def test_a_topic_that_another_process_writes_is_not_deleted(
    driver: Driver, topic: TopicHandle, run: Run
) -> None:
    writer = run("producer = topic.producer()\nproducer.push({}).wait()\nsay('holds')\nsys.stdin.readline()")
    assert line(writer) == "holds"
    with pytest.raises(DiasporaError, match=f"process {writer.pid} "):
        driver.delete_topic("t")
    assert pulled(topic, "c", 1)
    writer.kill()
    writer.wait()
    driver.delete_topic("t")
    assert driver.list_topics() == {}


def test_who_uses_a_topic_that_is_deleted_is_told(driver: Driver, topic: TopicHandle) -> None:
    producer = topic.producer()
    producer.push({}).wait()
    consumer = topic.consumer("c")
    next_of(consumer)
    future = consumer.pull()
    driver.delete_topic("t")
    with pytest.raises(TopicNotFound):
        future.wait(timeout_ms=PATIENCE_MS)
    with pytest.raises(DiasporaError):
        producer.push({}).wait()


def test_one_of_several_that_create_a_topic_does(driver: Driver, root: Path) -> None:
    outcomes: list[str] = []

    def create() -> None:
        with Driver(backend="files", options={"root_path": str(root)}) as own:
            try:
                own.create_topic("raced", options={"num_partitions": 2})
                outcomes.append("made")
            except DiasporaError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["topic 'raced' already exists"] * 5
    assert os.listdir(root) == ["raced"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"flush_behavior": "sometimes"}, "flush_behavior"),
        ({"flush_behavior": 1}, "flush_behavior"),
        ({"use_file_locking": "yes"}, "use_file_locking"),
        ({"root_path": 5}, "root_path"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ([], "options"),
    ],
)
def test_options_that_are_wrong_are_named(root: Path, options: Any, field: str) -> None:
    given = {"root_path": str(root), **options} if isinstance(options, dict) else options
    with pytest.raises(ConfigError, match=field):
        Driver(backend="files", options=given)


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="root_path"):
        Driver(backend="files", options={"root_path": str(tmp_path / "file" / "data")})


def test_the_command_line_creates_lists_and_deletes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_driver = ["--driver", "files", "--driver.root_path", str(root)]
    create = [
        "topic",
        "create",
        *with_driver,
        "--name",
        "t",
        "--topic.partitions",
        "1",
        "--topic.config.option1",
        "x",
    ]
    assert ctl(create) == 0
    assert ctl(["topic", "list", *with_driver]) == 0
    assert capsys.readouterr().out == "t\n"
    assert ctl(create) == 1
    assert ctl(["topic", "delete", *with_driver, "--name", "t"]) == 0
    assert ctl(["topic", "list", *with_driver]) == 0
    assert capsys.readouterr().out == ""


def test_the_default_directory_is_that_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Driver(backend="files") as driver:
        driver.create_topic("t")
    assert (tmp_path / "diaspora_data" / "t" / "validator.json").read_text() == '{\n  "type": "default"\n}'


def test_what_is_pushed_at_the_very_end_of_a_program_is_stored(topic: TopicHandle, run: Run) -> None:
    program = run(
        """
        import atexit
        producer = topic.producer(batch_size=100)
        producer.push({"n": 0})
        class Late:
            def __del__(self):
                producer.push({"n": 1})
        kept = Late()
        """
    )
    assert program.wait(60) == 0
    assert [event.metadata["n"] for event in pulled(topic, "c", 2)] == [0, 1]


def test_dropped_consumers_leave_no_file_open(topic: TopicHandle) -> None:
    with topic.producer() as producer:
        producer.push({"n": 0}, b"data")
    pulled(topic, "c", 1)

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(5):
        consumer = topic.consumer("c")
        next_of(consumer)
        del consumer
    with topic.producer() as producer:
        producer.push({"n": 1}).wait()  # the thread that closes has come as far as this
    assert count() == before


def test_a_topic_that_cannot_be_deleted_is_written_on_by_its_producers(
    driver: Driver, root: Path, run: Run
) -> None:
    driver.create_topic("t", options={"num_partitions": 2})
    topic = driver.open_topic("t")
    producer = topic.producer()
    producer.push({}, partition=0).wait()
    held = run(
        """
        producer = topic.producer()
        producer.push({}, partition=1).wait()
        say("holds")
        sys.stdin.readline()
        """
    )
    assert line(held) == "holds"
    with pytest.raises(DiasporaError, match=f"process {held.pid} "):
        driver.delete_topic("t")
    assert producer.push({}, partition=0).wait() == 1


def test_older_programs_and_other_processes_make_it_anew(
    driver: Driver, topic: TopicHandle, root: Path
) -> None:
    older: Any = Driver
    with older.new("files", {"root_path": str(root)}) as second:
        second.open_topic("t").producer().push({"n": 1})
    consumer = pickle.loads(pickle.dumps(topic)).consumer("c")
    assert next_of(consumer).metadata == {"n": 1}
    with Driver(backend="files", options={"root_path": str(root), "metadata": "text"}) as text:
        assert next_of(text.open_topic("t").consumer("d")).metadata == '{"n":1}'
