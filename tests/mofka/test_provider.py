"""The provider of a partition, over real connections, with messages made by hand."""

import errno
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mochi.margo import rpc
from mochi.margo.errors import ConnectionLost, Fault
from mochi.margo.link import PendingCall
from mochi.margo.peer import Budget
from mochi.margo.wire import Frame, Segment
from mochi.mofka import feeds, provider
from mochi.mofka.chunks import PartitionDirectory
from mochi.mofka.partition import tail
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.default import DefaultPartition
from mochi.mofka.partition.memory import MemoryPartition
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    LEND,
    REMEMBERED_BATCHES,
    REQUEST_DATA,
    SEND_BATCH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Acknowledge,
    BatchStored,
    Done,
    Grant,
    Lend,
    Lent,
    RequestData,
    SendBatch,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Where,
)
from tests.mofka.partition_io import BreakableFiles, Event, GatedIo
from tests.mofka.served_partition import ANYWHEN, KEY, PROVIDER_ID, UUID, Peer, Served, Stream, bulk_of

THREADS = {"rpc_thread_count": 2}


def numbered(first: int, count: int, size: int = 1) -> list[Event]:
    return [(b"%d" % number, b"data %d " % number * size) for number in range(first, first + count)]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves a memory partition (or a default one, by fields given) on na+sm, inline (or otherwise)."""
    running = []

    def start(
        *, fields: dict[str, Any] | None = None, address: str = "na+sm", margo: dict[str, Any] | None = None
    ) -> Served:
        if fields is None:
            served = Served(MemoryPartition({}), address, margo or {})
        else:
            io = GatedIo(BreakableFiles())
            parsed = DefaultFields.parse({"path": str(tmp_path), **fields})
            served = Served(DefaultPartition("topic", UUID, parsed, io), address, margo or {}, io)
        running.append(served)
        return served

    yield start
    for served in running:
        served.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Served], Peer]]:
    peers = []

    def start(served: Served) -> Peer:
        peers.append(Peer(served.engine.address))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(serve: Callable[..., Served], connect: Callable[[Served], Peer]) -> Peer:
    return connect(serve())


def refused(peer: Peer, code: str, name: str, message: Any, **sent: Any) -> str:
    """Check that a request is refused with a fault of this code, and that the partition lives on."""
    with pytest.raises(Fault) as raised:
        peer.answer(peer.send(name, message, **sent), Done)
    assert raised.value.code == code, raised.value.message
    lives = bytes(reversed(range(16)))
    assert peer.ask(UNSUBSCRIBE, Unsubscribe(1 << 40), Done) == Done()
    first = peer.store([(b"{}", b"")], 0, lives)
    assert peer.store([(b"{}", b"")], 0, lives) == first
    return raised.value.message


WHERE_IT_STANDS: dict[str, Callable[[Where], Any]] = {
    SEND_BATCH: lambda where: SendBatch(where, b"q" * 16, 0, 1, 0),
    LEND: Lend,
    SUBSCRIBE: lambda where: Subscribe(where, "c", 1 << 50, 0, 1, 1, True),
    REQUEST_DATA: lambda where: RequestData(where, []),
    ACKNOWLEDGE: lambda where: Acknowledge(where, "c", 0),
}


@pytest.mark.parametrize("name", WHERE_IT_STANDS)
def test_a_request_for_another_partition_is_refused(peer: Peer, name: str) -> None:
    bulk = bulk_of([(b"{}", b"")]) if name == SEND_BATCH else []
    make = WHERE_IT_STANDS[name]
    assert UUID in refused(peer, "wrong_partition", name, make(Where(b"u" * 16, 0)), bulk=bulk)
    assert UUID in refused(peer, "wrong_epoch", name, make(Where(KEY, 12345)), bulk=bulk)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (SEND_BATCH, SendBatch(Where(b"short", 0), b"q" * 16, 0, 1, 0)),
        (SEND_BATCH, SendBatch(ANYWHEN, b"short", 0, 1, 0)),
        (SEND_BATCH, SendBatch(ANYWHEN, b"q" * 16, -1, 1, 0)),
        (SEND_BATCH, SendBatch(ANYWHEN, b"q" * 16, 0, -1, 0)),
        (SEND_BATCH, ("no", "such", "message")),
        (LEND, 7),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c", 99, -5, 1, 1, True)),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c", 99, 0, -1, 1, True)),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c", 99, 0, 1, -1, True)),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c", 2**64 - 1, 0, 1, 1, True)),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c", 99, 0, 1, 1, True, -1)),
        (SUBSCRIBE, Subscribe(ANYWHEN, "c" * 2000, 99, 0, 1, 1, True)),
        (UNSUBSCRIBE, Unsubscribe(-1)),
        (GRANT, Grant(1, -1, 1)),
        (GRANT, Grant(1, 1, -1)),
        (REQUEST_DATA, RequestData(ANYWHEN, [(-1, [])])),
        (REQUEST_DATA, RequestData(ANYWHEN, [(0, [(0, -1)])])),
        (REQUEST_DATA, (ANYWHEN, [0])),
        (ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", -1)),
    ],
)
def test_a_message_with_senseless_fields_is_refused(peer: Peer, name: str, message: Any) -> None:
    bulk = bulk_of([(b"{}", b"")]) if name == SEND_BATCH else []
    assert name in refused(peer, "bad_request", name, message, bulk=bulk)


BATCH = SendBatch(ANYWHEN, b"q" * 16, 0, 2, 0)
SIZES = bulk_of(numbered(0, 2))[0]


@pytest.mark.parametrize(
    ("bulk", "what"),
    [
        ([], "3 segments"),
        ([SIZES], "3 segments"),
        ([*bulk_of(numbered(0, 2)), [b""]], "3 segments"),
        ([[SIZES[0][:-4]], [b"01"], [b"data 0 data 1 "]], "2 events"),
        ([[SIZES[0] * 2], [b"01"], [b"data 0 data 1 "]], "2 events"),
        ([[b""], [b"01"], [b"data 0 data 1 "]], "2 events"),
        ([SIZES, [b"0"], [b"data 0 data 1 "]], "metadata"),
        ([SIZES, [b"01"], [b"data 0 data 1"]], "data"),
        ([SIZES, [b"01"], [b"data 0 data 1 and more"]], "data"),
        ([[b"\xff" * 16], [b"01"], [b"data"]], "metadata"),
        ([[bytes(9 << 20)], [b""], [b""]], "at most 1048576 events"),
    ],
)
@pytest.mark.parametrize("fields", [None, {"sync": False}])
def test_a_batch_whose_sizes_lie_is_refused(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    bulk: list[list[bytes]],
    what: str,
    fields: dict[str, Any] | None,
) -> None:
    peer = connect(serve(fields=fields))
    assert what in refused(peer, "bad_request", SEND_BATCH, BATCH, bulk=bulk)
    assert peer.store(numbered(0, 2), 0, b"q" * 16).first == 1


def test_a_batch_of_no_events_is_refused(peer: Peer) -> None:
    message = SendBatch(ANYWHEN, b"q" * 16, 0, 0, 0)
    assert "0 events" in refused(peer, "bad_request", SEND_BATCH, message, bulk=bulk_of([]))


def test_a_lent_buffer_is_used_within_its_bounds_by_its_borrower_for_data(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve()
    peer, other = connect(served), connect(served)
    lent, view = peer.borrow()
    events = numbered(0, 2, size=20000)
    sizes, metadata, (data,) = bulk_of(events)
    end = 5 + len(data)
    view[5:end] = data
    for borrower, wrong in (
        (peer, Segment(len(data), lent.lease, lent.size - len(data) + 1)),
        (peer, Segment(len(data), lent.lease, 2**63)),
        (peer, Segment(len(data), lent.lease + 1, 5)),
        (other, Segment(len(data), lent.lease, 5)),
        (peer, Segment(len(data) - 1, lent.lease, 5)),
    ):
        refused(borrower, "bad_request", SEND_BATCH, BATCH, bulk=[sizes, metadata], lent=wrong)
    right = Segment(len(data), lent.lease, 5)
    first = peer.answer(peer.send(SEND_BATCH, BATCH, [sizes, metadata], right), BatchStored).first
    view[5:end] = bytes(len(data))
    stream, _, _ = peer.subscribe(start=first)
    peer.wait(lambda: len(stream.events) == 2)
    assert stream.events == events


def test_sizes_and_metadata_do_not_come_in_a_lent_buffer(peer: Peer) -> None:
    lent, _ = peer.borrow()
    segment = Segment(0, lent.lease, 0)
    assert "3 segments" in refused(peer, "bad_request", SEND_BATCH, BATCH, bulk=[SIZES], lent=segment)
    lent_all = [Segment(16, lent.lease, 0), Segment(2, lent.lease, 16), Segment(14, lent.lease, 18)]
    with pytest.raises(Fault, match="come inline") as raised:
        peer.answer(peer.send_raw(SEND_BATCH, BATCH, lent_all), Done)
    assert raised.value.code == "bad_request"


def test_buffers_are_lent_on_the_same_node_only(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    peer = connect(serve(address="tcp://127.0.0.1"))
    refused(peer, "no_lending", LEND, Lend(ANYWHEN))


def test_no_more_than_a_gibibyte_is_lent_and_a_lost_connection_gives_it_back(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve()
    greedy, other = connect(served), connect(served)
    for _ in range(16):
        greedy.borrow()
    refused(other, "no_buffers", LEND, Lend(ANYWHEN))
    greedy.close()
    for attempt in range(1000):
        try:
            other.borrow()
            break
        except Fault:
            assert attempt < 999


def test_a_producer_is_told_when_the_machine_gives_no_buffer_to_lend(peer: Peer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        assert "File too large" in refused(peer, "no_buffers", LEND, Lend(ANYWHEN))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_buffer_of_a_dead_producer_is_not_lent_again_while_its_batch_is_written(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={"producers": {"data_buffer_pool": {"first_size": 4096}}})
    assert served.io is not None
    dying, heir = connect(served), connect(served)
    heir.store(numbered(0, 1))
    lent, view = dying.borrow()
    view[:14] = b"data 0 data 1 "
    sizes, metadata, _ = bulk_of(numbered(0, 2))
    served.io.gate.clear()
    dying.send(SEND_BATCH, BATCH, [sizes, metadata], Segment(14, lent.lease, 0))
    with pytest.raises(Fault, match="cannot be acknowledged"):
        dying.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", 99), Done)  # the batch has been taken by now
    dying.close()
    heir.subscribe()  # the connection that closed first is known to be closed
    _, taken = heir.borrow()
    taken[:14] = b"overwritten!!!"
    stream, _, _ = heir.subscribe(start=0)
    served.io.gate.set()
    heir.wait(lambda: len(stream.events) == 3)
    assert stream.events == numbered(0, 1) + numbered(0, 2)


def test_a_repeated_batch_gets_the_ids_of_the_first_copy_even_while_that_is_being_written(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={})
    assert served.io is not None
    peer, again = connect(served), connect(served)
    served.io.gate.clear()
    copies = [sender.send_batch(numbered(0, 3)) for sender in (peer, again, peer)]
    following = peer.send_batch(numbered(3, 1), 1)
    served.io.gate.set()
    answers = [
        sender.answer(copy, BatchStored).first
        for sender, copy in zip((peer, again, peer), copies, strict=True)
    ]
    assert answers == [0, 0, 0]
    assert peer.answer(following, BatchStored).first == 3
    assert peer.store(numbered(0, 3)).first == 0
    assert served.partition.count == 4


def test_batches_beyond_the_remembered_ones_on_their_way_are_refused(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={})
    assert served.io is not None
    peer = connect(served)
    served.io.gate.clear()
    on_their_way = [peer.send_batch(numbered(n, 1), n) for n in range(REMEMBERED_BATCHES)]
    beyond = peer.send_batch(numbered(64, 1), REMEMBERED_BATCHES)
    with pytest.raises(Fault, match="at most so many") as raised:
        peer.answer(beyond, BatchStored)
    assert raised.value.code == "too_many_batches"
    served.io.gate.set()
    assert [peer.answer(p, BatchStored).first for p in on_their_way] == list(range(REMEMBERED_BATCHES))
    assert peer.store(numbered(64, 1), REMEMBERED_BATCHES).first == REMEMBERED_BATCHES


def test_a_batch_that_cannot_be_stored_is_told_to_every_copy_and_may_be_sent_again(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = connect(serve())

    def broken(*_: Any) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(MemoryPartition, "append", broken)
    for _ in range(2):
        with pytest.raises(Fault, match="none left"):
            peer.store(numbered(0, 1))
    monkeypatch.undo()
    assert peer.store(numbered(0, 1)).first == 0


def test_a_gap_and_a_forgotten_identity_are_refused(peer: Peer) -> None:
    refused(
        peer,
        "identity_expired",
        SEND_BATCH,
        SendBatch(ANYWHEN, b"q" * 16, 3, 1, 0),
        bulk=bulk_of(numbered(0, 1)),
    )
    peer.store(numbered(0, 1), 0, b"q" * 16)
    refused(
        peer, "sequence_gap", SEND_BATCH, SendBatch(ANYWHEN, b"q" * 16, 2, 1, 0), bulk=bulk_of(numbered(0, 1))
    )


@pytest.mark.parametrize("fields", [None, {}])
@pytest.mark.parametrize(
    "events",
    [
        [(7, [(0, 1)])],
        [(0, [(0, 8)])],
        [(0, [(8, 0)])],
        [(0, [(2**62, 2**62)])],
        [(0, [(0, 1)]), (2**62, [])],
    ],
)
def test_data_out_of_range_is_refused(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    fields: dict[str, Any] | None,
    events: list[Any],
) -> None:
    peer = connect(serve(fields=fields))
    peer.store(numbered(0, 3), 0, b"q" * 16)
    code = "bad_request" if events[0][1][0][1] > 2**32 else "out_of_range"
    refused(peer, code, REQUEST_DATA, RequestData(ANYWHEN, events))


def pieces(*each: tuple[int, int, int]) -> bytes:
    """Pack pieces, each an event's id, an offset and a length, as they travel in bulk."""
    return np.array(each, "<u8").T.tobytes()


