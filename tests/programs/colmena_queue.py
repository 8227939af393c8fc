"""A pair of queues as Colmena has them, between a thinker and task servers that are forked from it.

``colmena_queue.py GROUP_FILE REQUESTS RESULTS COUNT`` makes the queues before it forks: the driver, and a consumer
whose events have come already, go with the child. It prints the results, sorted.
"""

import json
import multiprocessing
import os
import sys
from typing import Any

from diaspora_stream.api import Driver

SHUTDOWN = {"shutdown": True}


class Queue:
    """Messages in two topics; each process takes its own side when it first needs it."""

    def __init__(self, group_file: str, requests: str, results: str) -> None:
        self.driver = Driver(backend="mofka", options={"group_file": group_file})
        self.topics = {
            "requests": self.driver.open_topic(requests),
            "results": self.driver.open_topic(results),
        }
        self.sides: dict[tuple[str, int], Any] = {}

    def send(self, topic: str, message: dict[str, Any], value: bytes = b"") -> None:
        side = (f"producer of {topic}", os.getpid())
        if side not in self.sides:
            self.sides[side] = self.topics[topic].producer(f"sender_{os.getpid()}", batch_size=1)
        self.sides[side].push(message, value).wait(timeout_ms=20000)

    def receive(self, topic: str, name: str, targets: list[int]) -> Any:
        side = (f"consumer of {topic}", os.getpid())
        if side not in self.sides:
            self.sides[side] = self.topics[topic].consumer(name, targets=targets, batch_size=1)
        event = self.sides[side].pull().wait(timeout_ms=20000)
        event.acknowledge()
        return event


def serve(queue: Queue, partition: int) -> None:
    """A task server: square what comes until it is told to stop."""
    while True:
        event = queue.receive("requests", f"server_{partition}", [partition])
        if event.metadata == SHUTDOWN:
            return
        number = int.from_bytes(b"".join(event.data), "little")
        queue.send("results", {"task": event.metadata["task"], "value": number * number})


def main(group_file: str, requests: str, results: str, count: int) -> None:
    queue = Queue(group_file, requests, results)
    queue.send("results", {"task": -1, "value": "before the fork"})
    assert queue.receive("results", "thinker", [0]).metadata["task"] == -1
    fork = multiprocessing.get_context("fork")
    servers = [fork.Process(target=serve, args=(queue, partition)) for partition in range(2)]
    for server in servers:
        server.start()
    writer = queue.topics["requests"].producer("thinker", batch_size=4)
    for number in range(count):
        writer.push({"task": number}, number.to_bytes(4, "little"), partition=number % 2)
    for partition in range(2):
        writer.push(SHUTDOWN, partition=partition)
    writer.flush().wait(timeout_ms=20000)
    found = [queue.receive("results", "thinker", [0]).metadata for _ in range(count)]
    for server in servers:
        server.join(20)
        assert server.exitcode == 0
    print(json.dumps(sorted((result["task"], result["value"]) for result in found)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
