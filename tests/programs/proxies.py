"""Tasks in a pool of processes, of the second generation: each gets a proxy of an object in a stream, until its end."""

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from diaspora_stream.api import DataDescriptor, Driver, Event

GROUP_FILE, OBJECTS = sys.argv[-1], 20


class Proxy:
    """Stands for an object whose bytes lie in an event; resolved where it is used."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def resolve(self) -> Any:
        return pickle.loads(self.event.data[0])


def square(proxy: Proxy) -> int:
    return int(proxy.resolve()["value"]) ** 2


def main() -> None:
    driver = Driver.new("mofka", {"group_file": GROUP_FILE})
    driver.create_topic("objects", options={"num_partitions": 1})
    topic = driver.open_topic("objects")
    producer = topic.producer("producer")
    for value in range(OBJECTS):
        producer.push({"key": f"object-{value}"}, pickle.dumps({"value": value}))
    producer.push({"end_of_stream": True})
    producer.flush()

    def select(metadata: Any, descriptor: DataDescriptor) -> DataDescriptor | None:
        return None if "end_of_stream" in metadata else descriptor

    def allocate(metadata: Any, descriptor: DataDescriptor) -> list[bytearray]:
        return [bytearray(descriptor.size)]

    consumer = topic.consumer("consumer", data_selector=select, data_allocator=allocate)
    futures = []
    with ProcessPoolExecutor(2) as pool:
        while "end_of_stream" not in (event := consumer.pull().wait()).metadata:
            futures.append(pool.submit(square, Proxy(event)))
            event.acknowledge()
        assert [future.result() for future in futures] == [value**2 for value in range(OBJECTS)]
    print(f"{len(futures)} proxies resolved")


if __name__ == "__main__":
    main()