def in_bulk(peer: Peer, packed: bytes, count: int) -> PendingCall:
    return peer.send(REQUEST_DATA, RequestData(ANYWHEN, [], count), [[packed]])


@pytest.mark.parametrize("fields", [None, {}])
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_pieces_in_bulk_bring_what_those_in_a_message_bring(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any] | None,
    kept: int,
) -> None:
    monkeypatch.setattr(tail, "KEPT", kept)
    peer = connect(serve(fields=fields))
    events = numbered(0, 40, size=50)
    peer.store(events[:30])
    peer.store(events[30:], 1)
    for wanted in (
        [(0, 0, 350), (1, 0, 350), (2, 0, 0)],
        [(number, 10, 7) for number in range(40)],
        [(number, offset, 3) for number in range(0, 40, 3) for offset in (0, 3, 100, 300)],
        [(7, 0, len(events[7][1]))],
    ):
        expected = b"".join(events[number][1][offset : offset + length] for number, offset, length in wanted)
        message = [(number, [(offset, length)]) for number, offset, length in wanted]
        for answer in (
            in_bulk(peer, pieces(*wanted), len(wanted)),
            peer.send(REQUEST_DATA, RequestData(ANYWHEN, message)),
        ):
            assert peer.answer(answer, Done) == Done()
            assert answer.frame is not None
            assert b"".join(view for view in answer.frame.bulk if view is not None) == expected


