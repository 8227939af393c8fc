"""One accepted connection, and the requests that come on it: the event loop's rim of `mochi.margo.peer.Answering`.

A peer that breaks the wire format, or greets without the token, loses its connection and nothing else. Of what was
read, one request is handled in a turn of the loop, so that none keeps others waiting for longer.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Protocol, TypeAlias

import msgspec

from mochi.margo import rpc
from mochi.margo.complaints import Complaint
from mochi.margo.errors import Fault, MargoError, RemoteProtocolError
from mochi.margo.fabric import FabricError, Fetcher, Placed, Plane
from mochi.margo.peer import Answering, Call, Grant, House, Reservation, State, frame_of
from mochi.margo.wire import ONE_WAY, Allocate, Buffer, Frame, Kind

GREETING_TIMEOUT = 10.0
"""Seconds that a peer may take to prove itself."""

REFUSING = Complaint("refusing a connection")
CLOSING = Complaint("closing a connection")
FAILED = Complaint("a handler failed", logging.ERROR)
UNEXPECTED = Complaint("an unexpected error on a connection", logging.ERROR)


class Owner(House, Protocol):
    """What a connection needs of its engine."""

    loop: asyncio.AbstractEventLoop
    plane: Plane | None

    def definition(self, frame: Frame) -> "Definition":
        """Return what a request is for; `Fault` when there is nothing."""

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop, after all that was given before."""

    def has_proven(self, connection: "Connection") -> None:
        """Take note that a peer has proved itself."""

    def forget(self, connection: "Connection") -> None:
        """Drop a connection that has closed."""

    def complain(self, kind: Complaint, problem: object) -> None:
        """Log what a peer did wrong, or what was done for it and failed. Any thread."""


