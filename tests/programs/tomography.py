"""A detector that sends frames of 25 MB, and processes that reconstruct: each has some of 64 partitions, until each of
these has brought its FIN.

``tomography.py GROUP_FILE TOPIC detector FRAMES`` and ``tomography.py GROUP_FILE TOPIC RANK SIZE``, which prints the
sums of its frames by their numbers.
"""

import json
import sys
from typing import Any

import numpy as np

from mochi.mofka.client import DataDescriptor, MofkaDriver, Ordering, TopicHandle

SHAPE = (2560, 2440)
DTYPE = np.dtype("<u4")


def frame(number: int) -> np.ndarray:
    """Return a frame that can be made again, of 25 MB."""
    image = np.full(SHAPE, number, DTYPE)
    image[number, :] += np.arange(SHAPE[1], dtype=DTYPE)
    return image


def detect(topic: TopicHandle, frames: int) -> None:
    partitions = len(topic.partitions)
    producer = topic.producer("detector", batch_size=2, ordering=Ordering.Loose)
    images = [frame(number) for number in range(frames)]
    for number, image in enumerate(images):
        about = {
            "Type": "DATA",
            "sequence": number,
            "rows": SHAPE[0],
            "columns": SHAPE[1],
            "theta": 0.5 * number,
        }
        producer.push(about, image, partition=number % partitions)
    for partition in range(partitions):
        producer.push({"Type": "FIN"}, partition=partition)
    producer.flush().wait(timeout_ms=60000)


def reconstruct(topic: TopicHandle, rank: int, size: int) -> dict[int, int]:
    targets = list(range(rank, len(topic.partitions), size))
    image = np.empty(SHAPE, DTYPE)

    def select(metadata: Any, descriptor: DataDescriptor) -> DataDescriptor:
        return descriptor if metadata["Type"] == "DATA" else DataDescriptor()

    def allocate(metadata: Any, descriptor: DataDescriptor) -> list[Any]:
        return [image] if descriptor.size else []

    consumer = topic.consumer(
        f"reconstruction_{rank}",
        targets=targets,
        data_selector=select,
        data_allocator=allocate,
        batch_size=1,
        max_num_batches=1,
    )
    sums: dict[int, int] = {}
    left = len(targets)
    while left:
        event = consumer.pull().wait(timeout_ms=60000)
        if event.metadata["Type"] == "FIN":
            left -= 1
        else:
            sums[event.metadata["sequence"]] = int(image.sum(dtype=np.uint64))
    return sums


def main(group_file: str, topic_name: str, role: str, number: int) -> None:
    driver = MofkaDriver(group_file=group_file, timeout_ms=60000)
    topic = driver.open_topic(topic_name)
    if role == "detector":
        detect(topic, number)
    else:
        print(json.dumps(reconstruct(topic, int(role), number)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
