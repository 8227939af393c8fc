"""What the tests of the chunk files share: events as pairs of bytes, in and out of a store."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mochi.mofka.chunks import Batch, DamagedEvents, Origin, PartitionDirectory

Event = tuple[bytes, bytes]

PARTITIONS = Path(__file__).parents[1] / "data" / "partitions"


def batch_of(events: Sequence[Event], origin: Origin | None = None) -> Batch:
    """Make a batch of (metadata, data) pairs."""
    return Batch(
        np.array([len(metadata) for metadata, _ in events], np.uint32),
        [metadata for metadata, _ in events],
        np.array([len(data) for _, data in events], np.uint64),
        [memoryview(data) for _, data in events],
        origin,
    )


def numbered(first: int, count: int, size: int = 10) -> list[Event]:
    """Make events that can be told apart."""
    return [(b"m%d" % i, b"%d." % i * size) for i in range(first, first + count)]


def events_of(
    store: Any, max_events: int = 1000, max_bytes: int = 1 << 30, damaged: Event | None = None
) -> list[Event]:
    """Read all events that there are in a store, range by range; `damaged`, if given, for each that is refused."""
    events: list[Event] = []
    first_id = store.first_id
    while first_id + len(events) < store.event_count:
        try:
            found = store.read_range(first_id + len(events), max_events, max_bytes, with_data=True)
        except DamagedEvents as error:
            if damaged is None:
                raise
            events += [damaged] * (error.first + error.count - first_id - len(events))
            continue
        assert found.first == first_id + len(events)
        assert 1 <= found.count <= max(max_events, 1)
        assert found.data is not None
        metadata_at = data_at = 0
        for metadata_size, data_size in zip(
            found.metadata_sizes.tolist(), found.data_sizes.tolist(), strict=True
        ):
            metadata = bytes(found.metadata[metadata_at : metadata_at + metadata_size])
            events.append((metadata, bytes(found.data[data_at : data_at + data_size])))
            metadata_at += metadata_size
            data_at += data_size
        assert (metadata_at, data_at) == (len(found.metadata), len(found.data))
    return events


def readable(store: PartitionDirectory) -> dict[int, Event]:
    """Read all events that are not damaged, one by one, by id."""
    found: dict[int, Event] = {}
    for event_id in range(store.first_id, store.event_count):
        with contextlib.suppress(DamagedEvents):
            read = store.read_range(event_id, 1, 1, with_data=True)
            assert read.data is not None
            found[event_id] = bytes(read.metadata), bytes(read.data)
    return found


def chunk_files(directory: Path) -> dict[str, bytes]:
    """Give name and content of the chunk files in a directory."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("chunk-*"))}
