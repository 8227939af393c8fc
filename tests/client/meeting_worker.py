"""A busy program whose handler of a timer uses the client; the arguments are group file, topic, seed, seconds.

Everything that the handler does has to come to its end while the program is suspended under it. All that both pushed
has to be there once, and in the order of each.
"""

import gc
import random
import signal
import sys
import time
from typing import Any

from diaspora_stream.api import Driver, Event


def main(group_file: str, name: str, seed: str, seconds: str) -> None:
    chance = random.Random(int(seed))
    driver = Driver(backend="mofka", options={"group_file": group_file, "timeout_ms": 20000})
    topic = driver.open_topic(name)
    producer = topic.producer(batch_size=chance.choice([1, 10, 100]))
    consumer = topic.consumer("c")
    pushed: list[list[Any]] = []
    events: list[Event] = []
    beats = 0
    done = False

    def beat(*_: Any) -> None:
        nonlocal beats
        for number in range(3):
            pushed.append(["beat", beats, number])
            producer.push(pushed[-1], partition=1)
        assert producer.flush().wait(10000) is True, "the flush of a handler takes too long"
        assert driver.topic_exists(name)
        if events:
            events[-1].acknowledge()
        beats += 1
        if not done:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.01))

    signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    end = time.monotonic() + float(seconds)
    count = 0
    while time.monotonic() < end:
        for _ in range(50):
            producer.push(["main", count], b"x" * 30, partition=0)
            count += 1
        if not count % 500:
            producer.flush().wait(10000)
            gc.collect()
        while len(events) < count - 1000:
            event = consumer.pull().wait(10000)
            assert event is not None
            events.append(event)
    done = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    producer.close()
    while (event := consumer.pull().wait(500)) is not None:
        events.append(event)
    by_partition: dict[str, list[Event]] = {}
    for event in events:
        by_partition.setdefault(event.partition["uuid"], []).append(event)
    for part in by_partition.values():
        assert [event.event_id for event in part] == list(range(len(part))), (
            "ids are not dense, or not in order"
        )
    found = [event.metadata for event in events]
    assert [item for item in found if item[0] == "main"] == [["main", number] for number in range(count)]
    assert [item for item in found if item[0] == "beat"] == pushed
    assert beats > 5, beats
    print("beats", beats, flush=True)
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
