"""kill -9 of a server in the middle of a stream: what was acknowledged is there, and nobody waits for ever."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from diaspora_stream.api import Driver
from diaspora_stream.errors import ConnectionFailed, DiasporaError
from mochi.mofka.chunks import ChunkStore
from real_service import Machine, Server
from stream_worker import data_of

Stored = dict[int, list[tuple[int, int]]]
"""Per partition, the (number, id) of the events that were acknowledged."""


def options(path: Path, count: int = 1, **fields: Any) -> dict[str, Any]:
    section = {"path": str(path), "max_events_per_chunk": 500, **fields}
    return {"num_partitions": count, "config": {"type": "default", "partition": section}}


def push_until_killed(driver: Driver, server: Server, after: int) -> Stored:
    """Push to all partitions until the server, killed after some events are stored, is gone."""
    topic = driver.open_topic("topic")
    pushed: list[tuple[int, int, Any]] = []
    with pytest.raises(DiasporaError), topic.producer("p") as producer:
        killer = None
        for number in range(10**6):
            for index in range(len(topic.partitions)):
                data = data_of("p", index, number)
                future = producer.push({"by": "p", "number": number}, data, partition=index)
                pushed.append((index, number, future))
            if number == after:
                assert pushed[0][2].wait(10000) == 0
                killer = threading.Timer(0.05, server.kill)
                killer.start()
            if number > after and number % 100 == 0 and not killer.is_alive():  # type: ignore[union-attr]
                producer.flush().wait(10000)
    stored: Stored = {index: [] for index in range(len(topic.partitions))}
    for index, number, future in pushed:
        assert future.completed
        try:
            event_id = future.wait()
        except DiasporaError:
            continue
        stored[index].append((number, event_id))
    return stored


def check(directory: Path, index: int, stored: list[tuple[int, int]]) -> int:
    """Check that the store in a directory holds what was acknowledged; return its number of events."""
    with ChunkStore.open(directory) as store:
        metadata: list[Any] = []
        while len(metadata) < store.event_count:
            found = store.read_range(len(metadata), 1000, 1 << 24, with_data=True)
            at = data_at = 0
            for size, data_size in zip(found.metadata_sizes.tolist(), found.data_sizes.tolist(), strict=True):
                metadata.append(msgspec.json.decode(bytes(found.metadata[at : at + size])[size_prefix(found, at) :]))
                assert found.data is not None
                data = bytes(found.data[data_at : data_at + data_size])
                assert data == data_of("p", index, metadata[-1]["number"])
                at, data_at = at + size, data_at + data_size
        assert [value["number"] for value in metadata] == list(range(len(metadata)))
        for number, event_id in stored:
            assert metadata[event_id]["number"] == number
        return store.event_count