@pytest.mark.parametrize("fields", [None, {}])
def test_pieces_in_a_message_may_overlap_and_come_in_any_order(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], fields: dict[str, Any] | None
) -> None:
    peer = connect(serve(fields=fields))
    events = numbered(0, 10)
    peer.store(events)
    asked = [(9, [(0, 3), (0, 7), (2, 2)]), (1, []), (4, [(5, 2), (0, 2)]), (9, [(1, 1)])]
    answer = peer.send(REQUEST_DATA, RequestData(ANYWHEN, asked))
    peer.answer(answer, Done)
    assert answer.frame is not None
    (found,) = answer.frame.bulk
    assert bytes(found or b"") == b"".join(
        events[n][1][at : at + size] for n, each in asked for at, size in each
    )


MANY = 1 << 20


@pytest.mark.parametrize("fields", [None, {}])
@pytest.mark.parametrize(
    ("code", "packed", "count"),
    [
        ("out_of_range", pieces((0, 0, 8)), 1),
        ("out_of_range", pieces((0, 8, 0)), 1),
        ("out_of_range", pieces((0, 0, 1), (3, 0, 1)), 2),
        ("out_of_range", pieces((2**62, 0, 0)), 1),
        ("bad_request", pieces((0, 2**63 - 1, 1)), 1),
        ("bad_request", pieces((0, 2**62, 2**62)), 1),
        ("bad_request", pieces((2**63, 0, 0)), 1),
        ("bad_request", pieces((0, 0, 2**64 - 1)), 1),
        ("bad_request", pieces((0, 0, 2**33)), 1),
        ("bad_request", pieces((0, 0, 2), (0, 1, 1)), 2),
        ("bad_request", pieces((0, 2, 1), (0, 0, 1)), 2),
        ("bad_request", pieces((1, 0, 1), (0, 0, 1)), 2),
        ("bad_request", pieces((0, 0, 1)), 0),
        ("bad_request", pieces((0, 0, 1)), 2),
        ("bad_request", pieces((0, 0, 1), (1, 0, 1)), 1),
        ("bad_request", pieces((0, 0, 1))[:-1], 1),
        ("bad_request", b"", 1),
        ("bad_request", bytes(24 * (MANY + 1)), MANY + 1),
    ],
)
def test_pieces_that_have_no_meaning_are_refused(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    fields: dict[str, Any] | None,
    code: str,
    packed: bytes,
    count: int,
) -> None:
    peer = connect(serve(fields=fields))
    peer.store(numbered(0, 3), 0, b"q" * 16)
    refused(peer, code, REQUEST_DATA, RequestData(ANYWHEN, [], count), bulk=[[packed]])


