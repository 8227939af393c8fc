"""Plugins of workers, in the oldest generation's first form: each connects in its set-up, and pushes from callbacks."""

import json
import sys
import threading
from typing import Any

import pymofka_client as mofka
from pymargo.core import Engine

GROUP_FILE, WORKERS, TASKS = sys.argv[1], 3, 40


class Plugin:
    """What a scheduler calls on each worker."""

    def setup(self, worker: str) -> None:
        self.worker = worker
        self.engine = Engine("na+sm", use_progress_thread=True)
        self.service = mofka.Client(self.engine.mid).connect(GROUP_FILE)
        try:
            self.service.create_topic("transitions", mofka.Validator.from_metadata({"__type__": "default"}))
            self.service.add_memory_partition("transitions", 0)
        except Exception:  # another worker was first
            pass
        self.topic = self.service.open_topic("transitions")
        self.producer = self.topic.producer(
            "plugin", mofka.AdaptiveBatchSize, mofka.ThreadPool(1), mofka.Ordering.Strict
        )

    def transition(self, key: str, start: str, finish: str) -> None:
        state = {"worker": self.worker, "key": key, "start": start, "finish": finish}
        text = json.dumps(state)
        self.producer.push(text, text.encode())

    def teardown(self) -> None:
        self.producer.flush()
        del self.producer, self.topic, self.service
        self.engine.finalize()


def work(number: int, plugin: Any) -> None:
    for task in range(TASKS):
        plugin.transition(f"{number}-{task}", "waiting", "processing")
        plugin.transition(f"{number}-{task}", "processing", "memory")


plugins = [Plugin() for _ in range(WORKERS)]
for number, plugin in enumerate(plugins):
    plugin.setup(f"worker-{number}")
threads = [threading.Thread(target=work, args=pair) for pair in enumerate(plugins)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for plugin in plugins:
    plugin.teardown()

driver = mofka.MofkaDriver(GROUP_FILE, "na+sm")
events = 2 * WORKERS * TASKS
states: dict[str, str] = {}
consumer = driver.open_topic("transitions").consumer(
    "reader", batch_size=1, data_broker=lambda metadata, descriptor: [bytearray(descriptor.size)]
)
while events:
    event = consumer.pull().wait()
    state = json.loads(event.metadata)
    if state["key"].count("-") == 1:
        assert states.get(state["key"], "waiting") == state["start"], "in the order of the pushes"
        assert json.loads(event.data[0]) == state
        states[state["key"]] = state["finish"]
        events -= 1
print(f"{list(states.values()).count('memory')} tasks in memory")
