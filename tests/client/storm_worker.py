"""Pushes and pulls under a storm of Ctrl-C; the arguments are group file, topic, seed, strikes a second, events.

The loops take note of what they did by statements that Ctrl-C cannot cut in two. Whatever was pushed may be there once
more for each strike, and must otherwise be there in order; ids must be dense, in order, and each be handed out once.
"""

import itertools
import os
import random
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from diaspora_stream.api import AdaptiveBatchSize, Driver, Event


def main(group_file: str, name: str, seed: str, rate: str, count: str) -> None:
    chance = random.Random(int(seed))
    total = int(count)
    driver = Driver(backend="mofka", options={"group_file": group_file, "timeout_ms": 20000})
    topic = driver.open_topic(name)
    producer = topic.producer(batch_size=chance.choice([1, 10, 100, AdaptiveBatchSize]))
    strikes = 0
    pushed = 0
    flushed = False
    consumers: list[Any] = []
    events: list[Event] = []

    def strike(_: int, frame: FrameType | None) -> None:
        nonlocal strikes
        while frame is not None:
            if frame.f_code is run.__code__:
                strikes += 1
                raise KeyboardInterrupt
            frame = frame.f_back

    def run() -> None:
        nonlocal pushed, flushed
        while pushed < total:
            producer.push(pushed, b"x" * 50)
            pushed += 1
            if not pushed % 500:
                producer.flush().wait(20000)
        if not flushed:
            flushed = producer.flush().wait(20000)
        if not consumers:
            consumers.extend((topic.consumer("c"),))
        consumer = consumers[-1]
        while len(events) < total:
            events.extend((consumer.pull().wait(15000),))

    signal.signal(signal.SIGINT, strike)
    storm = os.fork()
    if not storm:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(chance.expovariate(float(rate)))
            os.kill(parent, signal.SIGINT)
        os._exit(0)
    done = False
    while not done:
        with suppress(KeyboardInterrupt):
            run()
            done = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.kill(storm, signal.SIGKILL)
    os.waitpid(storm, 0)
    assert flushed is True, flushed
    assert None not in events, f"nothing came after {events.index(None)} events"  # type: ignore[arg-type]
    while (event := consumers[-1].pull().wait(500)) is not None:
        events.append(event)
    ids = [event.event_id for event in events]
    assert ids == list(range(len(ids))), "ids are not dense, or not in order"
    numbers = [event.metadata for event in events]
    assert (numbers[0], numbers[-1]) == (0, total - 1)
    assert len(numbers) <= total + strikes
    steps = itertools.pairwise(numbers)
    assert all(following - number in (0, 1) for number, following in steps), "numbers are not in order"
    print("strikes", strikes, flush=True)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
