"""What runs in the processes of producers and consumers: an application's own loop, timed from inside.

A topic is filled by one producer and read from its start by each consumer. A consumer counts what it gets,
and compares one event in `SAMPLE` with what was pushed at that place, byte for byte: a broken run raises, and
is never a fast run.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any

import msgspec

from benchmarks.events import CYCLE, Events, Pair
from benchmarks.processes import BrokenRun, Checkpoint
from diaspora_stream.api import AdaptiveBatchSize, Consumer, Driver, Event, Producer, TopicHandle

SAMPLE = 61
TIMEOUT_MS = 60_000
FLOOD_WARM_UP = 3
"""Batches that each producer of a flood stores before it is ready."""


class Load(msgspec.Struct, frozen=True):
    """What goes through a topic.

    Attributes
    ----------
    group_file, topic : str
        Where the topic is.
    data_size : int
        Bytes of data of each event.
    batch_size : int or None
        Events in a batch; None is adaptive.
    warm_up, count, latencies : int
        Events before the clock starts, events timed together, events timed one by one after them.
    """

    group_file: str
    topic: str
    data_size: int
    batch_size: int | None
    warm_up: int
    count: int
    latencies: int


class Flood(msgspec.Struct, frozen=True):
    """What one of several producers pushes, batch after batch, until its time is over.

    Attributes
    ----------
    group_file, topic, data_size, batch_size
        As in a `Load`.
    seconds : float
        How long batches are begun.
    max_batches : int
        How many at most: what bounds the memory, or disk space, of a run.
    alone : bool
        Whether each batch is waited for before the next is begun.
    """

    group_file: str
    topic: str
    data_size: int
    batch_size: int
    seconds: float
    max_batches: int
    alone: bool = False


class Flooded(msgspec.Struct, frozen=True):
    """What became of a `Flood`: batches, and when the first was begun and the last stored, on the machine's clock."""

    batches: int
    start: float
    end: float


def flood(checkpoint: Checkpoint, floods: Sequence[Flood]) -> None:
    """Push floods one after another. Checkpoints: ready to begin, then `Flooded` after each.

    Ready is a producer whose connection, and lent buffer where there is one, have been used.
    """
    with ExitStack() as producers:
        ready = []
        for load in floods:
            producer = producers.enter_context(
                open_topic(load).producer("benchmark", batch_size=load.batch_size)
            )
            batch = Events(load.data_size).pairs[: load.batch_size]
            for _ in range(FLOOD_WARM_UP):
                _push(producer, batch, wait=True)
            ready.append((producer, batch, load))
        checkpoint(None)
        for producer, batch, load in ready:
            batches = 0
            start = time.perf_counter()
            while batches < load.max_batches and time.perf_counter() - start < load.seconds:
                _push(producer, batch, wait=load.alone)
                batches += 1
            _push(producer, [], wait=True)
            checkpoint(Flooded(batches, start, time.perf_counter()))


def together(flooded: Sequence[Flooded]) -> tuple[int, float]:
    """Batches of all producers, and seconds from the first one's beginning to the last one's end."""
    elapsed = max(one.end for one in flooded) - min(one.start for one in flooded)
    return sum(one.batches for one in flooded), elapsed


def _push(producer: Producer, batch: Sequence[Pair], *, wait: bool) -> None:
    for metadata, data in batch:
        producer.push(metadata, data)
    if wait and not producer.flush().wait(timeout_ms=TIMEOUT_MS):
        raise BrokenRun(f"{producer.topic.name}: not flushed within {TIMEOUT_MS} ms")


def produce(checkpoint: Checkpoint, load: Load) -> None:
    """Fill the topic. Checkpoints: warm, seconds of the timed events, list of seconds of single events."""
    batch_size = AdaptiveBatchSize if load.batch_size is None else load.batch_size
    events = cycle(Events(load.data_size).pairs)
    with open_topic(load).producer("benchmark", batch_size=batch_size) as producer:
        push = producer.push

        def push_all(count: int) -> float:
            start = time.perf_counter()
            for metadata, data in islice(events, count):
                future = push(metadata, data)
            flushed = producer.flush().wait(timeout_ms=TIMEOUT_MS)
            elapsed = time.perf_counter() - start
            last = future.wait(timeout_ms=TIMEOUT_MS)
            pushed.append(count)
            if not flushed or last != sum(pushed) - 1:
                raise BrokenRun(f"{load.topic}: flushed {flushed}, last id {last} of {sum(pushed)} events")
            return elapsed

        pushed: list[int] = []
        push_all(load.warm_up)
        checkpoint(None)
        checkpoint(push_all(load.count))
        checkpoint([push_all(1) for _ in range(load.latencies)])


def consume(checkpoint: Checkpoint, load: Load, name: str, pulled: bool) -> None:
    """Read the topic, and look at metadata and data of every event. Checkpoints: warm, seconds of all events.

    By ``pull().wait(timeout_ms=...)`` when `pulled`, else by iteration.
    """
    topic = open_topic(load)
    pairs = Events(load.data_size).pairs
    read(topic, f"{name}-warm-up", pulled, pairs, load.warm_up)
    checkpoint(None)
    checkpoint(read(topic, name, pulled, pairs, load.warm_up + load.count))


def idle(checkpoint: Checkpoint, load: Load) -> None:
    """Hold a producer and a consumer that have nothing to do. Checkpoints: ready, done."""
    topic = open_topic(load)
    with topic.producer("idle") as producer, topic.consumer("idle") as consumer:
        producer.push({"idle": True})
        producer.flush().wait(timeout_ms=TIMEOUT_MS)
        if consumer.pull().wait(timeout_ms=TIMEOUT_MS) is None:
            raise BrokenRun("the only event of the topic did not arrive")
        checkpoint(None)
        checkpoint(None)


def open_topic(load: Load | Flood) -> TopicHandle:
    """The topic of a load, through a driver of its own."""
    return Driver(backend="mofka", options={"group_file": load.group_file}).open_topic(load.topic)


def read(topic: TopicHandle, name: str, pulled: bool, pairs: list[Pair], count: int) -> float:
    """Take and verify the first `count` events of a topic with a new consumer; seconds that it took."""
    start = time.perf_counter()
    received = size = 0
    with topic.consumer(name) as consumer:
        for event in islice(pull(consumer) if pulled else consumer, count):
            metadata = event.metadata
            for view in event.data:
                size += len(view)
            if received % SAMPLE == 0:
                verify(event, metadata, received, pairs[received % CYCLE])
            received += 1
        elapsed = time.perf_counter() - start
    expected = sum(len(pairs[i % CYCLE][1]) for i in range(count))
    if (received, size) != (count, expected):
        raise BrokenRun(f"{name}: {received} events, {size} bytes of data instead of {count}, {expected}")
    return elapsed


def pull(consumer: Consumer) -> Iterator[Event]:
    """Events by one ``pull().wait()`` each, until none comes."""
    while (event := consumer.pull().wait(timeout_ms=5000)) is not None:
        yield event


def verify(event: Event, metadata: Any, position: int, expected: Pair) -> None:
    """Compare an event with what was pushed at its position."""
    data = b"".join(event.data)
    if (event.event_id, metadata, data) != (position, *expected):
        raise BrokenRun(f"event {position}: id {event.event_id}, {metadata}, {len(data)} bytes of data")