def test_pieces_come_in_one_inline_segment_or_in_the_message(peer: Peer) -> None:
    peer.store(numbered(0, 3), 0, b"q" * 16)
    one = pieces((0, 0, 1))
    refused(peer, "bad_request", REQUEST_DATA, RequestData(ANYWHEN, [(0, [])], 1), bulk=[[one]])
    refused(peer, "bad_request", REQUEST_DATA, RequestData(ANYWHEN, [], 1), bulk=[[one], [one]])
    refused(peer, "bad_request", REQUEST_DATA, RequestData(ANYWHEN, [], 1))
    lent, _ = peer.borrow()
    with pytest.raises(Fault, match="one segment"):
        peer.answer(peer.send(REQUEST_DATA, RequestData(ANYWHEN, [], 1), lent=Segment(24, lent.lease)), Done)


def test_a_million_pieces_of_one_event_are_read_or_refused_at_once(peer: Peer) -> None:
    data = np.arange(2 * MANY, dtype=np.uint64).astype(np.uint8).tobytes()
    peer.store([(b"{}", data)], 0, b"q" * 16)
    asked = np.zeros((3, MANY), "<u8")
    asked[1] = np.arange(0, 2 * MANY, 2)
    asked[2] = 1
    answer = in_bulk(peer, asked.tobytes(), MANY)
    peer.answer(answer, Done)
    assert answer.frame is not None
    assert bytes(answer.frame.bulk[0] or b"") == data[::2]
    asked[1, -1] = 0
    refused(peer, "bad_request", REQUEST_DATA, RequestData(ANYWHEN, [], MANY), bulk=[[asked.tobytes()]])


