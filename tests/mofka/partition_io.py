"""What tests of partitions share: batches in and out of one, a gate before its disk, and files that break."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from mochi.abt_io.calls import SystemCalls
from mochi.abt_io.files import Trace, TracedFiles
from mochi.abt_io.threads import IoThreads
from mochi.disk import StorageError, SyncFailed
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, DataRequest, Origin, Pieces, rearranged
from mochi.mofka.partition.contract import LargeEvent, Partition, Slice

T = TypeVar("T")

Event = tuple[bytes, bytes]


def batch_of(events: Sequence[Event], origin: Origin | None = None) -> Batch:
    """Make a batch of (metadata, data) pairs, in one buffer each as a provider does."""
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
    told: Future[int | BaseException] = Future()
    partition.append(batch, told.set_result)
    return told.result(20)


def acknowledge(partition: Partition, consumer: str, next_id: int) -> BaseException | None:
    told: Future[BaseException | None] = Future()
    partition.acknowledge(consumer, next_id, told.set_result)
    return told.result(20)


def read(
    partition: Partition, first: int, max_events: int, max_bytes: int, with_data: bool
) -> Slice | BaseException:
    """Read; where the first event is larger than `max_bytes`, again with as many bytes as it says."""
    told: Future[Slice | BaseException] = Future()
    partition.read(first, max_events, max_bytes, with_data, told.set_result)
    outcome = told.result(20)
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


class GatedIo:
    """Runs operations on threads of its own, while the gate is open."""

    def __init__(self, files: Any) -> None:
        self.files = files
        self.gate = threading.Event()
        self.gate.set()
        self._threads = IoThreads("gated")

    def run(self, function: Callable[[], T]) -> "Future[T]":
        def gated() -> T:
            assert self.gate.wait(20)
            return function()

        return self._threads.submit(gated)

    def close(self) -> None:
        self.gate.set()
        self._threads.close()


class BreakableFiles(TracedFiles, Trace):
    """The files of abt_io, whose operations fail when told to.

    Attributes
    ----------
    broken : dict
        Error number by operation (``write``, ``fdatasync``, ``read``, ``mkdir``, ...).
    """

    def __init__(self) -> None:
        super().__init__(self, SystemCalls(), by_umask=False)
        self.broken: dict[str, int] = {}

    @contextmanager
    def line(self, operation: str, path: str, offset: int = 0, length: int = 0) -> Iterator[None]:
        self.operation(operation, path)
        yield

    def operation(self, kind: str, path: str) -> None:
        """Fail, if operations of this kind are broken."""
        if kind in self.broken:
            number = self.broken[kind]
            refusal = SyncFailed if kind in ("fsync", "fdatasync") else StorageError
            raise refusal.refused(kind, path, OSError(number, os.strerror(number)))
