"""Fork, Ctrl-C, a producer that is dropped, and the interpreter's exit; programs of their own where it matters."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Exception, Producer, TopicHandle
from tests.client.client_server import Server

STORM_WORKER = Path(__file__).with_name("storm_worker.py")
Run = Callable[[Server, TopicHandle, str], "subprocess.Popen[str]"]


@pytest.fixture
def topic(server: Server) -> TopicHandle:
    return server.topic()


def metadata_of(topic: TopicHandle, count: int) -> list[Any]:
    """The metadata of all events, of which there must be `count`."""
    with topic.consumer(f"check{time.monotonic_ns()}") as consumer:
        found = [consumer.pull().wait(10000).metadata for _ in range(count)]
        assert consumer.pull().wait(50) is None
    return found


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; return its exit status, 0 if it returned something true."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_never_sends_its_parents_events_and_both_go_on(topic: TopicHandle) -> None:
    producer = topic.producer(batch_size=100)
    pending = [producer.push(f'"parent {n}"') for n in range(3)]
    flush = producer.flush()
    pending.append(producer.push('"parent 3"'))

    def child() -> bool:
        for wait in (pending[3].wait, pending[3].wait):
            with pytest.raises(Exception, match="parent process"):
                wait(5000)
        future = producer.push('"child"')
        assert producer.flush().wait(5000)
        return future.wait(5000) is not None

    assert in_child(child) == 0
    assert flush.wait(5000) is True
    assert [future.wait(5000) for future in pending][:3] == [0, 1, 2]
    producer.close()
    found = metadata_of(topic, 5)
    assert found[:3] == ["parent 0", "parent 1", "parent 2"]
    assert sorted(found[3:]) == ["child", "parent 3"]


def test_a_consumer_starts_from_its_cursor_in_a_child_and_futures_wait_on(topic: TopicHandle) -> None:
    with topic.producer() as producer:
        for number in range(4):
            producer.push(number)
    with topic.consumer("c") as consumer:
        consumer.pull().wait(5000).acknowledge()
        assert consumer.pull().wait(5000).metadata == 1
        rest = [consumer.pull() for _ in range(3)]
        assert rest[1].wait(5000).metadata == 3

        def child() -> bool:
            return (rest[2].wait(5000).metadata, consumer.pull().wait(5000).metadata) == (1, 2)

        assert in_child(child) == 0
        assert rest[0].wait(5000).metadata == 2
        assert rest[2].wait(20) is None


def test_what_a_dropped_producer_has_pending_is_stored(topic: TopicHandle) -> None:
    producer = topic.producer(batch_size=100)
    last = [producer.push(number) for number in range(5)][-1]
    del producer
    gc.collect()
    while not last.completed:
        pass
    assert metadata_of(topic, 5) == list(range(5))


def test_many_producers_dropped_by_the_collector_while_others_push_lose_nothing(server: Server) -> None:
    topic = server.topic(2)
    steady = topic.producer()
    alive: list[weakref.ref[Producer]] = []
    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        for number in range(100):
            dropped = topic.producer(batch_size=100)
            alive.append(weakref.ref(dropped))
            cycle: list[Any] = [dropped]
            cycle.append(cycle)
            dropped.push(number)
            for _ in range(20):
                steady.push('"steady"', b"x" * 300)
            del dropped, cycle
    finally:
        gc.set_threshold(*before)
    while any(producer() is not None for producer in alive):
        gc.collect()  # does nothing while another thread collects
    steady.close()
    found = metadata_of(topic, 2100)
    assert sorted(item for item in found if item != "steady") == list(range(100))


def test_events_pending_at_exit_are_stored(server: Server, topic: TopicHandle, run_program: Run) -> None:
    process = run_program(server, topic, "p = topic.producer(batch_size=1000)\nfor n in range(10): p.push(n)")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert metadata_of(topic, 10) == list(range(10))


def test_exit_with_a_dead_server_says_what_is_lost_and_ends(start_server: Any, run_program: Run) -> None:
    server = start_server()
    process = run_program(
        server,
        server.topic(),
        """
        p = topic.producer(batch_size=1000)
        for n in range(10): p.push(n)
        print("pushed", flush=True)
        sys.stdin.readline()
        """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "pushed\n"
    server.kill()
    _, errors = process.communicate(timeout=20)
    assert "10 events were still pending at exit" in errors
    assert "Traceback" not in errors


INTERRUPTED = """
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
def interrupted(work):
    print("ready", flush=True)
    start = time.monotonic()
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    else:
        print("done", flush=True)
"""


@pytest.mark.parametrize(
    "work",
    [
        "producer.push(1).wait",
        "producer.flush().wait",
        "lambda: [producer.push(n, bytes(100000)) for n in range(100000)]",
        "consumer.pull().wait",
        "lambda: list(consumer)",
        "event.acknowledge",
    ],
)
def test_ctrl_c_ends_a_wait_at_once_and_the_program_can_go_on(
    start_server: Any, run_program: Run, work: str
) -> None:
    server = start_server()
    topic = server.topic()
    process = run_program(
        server,
        topic,
        INTERRUPTED
        + f"""
producer = topic.producer(max_num_batches=1)
consumer = topic.consumer("c")
producer.push('"first"').wait()
event = consumer.pull().wait()
print("stop", flush=True)
sys.stdin.readline()
if "flush" in {work!r}: producer.push('"second"')
interrupted({work})
sys.stdin.readline()
print(producer.push('"last"').wait(8000) is not None, flush=True)
producer.close()
ids = [event.event_id]
while (event := consumer.pull().wait(8000)).metadata != "last": ids.append(event.event_id)
print(ids == list(range(len(ids))), flush=True)
event.acknowledge()
""",
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "stop\n"
    if "consumer" not in work:
        server.freeze()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    wait_until_asleep(process.pid)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - start < 10
    server.thaw()
    process.stdin.write("\n")
    out, errors = process.communicate(timeout=25)
    assert (out, errors) == ("True\nTrue\n", "")


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_ctrl_c_while_a_consumer_is_made_does_not_wait_for_the_server(
    start_server: Any, run_program: Run, address: str
) -> None:
    server = start_server(address)
    topic = server.topic()
    process = run_program(
        server,
        topic,
        INTERRUPTED
        + """
