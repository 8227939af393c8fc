"""A producer or a consumer in a process of its own; says on standard output how far it is.

Events carry who made them, a number that counts per producer and partition, and data that can be made again from both.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

from diaspora_stream.api import Driver, TopicHandle


def data_of(producer: str, partition: int, number: int) -> bytes:
    """Return the data of an event: 0 to 4 KiB, different for each."""
    seed = hashlib.sha256(f"{producer}/{partition}/{number}".encode()).digest()
    return seed * (seed[0] // 2)


def produce(topic: TopicHandle, name: str, count: int) -> None:
    """Push `count` events to each partition, tell of every 100 that are stored, and wait for all."""
    with topic.producer(name) as producer:
        for number in range(count):
            futures = [
                producer.push({"by": name, "number": number}, data_of(name, index, number), partition=index)
                for index in range(len(topic.partitions))
            ]
            if number % 100 == 99:
                for index, future in enumerate(futures):
                    print("stored", index, number, future.wait(20000), flush=True)
        producer.flush().wait(20000)
    print("done", flush=True)


def consume(topic: TopicHandle, name: str, count: int) -> None:
    """Pull `count` events, check each of them, and print a summary, after a line that says when it begins."""
    uuids = [partition["uuid"] for partition in topic.partitions]
    ids: dict[int, list[int]] = {index: [] for index in range(len(uuids))}
    numbers: dict[str, int] = {}
    wrong: list[Any] = []
    with topic.consumer(name) as consumer:
        print("open", flush=True)
        for _ in range(count):
            event = consumer.pull().wait(20000)
            if event is None or event.event_id is None:
                wrong.append("nothing came for 20 s")
                break
            index = uuids.index(event.partition["uuid"])
            ids[index].append(event.event_id)
            by, number = event.metadata["by"], event.metadata["number"]
            if numbers.setdefault(f"{by}/{index}", 0) != number:
                wrong.append([by, index, number])
            numbers[f"{by}/{index}"] = number + 1
            if b"".join(event.data) != data_of(by, index, number):
                wrong.append(["data", by, index, number])
    dense = all(found == list(range(len(found))) for found in ids.values())
    print(json.dumps({"dense": dense, "numbers": numbers, "wrong": wrong[:10]}), flush=True)


def hold(topic: TopicHandle, name: str, acknowledged: int, pulled: int) -> None:
    """Pull events, acknowledge up to one of them, and keep all until the end."""
    consumer = topic.consumer(name)
    events = [consumer.pull().wait(20000) for _ in range(pulled)]
    if acknowledged >= 0:
        event = events[acknowledged]
        assert event is not None
        event.acknowledge()
    print("holding", flush=True)
    sys.stdin.read()


def main(group_file: str, what: str, topic_name: str, name: str, *numbers: str) -> None:
    with Driver(backend="mofka", options={"group_file": group_file}) as driver:
        topic = driver.open_topic(topic_name)
        work: dict[str, Callable[..., None]] = {"produce": produce, "consume": consume, "hold": hold}
        work[what](topic, name, *map(int, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