class Request(Call):
    """One request at its handler.

    Attributes
    ----------
    frame : Frame
        Message and bulk.
    connection : Connection
        Where it came from.
    deadline : float
        Time on the clock of ``time.monotonic`` after which nobody waits for the answer; infinity if always.
    cancelled : bool
        True once the caller has taken the request back.

    Notes
    -----
    All methods may be called from any thread; the first answer counts, later ones do nothing. A request that wants no
    answer counts as one that waits for it until its handler returns.
    """

    __slots__ = ("connection", "deadline", "definition")

    definition: "Definition"

    def __init__(self, connection: "Connection", frame: Frame, size: int) -> None:
        self.connection = connection
        self.frame = frame
        self.size = size
        self.reserved = 0
        self.cancelled = False
        self.deadline = time.monotonic() + frame.timeout_ms / 1000 if frame.timeout_ms else inf

    def run(self) -> None:
        """Have the handler do what the request asks for."""
        self.attempt(partial(self.definition.handler, self))
        if self.frame.flags & ONE_WAY:
            self.reply()

    def reserve(
        self,
        size: int,
        make: Callable[[], None],
        spawn: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        """Call `make`, which makes an answer of `size` bytes, when there is room for it.

        It is called at once, or given to `spawn`, on the loop. A request that is void by then is answered with a fault.
        """

        def granted() -> None:
            if self.connection.is_outstanding(self):
                self.reserved += size
                self.attempt(lambda: spawn(lambda: self.attempt(make)))
            else:
                self.connection.release(size)

        if self.connection.reserve(size, granted) is None:
            self.reserved += size
            self.attempt(make)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do what the request asks for, unless it is void; what `work` raises is its answer."""
        if self.cancelled or (self.frame.timeout_ms and time.monotonic() > self.deadline):
            self.fail(Fault("deadline", "the request was taken back, or its deadline has passed"))
            return
        try:
            work()
        except Exception as error:
            if not isinstance(error, MargoError):
                self.connection.engine.complain(FAILED, error)
            self.fail(error)

    def reply(
        self,
        message: bytes = b"",
        bulk: Sequence[Sequence[Buffer]] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """Answer.

        Parameters
        ----------
        message : bytes
        bulk : sequence of sequence of buffers
            Segments, each a list of buffers that are sent one after the other; kept by reference until sent.
        descriptors : sequence of int
            File descriptors to hand over; on ``na+sm`` only. They stay the caller's, and must be open until the
            connection closes.

        Raises
        ------
        LocalProtocolError
            The answer is larger than any peer takes; it may still be answered with another.
        """
        connection = self.connection
        frame = placed = None
        if not self.frame.flags & ONE_WAY:
            if connection.fabric is not None:
                placed = connection.fabric.place(bulk)
            if placed is None:
                frame = frame_of(Kind.RESPONSE, self.frame.call, message, bulk, descriptors)
            else:
                frame, bulk = placed.frame(Kind.RESPONSE, self.frame.call, message), placed.inline
        connection.engine.on_loop(partial(connection.settle, self, frame, bulk, descriptors, placed))

    def fail(self, error: BaseException) -> None:
        """Answer with `error`, as a fault."""
        frame = None
        if not self.frame.flags & ONE_WAY:
            frame = frame_of(Kind.FAULT, self.frame.call, rpc.pack_fault(error))
        connection = self.connection
        connection.engine.on_loop(partial(connection.settle, self, frame))


Handler: TypeAlias = Callable[[Request], None]


def no_bulk(frame: Frame) -> Sequence[memoryview]:
    """Refuse bulk, for an RPC that takes none."""
    if any(not segment.lease for segment in frame.segments):
        raise Fault("bad_request", "bulk where none is expected")
    return ()


class Definition(msgspec.Struct, frozen=True):
    """What is done with the calls of one RPC: who answers, where that runs, and who has memory for what comes."""

    handler: Handler
    spawn: Callable[[Callable[[], None]], None]
    allocate: Allocate


class Connection:
    """One accepted connection. Lives on the loop: all its methods must be called there, but for `reserve`.

    Attributes
    ----------
    closed : bool
    on_close : list of callables
        Called when it has closed.
    fabric : Fetcher or None
        What moves bulk beside the socket, if both ends use a fabric.
    """

    def __init__(self, engine: Owner, peer: socket.socket) -> None:
        self.engine = engine
        self.closed = False
        self.fabric: Fetcher | None = None
        self.on_close: list[Callable[[], None]] = []
        self._socket = peer
        self._peer = Answering[Request](
            engine,
            partial(Request, self),
            self._allocate,
            self._update_reading,
            time.monotonic,
        )
        self.account = self._peer.account
        self._is_writing = False
        self._turn_is_due = False
        self._greeting_timer: asyncio.TimerHandle | None = engine.loop.call_later(
            GREETING_TIMEOUT, self._greeting_expired
        )
        engine.loop.add_reader(peer, self._readable)

    @property
    def lends(self) -> bool:
        """Whether buffers can be lent over this connection, by file descriptor."""
        return self._socket.family == socket.AF_UNIX

    @property
    def outstanding(self) -> int:
        """Number of requests that wait for their answers."""
        return len(self._peer.calls)

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the peer to read it."""
        return bool(self._peer.queue or self._peer.lending)

    def close(self) -> None:
        """Close; what is queued is dropped, and `on_close` is called."""
        if self.closed:
            return
        self.closed = True
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
        if self._peer.is_reading:
            self.engine.loop.remove_reader(self._socket)
        if self._is_writing:
            self.engine.loop.remove_writer(self._socket)
        self._socket.close()
        if self.fabric is not None:
            self.fabric.close(self._peer.unfetched())
        _close_all(self._peer.close())
        self.engine.forget(self)
        callbacks, self.on_close = self.on_close, []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                self.engine.complain(UNEXPECTED, error)

    def end_reading(self) -> None:
        """Read no more from the peer."""
        self._peer.end_reading()
        self._update_reading()

    def reserve(self, size: int, grant: Grant) -> Reservation | None:
        """Reserve `size` bytes for what is to be sent. Any thread.

        Returns
        -------
        Reservation or None
            None if the bytes are reserved; else what waits: `grant` is called on the loop once they are. A connection
            that is closed grants nothing more.
        """
        return self._peer.reserve(size, grant)

    def cancel(self, reservation: Reservation) -> None:
        """Take back a reservation that waits. Any thread."""
        self.engine.on_loop(partial(self._peer.cancel, reservation))

    def release(self, size: int) -> None:
        """Return what was reserved, and is not needed, to the budget. Any thread."""

        def give_back() -> None:
            self._peer.release(size)
            self._update_reading()

        self.engine.on_loop(give_back)

    def notify(
        self, stream: int, message: bytes, bulk: Sequence[Sequence[Buffer]] = (), *, reserved: int = 0
    ) -> None:
        """Send a notice on a stream that the peer has named, for which some bytes were reserved."""
        if self.closed:
            return
        placed = None if self.fabric is None else self.fabric.place(bulk)
        if placed is None:
            self._peer.notify(stream, message, bulk, reserved)
        else:
            self._peer.keep(stream, placed)
            frame = placed.frame(Kind.NOTICE, stream, message)
            self._peer.notify_encoded(frame, placed.inline, reserved)
        self._send()

    def fail_stream(self, stream: int, message: bytes) -> None:
        """Send a fault, made with `rpc.pack_fault`, on a stream: nothing more will come on it."""
        if not self.closed:
            self._peer.fail_stream(stream, message)
            self._send()

    def is_outstanding(self, request: Request) -> bool:
        """Whether a request waits for its answer."""
        return self._peer.calls.get(request.frame.call) is request

    def settle(
        self,
        request: Request,
        frame: bytes | None,
        bulk: Sequence[Sequence[Buffer]] = (),
        descriptors: Sequence[int] = (),
        placed: Placed | None = None,
    ) -> None:
        """Answer a request, with a frame if it wants one; does nothing if it is answered already."""
        if self.is_outstanding(request):
            if placed is not None:
                self._peer.keep(request.frame.call, placed)
            self._peer.answer(request, frame, bulk, [os.dup(descriptor) for descriptor in descriptors])
            self._send()

    def let_go(self) -> None:
        """Close the connection of a peer that has not proved itself, to make room for others."""
        self._refuse(Fault("crowded", "too many connections have not proved themselves"))

    def _greeting_expired(self) -> None:
        self.engine.complain(REFUSING, f"it has not proved itself within {GREETING_TIMEOUT:g} s")
        self.close()

    def _refuse(self, error: MargoError) -> None:
        self.engine.complain(CLOSING if self._peer.state is State.OPEN else REFUSING, error)
        self._peer.refuse(error)
        self._send()
        self.close()

    def _send(self) -> None:
        """Send what is queued, unless the peer is to read first what was sent before."""
        peer = self._peer
        if self._is_writing:
            peer.count()
        else:
            self._pump()
        if not peer.is_reading:
            self._update_reading()

    def _pump(self) -> None:
        """Send what the socket takes; never blocks."""
        peer = self._peer
        try:
            done = peer.queue.pump(self._socket.sendmsg)
            while done and peer.lending:
                done = self._lend()
        except OSError:
            peer.queue.clear()
            self.engine.loop.call_soon(self.close)
            return
        if done is self._is_writing:
            self._is_writing = not done
            if done:
                self.engine.loop.remove_writer(self._socket)
            else:
                self.engine.loop.add_writer(self._socket, self._writable)
        peer.sent(done)

    def _writable(self) -> None:
        self._pump()
        self._update_reading()

    def _lend(self) -> bool:
        """Send the next frame that has descriptors; they go with its first byte. The queue is empty."""
        peer = self._peer
        frame, descriptors = peer.lending[0]
        try:
            sent = socket.send_fds(self._socket, [frame], descriptors)
        except (BlockingIOError, InterruptedError):
            return False
        peer.lending.popleft()
        _close_all(descriptors)
        peer.queue.append(frame[sent:])
        return peer.queue.pump(self._socket.sendmsg)

    def _update_reading(self) -> None:
        """Stop reading, or begin again, if it is time for that."""
        change = self._peer.turn()
        if change:
            self.engine.loop.add_reader(self._socket, self._readable)
            if self._peer.reader.has_more:
                self._take_turn_soon()
        elif change is not None:
            self.engine.loop.remove_reader(self._socket)

    def _readable(self) -> None:
        """Receive, until a request is whole, and handle it."""
        peer = self._peer
        reader = peer.reader
        for _ in range(8):
            if reader.has_more or not peer.is_reading:
                return
            buffers = reader.buffers()
            try:
                place = self._socket
                count = place.recv_into(buffers[0]) if len(buffers) == 1 else place.recvmsg_into(buffers)[0]
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if not count:
                self.close()
                return
            reader.received(count)
            if self._take_turn(count) or self.closed or count < len(buffers[0]):
                return

    def _take_turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self.engine.loop.call_soon(self._take_next_turn)

    def _take_next_turn(self) -> None:
        self._turn_is_due = False
        if not self.closed:
            self._take_turn(0)

    def _take_turn(self, count: int) -> bool:
        """Go on with what has arrived, `count` bytes of it just now, up to one request; tell whether there was one."""
        peer = self._peer
        request = None
        try:
            request = peer.next_event(count)
            if peer.queue and not self._is_writing:  # the greeting
                self._send()
            if self._greeting_timer is not None and peer.state is State.OPEN:
                self._greeting_timer.cancel()
                self._greeting_timer = None
                self._meet()
                self.engine.has_proven(self)
            if request is not None:
                self._handle_in_order(request)
            if peer.is_reading is peer.is_full:
                self._update_reading()
            if peer.reader.has_more and peer.is_reading:
                self._take_turn_soon()
        except MargoError as error:
            self._refuse(error)
        except Exception as error:
            self.engine.complain(UNEXPECTED, error)
            self.close()
        return request is not None

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        if frame.kind is not Kind.REQUEST:
            raise Fault("bad_request", "bulk where none is expected")
        return self.engine.definition(frame).allocate(frame)

    def _meet(self) -> None:
        """Use the fabric, if both ends do."""
        peer, plane = self._peer.peer_fabric, self.engine.plane
        if peer is not None and plane is not None:
            try:
                self.fabric = Fetcher(plane, peer.name)
            except FabricError as error:
                raise RemoteProtocolError(f"the peer's fabric: {error}") from error

    def _handle_in_order(self, request: Request) -> None:
        """Handle a request once its bulk is here, and that of those before it."""
        fabric = self.fabric
        if fabric is None or not (request.frame.is_remote or fabric.is_busy):
            self._handle(request)
            return
        if request.frame.is_remote and request.frame.refused is None:
            try:
                if self.engine.definition(request.frame).allocate is no_bulk:
                    raise Fault("bad_request", "bulk where none is expected")
            except Fault as error:
                request.frame.refused = error
        fabric.fetch(request.frame, partial(self._handle, request), self._on_fetched)

    def _on_fetched(self) -> None:
        """Go on, on the loop, with what was fetched; called by the fabric's thread."""
        self.engine.on_loop(self._take_fetched)

    def _take_fetched(self) -> None:
        if self.closed or self.fabric is None:
            return
        try:
            self.fabric.take()
        except FabricError as error:
            self.engine.complain(CLOSING, error)
            self.close()

    def _handle(self, request: Request) -> None:
        frame = request.frame
        try:
            if frame.refused is not None:
                raise frame.refused
            request.definition = self.engine.definition(frame)
        except Exception as error:
            request.fail(error)
            return
        request.definition.spawn(request.run)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