topic.producer().push(1).wait()
print("stop", flush=True)
sys.stdin.readline()
interrupted(lambda: topic.consumer("c"))
sys.stdin.readline()
print(topic.consumer("c").pull().wait().metadata)
""",
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "stop\n"
    server.freeze()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    wait_until_asleep(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"  # the server does not go on before
    server.thaw()
    process.stdin.write("\n")
    out, errors = process.communicate(timeout=25)
    assert (out, errors) == ("1\n", "")


CHILDREN = {
    "multiprocessing": """
        import multiprocessing
        process = multiprocessing.get_context({how!r}).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0
    """,
    "pool": """
        import concurrent.futures, multiprocessing
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context({how!r})) as pool:
            pool.submit(work).result()
    """,
    "fork": """
        import warnings
        warnings.simplefilter("ignore")  # of threads that are none in the child
        child = os.fork()
        if not child:
            work()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """,
}


@pytest.mark.parametrize(
    ("kind", "how", "inherited"),
    [
        ("multiprocessing", "fork", False),
        ("multiprocessing", "fork", True),
        ("multiprocessing", "forkserver", False),
        ("multiprocessing", "spawn", False),
        ("pool", "fork", False),
        ("pool", "fork", True),
        ("pool", "forkserver", False),
        ("fork", "", False),
        ("fork", "", True),
    ],
)
def test_what_a_child_pushed_and_flushed_is_stored_when_it_returns(
    server: Server, topic: TopicHandle, run_program: Run, tmp_path: Path, kind: str, how: str, inherited: bool
) -> None:
    begin = (
        ""
        if inherited
        else 'topic = Driver(backend="mofka", options={"group_file": group_file}).open_topic(name)'
    )
    (tmp_path / "childs_work.py").write_text(
        f"""
from diaspora_stream.api import Driver
group_file, name = {str(server.group_file)!r}, {topic.name!r}
topic = None
def work():
    global topic
    {begin}
    producer = topic.producer(batch_size=1000)
    for number in range(20): producer.push(number)
    producer.flush()
"""
    )
    process = run_program(
        server,
        topic,
        f"""
sys.path.insert(0, {str(tmp_path)!r})
import childs_work
from childs_work import work
childs_work.topic = topic
"""
        + textwrap.dedent(CHILDREN[kind].format(how=how)),
    )
    _, errors = process.communicate(timeout=40)
    assert (process.returncode, errors) == (0, "")
    assert metadata_of(topic, 20) == list(range(20))


LAST_WORDS = """
class Holder:
    def __del__(self):
        {push}
{before}
producer, holder = topic.producer(batch_size=1000), Holder()
"""


@pytest.mark.parametrize(
    "push", ["producer.push('1')", "print(producer.push('1').wait(9000) == 0, flush=True)"]
)
def test_a_push_while_the_interpreter_ends_is_stored(
    server: Server, topic: TopicHandle, run_program: Run, push: str
) -> None:
    process = run_program(server, topic, LAST_WORDS.format(push=push, before=""))
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert out in ("", "True\n")
    assert metadata_of(topic, 1) == [1]


def test_a_push_while_the_interpreter_ends_and_the_server_is_dead_is_told(
    start_server: Any, run_program: Run
) -> None:
    server = start_server()
    before = f"os.kill({server.pid}, signal.SIGKILL)"
    process = run_program(server, server.topic(), LAST_WORDS.format(push="producer.push('1')", before=before))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "diaspora_stream.errors." in errors, errors


def wait_until_asleep(pid: int) -> None:
    """Return when the main thread of a process has slept through some looks at it."""
    asleep = 0
    while asleep < 20:
        with open(f"/proc/{pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        time.sleep(0.002)


class Interrupting(bytes):
    """Data whose length cannot be asked for a second time: Ctrl-C in the middle of queueing a frame."""

    asked = 0

    def __len__(self) -> int:
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt
        return super().__len__()


def test_ctrl_c_while_a_frame_is_queued_does_not_garble_the_next_one(server: Server) -> None:
    with closing(server.client()) as client:
        link = client.link(server.address)
        with pytest.raises(KeyboardInterrupt):
            link.request("nothing", 1, b"", None, bulk=[(Interrupting(b"abc"),)])
        client.wait(lambda: link.error is not None, lambda: (link,), time.monotonic() + 10)
        assert link.error is not None
    topic = server.topic()
    assert topic.producer().push(1).wait(5000) == 0


def check_storm(server: Server, seed: int, rate: int, events: int) -> None:
    topic = server.topic()
    arguments = [str(server.group_file), topic.name, str(seed), str(rate), str(events)]
    done = subprocess.run(
        [sys.executable, STORM_WORKER, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.startswith("strikes "), done.stderr


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_a_storm_of_ctrl_c_loses_nothing_and_keeps_the_order(start_server: Any, address: str) -> None:
    server = start_server(address)
    for seed in range(2):
        check_storm(server, seed, 400, 4000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_a_hundred_storms_of_ctrl_c(start_server: Any, address: str) -> None:
    server = start_server(address)
    for seed in range(100):
        check_storm(server, seed, 400 if seed % 3 else 2000, 10000)
