"""A simulation of the oldest generation, which finds its topic deployed."""

import json
import sys

import pymargo
from mochi.mofka.client import AdaptiveBatchSize, MofkaDriver, Ordering, ThreadPool
from pymargo.core import Engine

GROUP_FILE, STEPS = sys.argv[1], 300

with Engine("na+sm", pymargo.server, use_progress_thread=True) as engine:
    driver = MofkaDriver(GROUP_FILE, engine.mid)
    topic = driver.open_topic("simulation")
    producer = topic.producer("simulation", AdaptiveBatchSize, ThreadPool(0), Ordering.Strict)
    for step in range(STEPS):
        producer.push(json.dumps({"step": step, "residual": 1 / (step + 1)}), bytes([step % 256]) * 4096)
    producer.flush()
    consumer = topic.consumer("analysis", batch_size=32)
    for step in range(STEPS):
        event = consumer.pull().wait()
        assert json.loads(event.metadata)["step"] == step
        assert bytes(event.data[0]) == bytes([step % 256]) * 4096
        if step % 100 == 99:
            event.acknowledge()
    del consumer, producer, topic, driver
print(f"{STEPS} steps kept")
