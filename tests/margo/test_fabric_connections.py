"""Connections beside which a fabric moves bulk: libfabric's own tcp, as the stand-in for network cards."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mochi.margo import client as client_module
from mochi.margo import rpc, transport
from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.connection import Request
from mochi.margo.engine import Engine
from mochi.margo.errors import ConnectionLost, Fault
from mochi.margo.fabric import PLACE_FROM, FabricError, Fetcher, NoFabric, Plane, load, offer, plane
from mochi.margo.fabric.provider import choose
from mochi.margo.handshake import Fabric, Welcome, answer, hello
from mochi.margo.link import PendingCall
from mochi.margo.wire import REMOTE, FrameReader, Kind, Limits, Segment, allocate_private, encode, keys_of

SECONDS = 20.0
ADDRESS = "ofi+tcp;ofi_rxm://127.0.0.1"
BACK_SERVER = str(Path(__file__).with_name("fabric_server.py"))


class Empty(msgspec.Struct, array_like=True):
    pass


@pytest.fixture(autouse=True)
def _needs_libfabric() -> None:
    try:
        load()
    except NoFabric as error:
        pytest.skip(str(error))


def back(request: Request) -> None:
    """Answer with the bulk that came."""
    bulk = [[view] for view in request.frame.bulk if view is not None]
    request.reply(rpc.pack(Empty()), bulk)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(ADDRESS, MargoConfig.parse(None))
    engine.register("back", 1, back, allocate=allocate_private)
    engine.register("nothing", 1, lambda request: request.reply(rpc.pack(Empty())))
    thread = threading.Thread(target=engine.run)
    thread.start()
    yield engine
    engine.finalize()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(timeout=SECONDS)
    yield client
    client.close()


def send_back(client: Client, where: str, *segments: bytes) -> list[bytes]:
    _, bulk = client.transfer(
        where, "back", Empty(), Empty, provider_id=1, bulk=[[segment] for segment in segments]
    )
    return [bytes(view or b"") for view in bulk]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that a fabric has moved from now on."""
    sizes: list[int] = []
    read = Plane.read

    def counted(self: Plane, owner: object, peer: int, into: plane.Lease, *rest: Any) -> None:
        sizes.append(into.view.nbytes)
        read(self, owner, peer, into, *rest)

    monkeypatch.setattr(Plane, "read", counted)
    return sizes


def test_large_bulk_goes_by_the_fabric_and_small_bulk_by_the_socket(
    engine: Engine, client: Client, fetched: list[int]
) -> None:
    small, edge, large = os.urandom(PLACE_FROM - 1), os.urandom(PLACE_FROM), os.urandom(5 << 20)
    for segments in ([small], [edge], [large], [small, large, edge, b"x"], [large, small]):
        assert send_back(client, engine.address, *segments) == segments
    placed = [PLACE_FROM, 5 << 20, 5 << 20, PLACE_FROM, 5 << 20]
    assert sorted(fetched) == sorted(placed * 2)


def test_frames_keep_their_order_behind_one_that_is_fetched(engine: Engine) -> None:
    order: list[int] = []
    done = threading.Event()

    def note(request: Request) -> None:
        order.append(rpc.unpack(request.frame.message, int))
        if len(order) == 200:
            done.set()
        request.reply(rpc.pack(Empty()))

    engine.register("note", 1, note, allocate=allocate_private)
    client = Client(timeout=SECONDS)
    link = client.link(engine.address)
    calls = [PendingCall() for _ in range(200)]
    for number, call in enumerate(calls):
        bulk = [[os.urandom(1 << 20)]] if number % 7 == 0 else []
        link.request("note", 1, rpc.pack(number), call, bulk=bulk)
    assert client.wait(lambda: all(c.is_done() for c in calls), lambda: (link,), time.monotonic() + SECONDS)
    assert done.wait(SECONDS)
    assert order == list(range(200))
    client.close()


def test_an_rpc_that_takes_no_bulk_refuses_what_is_placed(engine: Engine, client: Client) -> None:
    with pytest.raises(Fault, match="bulk where none is expected"):
        client.transfer(engine.address, "nothing", Empty(), Empty, provider_id=1, bulk=[[bytes(PLACE_FROM)]])
    assert client.call(engine.address, "nothing", Empty(), Empty, provider_id=1) == Empty()


def test_what_is_placed_is_bounded_and_then_the_socket_takes_it(
    engine: Engine, client: Client, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "MAX_PLACED", 1)
    link = client.link(engine.address)
    assert link.fabric is not None
    assert link.fabric.plane.take_room(1)
    content = os.urandom(PLACE_FROM)
    assert send_back(client, engine.address, content) == [content]
    assert len(fetched) == 1  # the server's answer: it has placed nothing before
    link.fabric.plane.give_room(1)


