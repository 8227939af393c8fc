"""Calls of a partition that wait for what it tells."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, DataRequest, Origin, Pieces, rearranged
from mochi.mofka.partition.contract import LargeEvent, Partition, Slice

Event = tuple[bytes, bytes]
"""Metadata and data."""


def batch_of(events: Sequence[Event], origin: Origin | None = None) -> Batch:
    """Return a batch of (metadata, data) pairs, in one buffer each as a provider makes it."""
    return Batch(
        np.array([len(metadata) for metadata, _ in events], np.uint32),
        [b"".join(metadata for metadata, _ in events)],
        np.array([len(data) for _, data in events], np.uint32),
        [b"".join(data for _, data in events)],
        origin,
    )


def events_in(found: Slice, with_data: bool) -> list[Event]:
    """Cut what was read into events."""
    metadata, data = b"".join(found.metadata), b"".join(found.data)
    events = []
    at = data_at = 0
    for size, data_size in zip(found.metadata_sizes.tolist(), found.data_sizes.tolist(), strict=True):
        data_size *= with_data
        events.append((metadata[at : at + size], data[data_at : data_at + data_size]))
        at += size
        data_at += data_size
    assert (at, data_at) == (len(metadata), len(data))
    return events


def append(partition: Partition, batch: Batch) -> int | BaseException:
    """Store a batch; return the id of its first event, or why it is not stored."""
    told: Future[int | BaseException] = Future()
    partition.append(batch, told.set_result)
    return told.result(20)


def acknowledge(partition: Partition, consumer: str, next_id: int) -> BaseException | None:
    """Move a cursor; return why it is not stored, if so."""
    told: Future[BaseException | None] = Future()
    partition.acknowledge(consumer, next_id, told.set_result)
    return told.result(20)


def read(
    partition: Partition, first: int, max_events: int, max_bytes: int, with_data: bool
) -> Slice | BaseException:
    """Read; where the first event is larger than `max_bytes`, again with as many bytes as it says."""
    told: Future[Slice | BaseException] = Future()
    outcome: Slice | BaseException
    try:
        outcome = partition.read(first, max_events, max_bytes, with_data, told.set_result) or told.result(20)
    except Fault as fault:
        if fault.code != "expired":
            raise
        outcome = fault
    if not isinstance(outcome, LargeEvent):
        return outcome
    assert outcome.size > max_bytes
    return read(partition, first, max_events, outcome.size, with_data)


def read_data(partition: Partition, events: Sequence[DataRequest]) -> Sequence[Buffer] | BaseException:
    """Read pieces, in any order, as a provider does for clients that do not sort them."""
    pieces = Pieces.of(events)
    order = pieces.order()
    told: Future[Sequence[Buffer] | BaseException] = Future()
    partition.read_data(pieces if order is None else pieces.at(order), told.set_result)
    outcome = told.result(20)
    if order is None or isinstance(outcome, BaseException):
        return outcome
    return [rearranged(memoryview(b"".join(outcome)), pieces, order)]
