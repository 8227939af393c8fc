"""The server side of margo: one event loop, the connections it serves, and the RPCs defined on it.

A request's handler runs inline on the loop when its pool is inline, else on an xstream of that pool. Either way,
requests of one raw RPC of one provider are handled in the order of their arrival. A handler that raises
answers its caller with a fault; the server goes on. A peer that breaks the wire format, or greets without the
token, loses its connection and nothing else.
"""

import asyncio
import logging
import os
import resource
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar

import msgspec
import uvloop

from mochi import shortage
from mochi.margo import rpc, transport
from mochi.margo.complaints import INTERVAL, Complaint, Complaints
from mochi.margo.config import PRIMARY, MargoConfig
from mochi.margo.connection import CLOSING, REFUSING, Connection, Definition, Handler, Request, no_bulk
from mochi.margo.errors import AddressError, Fault, InUse, MargoError, ProtocolError
from mochi.margo.fabric import offer, start
from mochi.margo.peer import Budget, Gate, Grant, Lobby
from mochi.margo.pools import Pool, Pools, Strand, pin
from mochi.margo.wire import MAX_MESSAGE, ONE_WAY, Allocate, Frame

A = TypeVar("A", bound=msgspec.Struct)
R = TypeVar("R")

log = logging.getLogger(__name__)

LINGER = 2.0
"""Seconds that `Engine.run` waits at its end for handlers to answer, and then for peers to take what is queued."""

BUDGET_PAUSE = 0.5
"""Seconds between two looks for connections to close while the budget is used up."""

ACCEPT_BURST = 8
"""Connections accepted in one turn of the loop, so that those who are in wait for no more than these."""

ACCEPT_PAUSE = 0.5
"""Seconds without accepting where the system, or this server, refuses connections for want of descriptors or memory."""

LOBBY_CAPACITY = 512
LOBBY_SHARE = 8
"""Connections that have not proved themselves: so many at most, and so few that they hold one in eight descriptors."""

LOBBY_GRACE = 0.25
"""Seconds that a connection has to prove itself also when others wait for its place."""

NOT_ACCEPTING = Complaint("cannot accept connections for now", logging.ERROR)