@pytest.mark.parametrize("lack", ["no library", "another version"])
def test_a_client_that_cannot_use_the_fabric_uses_the_socket_and_says_so_once(
    engine: Engine,
    fetched: list[int],
    lack: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> Plane:
        raise NoFabric("loading libfabric", 38, "there is none")

    if lack == "no library":
        monkeypatch.setattr(client_module, "plane_to", fail)
    else:
        monkeypatch.setattr(client_module, "offer", lambda plane: Fabric("tcp", [1, 17], b"x" * 16))
    content = os.urandom(1 << 20)
    client = Client(timeout=SECONDS)
    with caplog.at_level(logging.WARNING):
        assert send_back(client, engine.address, content) == [content]
        client.link(engine.address).lose(ConnectionLost("to connect anew"))
        assert send_back(client, engine.address, content) == [content]
    client.close()
    assert fetched == []
    (line,) = [record.getMessage() for record in caplog.records if "fabric" in record.getMessage()]
    assert "its socket carries all" in line
    assert ("there is none" in line) if lack == "no library" else ("tcp of libfabric 1.17" in line)


class Raw:
    """A peer that says what it likes, and whether it has a fabric."""

    def __init__(self, address: str, fabric: Fabric | None) -> None:
        self.peer = transport.connect(address, SECONDS)
        self.reader = FrameReader(allocate_private, Limits())
        greeting = hello(None, fabric)
        self.peer.sendall(encode(Kind.HELLO, message=rpc.pack(greeting)))
        frame = None
        while frame is None:
            self.reader.received(self.peer.recv_into(self.reader.buffers()[0]))
            frame = self.reader.next_frame()
        reply = rpc.unpack(frame.message, Welcome)
        self.peer.sendall(encode(Kind.PROOF, message=rpc.pack(answer(greeting, reply, None, address))))

    def is_refused(self) -> bool:
        """Wait until the server has closed the connection; tell whether it did in time."""
        try:
            while self.peer.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.peer.close()
        return True


def request_with(segments: Sequence[Segment]) -> bytes:
    return encode(
        Kind.REQUEST,
        call=1,
        rpc=rpc.number("back"),
        provider_id=1,
        message=rpc.pack(Empty()),
        segments=segments,
        extensions=keys_of(segments),
    )


@pytest.fixture
def own() -> Iterator[Plane]:
    library = load()
    own = Plane(library, choose(library, "tcp;ofi_rxm", "127.0.0.1"))
    yield own
    own.close()


BAD: dict[str, Callable[[], bytes]] = {
    "a key of nothing": lambda: request_with([Segment(1 << 20, REMOTE, 0, 12345)]),
    "no keys": lambda: encode(Kind.REQUEST, call=1, segments=[Segment(1 << 20, REMOTE)]),
    "nothing was to be fetched": lambda: encode(Kind.FETCHED, call=9),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_peer_that_names_what_is_not_there_loses_its_connection_alone(
    engine: Engine, client: Client, own: Plane, bad: str
) -> None:
    content = os.urandom(1 << 20)
    assert send_back(client, engine.address, content) == [content]
    raw = Raw(engine.address, offer(own))
    raw.peer.sendall(BAD[bad]())
    assert raw.is_refused()
    assert send_back(client, engine.address, content) == [content]


def test_memory_of_a_fabric_that_was_not_agreed_on_is_refused(engine: Engine) -> None:
    raw = Raw(engine.address, None)
    raw.peer.sendall(request_with([Segment(1 << 20, REMOTE, 0, 1)]))
    assert raw.is_refused()


def test_a_peer_whose_fabric_has_no_such_name_is_refused(engine: Engine, own: Plane) -> None:
    raw = Raw(engine.address, msgspec.structs.replace(offer(own), name=b""))
    raw.peer.sendall(request_with([Segment(1 << 20, REMOTE, 0, 1)]))
    assert raw.is_refused()


def send_for_ever(client: Client, where: str, content: bytes) -> None:
    while True:
        send_back(client, where, content)


def test_a_server_that_is_killed_costs_the_calls_that_wait_for_it() -> None:
    client = Client(timeout=SECONDS)
    with subprocess.Popen(
        [sys.executable, BACK_SERVER, ADDRESS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        where = process.stdout.readline().strip()
        content = os.urandom(8 << 20)
        assert send_back(client, where, content) == [content]
        killer = threading.Timer(0.5, process.kill)
        killer.start()
        with pytest.raises(ConnectionLost):
            send_for_ever(client, where, content)
        killer.join()
    client.close()


def test_what_a_peer_may_still_fetch_is_never_used_for_anything_else(own: Plane) -> None:
    library = load()
    reader = Plane(library, choose(library, "tcp;ofi_rxm", "127.0.0.1"))
    fetcher = Fetcher(own, reader.name)
    placed = fetcher.place([[os.urandom(PLACE_FROM)]])
    assert placed is not None
    (segment,) = placed.segments
    fetcher.close([placed])
    del placed
    own.lease(PLACE_FROM).view[:] = bytes(PLACE_FROM)
    outcome: list[BaseException | None] = []
    told = threading.Event()

    def tell(error: BaseException | None) -> None:
        outcome.append(error)
        told.set()

    into = reader.lease(PLACE_FROM)
    reader.read(
        None, reader.meet(own.name), into, segment.offset, segment.key, time.monotonic() + SECONDS, tell
    )
    assert told.wait(SECONDS)
    assert isinstance(outcome[0], FabricError)
    reader.close()
