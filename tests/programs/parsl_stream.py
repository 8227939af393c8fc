"""Tasks as Parsl runs them, whose results stay in the stream: a proxy is passed on, and resolved by who needs it.

``parsl_stream.py GROUP_FILE TOPIC TASKS`` runs the tasks in two processes, which get the driver by pickle, and reads
until each of these has marked its end; it prints the sums of what it resolved, and of what it passed over.
"""

import json
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import diaspora_stream.api as stream

END = {"end_of_stream": True}


def run(driver: stream.Driver, topic_name: str, numbers: range) -> int:
    """One process's tasks: each result is pickled into an event's data, and its metadata says what it is."""
    topic = driver.open_topic(topic_name)
    with topic.producer(name=f"block_{numbers.start}", batch_size=8) as producer:
        futures = [
            producer.push({"proxy": {"task": number, "bytes": number * 100}}, pickle.dumps([number] * 100))
            for number in numbers
        ]
        producer.push(END)
        producer.flush().wait(timeout_ms=20000)
    return sum(future.wait(timeout_ms=20000) >= 0 for future in futures)


def wanted(metadata: Any, descriptor: stream.DataDescriptor) -> stream.DataDescriptor:
    """Load the results of even tasks alone."""
    is_even = metadata.get("proxy", {}).get("task", 1) % 2 == 0
    return descriptor if is_even else stream.DataDescriptor()


def allocate(metadata: Any, descriptor: stream.DataDescriptor) -> list[bytearray]:
    return [bytearray(descriptor.size)] if descriptor.size else []


def items(consumer: stream.Consumer, blocks: int) -> Iterator[stream.Event]:
    for event in consumer:
        if "end_of_stream" in event.metadata:
            blocks -= 1
            if not blocks:
                event.acknowledge()
                return
        else:
            yield event


def main(group_file: str, topic_name: str, tasks: int) -> None:
    driver = stream.Driver(backend="mofka", options={"group_file": group_file})
    topic = driver.open_topic(topic_name)
    consumer = topic.consumer(name="reader", data_selector=wanted, data_allocator=allocate)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as blocks:
        running = [blocks.submit(run, driver, topic_name, range(first, tasks, 2)) for first in range(2)]
        resolved, passed = 0, 0
        for event in items(consumer, len(running)):
            if event.data and len(event.data[0]):
                resolved += sum(pickle.loads(b"".join(event.data)))
            else:
                passed += event.metadata["proxy"]["task"]
        assert sum(future.result() for future in running) == tasks
    print(json.dumps({"resolved": resolved, "passed": passed}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
