"""Calls that strike a frame of their own thread, wherever that is: handlers of signals, ``__del__``, callbacks."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mochi.margo
from diaspora_stream.api import Exception, TopicHandle
from tests.client.client_server import Server

MEETING_WORKER = Path(__file__).with_name("meeting_worker.py")
SOURCE = str(Path(mochi.margo.__file__).parents[2])
STRIKES = ("call", "c_return")
"""Where CPython runs handlers: at the entry of a function, and after the call of a C function."""


def struck(work: Callable[[], Any], strike: Callable[[], Any], place: int) -> tuple[Any, bool]:
    """Do `work`, and `strike` once, at the `place`-th point in the package where a handler of signals may run.

    Returns
    -------
    tuple
        What `work` returns, and whether there are so many points.
    """
    count = 0

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        if event in STRIKES and frame.f_code.co_filename.startswith(SOURCE):
            count += 1
            if count == place:
                strike()

    sys.setprofile(look)
    try:
        outcome = work()
    finally:
        sys.setprofile(None)
    return outcome, count >= place


def read(topic: TopicHandle, count: int) -> list[Any]:
    with topic.consumer(f"check{time.monotonic_ns()}") as consumer:
        found = [consumer.pull().wait(10000).metadata for _ in range(count)]
        assert consumer.pull().wait(50) is None
    return found


@pytest.fixture(scope="module", params=["na+sm", "tcp://127.0.0.1"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), request.param)
    yield server
    server.kill()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("waits", [False, True])
def test_a_push_and_a_flush_may_strike_anywhere(shared: Server, batch_size: int, waits: bool) -> None:
    topic = shared.topic(timeout_ms=20000)
    producer = topic.producer(batch_size=batch_size)
    pushed: list[str] = []
    struck_ids: list[Any] = []

    def push(name: str) -> Any:
        future = producer.push(json.dumps(name))
        pushed.append(name)
        return future

    def strike() -> None:
        future = push("strike")
        if waits:
            assert producer.flush().wait(10000) is True
            struck_ids.append(future.wait(10000))

    def work() -> list[int]:
        futures = [push(f"{place}.{number}") for number in range(6)]
        assert producer.flush().wait(10000) is True
        return [future.wait(10000) for future in futures]

    for place in itertools.count(1, 2 if waits else 1):
        ids, was_there = struck(work, strike, place)
        assert ids == sorted(ids)
        if not was_there:
            break
    producer.close()
    assert place > 50
    found = read(topic, len(pushed))
    assert sorted(found) == sorted(pushed)
    own = [name for name in found if name != "strike"]
    assert own == [name for name in pushed if name != "strike"]


def test_a_question_may_strike_a_question(shared: Server) -> None:
    driver = shared.driver(timeout_ms=20000)
    name = shared.topic().name

    def ask() -> None:
        assert driver.topic_exists(name)

    for place in itertools.count(1):
        _, was_there = struck(ask, ask, place)
        if not was_there:
            break
    assert place > 20


def test_a_question_a_push_and_an_acknowledgement_may_strike_a_pull(shared: Server) -> None:
    driver = shared.driver(timeout_ms=20000)
    topic = driver.open_topic(shared.topic(2).name)
    producer = topic.producer(batch_size=1)
    consumer = topic.consumer("c")
    producer.push("0", partition=0).wait()
    last = consumer.pull().wait(10000)

    def work() -> Any:
        producer.push("1", partition=0).wait()
        return consumer.pull().wait(10000)

    def strike() -> None:
        assert driver.topic_exists(topic.name)
        assert producer.push("2", partition=1).wait(10000) is not None
        last.acknowledge()

    for place in itertools.count(1):
        event, was_there = struck(work, strike, place)
        assert event is not None
        if event.metadata == 1:
            last = event
        if not was_there:
            break
    assert place > 50
    struck_pushes = place - 1
    assert all(consumer.pull().wait(10000) for _ in range(struck_pushes))
    assert consumer.pull().wait(50) is None


@pytest.mark.parametrize("what", ["consumer", "driver"])
def test_a_close_may_strike_a_pull(shared: Server, what: str) -> None:
    name = shared.topic().name
    for place in itertools.count(1, 3):
        driver = shared.driver(timeout_ms=20000)
        topic = driver.open_topic(name)
        consumer, producer = topic.consumer("c"), topic.producer(batch_size=100)

        def work(producer: Any = producer, pull: Any = consumer.pull) -> Any:
            try:
                producer.push("1").wait(20000)
                pull().wait(20000).acknowledge()
                return pull().wait(5)
            except Exception as error:
                return str(error)

        told, was_there = struck(work, {"consumer": consumer, "driver": driver}[what].close, place)
        assert not isinstance(told, str) or "closed" in told
        producer.close()
        driver.close()
        if not was_there:
            break
    assert place > 50


def test_a_pull_that_cannot_wait_where_it_strikes_says_so(shared: Server) -> None:
    topic = shared.topic(timeout_ms=20000)
    producer, consumer = topic.producer(batch_size=1), topic.consumer("c")
    events: list[Any] = []
    refusals: list[str] = []

    def work() -> None:
        producer.push("1").wait()
        events.append(consumer.pull().wait(10000))

    def strike() -> None:
        producer.push("1").wait()
        try:
            event = consumer.pull().wait(5)
        except Exception as error:
            refusals.append(str(error))
        else:
            if event is not None:
                events.append(event)

    for place in itertools.count(1):
        _, was_there = struck(work, strike, place)
        producer.push("1").wait()
        events.append(consumer.pull().wait(10000))
        if not was_there:
            break
    assert all("struck" in refusal for refusal in refusals)
    while (event := consumer.pull().wait(50)) is not None:
        events.append(event)
    assert sorted(event.event_id for event in events) == list(range(len(events)))


def check_handlers(server: Server, seed: int, seconds: float) -> None:
    topic = server.topic(2)
    done = subprocess.run(
        [sys.executable, MEETING_WORKER, str(server.group_file), topic.name, str(seed), str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    assert done.stdout.startswith("beats "), done.stderr
    assert done.returncode == 0, done.stderr


def test_handlers_push_flush_ask_and_acknowledge_beside_a_busy_program(shared: Server) -> None:
    for seed in range(2):
        check_handlers(shared, seed, 1.5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_handlers_beside_a_busy_program_for_long(shared: Server) -> None:
    for seed in range(30):
        check_handlers(shared, seed, 10)


def test_a_handler_that_closes_ends_a_program_that_waits(shared: Server, run_program: Any) -> None:
    process = run_program(
        shared,
        shared.topic(),
        """
        consumer = topic.consumer("c")
        def stop(*_):
            consumer.close(); driver.close(); print("closed", flush=True); sys.exit(3)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        consumer.pull().wait()
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=4)  # the driver's time-out is longer
    assert (process.returncode, out, errors) == (3, "closed\n", "")