def _lobby_capacity() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LOBBY_CAPACITY if soft == resource.RLIM_INFINITY else min(LOBBY_CAPACITY, soft // LOBBY_SHARE)


def unpack_arguments(name: str, request: Request, kind: type[A]) -> A:
    """Return the arguments of a request for the RPC `name`; `Fault` ``bad_request`` if they are none."""
    try:
        return rpc.unpack(request.frame.message, kind)
    except ProtocolError as error:
        raise Fault("bad_request", f"{name}: {error}") from error


def _answer(request: Request, done: Future[Any]) -> None:
    error = done.exception()
    if error is not None:
        request.fail(error)
    else:
        request.reply(rpc.pack(done.result()))


class Engine:
    """Serves RPCs at an address.

    Parameters
    ----------
    address : str
        Where to listen, see `mochi.margo.address`; bound at once.
    config : MargoConfig, optional
        Pools, xstreams and the rest of the ``margo`` section.

    Attributes
    ----------
    address : str
        The address as peers can use it.
    gate : Gate
        Whom it lets in before any RPC: at first, anybody who can reach the address.
    instance : bytes
        Random; tells this engine from an earlier one at the same address.
    on_finalize : list of callables
        Called by `run`, the latest first, when all requests are answered and no more are read, while xstreams still
        run: the place to close providers. What they still answer is sent.

    Notes
    -----
    `run` belongs to one thread, the loop's. `finalize`, `call_soon` and `Request.reply` may be called from any.
    An idle engine does not wake up. Not usable in a forked child.
    """

    def __init__(self, address: str, config: MargoConfig | None = None) -> None:
        self.config = MargoConfig.parse(None) if config is None else config
        self._listener, self.address = transport.listen(address)
        try:
            self.plane = start(address, self.address)
        except AddressError:
            self._listener.close()
            raise
        self.fabric = None if self.plane is None else offer(self.plane)
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.gate = Gate()
        self.instance = secrets.token_bytes(16)
        self.on_finalize: list[Callable[[], None]] = []
        self._thread = threading.get_ident()
        self.pools = Pools(self.config, self.call_soon)
        self.pools.check_cores(self.config.xstreams, "margo.argobots.xstreams[{}]")
        self._definitions: dict[tuple[int, int], tuple[str, Definition]] = {}
        self._connections: set[Connection] = set()
        self.budget = Budget()
        self._is_watching = False
        self._lobby = Lobby[Connection](_lobby_capacity(), LOBBY_GRACE)
        self._pause: asyncio.TimerHandle | None = None
        self._complaints = Complaints()
        self._inbox: deque[Callable[[], None]] = deque()
        self._is_rung = False
        self._status = 0
        self._finalizing = False
        self.loop.add_reader(self._listener, self._accept)

    @property
    def mid(self) -> Self:
        """What stands for the engine where programs give a margo id."""
        return self

    @property
    def connections(self) -> int:
        """Number of connections that are served."""
        return len(self._connections)

    @property
    def default_pool(self) -> Pool:
        """The pool of handlers that name none."""
        return self.pools[self.config.rpc_pool]

    def pool(self, ref: str | int) -> Pool:
        """Return the pool of this name, alias or index; `ConfigError` if there is none."""
        return self.pools[self.config.pool_name(ref)]

    def add_pool(self, value: Any, where: str = "pool") -> None:
        """Add a pool, such as ``argobots.pools`` holds; an xstream may serve it from then on.

        Raises
        ------
        ConfigError
            It is none, or its name is taken.

        Notes
        -----
        Changes of pools and xstreams may come from any thread, one at a time.
        """
        config = self.config.with_pool(value, where)
        self.pools.add(config.pools[-1])
        self.config = config

    def remove_pool(self, name: str, users: Iterable[str] = ()) -> None:
        """Remove a pool.

        Parameters
        ----------
        users : iterable of str
            Who needs it, beside this engine.

        Raises
        ------
        ConfigError
            There is no such pool.
        InUse
            Somebody needs it.
        """
        name = self.config.pool_name(name)
        needed_by = [field for field in ("progress_pool", "rpc_pool") if getattr(self.config, field) == name]
        needed_by += [f"xstream {x.name}" for x in self.config.xstreams if name in x.pools]
        needed_by += users
        if self.pools[name].has_work:
            needed_by.append("work that waits in it")
        if needed_by or name == PRIMARY:
            raise InUse("pool", name, needed_by or ["margo"])
        self.config = self.config.without_pool(name)
        self.pools.remove(name)

    def add_xstream(self, value: Any, where: str = "xstream") -> None:
        """Start an xstream, such as ``argobots.xstreams`` holds.

        Raises
        ------
        ConfigError
            It is none, or its name is taken, or it serves a pool that is not there or allows no further xstream.
        """
        config = self.config.with_xstream(value, where)
        self.pools.check_cores(config.xstreams[-1:], where)
        self.pools.add_xstream(config.xstreams[-1])
        self.config = config

    def remove_xstream(
        self, name: str, users: Iterable[str] = (), pool_users: Mapping[str, Iterable[str]] = {}
    ) -> None:
        """Have an xstream end, after the work that it is at.

        Parameters
        ----------
        users : iterable of str
            Who needs it, beside this engine.
        pool_users : Mapping
            Who needs which pool to keep a thread of its own.

        Raises
        ------
        ConfigError
            There is no such xstream.
        InUse
            Somebody needs it, or it is the last one of a pool that somebody needs.
        """
        name = self.config.xstream_name(name)
        left = self.config.without_xstream(name)
        needed_by = [*(["the network loop"] if name == self.pools.loop.name else []), *users]
        served = {pool for x in left.xstreams for pool in x.pools}
        threaded = {pool for x in left.xstreams if x.name != self.pools.loop.name for pool in x.pools}
        for pool in dict.fromkeys(next(x for x in self.config.xstreams if x.name == name).pools):
            if pool not in threaded:
                needed_by += [f"pool {pool} of {user}" for user in pool_users.get(pool, ())]
            if pool not in served and self.config.rpc_pool == pool:
                needed_by.append(f"rpc_pool {pool}")
            if pool not in served and self.pools[pool].has_work:
                needed_by.append(f"work that waits in pool {pool}")
        if needed_by or name == PRIMARY:
            raise InUse("xstream", name, needed_by or ["margo"])
        self.config = left
        self.pools.remove_xstream(name)

    def expanded_config(self) -> dict[str, Any]:
        """Return the ``margo`` section with all that was filled in."""
        return self.config.expand(self.address)

    def register(
        self,
        name: str,
        provider_id: int,
        handler: Handler,
        *,
        pool: Pool | None = None,
        allocate: Allocate = no_bulk,
    ) -> None:
        """Define an RPC that sees whole requests, one at a time, in the order of their arrival.

        Parameters
        ----------
        handler : callable
            Given the `Request`; answers it now or later.
        allocate : callable
            Gives the memory for a request's inline bulk, see `mochi.margo.wire.FrameReader`; runs on the loop. Without
            it, requests with inline bulk are refused.

        Raises
        ------
        ValueError
            The provider has this RPC already.
        """
        self._define(name, provider_id, handler, Strand(pool or self.default_pool).spawn, allocate)

    def define(
        self,
        name: str,
        provider_id: int,
        args: type[A],
        handler: Callable[[A], R | Future[R]],
        *,
        pool: Pool | None = None,
    ) -> None:
        """Define an RPC by a plain function from a struct to a result; both travel as MessagePack.

        Parameters
        ----------
        handler : callable
            Its result may also be a future, for an answer that comes later.

        Raises
        ------
        ValueError
            The provider has this RPC already.
        """
        where = pool or self.default_pool

        def handle(request: Request) -> None:
            arguments = unpack_arguments(name, request, args)

            def make() -> None:
                result = handler(arguments)
                if isinstance(result, Future):
                    result.add_done_callback(lambda done: _answer(request, done))
                else:
                    request.reply(rpc.pack(result))

            if request.frame.flags & ONE_WAY:
                make()
            else:
                request.reserve(MAX_MESSAGE, make, spawn)

        def spawn(work: Callable[[], None]) -> None:
            if where.inline:
                work()
            else:
                where.spawn(work)

        self._define(name, provider_id, handle, spawn, no_bulk)

    def _define(
        self,
        name: str,
        provider_id: int,
        handler: Handler,
        spawn: Callable[[Callable[[], None]], None],
        allocate: Allocate,
    ) -> None:
        key = (provider_id, rpc.number(name))
        if key in self._definitions:
            raise ValueError(f"provider {provider_id} has an RPC {self._definitions[key][0]!r} already")
        self._definitions[key] = (name, Definition(handler, spawn, allocate))

    def undefine(self, provider_id: int) -> None:
        """Remove all RPCs of a provider; requests already at a handler are answered."""
        for key in [key for key in self._definitions if key[0] == provider_id]:
            del self._definitions[key]

    def definition(self, frame: Frame) -> Definition:
        """Return what a request is for; `Fault` ``no_provider`` or ``no_rpc`` when there is nothing."""
        try:
            return self._definitions[frame.provider_id, frame.rpc][1]
        except KeyError:
            pass
        if any(provider_id == frame.provider_id for provider_id, _ in self._definitions):
            raise Fault("no_rpc", f"provider {frame.provider_id} at {self.address} has no such RPC")
        raise Fault("no_provider", f"no provider {frame.provider_id} at {self.address}")

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop. Any thread; does nothing once the loop is closed."""
        with suppress(RuntimeError):  # what uvloop raises once it is closed
            self.loop.call_soon_threadsafe(function)

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop, after all that was given here before. Any thread.

        It runs at once if this is the loop's thread, and nothing waits that was given before.
        """
        if not self._inbox and threading.get_ident() == self._thread:
            function()
            return
        self._inbox.append(function)
        if not self._is_rung:
            self._is_rung = True
            self.call_soon(self._serve_inbox)

    def _serve_inbox(self) -> None:
        """Run what was given so far; what comes meanwhile waits for the next turn."""
        self._is_rung = False  # before a look at the inbox: who finds it set is served by this
        inbox = self._inbox
        try:
            for _ in range(len(inbox)):
                inbox.popleft()()
        finally:
            if inbox and not self._is_rung:
                self._is_rung = True
                self.call_soon(self._serve_inbox)

    def run(self) -> int:
        """Serve until `finalize`; return its status. Belongs to the thread that becomes the loop's."""
        self._thread = threading.get_ident()
        asyncio.set_event_loop(self.loop)
        before = os.sched_getaffinity(0)
        cores = self.pools.loop.cores
        if cores:
            pin(self.pools.cores_of(self.pools.loop))
        try:
            if not self._finalizing:
                self.loop.run_forever()
            for connection in self._connections:
                connection.end_reading()
            self._wait_until_none(lambda connection: connection.outstanding > 0)
        finally:
            self._close()
            if cores:
                pin(before)
        return self._status

    def run_until(self, done: Future[Any]) -> None:
        """Serve until `done` is done or `finalize` is called, before `run` and in its thread."""
        is_waiting = True

        def stop() -> None:
            if is_waiting:
                self.loop.stop()

        done.add_done_callback(lambda _: self.call_soon(stop))
        self.loop.run_forever()
        is_waiting = False

    def _close(self) -> None:
        self._stop_listening()
        try:
            while self.on_finalize:
                self.on_finalize.pop()()
            self._wait_until_none(lambda connection: connection.has_queued)
        finally:
            for connection in list(self._connections):
                connection.close()
            self._log_complaints()
            if self.plane is not None:
                self.plane.close()
            self.pools.close()
            self.loop.close()

    def finalize(self, status: int = 0) -> None:
        """Make `run` return `status`, after what is queued for peers is sent. Any thread; the first call counts."""

        def stop() -> None:
            if self._finalizing:
                return
            self._finalizing = True
            self._status = status
            self._stop_listening()
            self.loop.stop()

        self.call_soon(stop)

    def _wait_until_none(self, is_busy: Callable[[Connection], bool]) -> None:
        """Run the loop until no connection is busy, for `LINGER` seconds at most."""

        async def idle() -> None:
            deadline = time.monotonic() + LINGER
            while (self._inbox or any(map(is_busy, self._connections))) and time.monotonic() < deadline:
                await asyncio.sleep(0.01)

        self.loop.run_until_complete(idle())

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            self.loop.remove_reader(self._listener)
            self._listener.close()

    def _pause_accepting(self, seconds: float) -> None:
        self.loop.remove_reader(self._listener)
        self._pause = self.loop.call_later(seconds, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener.fileno() >= 0:
            self.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPT_BURST):
            now = self.loop.time()
            if (seconds := self._lobby.wait(now)) > 0:
                self._pause_accepting(seconds)
                return
            try:
                peer = transport.accept(self._listener)
            except BlockingIOError:
                return
            except OSError as error:
                if shortage.is_shortage(error):
                    self.complain(NOT_ACCEPTING, error.strerror)
                    self._pause_accepting(ACCEPT_PAUSE)
                    return
                log.debug("a connection was lost before it was accepted: %s", error)
                continue
            if peer is None:
                self.complain(REFUSING, "it is of another user")
                continue
            if peer.fileno() >= shortage.accepted_descriptors():
                peer.close()
                self.complain(REFUSING, "the descriptors that are left are for files")
                self._pause_accepting(ACCEPT_PAUSE)
                return
            crowding = self._lobby.to_let_go()
            if crowding is not None:
                crowding.let_go()
            connection = Connection(self, peer)
            self._connections.add(connection)
            self._lobby.enter(connection, transport.origin(peer), now)

    def has_proven(self, connection: Connection) -> None:
        """Take note that a peer has proved itself."""
        if self._lobby.leave(connection) and self._pause is not None:
            self._resume_accepting()

    def grant(self, grants: Sequence[Grant]) -> None:
        """Have what the budget granted called soon; see to it that a budget that is used up comes free. Any thread."""
        for each in grants:
            self.call_soon(each)
        if self.budget.is_short:
            self.on_loop(self._watch)

    def _watch(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            self.loop.call_later(BUDGET_PAUSE, self._let_go)

    def _let_go(self) -> None:
        """Close connections that have kept the server waiting for long, while others wait for their memory."""
        self._is_watching = False
        while (account := self.budget.stalled(time.monotonic())) is not None:
            connection = next(each for each in self._connections if each.account is account)
            self.complain(CLOSING, f"it does not read, or send on, and {account.held} bytes are held for it")
            connection.close()
        if self.budget.is_short:
            self._watch()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has closed."""
        self._connections.discard(connection)
        self.has_proven(connection)

    def complain(self, kind: Complaint, problem: object) -> None:
        """Log what a peer did wrong, or what was done for it and failed: of each kind one line a second. Any thread."""
        text = str(problem)
        if isinstance(problem, Exception) and not isinstance(problem, MargoError):
            text = f"{type(problem).__name__}: {problem}"
            log.debug("%s", kind.what, exc_info=problem)

        def note() -> None:
            if not self._complaints.has_noted:
                self.loop.call_later(INTERVAL, self._log_complaints)
            line = self._complaints.add(kind, text)
            if line is not None:
                log.log(kind.level, "%s", line)

        self.on_loop(note)

    def _log_complaints(self) -> None:
        for kind, line in self._complaints.interval_over():
            log.log(kind.level, "%s", line)
        if self._complaints.has_noted:
            self.loop.call_later(INTERVAL, self._log_complaints)
