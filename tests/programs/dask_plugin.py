"""Plugins as Dask's workers and scheduler have them: told of each change of a task, by threads and an event loop.

``dask_plugin.py GROUP_FILE TOPIC TASKS`` runs two workers of four threads, and a scheduler.
"""

import asyncio
import multiprocessing
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mochi.mofka.client import AdaptiveBatchSize, MofkaDriver, Ordering


class StreamPlugin:
    """What all plugins do: each is sent to its process by pickle, and opens the stream there."""

    def __init__(self, group_file: str, topic: str, source: str) -> None:
        self.group_file, self.topic_name, self.source = group_file, topic, source

    def start(self) -> None:
        self.driver = MofkaDriver(group_file=self.group_file)
        self.topic = self.driver.open_topic(self.topic_name)
        self.producer = self.topic.producer(
            self.source,
            batch_size=AdaptiveBatchSize,
            thread_pool=self.driver.make_thread_pool(1),
            ordering=Ordering.Strict,
        )

    def transition(self, key: str, start: str, finish: str, **more: Any) -> None:
        self.producer.push(
            {"source": self.source, "key": key, "from": start, "to": finish, "time": time.time(), **more}
        )

    def close(self) -> None:
        self.producer.flush().wait(timeout_ms=20000)
        del self.producer, self.topic, self.driver


class WorkerPlugin(StreamPlugin):
    def setup(self, worker: str) -> None:
        self.start()
        self.transition(worker, "", "running")

    def teardown(self, worker: str) -> None:
        self.transition(worker, "running", "closed")
        self.close()


class SchedulerPlugin(StreamPlugin):
    async def run(self, tasks: int) -> None:
        self.start()
        for number in range(tasks):
            self.transition(
                f"task-{number}", "released", "waiting", stimulus={"id": number, "args": [1.5, None]}
            )
            if number % 50 == 0:
                await asyncio.sleep(0)
        self.close()


def work(plugin: WorkerPlugin, tasks: range) -> None:
    plugin.setup(plugin.source)

    def task(number: int) -> None:
        for start, finish in (("waiting", "executing"), ("executing", "memory")):
            plugin.transition(
                f"task-{number}", start, finish, thread=threading.get_ident(), nbytes=number * 8
            )

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(task, tasks))
    plugin.teardown(plugin.source)


def main(group_file: str, topic: str, tasks: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(
            target=work, args=(WorkerPlugin(group_file, topic, f"worker_{index}"), range(index, tasks, 2))
        )
        for index in range(2)
    ]
    for worker in workers:
        worker.start()
    asyncio.run(SchedulerPlugin(group_file, topic, "scheduler").run(tasks))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
