"""One suite for all transports: what engine and client promise, with real sockets, over each of them."""

import errno
import gc
import logging
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mochi.margo import connection as connection_module
from mochi.margo import engine as engine_module
from mochi.margo import handshake, rpc, transport
from mochi.margo.bulk import BulkBuffer
from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.connection import Connection, Request
from mochi.margo.engine import Engine
from mochi.margo.errors import (
    AddressError,
    AuthenticationError,
    ConnectionLost,
    DeadlineExceeded,
    Fault,
    MargoError,
    ProtocolError,
    VersionMismatch,
)
from mochi.margo.handshake import Seat
from mochi.margo.link import Link, PendingCall
from mochi.margo.peer import MAX_OUTSTANDING
from mochi.margo.peer import budget as budget_module
from mochi.margo.peer.budget import CONNECTION_BYTES, Budget
from mochi.margo.wire import (
    DESCRIPTORS,
    ONE_WAY,
    STAGING_SIZE,
    Frame,
    FrameReader,
    Kind,
    Limits,
    Segment,
    allocate_private,
    encode,
)
from tests.addresses import ADDRESSES

SECONDS = 20.0
SERVER = str(Path(__file__).with_name("margo_server.py"))
FOUR_XSTREAMS: dict[str, Any] = {
    "argobots": {
        "pools": [{"name": "__primary__"}, {"name": "io"}],
        "xstreams": [
            {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}},
            *({"name": f"io_{n}", "scheduler": {"pools": ["io"]}} for n in range(4)),
        ],
    }
}

Serve = Callable[..., Engine]


class Number(msgspec.Struct, array_like=True):
    value: int


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def echo(engine: Engine) -> None:
    engine.define("echo", 1, Number, lambda number: number)


def call(client: Client, engine: Engine, name: str, value: int = 0, **options: Any) -> int:
    return client.call(engine.address, name, Number(value), Number, provider_id=1, **options).value


@contextmanager
def server_process(address: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [sys.executable, SERVER, address, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class Raw:
    """A peer that speaks the wire format by hand."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.reader = FrameReader(allocate_private, Limits())
        self.frames: deque[Frame] = deque()

    @classmethod
    def connect(cls, address: str, token: bytes | None = None) -> "Raw":
        raw = cls(transport.connect(address, SECONDS))
        greeting = handshake.hello()
        raw.send(encode(Kind.HELLO, message=rpc.pack(greeting)))
        reply = rpc.unpack(raw.receive().message, handshake.Welcome)
        raw.send(encode(Kind.PROOF, message=rpc.pack(handshake.answer(greeting, reply, token, address))))
        return raw

    def send(self, data: bytes) -> None:
        self.peer.sendall(data)

    def request(self, number: int, name: str, message: bytes = b"", flags: int = 0) -> None:
        self.send(
            encode(
                Kind.REQUEST, call=number, rpc=rpc.number(name), provider_id=1, message=message, flags=flags
            )
        )

    def receive(self) -> Frame:
        while not self.frames:
            count = self.peer.recvmsg_into(self.reader.buffers())[0]
            if not count:
                raise EOFError
            self.reader.received(count)
            self.frames.extend(iter(self.reader.next_frame, None))
        return self.frames.popleft()

    def is_closed(self) -> bool:
        """Read what still comes; tell whether the peer closed the connection."""
        try:
            while self.peer.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()


@contextmanager
def impostor(address: str, behave: Callable[[Raw], None]) -> Iterator[str]:
    """A server by hand: greets one client, and then does as `behave` says."""
    listener, actual = transport.listen(address)
    listener.settimeout(SECONDS)

    def serve() -> None:
        peer, _ = listener.accept()
        with Raw(peer) as raw:
            said = raw.receive().message
            welcome = handshake.welcome(handshake.read_hello(said), said, None, b"")
            raw.send(encode(Kind.WELCOME, message=rpc.pack(welcome)))
            assert raw.receive().kind is Kind.PROOF
            with suppress(ConnectionError, EOFError):
                behave(raw)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield actual
        thread.join(SECONDS)
        assert not thread.is_alive()


class Failing(PendingCall):
    """A receiver that cannot take what comes."""

    def receive(self, frame: Frame) -> None:
        raise LookupError("a bug")


class Stream:
    """Collects the notices of a stream."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.error: MargoError | None = None

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return allocate_private(frame)

    def receive(self, frame: Frame) -> None:
        self.frames.append(frame)

    def lost(self, error: MargoError) -> None:
        self.error = error


def wait(client: Client, link: Link, done: Callable[[], bool]) -> None:
    assert client.wait(done, lambda: (link,), time.monotonic() + SECONDS)


def pending_call(
    client: Client, address: str, name: str, receiver: Any, message: bytes = b"", **options: Any
) -> tuple[Link, int]:
    link = client.link(address)
    return link, link.request(name, 1, message, receiver, **options)


# RPCs, and errors that travel


def test_an_rpc_answers(serve: Serve, client: Client, address: str) -> None:
    engine = serve(address, echo)
    assert [call(client, engine, "echo", n) for n in range(200)] == list(range(200))


def test_a_fault_arrives_as_it_was_raised(serve: Serve, client: Client, address: str) -> None:
    def refuse(_: Number) -> Number:
        raise Fault("key_exists", "there is one", {"key": "k", "list": [1, 2.5, None]})

    engine = serve(address, lambda e: e.define("refuse", 1, Number, refuse))
    with pytest.raises(Fault, match="there is one") as caught:
        call(client, engine, "refuse")
    assert (caught.value.code, caught.value.details) == ("key_exists", {"key": "k", "list": [1, 2.5, None]})


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ZeroDivisionError("by what"), "internal", "ZeroDivisionError: by what"),
        (OSError(errno.ENOENT, "no file", "\udce4"), "internal", "OSError|FileNotFoundError"),
        (
            Fault("odd", "details that cannot travel", {"path": Path("/")}),
            "odd",
            "details that cannot travel",
        ),
        (Fault("big", "x" * (32 << 20)), "big", "xxx"),
        (Fault("deep", "details too large", {"text": "x" * (32 << 20)}), "deep", "details too large"),
    ],
)
def test_any_error_of_a_handler_reaches_its_caller(
    serve: Serve, client: Client, address: str, error: Exception, code: str, text: str
) -> None:
    def fail(_: Number) -> Number:
        raise error

    engine = serve(address, lambda e: (e.define("fail", 1, Number, fail), echo(e)))
    with pytest.raises(Fault, match=text) as caught:
        call(client, engine, "fail")
    assert caught.value.code == code
    assert call(client, engine, "echo", 1) == 1


@pytest.mark.parametrize(
    ("name", "provider_id", "args", "code"),
    [
        ("echo", 2, Number(1), "no_provider"),
        ("ehco", 1, Number(1), "no_rpc"),
        ("echo", 1, handshake.Proof(b"x"), "bad_request"),
    ],
)
def test_a_request_for_nothing_known_is_refused(
    serve: Serve, client: Client, address: str, name: str, provider_id: int, args: msgspec.Struct, code: str
) -> None:
    engine = serve(address, echo)
    with pytest.raises(Fault) as caught:
        client.call(engine.address, name, args, Number, provider_id=provider_id)
    assert caught.value.code == code


