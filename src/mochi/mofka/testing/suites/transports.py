"""What clients and servers may expect of any transport, as tests: of `mochi.margo`, both ends in this process."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.connection import Request
from mochi.margo.engine import Engine
from mochi.margo.errors import AddressError, ConnectionLost, DeadlineExceeded, Fault
from mochi.margo.link import PendingCall
from mochi.margo.wire import allocate_private
from mochi.mofka.testing.local import running

SECONDS = 20.0
"""Time-out of what must not take long; reached by a failing test only."""


class Number(msgspec.Struct, array_like=True):
    """Argument and result of a call."""

    value: int


Define = Callable[[Engine], Any]
Serve = Callable[..., Engine]


def echo(engine: Engine) -> None:
    """Define a call that returns its argument."""
    engine.define("echo", 1, Number, lambda number: number)


def call(client: Client, engine: Engine, name: str, value: int = 0, **options: Any) -> int:
    """Call, and return the number that comes back."""
    return client.call(engine.address, name, Number(value), Number, provider_id=1, **options).value


class TransportSuite:
    """Tests of a transport; a subclass gives the fixture `address`, and what the transport cannot do.

    Attributes
    ----------
    nobody : str
        An address at which nobody listens.
    """

    nobody: str

    @pytest.fixture
    def address(self) -> str:
        """Return what servers listen at: a protocol, or an address with a free port."""
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.fixture
    def serve(self, address: str) -> Iterator[Serve]:
        """Start engines: ``serve(define, config)``; `define` is given the engine before it runs."""
        with ExitStack() as stack:

            def start(define: Define = echo, config: dict[str, Any] | None = None) -> Engine:
                engine = Engine(address, MargoConfig.parse(config))
                define(engine)
                return stack.enter_context(running(engine))

            yield start

    @pytest.fixture
    def client(self) -> Iterator[Client]:
        """A client that is closed at the end."""
        client = Client(timeout=SECONDS)
        yield client
        client.close()

    def transfer(
        self, client: Client, engine: Engine, name: str, message: bytes, bulk: Sequence[Any] = ()
    ) -> PendingCall:
        """Make a call with bulk, and wait for its answer."""
        receiver = PendingCall()
        link = client.link(engine.address)
        link.request(name, 1, message, receiver, bulk=bulk)
        assert client.wait(receiver.is_done, lambda: (link,), time.monotonic() + SECONDS)
        return receiver

    def test_requests_are_handled_in_the_order_in_which_they_were_made(
        self, serve: Serve, client: Client
    ) -> None:
        handled: list[int] = []

        def note(request: Request) -> None:
            handled.append(int.from_bytes(request.frame.message, "little"))
            request.reply()

        engine = serve(lambda e: e.register("note", 1, note))
        link = client.link(engine.address)
        receivers = [PendingCall() for _ in range(500)]
        for number, receiver in enumerate(receivers):
            link.request("note", 1, number.to_bytes(4, "little"), receiver)
        done = receivers[-1].is_done
        assert client.wait(done, lambda: (link,), time.monotonic() + SECONDS)
        assert handled == list(range(500))
        assert all(receiver.is_done() for receiver in receivers)

    def test_answers_reach_the_thread_that_asked(self, serve: Serve, client: Client) -> None:
        engine = serve()
        with ThreadPoolExecutor(8) as threads:
            values = list(threads.map(lambda n: call(client, engine, "echo", n), range(400)))
        assert values == list(range(400))

    def test_several_clients_are_served_side_by_side(self, serve: Serve) -> None:
        engine = serve()
        clients = [Client(timeout=SECONDS) for _ in range(10)]
        try:
            for number in range(5):
                assert [call(each, engine, "echo", number) for each in clients] == [number] * len(clients)
        finally:
            for each in clients:
                each.close()

    @pytest.mark.parametrize("size", [0, 1, 4095, 64 << 10, 64 << 20])
    def test_bulk_of_any_size_goes_both_ways(self, serve: Serve, client: Client, size: int) -> None:
        def reflect(request: Request) -> None:
            views = [view for view in request.frame.bulk if view is not None]
            request.reply(request.frame.message, [[view] for view in reversed(views)])

        engine = serve(lambda e: e.register("reflect", 1, reflect, allocate=allocate_private))
        content = (bytes(range(251)) * (size // 251 + 1))[:size]
        half = [memoryview(content)[: size // 2], memoryview(content)[size // 2 :]]
        receiver = self.transfer(client, engine, "reflect", b"m", [half, [b"end"]])
        assert receiver.error is None
        assert receiver.frame is not None
        assert receiver.frame.message == b"m"
        end, data = (bytes(view or b"") for view in receiver.frame.bulk)
        assert end == b"end"
        assert data == content

    def test_a_small_call_is_not_held_up_for_good_by_a_large_one(self, serve: Serve, client: Client) -> None:
        def swallow(request: Request) -> None:
            request.reply()

        def define(engine: Engine) -> None:
            echo(engine)
            engine.register("swallow", 1, swallow, allocate=allocate_private)

        engine = serve(define)
        receiver = PendingCall()
        link = client.link(engine.address)
        link.request("swallow", 1, b"", receiver, bulk=[[bytes(32 << 20)]])
        assert [call(client, engine, "echo", n) for n in range(5)] == list(range(5))
        assert client.wait(receiver.is_done, lambda: (link,), time.monotonic() + SECONDS)
        assert receiver.error is None

    def test_a_fault_arrives_as_it_was_raised(self, serve: Serve, client: Client) -> None:
        def refuse(_: Number) -> Number:
            raise Fault("key_exists", "there is one", {"key": "k", "list": [1, 2.5, None]})

        engine = serve(lambda e: e.define("refuse", 1, Number, refuse))
        with pytest.raises(Fault, match="there is one") as caught:
            call(client, engine, "refuse")
        details = {"key": "k", "list": [1, 2.5, None]}
        assert (caught.value.code, caught.value.details) == ("key_exists", details)

    def test_what_nobody_offers_is_refused(self, serve: Serve, client: Client) -> None:
        engine = serve()
        with pytest.raises(Fault):
            call(client, engine, "nothing")
        assert call(client, engine, "echo", 1) == 1

    def test_nobody_is_told_as_nobody(self, client: Client) -> None:
        with pytest.raises(AddressError):
            client.call(self.nobody, "echo", Number(1), Number, provider_id=1, timeout=2)

    def test_a_call_ends_at_its_deadline_and_the_link_goes_on(self, serve: Serve, client: Client) -> None:
        held: list[Request] = []

        def define(engine: Engine) -> None:
            echo(engine)
            engine.register("hold", 1, held.append)

        engine = serve(define)
        with pytest.raises(DeadlineExceeded):
            call(client, engine, "hold", timeout=0.1)
        assert call(client, engine, "echo", 3) == 3
        held[0].reply(b"late")
        assert call(client, engine, "echo", 4) == 4

    def test_a_server_that_ends_makes_what_is_pending_raise(
        self, serve: Serve, client: Client, address: str
    ) -> None:
        arrived = threading.Event()
        held: list[Request] = []

        def hold(request: Request) -> None:
            held.append(request)
            arrived.set()

        engine = Engine(address)
        engine.register("hold", 1, hold)
        receiver = PendingCall()
        with running(engine):
            link = client.link(engine.address)
            link.request("hold", 1, b"", receiver)
            assert client.wait(arrived.is_set, lambda: (link,), time.monotonic() + SECONDS) or arrived.wait(1)
        assert client.wait(receiver.is_done, lambda: (link,), time.monotonic() + SECONDS)
        assert receiver.error is not None
        with pytest.raises((AddressError, ConnectionLost)):
            client.call(engine.address, "echo", Number(1), Number, provider_id=1, timeout=2)

    def test_a_client_that_goes_makes_room_and_disturbs_nobody(self, serve: Serve, client: Client) -> None:
        held: list[Request] = []
        arrived = threading.Event()

        def hold(request: Request) -> None:
            held.append(request)
            arrived.set()

        def define(engine: Engine) -> None:
            echo(engine)
            engine.register("hold", 1, hold)

        engine = serve(define)
        other = Client(timeout=SECONDS)
        other.link(engine.address).request("hold", 1, b"", PendingCall())
        assert arrived.wait(SECONDS)
        other.close()
        held[0].reply(b"to nobody")
        assert call(client, engine, "echo", 2) == 2

    def test_closing_a_client_ends_its_calls(self, serve: Serve, client: Client) -> None:
        arrived = threading.Event()
        engine = serve(lambda e: e.register("hold", 1, lambda _: arrived.set()))
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(call, client, engine, "hold")
            assert arrived.wait(SECONDS)
            client.close()
            with pytest.raises(ConnectionLost):
                waiting.result(SECONDS)

    def test_an_idle_connection_is_there_when_it_is_wanted(self, serve: Serve, client: Client) -> None:
        engine = serve()
        assert call(client, engine, "echo", 1) == 1
        link = client.link(engine.address)
        threading.Event().wait(0.5)
        assert call(client, engine, "echo", 2) == 2
        assert client.link(engine.address) is link