def test_one_request_does_not_ask_for_more_data_than_the_largest_event_has(peer: Peer) -> None:
    peer.store([(b"{}", bytes(1 << 20))], 0, b"q" * 16)
    message = RequestData(ANYWHEN, [(0, [(0, 1 << 20)] * 4097)])
    assert "too many for one request" in refused(peer, "bad_request", REQUEST_DATA, message)


def test_a_producer_that_sends_again_after_a_restart_gets_the_ids_it_had(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    batches = [numbered(3 * n, 3) for n in range(4)]
    served = serve(fields={})
    peer = connect(served)
    stored = [peer.store(batch, sequence) for sequence, batch in enumerate(batches[:3])]
    peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", 4), Done)
    served.close()
    peer = connect(serve(fields={}))
    assert [peer.store(batch, sequence) for sequence, batch in enumerate(batches)] == [
        *stored,
        BatchStored(9, stored[0].epoch),
    ]
    stream, _, subscribed = peer.subscribe()
    assert subscribed == Subscribed(5, stored[0].epoch, takes_arrays=True)
    peer.wait(lambda: len(stream.events) == 7)
    assert stream.events == [event for batch in batches for event in batch][5:]


def test_a_feed_stops_before_damaged_events_with_their_range_and_goes_on_behind_them(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], tmp_path: Path
) -> None:
    served = serve(fields={})
    batches = [numbered(3 * n, 3) for n in range(3)]
    peer = connect(served)
    for sequence, batch in enumerate(batches):
        peer.store(batch, sequence)
    served.close()
    with (tmp_path / f"topic-{UUID}" / "chunk-000000.data").open("r+b") as file:
        file.seek(sum(len(data) for _, data in batches[0]) + 1)
        file.write(b"!")
    peer = connect(serve(fields={}))
    stream, _, _ = peer.subscribe()
    peer.wait(lambda: stream.error is not None)
    assert stream.events == batches[0]
    assert isinstance(stream.error, Fault)
    assert (stream.error.code, stream.error.details) == ("damaged", {"first": 3, "count": 3})
    behind, _, _ = peer.subscribe(start=6)
    peer.wait(lambda: len(behind.events) == 3)
    assert behind.events == batches[2]


def test_what_a_directory_lost_is_in_the_configuration_which_loads_again(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], tmp_path: Path
) -> None:
    served = serve(fields={})
    connect(served).store(numbered(0, 3))
    assert "damaged" not in served.provider.config
    served.close()
    (tmp_path / f"topic-{UUID}" / "chunk-000000.data").unlink()
    config = serve(fields={}).provider.config
    assert "chunk-000000.data is missing" in config["damaged"][0]
    assert msgspec.convert(config, provider.ProviderConfig).damaged == config["damaged"]


def test_a_consumer_too_many_is_refused_and_those_known_go_on(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.store(numbered(0, 9))
    monkeypatch.setattr("mochi.mofka.partition.cursors.CURSOR_COST", 3 << 20)
    for consumer in ("a", "b"):
        peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, consumer, 1), Done)
    refused(peer, "too_many_consumers", ACKNOWLEDGE, Acknowledge(ANYWHEN, "one too many", 1))
    peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "a", 5), Done)
    assert peer.subscribe(consumer="a")[2].first == 6


def test_an_acknowledgement_of_an_event_that_is_not_there_is_refused(peer: Peer) -> None:
    peer.store(numbered(0, 3), 0, b"q" * 16)
    refused(peer, "out_of_range", ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", 3))
    assert peer.subscribe(consumer="c")[2].first == 0


def test_a_cursor_moves_forward_only_and_belongs_to_its_name(peer: Peer) -> None:
    peer.store(numbered(0, 9))
    for event_id in (4, 2):
        peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", event_id), Done)
    assert peer.subscribe(consumer="c")[2].first == 5
    assert peer.subscribe(consumer="d")[2].first == 0
    assert peer.subscribe(consumer="c", start=1)[2].first == 1


def test_a_feed_that_starts_beyond_the_end_or_on_a_stream_in_use_is_refused(peer: Peer) -> None:
    refused(peer, "out_of_range", SUBSCRIBE, Subscribe(ANYWHEN, "c", 99, 0, 1, 1, True, 1))
    _, number, _ = peer.subscribe()
    refused(peer, "bad_request", SUBSCRIBE, Subscribe(ANYWHEN, "c", number, 0, 1, 1, True))


@pytest.mark.parametrize("margo", [{}, THREADS])
@pytest.mark.parametrize("fields", [None, {}])
def test_a_feed_with_ample_credit_sends_any_number_of_batches_in_order(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    fields: dict[str, Any] | None,
    margo: dict[str, Any],
) -> None:
    peer = connect(serve(fields=fields, margo=margo))
    peer.store(numbered(0, 1500))
    stream, _, _ = peer.subscribe(batch_size=1, batches=10**9, credit=2**62)
    peer.wait(lambda: len(stream.events) == 1500)
    assert stream.events == numbered(0, 1500)
    assert stream.first == list(range(1500))


@pytest.mark.parametrize("fields", [None, {}])
def test_a_feed_stops_at_its_credit_and_goes_on_when_more_is_granted(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], fields: dict[str, Any] | None
) -> None:
    peer = connect(serve(fields=fields))
    peer.store(numbered(0, 10))
    stream, number, _ = peer.subscribe(batch_size=2, batches=2, credit=1000)
    peer.wait(lambda: len(stream.events) == 4)
    peer.link.request(GRANT, PROVIDER_ID, rpc.pack(Grant(number, 1, 0)), None)
    peer.wait(lambda: len(stream.events) == 6)
    peer.ask(UNSUBSCRIBE, Unsubscribe(number), Done)
    peer.store(numbered(10, 1), 1)
    other, _, _ = peer.subscribe(batch_size=2, batches=100, credit=1)
    peer.wait(lambda: len(other.events) == 2)
    peer.store(numbered(11, 1), 2)
    assert (len(stream.events), len(other.events)) == (6, 2)


