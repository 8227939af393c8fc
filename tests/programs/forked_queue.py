"""A queue of tasks and results between a thinker and its forked workers, of today's generation: pickles in the data."""

import multiprocessing
import pickle
import sys
from typing import Any

from diaspora_stream.api import Driver

GROUP_FILE, WORKERS, TASKS = sys.argv[1], 2, 30


class Queue:
    """A topic with one partition for each reader; handles are made when they are first used, in whichever process."""

    def __init__(self, driver: Driver, name: str, readers: int) -> None:
        self.driver = driver
        self.name = name
        if not driver.topic_exists(name):
            driver.create_topic(name, options={"num_partitions": readers})
        self.topic = driver.open_topic(name)
        self.producer: Any = None
        self.consumer: Any = None

    def put(self, value: Any, reader: int = 0) -> None:
        if self.producer is None:
            self.producer = self.topic.producer(f"{self.name}-producer")
        self.producer.push({"topic": self.name}, pickle.dumps(value), partition=reader)
        self.producer.flush()

    def get(self, reader: int = 0, timeout: float = 1.0) -> Any:
        if self.consumer is None:
            self.consumer = self.topic.consumer(f"{self.name}-{reader}", targets=[reader])
        event = self.consumer.pull().wait(timeout_ms=timeout * 1000)
        if event is None:
            raise TimeoutError
        event.acknowledge()
        return pickle.loads(event.data[0])


driver = Driver(backend="mofka", options={"group_file": GROUP_FILE})
tasks, results = Queue(driver, "tasks", WORKERS), Queue(driver, "results", 1)
tasks.put(0, 0)  # the thinker's producer is there before the workers are


def work(reader: int) -> None:
    while True:
        try:
            task = tasks.get(reader)
        except TimeoutError:
            continue
        if task is None:
            return
        results.put((task, task * task))


context = multiprocessing.get_context("fork")
workers = [context.Process(target=work, args=(reader,)) for reader in range(WORKERS)]
for worker in workers:
    worker.start()
for task in range(1, TASKS):
    tasks.put(task, task % WORKERS)
found: dict[int, int] = {}
while len(found) < TASKS:
    try:
        task, result = results.get()
    except TimeoutError:
        continue
    found[task] = result
for reader in range(WORKERS):
    tasks.put(None, reader)
for worker in workers:
    worker.join()
assert found == {task: task * task for task in range(TASKS)}
assert not any(worker.exitcode for worker in workers)
print(f"{len(found)} results")
