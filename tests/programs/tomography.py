"""A tomography mini-app of the oldest generation: frames go to partitions, FIN ends each; consumers by targets."""

import json
import subprocess
import sys

import numpy as np

from mochi.mofka.client import AdaptiveBatchSize, MofkaDriver, Ordering, ThreadPool

GROUP_FILE, PARTITIONS, FRAMES = sys.argv[1], 64, 6
SHAPE = (2500, 2500)  # of float32: 25 MB
TOPIC = "frames"


def distribute() -> None:
    driver = MofkaDriver(GROUP_FILE, use_progress_thread=True)
    topic = driver.open_topic(TOPIC)
    producer = topic.producer(
        "distributor", batch_size=1, thread_pool=ThreadPool(2), ordering=Ordering.Strict
    )
    partitions = len(topic.partitions)
    for sequence in range(FRAMES):
        frame = np.full(SHAPE, sequence, np.float32)
        metadata = {"Type": "DATA", "sequence": sequence, "shape": list(SHAPE), "theta": sequence / FRAMES}
        producer.push(metadata, frame, partition=np.int64(7 * sequence % partitions))
    producer.flush()
    for partition in range(partitions):
        producer.push({"Type": "FIN"}, partition=partition)
    producer.flush()


def reconstruct(rank: int, size: int) -> None:
    driver = MofkaDriver(GROUP_FILE, use_progress_thread=True)
    topic = driver.open_topic(TOPIC)
    targets = [index for index in range(len(topic.partitions)) if index % size == rank]
    consumer = topic.consumer(
        "reconstruction",
        batch_size=AdaptiveBatchSize,
        data_selector=lambda metadata, descriptor: descriptor,
        data_broker=lambda metadata, descriptor: [bytearray(descriptor.size)],
        targets=targets,
    )
    finished, frames = 0, 0
    while finished < len(targets):
        event = consumer.pull().wait()
        metadata = json.loads(event.metadata)
        if metadata["Type"] == "FIN":
            finished += 1
            continue
        frame = np.frombuffer(event.data[0], np.float32).reshape(metadata["shape"])
        assert frame.min() == frame.max() == metadata["sequence"]
        frames += 1
    print(frames)


if len(sys.argv) == 2:
    MofkaDriver(GROUP_FILE).create_topic(topic_name=TOPIC, options={"num_partitions": PARTITIONS})
    command = [sys.executable, __file__, GROUP_FILE]
    ranks = [
        subprocess.Popen([*command, str(rank), "2"], stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    distribute()
    outputs = [process.communicate()[0] for process in ranks]
    assert not any(process.returncode for process in ranks)
    print(f"{sum(map(int, outputs))} frames reconstructed")
else:
    reconstruct(int(sys.argv[2]), int(sys.argv[3]))