def test_an_answer_too_large_to_send_is_a_fault_at_the_caller(
    serve: Serve, client: Client, address: str
) -> None:
    engine = serve(address, lambda e: e.register("large", 1, lambda request: request.reply(bytes(17 << 20))))
    receiver = PendingCall()
    link, _ = pending_call(client, engine.address, "large", receiver)
    wait(client, link, receiver.is_done)
    assert "may be sent" in str(receiver.error)


def test_only_the_first_answer_counts(serve: Serve, client: Client, address: str) -> None:
    def twice(request: Request) -> None:
        request.reply(rpc.pack(Number(1)))
        request.reply(rpc.pack(Number(2)))
        request.fail(Fault("late", "too late"))

    engine = serve(address, lambda e: e.register("twice", 1, twice))
    assert [call(client, engine, "twice") for _ in range(5)] == [1] * 5


def test_bulk_for_an_rpc_that_takes_none_is_refused_without_memory_for_it(
    serve: Serve, client: Client, address: str
) -> None:
    engine = serve(address, echo)
    receiver = PendingCall()
    link, _ = pending_call(
        client, engine.address, "echo", receiver, rpc.pack(Number(1)), bulk=[[bytes(1 << 20)]]
    )
    wait(client, link, receiver.is_done)
    assert isinstance(receiver.error, Fault)
    assert receiver.error.code == "bad_request"
    assert call(client, engine, "echo", 7) == 7


# Deadlines, cancellation, order


def test_a_call_ends_at_its_deadline_and_is_taken_back(serve: Serve, client: Client, address: str) -> None:
    held: list[Request] = []
    engine = serve(address, lambda e: (e.register("hold", 1, held.append), echo(e)))
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"hold at .* within 0\.1 s"):
        call(client, engine, "hold", timeout=0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    assert call(client, engine, "echo", 1) == 1
    assert held[0].cancelled
    held[0].reply(rpc.pack(Number(5)))
    assert call(client, engine, "echo", 2) == 2


def test_a_request_past_its_deadline_does_not_reach_its_handler(
    serve: Serve, client: Client, address: str
) -> None:
    go = threading.Event()
    ran: list[Any] = []

    def define(engine: Engine) -> None:
        one = engine.pool("io")
        engine.register("block", 1, lambda request: request.reply() if go.wait(SECONDS) else None, pool=one)
        engine.register("block_too", 1, ran.append, pool=one)

    config = {
        "argobots": {**FOUR_XSTREAMS["argobots"], "xstreams": FOUR_XSTREAMS["argobots"]["xstreams"][:2]}
    }
    engine = serve(address, define, config)
    blocked, late = PendingCall(), PendingCall()
    link, _ = pending_call(client, engine.address, "block", blocked)
    link.request("block_too", 1, b"", late, timeout=0.001)
    threading.Event().wait(0.01)
    go.set()
    wait(client, link, late.is_done)
    assert isinstance(late.error, Fault)
    assert late.error.code == "deadline"
    assert not ran


@pytest.mark.parametrize("timeout", [1e-9, 1e12, float("inf")])
def test_any_time_out_is_taken(serve: Serve, client: Client, address: str, timeout: float) -> None:
    engine = serve(address, echo)
    client.link(engine.address)
    with suppress(DeadlineExceeded):
        assert call(client, engine, "echo", 3, timeout=timeout) == 3


def test_raw_requests_of_one_rpc_are_handled_in_order_whatever_the_pool(
    serve: Serve, client: Client, address: str
) -> None:
    order: list[int] = []

    def note(request: Request) -> None:
        order.append(request.frame.message[0])
        request.reply()

    engine = serve(address, lambda e: e.register("note", 1, note, pool=e.pool("io")), FOUR_XSTREAMS)
    receivers = [PendingCall() for _ in range(200)]
    link = client.link(engine.address)
    for number, receiver in enumerate(receivers):
        link.request("note", 1, bytes([number]), receiver)
    wait(client, link, lambda: all(receiver.is_done() for receiver in receivers))
    assert order == list(range(200))


@pytest.mark.parametrize("pool", ["__primary__", "io"])
def test_results_of_many_threads_are_never_mixed_up(
    serve: Serve, client: Client, address: str, pool: str
) -> None:
    engine = serve(
        address, lambda e: e.define("echo", 1, Number, lambda n: n, pool=e.pool(pool)), FOUR_XSTREAMS
    )

    def work(first: int) -> bool:
        numbers = range(first, first + 60)
        return [call(client, engine, "echo", n) for n in numbers] == list(numbers)

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(work, range(0, 12000, 1000)))


def test_four_blocked_handlers_run_side_by_side(serve: Serve, client: Client, address: str) -> None:
    meeting = threading.Barrier(4)

    def meet(number: Number) -> Number:
        meeting.wait(SECONDS)
        return number

    engine = serve(address, lambda e: e.define("meet", 1, Number, meet, pool=e.pool("io")), FOUR_XSTREAMS)
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(lambda n: call(client, engine, "meet", n), range(4))) == [0, 1, 2, 3]


@pytest.mark.alone
def test_threads_that_wait_for_several_servers_do_not_wake_each_other_up(
    serve: Serve, client: Client, address: str
) -> None:
    links = [client.link(serve(address, echo).address) for _ in range(3)]
    done = threading.Event()
    sets = [links[1:2], links[:2], links[1:]]
    with ThreadPoolExecutor(3) as threads:
        waits = [
            threads.submit(client.wait, done.is_set, lambda wanted=wanted: wanted, time.monotonic() + SECONDS)
            for wanted in sets
        ]
        busy = time.process_time()
        threading.Event().wait(0.5)
        busy = time.process_time() - busy
        done.set()
        client.notify()
        client.close()
        assert all(w.result(SECONDS) for w in waits)
    assert busy < 0.25


# Bulk and notices


