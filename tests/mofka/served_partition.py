"""A partition served by an engine in a thread, and a peer that says to it what no driver would."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from mochi.margo import rpc
from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine
from mochi.margo.errors import Fault, MargoError
from mochi.margo.link import Link, PendingCall
from mochi.margo.wire import Buffer, Frame, Kind, Segment, encode
from mochi.mofka.partition.contract import Partition
from mochi.mofka.protocol import (
    LEND,
    SEND_BATCH,
    SUBSCRIBE,
    BatchStored,
    Events,
    Lend,
    Lent,
    SendBatch,
    Subscribe,
    Subscribed,
    Where,
)
from mochi.mofka.provider import PartitionProvider
from tests.mofka.partition_io import Event, GatedIo

T = TypeVar("T")

UUID = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"
KEY = bytes.fromhex(UUID.replace("-", ""))
ANYWHEN = Where(KEY, 0)
PROVIDER_ID = 5


class Served:
    """Serves a partition at `PROVIDER_ID` until `close`."""

    def __init__(
        self, partition: Partition, address: str, margo: dict[str, Any], io: GatedIo | None = None
    ) -> None:
        self.partition = partition
        self.io = io
        self.engine = Engine(address, MargoConfig.parse(margo))
        self.provider = PartitionProvider(
            self.engine, PROVIDER_ID, topic="topic", kind="test", uuid=UUID, partition=partition
        )
        self._thread = threading.Thread(target=self.engine.run)
        self._thread.start()

    @property
    def connections(self) -> int:
        """Number of connections that the server has."""
        return self.engine.connections

    def held(self) -> int:
        """Number of things that the provider holds for connections."""
        return len(self.provider._feeds) + len(self.provider._lent)

    @contextmanager
    def paused(self) -> Iterator[threading.Semaphore]:
        """Let requests wait before their handlers; the semaphore counts those that wait."""
        arrived, go_on = threading.Semaphore(0), threading.Event()
        unpack = rpc.unpack

        def pause(*arguments: Any) -> Any:
            arrived.release()
            assert go_on.wait(20)
            return unpack(*arguments)

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("mochi.mofka.provider.rpc", SimpleNamespace(**{**vars(rpc), "unpack": pause}))
                yield arrived
        finally:
            go_on.set()

    def close(self) -> None:
        if self.io is not None:
            self.io.gate.set()
        self.engine.finalize()
        self._thread.join(20)
        self.provider.close()


class Stream:
    """Receives what comes on a stream, and how it ends."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.events: list[Event] = []
        self.error: MargoError | None = None

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return [memoryview(bytearray(segment.length)) for segment in frame.segments]

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT:
            self.error = rpc.unpack_fault(frame.message)
            return
        notice = rpc.unpack(frame.message, Events)
        raw, metadata, *data = (bytes(view) for view in frame.bulk if view is not None)
        sizes = np.frombuffer(raw, "<u4").tolist()
        at = data_at = 0
        for size, data_size in zip(sizes[: notice.count], sizes[notice.count :], strict=True):
            self.events.append(
                (metadata[at : at + size], data[0][data_at : data_at + data_size] if data else b"")
            )
            at, data_at = at + size, data_at + data_size
        self.first.append(notice.first)

    def lost(self, error: MargoError) -> None:
        self.error = error


class _Borrower(PendingCall):
    """Maps the buffer that comes with an answer."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.view = memoryview(b"")
        self._link = link

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.RESPONSE:
            self.view = self._link.map_lent()
        super().receive(frame)


class Peer:
    """A client that packs its messages by hand."""

    def __init__(self, address: str) -> None:
        self.client = Client(timeout=10)
        self.link: Link = self.client.link(address)

    def send(
        self,
        name: str,
        message: Any,
        bulk: Sequence[Sequence[Buffer]] = (),
        lent: Segment | None = None,
    ) -> PendingCall:
        """Send a request, and do not wait for the answer."""
        pending = PendingCall()
        self.link.request(name, PROVIDER_ID, rpc.pack(message), pending, bulk=bulk, lent=lent)
        return pending

    def answer(self, pending: PendingCall, kind: type[T]) -> T:
        """Wait for an answer; raises the fault if it is one."""
        self.wait(pending.is_done)
        if pending.error is not None:
            raise pending.error
        assert pending.frame is not None
        return rpc.unpack(pending.frame.message, kind)

    def ask_engine(self) -> bool:
        """Make a round trip that no handler takes part in."""
        pending = PendingCall()
        self.link.request("no such rpc", PROVIDER_ID, b"", pending)
        with pytest.raises(Fault):
            self.answer(pending, Lent)
        return True

    def ask(self, name: str, message: Any, kind: type[T], bulk: Sequence[Sequence[Buffer]] = ()) -> T:
        return self.answer(self.send(name, message, bulk), kind)

    def wait(self, is_done: Callable[[], bool]) -> None:
        assert self.client.wait(is_done, lambda: (self.link,), time.monotonic() + 10), "nothing came for 10 s"

    def subscribe(self, *, start: int | None = None, **asked: Any) -> tuple[Stream, int, Subscribed]:
        """Open a feed; credit is ample where none is given."""
        stream = Stream()
        number = self.link.open_stream(stream)
        fields = {"consumer": "c", "batch_size": 0, "batches": 100, "credit": 1 << 20, "with_data": True}
        message = Subscribe(ANYWHEN, stream=number, start=start, **{**fields, **asked})
        return stream, number, self.ask(SUBSCRIBE, message, Subscribed)

    def store(self, events: Sequence[Event], sequence: int = 0, producer: bytes = b"p" * 16) -> BatchStored:
        return self.answer(self.send_batch(events, sequence, producer), BatchStored)

    def send_batch(
        self, events: Sequence[Event], sequence: int = 0, producer: bytes = b"p" * 16
    ) -> PendingCall:
        message = SendBatch(ANYWHEN, producer, sequence, len(events), 0)
        return self.send(SEND_BATCH, message, bulk_of(events))

    def send_raw(self, name: str, message: Any, segments: Sequence[Segment]) -> PendingCall:
        """Send a request with these segment records, and no bulk."""
        pending = PendingCall()
        call = self.link.open_stream(pending)
        head = encode(
            Kind.REQUEST,
            call=call,
            rpc=rpc.number(name),
            provider_id=PROVIDER_ID,
            message=rpc.pack(message),
            segments=segments,
        )
        self.link.queue.append(head)
        self.link.flush()
        return pending

    def borrow(self) -> tuple[Lent, memoryview]:
        """Ask for a buffer, and map it."""
        pending = _Borrower(self.link)
        self.link.request(LEND, PROVIDER_ID, rpc.pack(Lend(ANYWHEN)), pending)
        return self.answer(pending, Lent), pending.view

    def close(self) -> None:
        self.client.close()


def bulk_of(events: Sequence[Event]) -> list[list[bytes]]:
    """Give the three segments of a batch."""
    sizes = [len(metadata) for metadata, _ in events] + [len(data) for _, data in events]
    return [
        [np.array(sizes, "<u4").tobytes()],
        [b"".join(metadata for metadata, _ in events)],
        [b"".join(data for _, data in events)],
    ]
