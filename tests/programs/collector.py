"""A provenance collector of today's generation: threads push what tasks tell, in adaptive batches; one consumer."""

import sys
import threading
from typing import Any

from mochi.mofka.client import AdaptiveBatchSize, MofkaDriver, Ordering

GROUP_FILE, THREADS, TASKS = sys.argv[1], 3, 200


def data_selector(metadata: Any, descriptor: Any) -> Any:
    return descriptor


def data_allocator(metadata: Any, descriptor: Any) -> list[bytearray]:
    return [bytearray(descriptor.size)]


driver = MofkaDriver(group_file=GROUP_FILE)
if not driver.topic_exists("provenance"):
    schema = {"type": "object", "required": ["kind"]}
    driver.create_topic("provenance", options={"num_partitions": 1}, schema=schema)
topic = driver.open_topic("provenance")
producer = topic.producer(
    "interceptor",
    batch_size=AdaptiveBatchSize,
    thread_pool=driver.default_thread_pool,
    ordering=Ordering.Strict,
)
consumer = topic.consumer(
    name="keeper", batch_size=AdaptiveBatchSize, data_selector=data_selector, data_allocator=data_allocator
)


def run_tasks(thread: int) -> None:
    for task in range(TASKS):
        producer.push(metadata={"kind": "task", "id": f"{thread}-{task}", "used": {"x": task}}, data=b"")


kept: dict[str, Any] = {}


def keep() -> None:
    while True:
        event = consumer.pull().wait(timeout_ms=1000)
        if event is None:
            continue
        event.acknowledge()
        if event.metadata["kind"] == "stop":
            return
        kept[event.metadata["id"]] = event.metadata["used"]["x"]


keeper = threading.Thread(target=keep)
keeper.start()
threads = [threading.Thread(target=run_tasks, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
producer.push(metadata={"kind": "stop"})
producer.flush().wait(timeout_ms=-1)
keeper.join()
assert all(kept[f"{thread}-{task}"] == task for thread in range(THREADS) for task in range(TASKS))
print(f"{len(kept)} tasks kept")