@pytest.mark.parametrize("size", [0, 1, 64 << 10, 64 << 20])
def test_bulk_goes_both_ways(serve: Serve, client: Client, address: str, size: int) -> None:
    def reflect(request: Request) -> None:
        views = [view for view in request.frame.bulk if view is not None]
        request.reply(request.frame.message, [[view] for view in reversed(views)])

    engine = serve(address, lambda e: e.register("reflect", 1, reflect, allocate=allocate_private))
    content = random.Random(size).randbytes(min(size, 1 << 20)) * max(size >> 20, 1)
    receiver = PendingCall()
    half = memoryview(content)[: size // 2], memoryview(content)[size // 2 :]
    link, _ = pending_call(client, engine.address, "reflect", receiver, b"m", bulk=[half, [b"end"]])
    wait(client, link, receiver.is_done)
    assert receiver.error is None
    assert receiver.frame is not None
    assert receiver.frame.message == b"m"
    end, data = receiver.frame.bulk
    assert end == b"end"
    assert data == content


def test_notices_come_in_order_and_a_fault_ends_the_stream(
    serve: Serve, client: Client, address: str
) -> None:
    def subscribe(request: Request) -> None:
        stream = int.from_bytes(request.frame.message, "little")
        request.reply()
        for number in range(100):
            request.connection.notify(stream, bytes([number]), [[b"b" * number]])
        request.connection.fail_stream(stream, rpc.pack_fault(Fault("over", "no more")))
        request.connection.notify(stream, b"after the end")

    engine = serve(address, lambda e: (e.register("subscribe", 1, subscribe), echo(e)))
    stream = Stream()
    link = client.link(engine.address)
    number = link.open_stream(stream)
    link.request("subscribe", 1, number.to_bytes(8, "little"), PendingCall())
    wait(client, link, lambda: len(stream.frames) == 101)
    call(client, engine, "echo")
    *notices, end = stream.frames
    assert [(frame.message[0], len(frame.bulk[0] or b"")) for frame in notices] == [
        (n, n) for n in range(100)
    ]
    assert end.kind is Kind.FAULT
    assert stream.error is None


def test_a_closed_stream_gets_no_more_and_does_not_disturb(
    serve: Serve, client: Client, address: str
) -> None:
    connections: list[Connection] = []

    def subscribe(request: Request) -> None:
        connections.append(request.connection)
        request.reply()

    engine = serve(address, lambda e: (e.register("subscribe", 1, subscribe), echo(e)))
    stream, receiver = Stream(), PendingCall()
    link = client.link(engine.address)
    number = link.open_stream(stream)
    link.request("subscribe", 1, b"", receiver)
    wait(client, link, receiver.is_done)
    link.close_stream(number)
    engine.call_soon(lambda: connections[0].notify(number, b"late", [[bytes(1 << 20)]]))
    assert call(client, engine, "echo", 4) == 4
    assert not stream.frames


# Peers that vanish


def test_a_killed_server_makes_pending_calls_raise_at_once(client: Client, address: str) -> None:
    with server_process(address) as (process, where):
        receivers = [PendingCall() for _ in range(10)]
        for receiver in receivers:
            link, _ = pending_call(client, where, "hold", receiver)
        client.call(where, "echo", Number(1), Number, provider_id=1)
        begin = time.monotonic()
        process.kill()
        wait(client, link, lambda: all(receiver.is_done() for receiver in receivers))
        assert time.monotonic() - begin < 5
        assert all(isinstance(receiver.error, ConnectionLost) for receiver in receivers)
        process.wait(SECONDS)
        with pytest.raises(AddressError):
            client.call(where, "echo", Number(1), Number, provider_id=1)


def test_a_server_that_came_back_is_found_again(client: Client) -> None:
    address = f"na+sm://came-back-{os.getpid()}"
    pids = set()
    for _ in range(3):
        with server_process(address) as (process, where):
            pids.add(client.call(where, "pid", Number(0), Number, provider_id=1).value)
            link = client.link(where)
            process.kill()
            wait(client, link, lambda link=link: link.error is not None)
    assert len(pids) == 3


def test_a_killed_server_leaves_nothing_behind(client: Client, address: str, tmp_path: Path) -> None:
    def files() -> set[str]:
        return {str(path) for where in ("/dev/shm", tmp_path, os.getcwd()) for path in Path(where).iterdir()}

    before = files()
    with server_process(address) as (process, where):
        client.call(where, "echo", Number(1), Number, provider_id=1)
        held = Path(f"/proc/{process.pid}/maps").read_text().split()
        held += [os.readlink(file) for file in Path(f"/proc/{process.pid}/fd").iterdir()]
        process.kill()
        process.wait(SECONDS)
        left = files() - before
        assert not [path for path in left if path in held or not path.startswith("/dev/shm/")]
        listening = Path("/proc/net/unix").read_text()
        assert not address.startswith("na") or f"@mofka/{where.removeprefix('na+sm://')}\n" not in listening


def test_a_request_of_a_vanished_client_is_cancelled(serve: Serve, client: Client, address: str) -> None:
    held: list[Request] = []
    closed = threading.Event()

    def hold(request: Request) -> None:
        request.connection.on_close.append(closed.set)
        held.append(request)

    engine = serve(address, lambda e: (e.register("hold", 1, hold), echo(e)))
    with Raw.connect(engine.address) as raw:
        raw.request(1, "hold")
        assert call(client, engine, "echo", 1) == 1
    assert closed.wait(SECONDS)
    assert held[0].cancelled
    held[0].reply(b"to nobody")
    assert call(client, engine, "echo", 2) == 2


# Peers that misbehave


def test_garbage_on_many_connections_does_not_disturb_others(
    serve: Serve, client: Client, address: str
) -> None:
    engine = serve(address, echo)
    noise = random.Random(7)
    head = encode(Kind.REQUEST, call=1, message=b"m" * 100)
    scraps = [
        b"GET / HTTP/1.1\r\n\r\n",
        head,
        head[:20],
        encode(Kind.HELLO, message=b"\xc1" * 40),
        encode(Kind.HELLO, message=rpc.pack([[9], 0, bytes(16)])),
        encode(Kind.HELLO, segments=[Segment(1 << 33)]),
        encode(Kind.PROOF, message=rpc.pack([b"x"])),
        *(noise.randbytes(size) for size in (1, 39, 40, 41, 4096, 200000)),
    ]
    with ExitStack() as stack:
        for number in range(60):
            peer = stack.enter_context(transport.connect(engine.address, SECONDS))
            with suppress(ConnectionError):
                peer.sendall(scraps[number % len(scraps)])
            assert call(client, engine, "echo", number) == number


@pytest.mark.parametrize(
    "frames",
    [
        encode(Kind.WELCOME),
        encode(Kind.NOTICE, call=1),
        encode(Kind.REQUEST, call=1, provider_id=1, rpc=rpc.number("hold")) * 2,
        encode(Kind.HELLO, message=rpc.pack(handshake.hello())),
        struct.pack("<4sBBHIIQIHHII", b"MFK1", 4, 0, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0),
        encode(Kind.REQUEST, segments=[Segment(1 << 40)]),
    ],
    ids=["welcome", "notice", "the same call twice", "hello", "size", "segment"],
)
def test_a_proven_peer_that_breaks_the_format_is_told_and_closed(
    serve: Serve, client: Client, address: str, frames: bytes
) -> None:
    held: list[Request] = []
    engine = serve(address, lambda e: (e.register("hold", 1, held.append), echo(e)))
    with Raw.connect(engine.address) as raw:
        raw.send(frames)
        fault = rpc.unpack_fault(raw.receive().message)
        assert fault.code == "protocol"
        assert raw.is_closed()
    assert call(client, engine, "echo", 1) == 1


def test_a_peer_that_does_not_greet_in_time_is_closed(
    serve: Serve, client: Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GREETING_TIMEOUT", 0.2)
    engine = serve(address, echo)
    with ExitStack() as stack:
        peers = [Raw(stack.enter_context(transport.connect(engine.address, SECONDS))) for _ in range(3)]
        peers[1].send(encode(Kind.HELLO, message=rpc.pack(handshake.hello()))[:50])
        peers[2].send(encode(Kind.HELLO, message=rpc.pack(handshake.hello())))
        assert call(client, engine, "echo", 1) == 1
        assert all(peer.is_closed() for peer in peers)
    assert call(client, engine, "echo", 2) == 2


def test_peers_that_say_nothing_hold_few_connections_and_newcomers_come_in(
    serve: Serve, client: Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LOBBY_CAPACITY", 8)
    monkeypatch.setattr(engine_module, "LOBBY_GRACE", 0.0)
    engine = serve(address, echo)
    with ExitStack() as stack:
        crowd = [Raw(stack.enter_context(transport.connect(engine.address, SECONDS))) for _ in range(50)]
        assert call(client, engine, "echo", 1) == 1
        assert engine.connections <= 8 + 1
        assert rpc.unpack_fault(crowd[0].receive().message).code == "crowded"
        assert crowd[0].is_closed()
        assert call(client, engine, "echo", 2) == 2


def test_a_crowd_that_greets_is_let_in_though_few_may_be_on_their_way_in(
    serve: Serve, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LOBBY_CAPACITY", 2)
    monkeypatch.setattr(engine_module, "LOBBY_GRACE", SECONDS)
    engine = serve(address, echo)
    with ExitStack() as stack, ThreadPoolExecutor(32) as threads:
        crowd = [Client(timeout=SECONDS) for _ in range(100)]
        for each in crowd:
            stack.callback(each.close)
        assert list(threads.map(lambda each: call(each, engine, "echo", 3), crowd)) == [3] * 100


def test_peers_that_are_refused_cost_one_line_and_one_that_counts_them(
    serve: Serve,
    client: Client,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(engine_module, "INTERVAL", 1000.0)
    engine = serve(address, echo)
    for _ in range(100):
        with transport.connect(engine.address, SECONDS) as peer:
            peer.sendall(b"nonsense" * 8)
            assert Raw(peer).is_closed()
    assert call(client, engine, "echo", 1) == 1
    engine.finalize()
    assert until(lambda: len(caplog.records) > 1)
    first, counted = (record.getMessage() for record in caplog.records)
    assert first == "refusing a connection: a frame starts with b'nons', expected b'MFK1'"
    assert (
        counted
        == "refusing a connection: 99 more, the last one: a frame starts with b'nons', expected b'MFK1'"
    )


def test_a_server_that_dribbles_its_greeting_does_not_hold_a_client_beyond_its_time_out(
    client: Client, address: str
) -> None:
    listener, where = transport.listen(address)
    listener.settimeout(SECONDS)
    gone = threading.Event()

    def dribble() -> None:
        peer, _ = listener.accept()
        with peer, suppress(ConnectionError):
            for byte in encode(Kind.WELCOME, message=bytes(4000)):
                peer.sendall(bytes([byte]))
                if gone.wait(0.01):
                    return

    thread = threading.Thread(target=dribble)
    thread.start()
    begin = time.monotonic()
    with listener, pytest.raises(AddressError, match="does not greet: timed out"):
        client.link(where, 0.3)
    gone.set()
    thread.join(SECONDS)
    assert time.monotonic() - begin < 5


def test_a_client_that_never_reads_costs_bounded_memory_and_holds_nobody_up(
    serve: Serve, client: Client, address: str
) -> None:
    size, count = 8 << 20, 40
    answered: list[int] = []
    content = bytes(size)

    def give(request: Request) -> None:
        answered.append(request.frame.call)
        request.reply(b"", [[content]])

    engine = serve(address, lambda e: (e.register("give", 1, give), echo(e)))
    with Raw.connect(engine.address) as raw:
        message = bytes(STAGING_SIZE)
        for number in range(1, count + 1):
            raw.request(number, "give", message)
        for number in range(20):
            assert call(client, engine, "echo", number) == number
        assert len(answered) <= CONNECTION_BYTES // size + 2
        for _ in range(count):
            assert len(raw.receive().bulk[0] or b"") == size
    assert answered == list(range(1, count + 1))


def test_an_answer_is_not_made_before_there_is_room_for_it(
    serve: Serve, client: Client, address: str
) -> None:
    size, count = 30 << 20, 20
    made: list[int] = []
    content = bytes(size)

    def give(request: Request) -> None:
        def make() -> None:
            made.append(request.frame.call)
            request.reply(b"", [[content]])

        request.reserve(size, make)

    engine = serve(address, lambda e: (e.register("give", 1, give), echo(e)))
    with Raw.connect(engine.address) as raw:
        for number in range(1, count + 1):
            raw.request(number, "give")
        assert until(lambda: len(made) == CONNECTION_BYTES // size)
        assert [call(client, engine, "echo", number) for number in range(20)] == list(range(20))
        assert len(made) == CONNECTION_BYTES // size
        for _ in range(count):
            assert len(raw.receive().bulk[0] or b"") == size
    assert made == list(range(1, count + 1))
    assert until(lambda: engine.budget.held == 0)


def test_answers_of_plain_functions_on_threads_are_not_made_without_end(
    serve: Serve, client: Client, address: str
) -> None:
    made: list[int] = []

    def give(number: Number) -> bytes:
        made.append(number.value)
        return bytes(15 << 20)

    engine = serve(
        address, lambda e: (e.define("give", 1, Number, give, pool=e.pool("io")), echo(e)), FOUR_XSTREAMS
    )
    with Raw.connect(engine.address) as raw:
        for number in range(1, 101):
            raw.request(number, "give", rpc.pack(Number(number)))
        assert until(lambda: len(made) >= CONNECTION_BYTES // (16 << 20))
        assert [call(client, engine, "echo", number) for number in range(20)] == list(range(20))
        assert len(made) <= CONNECTION_BYTES // (15 << 20)
        assert {raw.receive().call for _ in range(100)} == set(range(1, 101))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections that keep a server waiting closed soon."""
    monkeypatch.setattr(budget_module, "PATIENCE", 0.2)
    monkeypatch.setattr(engine_module, "BUDGET_PAUSE", 0.05)


@pytest.mark.usefixtures("impatient")
def test_when_the_budget_is_used_up_who_does_not_read_is_closed_and_who_reads_is_served(
    serve: Serve, client: Client, address: str
) -> None:
    size = 30 << 20
    content = bytes(size)

    def give(request: Request) -> None:
        request.reserve(size, lambda: request.reply(b"", [[content]]))

    def define(engine: Engine) -> None:
        engine.budget = Budget(server=110 << 20, connection=64 << 20, share=1 << 20)
        engine.register("give", 1, give)
        echo(engine)

    engine = serve(address, define)
    with ExitStack() as stack:
        idle, *raws = [stack.enter_context(Raw.connect(engine.address)) for _ in range(6)]
        for number, raw in enumerate(raws):
            raw.request(1, "give")
            assert until(lambda: engine.budget.held > min(number, 2) * size)  # noqa: B023
        # Five times 30 MiB are more than 110, so the last two wait until two that do not read are gone.
        assert until(lambda: engine.connections <= 4 and not engine.budget.is_short)
        for number in range(20):
            assert call(client, engine, "echo", number) == number
        for raw in raws[3:]:
            assert len(raw.receive().bulk[0] or b"") == size
        assert [raw.is_closed() for raw in raws[:2]] == [True, True]
        idle.request(1, "echo", rpc.pack(Number(5)))
        assert idle.receive().message == rpc.pack(Number(5))
    assert until(lambda: engine.budget.held == 0)


@pytest.mark.usefixtures("impatient")
def test_bulk_waits_for_memory_that_half_sent_requests_hold_until_those_are_closed(
    serve: Serve, client: Client, address: str
) -> None:
    size = 30 << 20
    given: list[int] = []

    def allocate(frame: Frame) -> Sequence[memoryview]:
        given.append(frame.call)
        return allocate_private(frame)

    def define(engine: Engine) -> None:
        engine.budget = Budget(server=70 << 20, connection=64 << 20, share=1 << 20)
        engine.register("take", 1, lambda request: request.reply(b"taken"), allocate=allocate)
        echo(engine)

    def head(number: int) -> bytes:
        return encode(
            Kind.REQUEST, call=number, rpc=rpc.number("take"), provider_id=1, segments=[Segment(size)]
        )

    engine = serve(address, define)
    with ExitStack() as stack:
        first, second, whole = [stack.enter_context(Raw.connect(engine.address)) for _ in range(3)]
        for number, raw in ((1, first), (2, second)):
            raw.send(head(number) + bytes(size // 2))
            assert until(lambda number=number: number in given)
        whole.send(head(3) + bytes(100))
        for number in range(20):
            assert call(client, engine, "echo", number) == number
        assert 3 not in given or first.is_closed()
        whole.send(bytes(size - 100))
        assert whole.receive().message == b"taken"
        assert given == [1, 2, 3]
        assert first.is_closed()
    assert until(lambda: engine.budget.held == 0)


def test_a_request_and_an_answer_larger_than_all_bounds_go_through_one_at_a_time(
    serve: Serve, client: Client, address: str
) -> None:
    size, count = 5 << 20, 6

    def back(request: Request) -> None:
        (bulk,) = request.frame.bulk
        assert bulk is not None
        request.reserve(size, lambda: request.reply(b"", [[bulk]]))

    def define(engine: Engine) -> None:
        engine.budget = Budget(server=3 << 20, connection=1 << 20, share=1 << 18)
        engine.register("back", 1, back, allocate=allocate_private)

    engine = serve(address, define)
    others = [Client(timeout=SECONDS) for _ in range(2)]
    content = os.urandom(size)
    waiting = []
    for one in (client, *others):
        for _ in range(count):
            pending = PendingCall()
            link, _ = pending_call(one, engine.address, "back", pending, bulk=[[content]])
            waiting.append((one, link, pending))
    for one, link, pending in waiting:
        wait(one, link, pending.is_done)
        assert pending.frame is not None
        assert bytes(pending.frame.bulk[0] or b"") == content
    for one in others:
        one.close()


def test_connections_take_turns_a_request_each(serve: Serve, client: Client, address: str) -> None:
    go, entered = threading.Event(), threading.Event()
    handled: list[int] = []

    def stop(request: Request) -> None:
        entered.set()
        go.wait(SECONDS)
        request.reply()

    def work(request: Request) -> None:
        handled.append(request.frame.call // 1000)
        request.reply()

    engine = serve(address, lambda e: (e.register("stop", 1, stop), e.register("work", 1, work)))
    count, peers = 100, 4
    with ExitStack() as stack:
        raws = [stack.enter_context(Raw.connect(engine.address)) for _ in range(peers + 1)]
        raws[0].request(1, "stop")
        assert entered.wait(SECONDS)
        for who in range(peers):
            for number in range(count):
                raws[who + 1].request(1000 * who + number + 1, "work")
        go.set()
        assert until(lambda: len(handled) == count * peers)
    for at in range(0, count * peers, peers):
        seen = handled[: at + peers]
        counts = [seen.count(who) for who in range(peers)]
        assert max(counts) - min(counts) <= 2


def test_a_connection_that_closes_is_gone_at_once_with_what_has_half_arrived(
    serve: Serve, client: Client, address: str
) -> None:
    half: list[weakref.ref[Any]] = []

    def allocate(frame: Frame) -> Sequence[memoryview]:
        memory = np.zeros(1 << 20, np.uint8)
        half.append(weakref.ref(memory))
        half.append(weakref.ref(next(iter(engine._connections))))
        return [memory.data]

    engine = serve(address, lambda e: e.register("take", 1, lambda request: None, allocate=allocate))
    gc.collect()
    gc.disable()
    try:
        with Raw.connect(engine.address) as raw:
            raw.send(
                encode(
                    Kind.REQUEST, call=1, rpc=rpc.number("take"), provider_id=1, segments=[Segment(1 << 20)]
                )
                + bytes(1 << 19)
            )
            assert until(lambda: len(half) == 2)
            assert all(each() is not None for each in half)
        assert until(lambda: all(each() is None for each in half))
    finally:
        gc.enable()


def test_one_way_requests_to_a_pool_that_is_stuck_are_not_read_without_end(
    serve: Serve, client: Client, address: str
) -> None:
    go, count, size = threading.Event(), 8000, 2000
    handled: list[int] = []
    connections: list[Connection] = []
    last = threading.Event()

    def work(request: Request) -> None:
        connections.append(request.connection)
        go.wait(SECONDS)
        handled.append(request.frame.call)
        if len(handled) == count:
            last.set()

    engine = serve(
        address, lambda e: (e.register("work", 1, work, pool=e.pool("io")), echo(e)), FOUR_XSTREAMS
    )
    with Raw.connect(engine.address) as raw:
        stream = b"".join(
            encode(
                Kind.REQUEST,
                call=n,
                rpc=rpc.number("work"),
                provider_id=1,
                flags=ONE_WAY,
                message=bytes(size),
            )
            for n in range(1, count + 1)
        )
        sender = threading.Thread(target=raw.send, args=(stream,))
        sender.start()
        assert until(lambda: bool(connections) and connections[0].outstanding >= MAX_OUTSTANDING)
        assert [call(client, engine, "echo", n) for n in range(20)] == list(range(20))
        assert connections[0].outstanding == MAX_OUTSTANDING
        assert sender.is_alive()
        go.set()
        assert last.wait(SECONDS)
        sender.join(SECONDS)
    assert handled == list(range(1, count + 1))


@pytest.mark.alone
def test_want_of_descriptors_neither_spins_nor_ends_the_server(client: Client, address: str) -> None:
    if "rxm" in address:
        pytest.skip("an endpoint of libfabric has descriptors of its own")
    with server_process(address, "40") as (process, where), ExitStack() as stack:

        def cpu() -> float:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        client.call(where, "echo", Number(1), Number, provider_id=1)
        peers = [stack.enter_context(transport.connect(where, SECONDS)) for _ in range(60)]
        client.call(where, "echo", Number(1), Number, provider_id=1)
        before = cpu()
        threading.Event().wait(0.8)
        assert cpu() - before < 0.4
        for peer in peers:
            peer.close()
        late = Client(timeout=SECONDS)
        assert late.call(where, "echo", Number(2), Number, provider_id=1) == Number(2)
        late.close()


def test_connections_leave_descriptors_to_storage(client: Client, address: str) -> None:
    with server_process(address, "64") as (process, where), ExitStack() as stack:
        client.call(where, "echo", Number(1), Number, provider_id=1)

        def come_in() -> None:
            peer = Raw.connect(where)
            stack.callback(peer.peer.close)
            peer.request(1, "echo", rpc.pack(Number(1)))  # answered once it has proved itself
            assert peer.receive().kind is Kind.RESPONSE

        with pytest.raises((EOFError, OSError)):
            deque((come_in() for _ in range(64)), 0)
        assert 40 < len(os.listdir(f"/proc/{process.pid}/fd")) <= 48
        assert client.call(where, "echo", Number(2), Number, provider_id=1) == Number(2)
        stack.close()
        late = Client(timeout=SECONDS)
        assert late.call(where, "echo", Number(3), Number, provider_id=1) == Number(3)
        late.close()


def test_500_idle_connections_are_served(serve: Serve, client: Client, address: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1300:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1300), hard))
    engine = serve(address, echo)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        peers = [stack.enter_context(Raw.connect(engine.address)) for _ in range(500)]
        for number in range(20):
            assert call(client, engine, "echo", number) == number
        for number, peer in enumerate(peers):
            peer.request(1, "echo", rpc.pack(Number(number)))
        assert [rpc.unpack(peer.receive().message, Number).value for peer in peers] == list(range(500))


# Servers that misbehave


@pytest.mark.parametrize(
    "answer",
    [
        encode(Kind.FAULT, call=1, message=b"\xc1"),
        encode(Kind.NOTICE, call=1),
        encode(Kind.HELLO, call=1),
        encode(Kind.RESPONSE, call=1, flags=DESCRIPTORS),
        encode(Kind.FAULT, message=rpc.pack_fault(Fault("protocol", "go away"))),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    ],
)
def test_a_server_that_breaks_the_format_makes_pending_calls_raise(
    client: Client, address: str, answer: bytes
) -> None:
    def behave(raw: Raw) -> None:
        raw.receive()
        raw.send(answer)
        assert raw.is_closed()

    with impostor(address, behave) as where, pytest.raises((ProtocolError, Fault)):
        client.call(where, "echo", Number(1), Number)


@pytest.mark.parametrize(
    ("code", "kind"), [("crowded", AddressError), ("authentication", AuthenticationError)]
)
def test_a_refusal_that_comes_behind_the_greeting_is_told_as_one_within_it(
    client: Client, address: str, code: str, kind: type[MargoError]
) -> None:
    """The server lets a connection go, or finds a proof wrong, when the client has sent its first request."""

    def behave(raw: Raw) -> None:
        raw.receive()
        raw.send(encode(Kind.FAULT, message=rpc.pack_fault(Fault(code, "reason"))))
        assert raw.is_closed()

    with impostor(address, behave) as where, pytest.raises(kind):
        client.call(where, "echo", Number(1), Number)


def test_a_client_of_version_1_is_told_to_update(serve: Serve, address: str) -> None:
    engine = serve(address, echo)
    with Raw(transport.connect(engine.address, SECONDS)) as raw:
        raw.send(encode(Kind.HELLO, message=rpc.pack([[1], 0, bytes(16)])))
        fault = rpc.unpack_fault(raw.receive().message)
        assert (fault.code, fault.message.rpartition(": ")[2]) == ("version", "update the client")
        assert raw.is_closed()


def test_a_server_of_version_1_is_named_as_the_one_to_update(client: Client, address: str) -> None:
    listener, where = transport.listen(address)
    listener.settimeout(SECONDS)
    words = "the peer speaks versions [2] of the wire format, this is 1"

    def refuse() -> None:
        peer, _ = listener.accept()
        with Raw(peer) as raw:
            raw.receive()
            raw.send(encode(Kind.FAULT, message=rpc.pack_fault(Fault("protocol", words))))

    thread = threading.Thread(target=refuse)
    thread.start()
    with listener, pytest.raises(VersionMismatch, match="update the server at"):
        client.link(where)
    thread.join(SECONDS)


def test_bulk_that_the_receiver_cannot_hold_fails_the_call_alone(client: Client, address: str) -> None:
    class Small(PendingCall):
        def allocate(self, frame: Frame) -> Sequence[memoryview]:
            raise MemoryError("no room")

    def behave(raw: Raw) -> None:
        first, second = raw.receive().call, None
        raw.send(encode(Kind.RESPONSE, call=first, segments=[Segment(100000)]) + bytes(100000))
        second = raw.receive().call
        raw.send(encode(Kind.RESPONSE, call=second, message=rpc.pack(Number(2))))
        assert raw.is_closed()

    with impostor(address, behave) as where:
        receiver = Small()
        link, _ = pending_call(client, where, "large", receiver)
        wait(client, link, receiver.is_done)
        assert "no room" in str(receiver.error)
        assert client.call(where, "echo", Number(1), Number) == Number(2)
        client.close()


def test_a_receiver_that_raises_loses_its_link_and_the_client_goes_on(
    serve: Serve, client: Client, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, other = serve(address, echo), serve(address, echo)
    assert call(client, other, "echo", 1) == 1
    receiver = Failing()
    with caplog.at_level(logging.CRITICAL):
        link, _ = pending_call(client, engine.address, "echo", receiver, rpc.pack(Number(1)))
        wait(client, link, receiver.is_done)
    assert isinstance(receiver.error, ConnectionLost)
    # The background thread lives: it reads what nobody waits for.
    answered = threading.Event()

    class Noting(PendingCall):
        def receive(self, frame: Frame) -> None:
            answered.set()

    pending_call(client, other.address, "echo", Noting(), rpc.pack(Number(1)))
    assert answered.wait(SECONDS)
    assert call(client, engine, "echo", 2) == 2


# Who is let in


def with_token(engine: Engine) -> None:
    echo(engine)
    engine.gate.admit(Seat(b"k" * 32, 1))


@pytest.mark.parametrize("rank", [None, 1])
def test_the_right_token_opens(serve: Serve, client: Client, address: str, rank: int | None) -> None:
    engine = serve(address, with_token)
    client.set_token(engine.address, b"k" * 32, rank)
    assert call(client, engine, "echo", 1) == 1


def test_another_member_of_the_service_is_not_spoken_to(serve: Serve, client: Client, address: str) -> None:
    engine = serve(address, with_token)
    client.set_token(engine.address, b"k" * 32, 2)
    with pytest.raises(AddressError, match="rank 2 of the service is meant, this is 1"):
        call(client, engine, "echo", 1)


def test_another_way_to_a_member_is_tried_first_and_its_address_then(
    serve: Serve, client: Client, address: str
) -> None:
    engine = serve(address, with_token)
    other = serve(address, lambda e: (echo(e), e.gate.admit(Seat(b"k" * 32, 2))))
    listener, gone = transport.listen(address)
    listener.close()
    for where, via in ((gone, engine.address), (engine.address, gone), (engine.address, other.address)):
        client.set_token(where, b"k" * 32, 1, via=via)
        assert client.link(where).instance == engine.instance
        client.close()
    client.set_token(gone, b"k" * 32, 1, via=other.address)
    with pytest.raises(AddressError, match=r"nobody answers at .*; nor by .* rank 1 of the service is meant"):
        client.link(gone)


def test_a_server_that_does_not_know_yet_who_may_come_in_lets_nobody_in_but_its_peers(
    serve: Serve, client: Client, address: str
) -> None:
    engine = serve(address, lambda e: (echo(e), e.gate.shut(), e.gate.admit_peers(Seat(b"p" * 32, 0))))
    for token in (None, b"k" * 32):
        if token is not None:
            client.set_token(engine.address, token)
        with pytest.raises(AddressError, match="does not know yet who may come in"):
            call(client, engine, "echo", 1)
    client.set_token(engine.address, b"p" * 32, 0)
    assert call(client, engine, "echo", 1) == 1


def test_a_greeting_that_is_passed_on_to_another_member_does_not_let_its_bearer_in(
    serve: Serve, client: Client, address: str
) -> None:
    """Somebody at the address of member 2 passes all frames on to member 1."""
    engine = serve(address, with_token)
    listener, where = transport.listen(address)
    listener.settimeout(SECONDS)
    faults: list[str] = []

    def relay() -> None:
        peer, _ = listener.accept()
        with Raw(peer) as victim, Raw(transport.connect(engine.address, SECONDS)) as there:
            there.send(encode(Kind.HELLO, message=victim.receive().message))
            reply = there.receive()
            faults.append(rpc.unpack_fault(reply.message).code)
            victim.send(encode(reply.kind, message=reply.message))

    thread = threading.Thread(target=relay)
    thread.start()
    client.set_token(where, b"k" * 32, 2)
    with listener, pytest.raises(AddressError, match="this is 1"):
        client.link(where)
    thread.join(SECONDS)
    assert faults == ["wrong_member"]


def test_a_member_is_found_through_a_forwarded_port(serve: Serve, client: Client, address: str) -> None:
    engine = serve(address, with_token)
    listener, where = transport.listen(address)
    listener.settimeout(SECONDS)

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def tunnel() -> None:
        peer, _ = listener.accept()
        with peer, transport.connect(engine.address, SECONDS) as there, ThreadPoolExecutor(2) as ways:
            ways.submit(forward, peer, there)
            ways.submit(forward, there, peer)

    thread = threading.Thread(target=tunnel)
    thread.start()
    client.set_token(where, b"k" * 32, 1)
    with listener:
        assert client.call(where, "echo", Number(5), Number, provider_id=1).value == 5
    client.close()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("token", "problem"), [(b"w" * 32, "does not hold the token"), (None, "needs its token")]
)
def test_a_wrong_or_missing_token_does_not(
    serve: Serve, client: Client, address: str, token: bytes | None, problem: str
) -> None:
    engine = serve(address, with_token)
    if token is not None:
        client.set_token(engine.address, token)
    with pytest.raises(AuthenticationError, match=problem):
        call(client, engine, "echo", 1)


def test_a_server_closes_a_peer_that_proves_nothing(serve: Serve, address: str) -> None:
    engine = serve(address, with_token)
    for proof in (encode(Kind.PROOF, message=rpc.pack(handshake.Proof(b""))), encode(Kind.REQUEST, call=1)):
        with Raw(transport.connect(engine.address, SECONDS)) as raw:
            raw.send(encode(Kind.HELLO, message=rpc.pack(handshake.hello())))
            assert raw.receive().kind is Kind.WELCOME
            raw.send(proof)
            assert rpc.unpack_fault(raw.receive().message).code == "authentication"
            assert raw.is_closed()


def in_child(work: Callable[[], bool]) -> bool:
    """Run `work` in a forked child; tell whether it returned true."""
    child = os.fork()
    if not child:
        signal.alarm(int(SECONDS))
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_is_refused(serve: Serve, client: Client) -> None:
    engine = serve("na+sm", echo)

    def knock() -> bool:
        os.setuid(65534)
        with Raw(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as raw:
            raw.peer.connect(b"\0mofka/" + engine.address.removeprefix("na+sm://").encode())
            raw.peer.settimeout(SECONDS)
            return raw.is_closed()

    assert in_child(knock)
    assert call(client, engine, "echo", 1) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_server_of_another_user_is_not_believed(client: Client) -> None:
    name = f"foreign-{os.getpid()}"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        _listener, _ = transport.listen(f"na+sm://{name}")
        os.write(writing, b"x")
        signal.pause()
    try:
        assert os.read(reading, 1) == b"x"
        os.setegid(os.getgid())
        os.seteuid(12345)
        with pytest.raises(AddressError, match="belongs to another user"):
            client.link(f"na+sm://{name}")
    finally:
        os.seteuid(0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


# Forks, signals, ends


def test_a_fork_in_the_middle_of_use_gives_the_child_connections_of_its_own(
    client: Client, address: str
) -> None:
    with server_process(address) as (_, where):

        def use(numbers: range) -> bool:
            return all(
                client.call(where, "echo", Number(n), Number, provider_id=1).value == n for n in numbers
            )

        stop = threading.Event()

        def keep_busy() -> bool:
            while not stop.is_set():
                if not use(range(1000, 1010)):
                    return False
            return True

        with ThreadPoolExecutor(2) as threads:
            busy = [threads.submit(keep_busy) for _ in range(2)]
            try:
                for _ in range(8):
                    assert in_child(lambda: use(range(50)))
                    assert use(range(100, 120))
            finally:
                stop.set()
            assert all(b.result(SECONDS) for b in busy)


def test_a_link_of_the_parent_is_lost_in_the_child(serve: Serve, client: Client, address: str) -> None:
    engine = serve(address, echo)
    link = client.link(engine.address)

    def use() -> bool:
        with pytest.raises(ConnectionLost, match="belongs to the parent process"):
            link.request("echo", 1, rpc.pack(Number(1)), PendingCall())
        client.drain(link)
        client.close()
        return True

    assert in_child(use)
    assert call(client, engine, "echo", 1) == 1


CTRL_C = """
import signal, sys, time
sys.path.insert(0, {directory!r})
from tests.margo.margo_server import Number
from mochi.margo.client import Client
client = Client()
client.call({where!r}, "echo", Number(1), Number, provider_id=1)
print("ready", flush=True)
begin = time.monotonic()
try:
    client.call({where!r}, "hold", Number(1), Number, provider_id=1, timeout={timeout})
except KeyboardInterrupt:
    print("interrupted", client.call({where!r}, "echo", Number(7), Number, provider_id=1).value, flush=True)
"""


@pytest.mark.parametrize("timeout", ["30", "float('inf')"])
def test_ctrl_c_ends_a_blocking_call_at_once(address: str, timeout: str) -> None:
    with server_process(address) as (_, where):
        code = CTRL_C.format(directory=str(Path(SERVER).parent), where=where, timeout=timeout)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            state = Path(f"/proc/{process.pid}/wchan")
            deadline = time.monotonic() + SECONDS
            while "poll" not in state.read_text() and time.monotonic() < deadline:
                os.sched_yield()
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted 7\n"
            assert time.monotonic() - begin < 3


INTERRUPTED = """
import random, signal, sys, threading, time
sys.path.insert(0, {directory!r})
from tests.margo.margo_server import Number
from mochi.margo.client import Client
from mochi.margo.errors import ConnectionLost
client = Client(timeout=10)
chance = random.Random(3)
armed = False
def strike(*_):
    if armed:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, strike)
strikes = lost = answered = 0
took = []
for number in range(50):
    began = time.perf_counter()
    client.call({where!r}, "echo", Number(number), Number, provider_id=1)
    took.append(time.perf_counter() - began)
one = sorted(took)[25]
for number in range(6000):
    if strikes > 60 and answered > 300:
        break
    client.link({where!r})
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.05, 6) * one)
        try:
            for step in range(6):
                value = client.call({where!r}, "echo", Number(number * 10 + step), Number, provider_id=1).value
                assert value == number * 10 + step, value
                answered += 1
        finally:
            armed = False
    except KeyboardInterrupt:
        strikes += 1
    except ConnectionLost:
        lost += 1
    armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
assert strikes > 50, strikes
assert answered > 50, answered
link = client.link({where!r})
deadline = time.monotonic() + 5
while link._claims and time.monotonic() < deadline:  # by the background thread, for an answer that comes late
    time.sleep(0.01)
assert not link._claims
busy = time.process_time()
threading.Event().wait(0.3)
assert time.process_time() - busy < 0.15, "the background thread spins"
print("fine", client.call({where!r}, "echo", Number(7), Number, provider_id=1).value, flush=True)
"""


@pytest.mark.alone
def test_interrupts_at_any_point_leave_no_link_claimed_and_no_answer_mixed_up(address: str) -> None:
    with server_process(address) as (_, where):
        code = INTERRUPTED.format(directory=str(Path(SERVER).parent), where=where)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == "fine 7\n", done.stderr


def wakeups(pid: int) -> int:
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def test_an_idle_engine_and_an_idle_client_do_not_wake_up(address: str) -> None:
    code = CTRL_C.split('print("ready"')[0] + 'print("ready", flush=True)\nsys.stdin.read()'
    with server_process(address) as (server, where):
        code = code.format(directory=str(Path(SERVER).parent), where=where)
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as user:
            assert user.stdout is not None
            assert user.stdout.readline() == "ready\n"
            threading.Event().wait(0.2)
            before = wakeups(server.pid), wakeups(user.pid)
            threading.Event().wait(0.9)
            after = wakeups(server.pid), wakeups(user.pid)
            assert all(b - a < 15 for a, b in zip(before, after, strict=True))
            user.kill()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "margo-client"]


def until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not done() and time.monotonic() < deadline:
        os.sched_yield()
    return done()


def test_a_closed_client_leaves_no_thread_and_no_descriptor_and_can_be_used_again(
    serve: Serve, address: str
) -> None:
    engine = serve(address, echo)
    threads, before = len(client_threads()), descriptors()
    client = Client(timeout=SECONDS)
    for number in range(5):
        assert call(client, engine, "echo", number) == number
        client.close()
        client.close()
    assert until(lambda: len(client_threads()) == threads)
    assert until(lambda: descriptors() == before)


def test_a_client_that_is_dropped_leaves_no_thread_and_no_descriptor(serve: Serve, address: str) -> None:
    engine = serve(address, echo)
    threads, before = len(client_threads()), descriptors()
    client = Client(timeout=SECONDS)
    assert call(client, engine, "echo", 1) == 1
    assert len(client_threads()) == threads + 1
    del client
    # The background thread may hold it for a moment, when a collection finds nothing.
    assert until(lambda: gc.collect() >= 0 and len(client_threads()) == threads)
    assert until(lambda: descriptors() == before)


def test_closing_a_client_ends_its_blocked_calls(serve: Serve, client: Client, address: str) -> None:
    held: list[Request] = []
    engine = serve(address, lambda e: e.register("hold", 1, held.append))
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(call, client, engine, "hold", timeout=SECONDS) for _ in range(3)]
        assert until(lambda: len(held) == 3)
        client.close()
        for waiting in calls:
            with pytest.raises(ConnectionLost, match="closed"):
                waiting.result(5)


def test_a_connection_that_hangs_does_not_hold_up_another(serve: Serve, client: Client, address: str) -> None:
    engine = serve(address, echo)
    listener, mute = transport.listen(address)
    with listener, ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(client.link, mute, 1.0)
        assert until(lambda: listener.fileno() >= 0 and hanging.running())
        assert call(client, engine, "echo", 1) == 1
        assert not hanging.done()
        with pytest.raises(AddressError, match="does not greet"):
            hanging.result(SECONDS)


def test_requests_at_their_handlers_are_answered_when_the_engine_ends(
    serve: Serve, client: Client, address: str
) -> None:
    go, begun = threading.Event(), threading.Event()

    def work(number: Number) -> Number:
        begun.set()
        go.wait(SECONDS)
        return number

    engine = serve(address, lambda e: e.define("work", 1, Number, work, pool=e.pool("io")), FOUR_XSTREAMS)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(call, client, engine, "work", 6)
        assert begun.wait(SECONDS)
        engine.finalize()
        engine.call_soon(go.set)
        assert waiting.result(SECONDS) == 6


@pytest.mark.parametrize("pool", ["__primary__", "io"])
def test_the_request_that_ends_an_engine_is_answered(address: str, client: Client, pool: str) -> None:
    for status in range(5):
        engine = Engine(address, MargoConfig.parse(FOUR_XSTREAMS))

        def end(number: Number, engine: Engine = engine) -> Number:
            engine.finalize(number.value)
            return number

        engine.define("end", 1, Number, end, pool=engine.pool(pool))
        with ThreadPoolExecutor(1) as threads:
            result = threads.submit(engine.run)
            try:
                assert call(client, engine, "end", status) == status
            finally:
                engine.finalize()
                client.close()  # the next engine may have the same address
            assert result.result(SECONDS) == status


def test_finalize_works_from_a_signal_handler(address: str) -> None:
    engine = Engine(address)
    previous = signal.signal(signal.SIGUSR1, lambda *_: engine.finalize(5))
    try:
        engine.call_soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert engine.run() == 5
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_an_engine_leaves_no_descriptor_behind(address: str, client: Client) -> None:
    gc.collect()
    before = descriptors()
    for _ in range(3):
        engine = Engine(address)
        echo(engine)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(engine.run)
            call(client, engine, "echo", 1)
            client.close()
            engine.finalize()
            running.result(SECONDS)
    del engine
    gc.collect()
    assert until(lambda: descriptors() <= before)


# Lending, over shared memory only


def lending(buffer: BulkBuffer) -> Callable[[Engine], None]:
    def define(engine: Engine) -> None:
        echo(engine)
        engine.register("lend", 1, lambda request: request.reply(b"lent", descriptors=(buffer.fd,)))

    return define


class Borrower(PendingCall):
    """Maps what is lent, as a receiver does."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.view = memoryview(b"")

    __slots__ = ("link", "view")

    def receive(self, frame: Frame) -> None:
        super().receive(frame)
        self.view = self.link.map_lent()


def test_a_lent_buffer_arrives(serve: Serve, client: Client) -> None:
    buffer = BulkBuffer(4096, shareable=True)
    engine = serve("na+sm", lending(buffer))
    link = client.link(engine.address)
    borrowers = [Borrower(link) for _ in range(5)]
    for borrower in borrowers:
        link.request("lend", 1, b"", borrower)
    wait(client, link, lambda: all(borrower.is_done() for borrower in borrowers))
    for number, borrower in enumerate(borrowers):
        borrower.view[0] = number
        assert buffer.view[0] == number


def test_descriptors_that_nobody_takes_are_closed(serve: Serve, client: Client) -> None:
    buffer = BulkBuffer(4096, shareable=True)
    engine = serve("na+sm", lending(buffer))
    assert call(client, engine, "echo", 1) == 1
    before = descriptors()
    for number in range(20):
        receiver = PendingCall()
        link, issued = pending_call(client, engine.address, "lend", receiver)
        if number % 2:
            link.cancel(issued)
            call(client, engine, "echo", number)
        else:
            wait(client, link, receiver.is_done)
    assert descriptors() == before


def test_lending_to_a_client_that_never_reads_does_not_hold_up_the_server(
    serve: Serve, client: Client
) -> None:
    buffer = BulkBuffer(4096, shareable=True)
    engine = serve(
        "na+sm",
        lambda e: (
            lending(buffer)(e),
            e.register("give", 1, lambda request: request.reply(b"", [[bytes(16 << 20)]])),
        ),
    )
    with Raw.connect(engine.address) as raw:
        raw.request(1, "give")
        for number in range(2, 30):
            raw.request(number, "lend")
        for number in range(20):
            assert call(client, engine, "echo", number) == number
        first = raw.receive()
        assert (first.call, len(first.bulk[0] or b"")) == (1, 16 << 20)
        assert [raw.receive().message for _ in range(2, 30)] == [b"lent"] * 28
