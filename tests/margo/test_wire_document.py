"""docs/wire-format.md says what the code does: its examples are decoded, its tables compared."""

import re
import struct
from pathlib import Path

import msgspec
import pytest

from mochi.margo import handshake, rpc, wire
from mochi.margo.connection import GREETING_TIMEOUT
from mochi.margo.engine import LOBBY_CAPACITY, LOBBY_GRACE
from mochi.margo.errors import Fault
from mochi.margo.peer import MAX_OUTSTANDING
from mochi.margo.peer.budget import CONNECTION_BYTES, LEAST_MOVE, PATIENCE, SERVER_BYTES, SHARE_BYTES
from mochi.margo.peer.gate import Gate
from mochi.margo.rpc import MAX_FAULT
from mochi.margo.wire import Frame, FrameReader, Kind, Limits, allocate_private
from mochi.mofka import protocol

TEXT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
TOKEN = b"0123456789abcdef"
CLIENT_NONCE, SERVER_NONCE = bytes(range(16)), bytes(range(16, 32))


def section(title: str) -> str:
    return re.split(r"\n#+ ", TEXT.partition(f"# {title}\n")[2])[0]


def table(title: str) -> list[list[str]]:
    """Return the rows of the tables of a section, without the heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for row, below in zip(rows, [*rows[1:], []], strict=True)
        if below[:1] != ["---"] and row[0] != "---"
    ]


def example(name: str) -> bytes:
    text = re.search(rf"^{name}\b.*?```\n(.*?)```", section("Examples"), re.DOTALL | re.MULTILINE)
    assert text is not None
    return bytes.fromhex(text[1])


def decode(raw: bytes) -> Frame:
    reader = FrameReader(allocate_private, Limits())
    reader.buffers()[0][: len(raw)] = raw
    reader.received(len(raw))
    (frame,) = iter(reader.next_frame, None)
    return frame


def test_the_greeting_of_the_examples_is_a_valid_one() -> None:
    hello, welcome, proof = (decode(example(name)) for name in ("HELLO", "WELCOME", "PROOF"))
    assert [hello.kind, welcome.kind, proof.kind] == [Kind.HELLO, Kind.WELCOME, Kind.PROOF]
    greeting = rpc.unpack(hello.message, handshake.Hello)
    reply = rpc.unpack(welcome.message, handshake.Welcome)
    terms = rpc.unpack(reply.terms, handshake.Terms)
    seat = handshake.Seat(TOKEN, 1)
    assert (greeting.service, greeting.rank) == (seat.service, seat.rank)
    assert (greeting.nonce, terms.nonce) == (CLIENT_NONCE, SERVER_NONCE)
    assert (terms.version, terms.instance) == (wire.VERSION, bytes(range(0x20, 0x30)))
    assert reply.proof == handshake.prove(TOKEN, b"server", hello.message, reply.terms)
    answer = rpc.unpack(proof.message, handshake.Proof)
    assert handshake.answer(greeting, reply, TOKEN, "here") == answer
    assert answer.proof == handshake.prove(TOKEN, b"client", hello.message, reply.terms)


def test_the_greeting_is_that_of_the_code() -> None:
    assert TEXT.startswith(f"# Wire format, version {wire.VERSION}\n")
    rows = table("Greeting")
    structs = (handshake.Hello, handshake.Welcome, handshake.Terms, handshake.Proof, handshake.Fabric)
    for kind in structs:
        assert [kind.__name__, ", ".join(kind.__struct_fields__)] in rows
    gate = Gate()
    gate.shut()
    codes = {"protocol", "authentication", "crowded"}
    with pytest.raises(Fault) as starting:
        gate.seat_of(handshake.hello())
    gate.admit(handshake.Seat(TOKEN, 0))
    with pytest.raises(Fault) as elsewhere:
        gate.seat_of(handshake.hello(handshake.Seat(TOKEN, 1)))
    with pytest.raises(Fault) as version:
        handshake.read_hello(rpc.pack([[1], 0, CLIENT_NONCE]))
    codes |= {caught.value.code for caught in (starting, elsewhere, version)}
    assert {row[0] for row in rows if len(row) == 3} == codes
    assert f"At most {LOBBY_CAPACITY} connections" in section("Greeting")
    assert f"had {LOBBY_GRACE:g} seconds" in section("Greeting")


def test_the_request_of_the_examples_is_a_batch_of_two_events() -> None:
    frame = decode(example("REQUEST"))
    assert (frame.kind, frame.provider_id, frame.call, frame.timeout_ms) == (Kind.REQUEST, 1, 1, 30000)
    assert frame.rpc == rpc.number(protocol.SEND_BATCH)
    message = rpc.unpack(frame.message, protocol.SendBatch)
    assert message == protocol.SendBatch(
        protocol.Where(CLIENT_NONCE, 0), SERVER_NONCE, 0, 2, 1_700_000_000_000_000_000
    )
    sizes, metadata, data = frame.bulk
    assert sizes is not None
    assert [list(part) for part in protocol.split_sizes(sizes, 2)] == [[4, 5], [5, 0]]
    assert (metadata, data) == (b"one!three", b"hello")


def test_the_answers_of_the_examples_say_what_the_text_says() -> None:
    response, fault = decode(example("RESPONSE")), decode(example("FAULT"))
    assert (response.kind, response.call) == (Kind.RESPONSE, 1)
    assert rpc.unpack(response.message, protocol.BatchStored) == protocol.BatchStored(0, 5)
    assert (fault.kind, fault.call, rpc.unpack_fault(fault.message).code) == (Kind.FAULT, 2, "no_rpc")


@pytest.mark.parametrize(("title", "layout"), [("Head", wire.HEAD), ("Segment records", wire.SEGMENT)])
def test_the_tables_of_fields_are_the_layouts_of_the_code(title: str, layout: struct.Struct) -> None:
    rows = [(int(offset), int(size)) for offset, size, *_ in table(title)]
    ends = [offset + size for offset, size in rows]
    assert [offset for offset, _ in rows] == [0, *ends[:-1]]
    assert ends[-1] == layout.size
    letters = re.findall(r"\d*[sBHIQ]", layout.format.lstrip("<"))
    assert [struct.calcsize("<" + letter) for letter in letters] == [size for _, size in rows]


def test_kinds_and_flags_are_those_of_the_code() -> None:
    assert {row[1]: int(row[0]) for row in table("Kinds")} == {kind.name: kind.value for kind in Kind}
    flags = {row[1]: int(row[0], 16) for row in table("Flags")}
    assert flags == {name: getattr(wire, name) for name in ("SKIPPABLE", "ONE_WAY", "DESCRIPTORS")}


def test_limits_are_those_of_the_code() -> None:
    rows = [[int(re.findall(r"^\d+", cell)[0]) for cell in row[1:]] for row in table("Limits")]
    early = wire.GREETING_LIMITS
    assert rows == [
        [Limits().message, early.message],
        [Limits().extensions, early.extensions],
        [wire.MAX_SEGMENTS, wire.MAX_SEGMENTS],
        [Limits().segment, early.segment],
    ]
    assert f"within {GREETING_TIMEOUT:g} seconds" in TEXT
    for figure in (
        f"{MAX_OUTSTANDING} requests",
        f"for which it holds {CONNECTION_BYTES >> 20} MiB",
        f"{SERVER_BYTES >> 20} MiB of requests, and as much of answers, beside {SHARE_BYTES >> 20} MiB",
        f"{PATIENCE:g} s at least",
        f"{LEAST_MOVE >> 10} KiB at a time",
    ):
        assert figure in section("Calls")
    assert f"at most {MAX_FAULT} bytes" in section("Faults")
    assert f"1 to {protocol.MAX_BATCH_EVENTS} events" in TEXT
    assert f"last {protocol.REMEMBERED_BATCHES} is" in TEXT


def test_rpcs_and_messages_of_topics_are_those_of_the_code() -> None:
    rows = table("Topics")
    numbers = {row[0]: int(row[1], 16) for row in rows if row[0].startswith("mofka_")}
    names = [
        value for value in vars(protocol).values() if isinstance(value, str) and value.startswith("mofka_")
    ]
    assert numbers == {name: rpc.number(name) for name in names}
    messages = {row[0]: row[1].split(", ") if row[1] else [] for row in rows if len(row) == 2}
    structs = [
        kind
        for kind in vars(protocol).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ]
    assert messages == {kind.__name__: [*kind.__struct_fields__] for kind in structs}