def test_what_the_loop_sends_does_not_overtake_what_another_thread_has_ready(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(fields={"sync": False})
    peer = connect(served)
    stream, number, _ = peer.subscribe(batch_size=10, batches=1)
    late: list[Callable[[], None]] = []
    call_soon = served.engine.call_soon
    monkeypatch.setattr(served.engine, "call_soon", late.append)
    peer.send_batch(numbered(0, 20))
    eventually(lambda: bool(late))  # from the thread of the commit, with the acknowledgement
    peer.link.request(GRANT, PROVIDER_ID, rpc.pack(Grant(number, 1, 1000)), None)
    monkeypatch.undo()
    for each in late:
        call_soon(each)
    peer.wait(lambda: len(stream.events) == 20)
    assert peer.ask_engine()
    assert stream.first == [0, 10]
    assert stream.events == numbered(0, 20)


def test_no_more_is_on_its_way_than_the_server_allows_however_much_is_granted(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MAX_BATCHES", 3)
    monkeypatch.setattr(feeds, "MAX_CREDIT", 30)
    peer = connect(serve())
    peer.store(numbered(0, 9))
    many, number, _ = peer.subscribe(batch_size=1, batches=10**9, credit=10**9, with_data=False)
    large, _, _ = peer.subscribe(batch_size=2, batches=10**9, credit=10**9)
    peer.wait(lambda: len(many.events) == 3 and len(large.events) == 4)
    for _ in range(2):
        peer.link.request(GRANT, PROVIDER_ID, rpc.pack(Grant(number, 10**9, 10**9)), None)
    peer.wait(lambda: len(many.events) == 9)
    assert len(large.events) == 4


def test_a_consumer_that_grants_nothing_costs_no_memory(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={"sync": False})
    peer = connect(served)
    streams = [peer.subscribe(consumer=str(n), batches=0)[0] for n in range(50)]
    streams += [peer.subscribe(consumer=str(n), credit=0)[0] for n in range(50)]
    peer.store(numbered(0, 100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for sequence in range(1, 200):
        peer.store(numbered(0, 100, size=20), sequence)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20000  # kilobytes; a copy for each of the 100 feeds would take 300 MB
    assert not any(stream.events for stream in streams)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Unread(Stream):
    """A stream whose client reads nothing more once something has come on it, until told to go on."""

    def __init__(self, go_on: threading.Event) -> None:
        super().__init__()
        self._go_on = go_on

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        assert self._go_on.wait(20)
        return super().allocate(frame)


@pytest.mark.parametrize("margo", [{}, THREADS])
@pytest.mark.parametrize("fields", [None, {"sync": False}])
def test_feeds_that_nobody_reads_are_bounded_together_and_go_on_when_they_are_read(
    serve: Callable[..., Served],
    connect: Callable[[Served], Peer],
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any] | None,
    margo: dict[str, Any],
) -> None:
    monkeypatch.setattr(provider, "MAX_FEED_BYTES", 256 << 10)
    monkeypatch.setattr(tail, "KEPT", 0)
    served = serve(fields=fields, margo=margo)
    events = [(b"%d" % number, bytes(64 << 10)) for number in range(32)]
    events[20] = (b"large", bytes(700 << 10))
    other = connect(served)
    other.store(events)
    served.engine.budget = Budget(connection=1 << 20, share=1 << 20)
    peer = connect(served)
    partition, most, feeds = served.provider._partition, 0, 40
    read = type(partition).read

    def counted(self: Any, first: int, events: int, size: int, with_data: bool, done: Any) -> Any:
        nonlocal most
        most = max(most, served.engine.budget.held)
        return read(self, first, events, size, with_data, done)

    monkeypatch.setattr(type(partition), "read", counted)
    go_on = threading.Event()
    streams = [Unread(go_on) for _ in range(feeds)]
    for number, stream in enumerate(streams):
        named = peer.link.open_stream(stream)
        peer.send(SUBSCRIBE, Subscribe(ANYWHEN, f"c{number}", named, 0, 1000, 1 << 30, True))
    eventually(lambda: served.engine.budget.held > 700 << 10)
    for number in range(20):
        other.store([(b"{}", b"")], number + 1)
    go_on.set()
    peer.wait(lambda: all(len(stream.events) == 52 for stream in streams))
    assert all(stream.events[:32] == events for stream in streams)
    assert all(stream.first == sorted(stream.first) for stream in streams)
    assert most <= (1 << 20) + (700 << 10)
    eventually(lambda: served.engine.budget.held < 1000)


def test_a_feed_that_ends_while_it_waits_for_memory_gives_up_its_place(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "MAX_FEED_BYTES", 600 << 10)
    served = serve()
    other = connect(served)
    other.store([(b"%d" % number, bytes(600 << 10)) for number in range(4)])
    served.engine.budget = Budget(connection=1 << 20, share=1 << 20)
    peer = connect(served)
    go_on = threading.Event()
    for number in range(100):
        named = peer.link.open_stream(Unread(go_on))
        peer.send(SUBSCRIBE, Subscribe(ANYWHEN, "c", named, 0, 1000, 1 << 30, True))
        if number:
            peer.send(UNSUBSCRIBE, Unsubscribe(named))
    eventually(lambda: served.engine.budget.held > 600 << 10)
    assert sum(len(account.answers.waiting) for account in served.engine.budget.accounts) <= 2
    go_on.set()
    peer.close()
    eventually(lambda: served.held() == 0)
    assert served.engine.budget.held == 0


def test_a_connection_has_no_more_feeds_than_it_may(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "MAX_FEEDS", 3)
    served = serve()
    peer = connect(served)
    for _ in range(5):
        numbers = [peer.subscribe()[1] for _ in range(3)]
        refused(peer, "bad_request", SUBSCRIBE, Subscribe(ANYWHEN, "c", 1 << 40, 0, 1, 1, True))
        assert connect(served).subscribe()[2].first == 0
        for number in numbers:
            peer.ask(UNSUBSCRIBE, Unsubscribe(number), Done)


@pytest.mark.parametrize("margo", [{}, THREADS])
def test_what_belongs_to_a_connection_goes_with_it(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], margo: dict[str, Any]
) -> None:
    served = serve(margo=margo)
    stays = connect(served)
    for _ in range(20):
        leaving = connect(served)
        leaving.subscribe()
        leaving.borrow()
        leaving.close()
    stays.wait(lambda: stays.ask(UNSUBSCRIBE, Unsubscribe(7), Done) == Done() and served.connections == 1)
    stays.store(numbered(0, 1))
    assert served.held() == 0


def test_what_is_asked_for_by_a_connection_that_closes_meanwhile_goes_with_it(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(margo=THREADS)
    leaving, stays = connect(served), connect(served)
    with served.paused() as arrived:
        leaving.send(SUBSCRIBE, Subscribe(ANYWHEN, "c", 1 << 40, 0, 1, 1, True))
        leaving.send(LEND, Lend(ANYWHEN))
        assert arrived.acquire(timeout=10)
        assert arrived.acquire(timeout=10)
        leaving.close()
        stays.wait(lambda: stays.ask_engine() and served.connections == 1)
    stays.store(numbered(0, 1))
    stays.wait(lambda: stays.ask(UNSUBSCRIBE, Unsubscribe(7), Done) == Done() and served.held() == 0)


def test_a_partition_that_failed_is_told_to_producers_the_log_and_the_configuration(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(fields={})
    assert isinstance(served.io, GatedIo)
    files = served.io.files
    assert isinstance(files, BreakableFiles)
    peer = connect(served)
    peer.store(numbered(0, 2))
    assert "failed" not in served.provider.config
    files.broken["fdatasync"] = 5
    for _ in range(3):
        with pytest.raises(Fault, match="Input/output error") as raised:
            peer.store(numbered(2, 1), 0, b"q" * 16)
        assert raised.value.code == "storage"
    assert "Input/output error" in served.provider.config["failed"]
    (record,) = [record for record in caplog.records if "takes no more events" in record.getMessage()]
    assert UUID in record.getMessage()
    stream, _, _ = peer.subscribe()
    peer.wait(lambda: len(stream.events) == 2)


@pytest.mark.usefixtures("nothing_kept")
def test_a_feed_that_cannot_be_read_ends_with_the_reason_and_others_go_on(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={})
    assert served.io is not None
    files = served.io.files
    assert isinstance(files, BreakableFiles)
    peer = connect(served)
    waiting, _, _ = peer.subscribe()
    peer.store(numbered(0, 1))
    peer.wait(lambda: len(waiting.events) == 1)
    files.broken["read"] = 5
    stream, _, _ = peer.subscribe()
    peer.wait(lambda: stream.error is not None)
    assert "Input/output error" in str(stream.error)
    files.broken.clear()
    peer.store(numbered(1, 1), 1)
    peer.wait(lambda: len(waiting.events) == 2)


def test_a_provider_that_closes_tells_its_consumers_and_refuses_the_rest(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve()
    peer = connect(served)
    stream, _, _ = peer.subscribe()
    served.provider.close()
    peer.wait(lambda: stream.error is not None)
    assert "served no more" in str(stream.error)
    with pytest.raises(Fault, match="no provider"):
        peer.store(numbered(0, 1))


def test_a_partition_that_is_removed_tells_everybody_and_is_gone_once_it_is_closed(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], tmp_path: Path
) -> None:
    served = serve(fields={})
    peer = connect(served)
    peer.store(numbered(0, 5))
    stream, _, _ = peer.subscribe()
    failures = iter([OSError(errno.EIO, "cannot")])
    found: list[int] = []

    def remove() -> list[str]:
        for failure in failures:
            raise failure
        with PartitionDirectory.open(tmp_path / f"topic-{UUID}") as store:
            found.append(store.event_count)
        return ["/kept"]

    served.provider._remove_stored = remove
    with pytest.raises(OSError, match="cannot"):
        served.provider.remove(False)
    assert served.provider.remove(False) == ["/kept"]
    assert found == [5]
    peer.wait(lambda: stream.error is not None)
    with pytest.raises(Fault) as store_error:
        peer.store(numbered(5, 1), 1)
    for error in (stream.error, store_error.value):
        assert isinstance(error, Fault)
        assert (error.code, error.message) == ("deleted", "topic 'topic' was deleted")


def test_a_partition_with_events_is_not_removed_as_unused(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve()
    peer = connect(served)
    peer.store(numbered(0, 1))
    served.provider._remove_stored = lambda: pytest.fail("removed")
    assert served.provider.remove(True) == []
    assert peer.store(numbered(1, 1), 1).first == 1


def test_requests_that_reach_a_closed_provider_are_refused(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(margo=THREADS)
    peer = connect(served)
    with served.paused() as arrived:
        pending = peer.send_batch(numbered(0, 1))
        assert arrived.acquire(timeout=10)
        served.provider.close()
    with pytest.raises(Fault, match="served no more") as raised:
        peer.answer(pending, BatchStored)
    assert raised.value.code == "closed"
    served.provider.close()


def test_a_provider_closed_during_a_commit_answers_what_has_arrived(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={})
    assert served.io is not None
    peer = connect(served)
    peer.store(numbered(0, 1), 0)
    served.io.gate.clear()
    pending = [peer.send_batch(numbered(n, 1), n) for n in range(1, 20)]
    with pytest.raises(Fault):
        peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", 99), Done)
    served.provider.close()
    assert [peer.answer(p, BatchStored).first for p in pending] == list(range(1, 20))


def test_a_server_that_stops_ends_its_feeds(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve()
    peer = connect(served)
    stream, _, _ = peer.subscribe()
    served.engine.finalize()
    peer.wait(lambda: stream.error is not None)
    assert isinstance(stream.error, ConnectionLost)


def test_lent_and_subscribed_carry_the_epoch_that_later_requests_name(peer: Peer) -> None:
    _, _, subscribed = peer.subscribe()
    stored = peer.store(numbered(0, 1))
    assert isinstance(subscribed, Subscribed)
    assert subscribed.epoch == stored.epoch != 0
    assert peer.ask(LEND, Lend(Where(KEY, stored.epoch)), Lent).size > 0


def test_a_partition_whose_only_full_chunk_is_of_the_last_batch_drops_it_when_it_is_too_old(
    serve: Callable[..., Served], connect: Callable[[Served], Peer]
) -> None:
    served = serve(fields={"max_events_per_chunk": 3, "retention": {"max_age": 0.1}})
    peer = connect(served)
    for sequence in range(2):
        peer.store(numbered(3 * sequence, 3), sequence)
    deadline = time.monotonic() + 20
    while served.partition.first != 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    config = served.provider.config
    assert config["expired"] == 3
    assert msgspec.convert(config, provider.ProviderConfig).expired == 3
    stream, _, subscribed = peer.subscribe()
    assert subscribed.first == 3
    peer.wait(lambda: len(stream.events) == 3)
    refused(peer, "expired", SUBSCRIBE, Subscribe(ANYWHEN, "c", 77, 0, 1, 1, True, 2))
    refused(peer, "expired", REQUEST_DATA, RequestData(ANYWHEN, [(2, [(0, 1)])]))
    peer.ask(ACKNOWLEDGE, Acknowledge(ANYWHEN, "c", 1), Done)


def test_the_wait_for_events_to_expire_costs_an_idle_server_next_to_nothing(
    serve: Callable[..., Served], connect: Callable[[Served], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Semaphore(0)

    def expires_in(partition: MemoryPartition) -> float:
        asked.release()
        return -1.0

    monkeypatch.setattr(MemoryPartition, "expires_in", expires_in)
    monkeypatch.setattr(provider, "SHORTEST_EXPIRY", 0.2)
    served = serve()
    peer = connect(served)
    begin = time.monotonic()
    for sequence in range(50):
        peer.store(numbered(sequence, 1), sequence)
    for _ in range(4):
        assert asked.acquire(timeout=10)
    assert time.monotonic() - begin > 0.55
