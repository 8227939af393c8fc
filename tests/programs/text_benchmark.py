"""A benchmark of the oldest generation: an engine, everything by position, metadata as JSON text."""

import json
import sys
import time
from typing import Any

import mochi.mofka.client as mofka
from pymargo.core import Engine

GROUP_FILE, EVENTS, SIZE = sys.argv[1], 500, 1024


def data_selector(metadata: dict[str, Any], descriptor: mofka.DataDescriptor) -> mofka.DataDescriptor:
    return descriptor.make_sub_view(0, descriptor.size // 2)


def data_broker(metadata: dict[str, Any], descriptor: mofka.DataDescriptor) -> list[Any]:
    return [bytearray(descriptor.size)]


with Engine("na+sm", use_progress_thread=True) as engine:
    driver = mofka.MofkaDriver(GROUP_FILE, engine)
    topic_name = "benchmark"
    validator = mofka.Validator.from_metadata()
    selector = mofka.PartitionSelector.from_metadata()
    serializer = mofka.Serializer.from_metadata()
    driver.create_topic(topic_name, validator, selector, serializer)
    driver.add_memory_partition(topic_name, 0)
    topic = driver.open_topic(topic_name)

    producer = topic.producer("producer", 16, mofka.ThreadPool(1), mofka.Ordering.Strict)
    assert producer.batch_size() == 16
    started = time.time()
    for number in range(EVENTS):
        producer.push(json.dumps({"number": number, "text": "é"}), bytes([number % 256]) * SIZE)
    producer.flush()
    pushed = time.time() - started

    consumer = topic.consumer(
        name="consumer",
        thread_pool=mofka.ThreadPool(0),
        batch_size=mofka.AdaptiveBatchSize,
        data_selector=data_selector,
        data_broker=data_broker,
    )
    for number in range(EVENTS):
        event = consumer.pull().wait()
        metadata = json.loads(event.metadata)
        assert metadata == {"number": number, "text": "é"}, event.metadata
        assert bytes(event.data[0]) == bytes([number % 256]) * (SIZE // 2)
        event.acknowledge()
    del consumer, producer, topic, driver
print(f"{EVENTS} events in {pushed:.3f} s")
