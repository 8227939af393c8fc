"""The server works in batches, never in events: the calls that a batch costs do not depend on its number of events."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from mochi.disk import PosixFiles
from mochi.margo import rpc
from mochi.mofka.partition import tail
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.contract import Partition
from mochi.mofka.partition.default import DefaultPartition
from mochi.mofka.partition.legacy import LegacyPartition
from mochi.mofka.partition.legacy_store import LegacyStore
from mochi.mofka.partition.memory import MemoryPartition
from mochi.mofka.protocol import GRANT, REQUEST_DATA, BatchStored, Done, Grant, RequestData
from mochi.warabi.memory import MemoryTarget
from mochi.yokan.config import open_database
from tests.mofka.partition_io import Event, GatedIo
from tests.mofka.served_partition import ANYWHEN, PROVIDER_ID, UUID, Peer, Served, Stream

FEW, MANY = 100, 1000
MORE = 300
"""Calls that a larger batch may cost more: it is received and sent in more parts, and a commit goes on after its
answer. That is one for three events."""


class Calls:
    """Counts calls of Python functions of the project in the server's threads."""

    def __init__(self) -> None:
        self.count = 0
        self.clients: set[int | None] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if (
            event == "call"
            and "/mochi/" in frame.f_code.co_filename
            and threading.get_ident() not in self.clients
        ):
            self.count += 1

    def of(self, work: Callable[[], object]) -> int:
        """Count the calls while something is done, and answered."""
        before = self.count
        work()
        return self.count - before


@pytest.fixture
def calls() -> Iterator[Calls]:
    counter = Calls()
    threading.setprofile(counter)
    yield counter
    threading.setprofile(None)


def make(kind: str, path: Path) -> tuple[Partition, GatedIo | None]:
    if kind == "memory":
        return MemoryPartition({}), None
    if kind == "legacy":
        database = open_database({"database": {"type": "map"}})[0]
        return LegacyPartition(
            "topic", lambda: LegacyStore("topic", database, MemoryTarget({}, "config"))
        ), None
    io = GatedIo(PosixFiles())
    fields = DefaultFields.parse({"path": str(path), "sync": False})
    return DefaultPartition("topic", UUID, fields, io), io


@pytest.fixture(params=["memory", "default, recent", "default, from files", "legacy, recent"])
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> Iterator[Served]:
    kind, _, where = request.param.partition(", ")
    if where == "from files":
        monkeypatch.setattr(tail, "KEPT", 0)
    partition, io = make(kind, tmp_path)
    served = Served(partition, "na+sm", {}, io)
    yield served
    served.close()


@pytest.fixture
def peer(served: Served, calls: Calls) -> Iterator[Peer]:
    before = {thread.ident for thread in threading.enumerate()}
    peer = Peer(served.engine.address)
    peer.ask_engine()
    calls.clients = {thread.ident for thread in threading.enumerate()} - before
    yield peer
    peer.close()


def events_of(count: int) -> list[Event]:
    return [(b'{"number": %4d}' % number, bytes([number % 256]) * 100) for number in range(count)]


WHOLE = [(0, 100)]
SUB = [(7, 20)]
STRIDED = [(offset, 3) for offset in range(0, 80, 20)]
UNSTRUCTURED = [(0, 1), (40, 17), (99, 1)]


def request_of(first: int, count: int, views: list[list[tuple[int, int]]]) -> tuple[RequestData, bytes]:
    """Ask for views of consecutive events, each with the next of `views`."""
    pieces = [
        (first + number, offset, length)
        for number in range(count)
        for offset, length in views[number % len(views)]
    ]
    return RequestData(ANYWHEN, [], len(pieces)), np.array(pieces, "<i8").T.tobytes()


@pytest.mark.parametrize(
    "views",
    [[WHOLE], [SUB], [STRIDED], [UNSTRUCTURED], [WHOLE, SUB, STRIDED, UNSTRUCTURED]],
    ids=["whole", "sub", "strided", "unstructured", "mixed"],
)
def test_what_a_batch_costs_the_server_does_not_depend_on_its_events(
    served: Served, peer: Peer, calls: Calls, views: list[list[tuple[int, int]]]
) -> None:
    costs: dict[int, tuple[int, int, int]] = {}
    first = sequence = 0
    for count in (FEW, MANY, FEW, MANY):
        events = events_of(count)
        push = calls.of(partial(peer.store, events, sequence))
        stream, number, _ = peer.subscribe(start=first, batches=0)
        peer.ask_engine()
        grant = rpc.pack(Grant(number, 1, 1 << 30))

        def pull_batch(grant: bytes = grant, stream: Stream = stream, count: int = count) -> None:
            peer.link.request(GRANT, PROVIDER_ID, grant, None)
            peer.wait(lambda: len(stream.events) == count)

        pull = calls.of(pull_batch)
        asked, packed = request_of(first, count, views)
        before = calls.count
        answer = peer.send(REQUEST_DATA, asked, [[packed]])
        peer.answer(answer, Done)
        select = calls.count - before
        assert answer.frame is not None
        expected = [events[n][1][at : at + size] for n in range(count) for at, size in views[n % len(views)]]
        assert bytes(answer.frame.bulk[0] or b"") == b"".join(expected)
        costs[count] = push, pull, select
        first += count
        sequence += 1
    is_stored_by_event = isinstance(
        served.partition, LegacyPartition
    )  # a document each, as the original has them
    for few, many in list(zip(costs[FEW], costs[MANY], strict=True))[is_stored_by_event:]:
        assert many <= few + MORE, costs
    assert isinstance(peer.store([(b"{}", b"")], sequence), BatchStored)
