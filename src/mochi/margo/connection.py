"""One accepted connection, and the requests that come on it.

A peer that breaks the wire format, or greets without the token, loses its connection and nothing else. What a peer
can make a server hold is bounded: see `MAX_OUTSTANDING`, and `mochi.margo.peer.budget`. A connection gets one request a
turn of the loop.
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import msgspec

from mochi.margo import rpc
from mochi.margo.complaints import Complaint
from mochi.margo.errors import AuthenticationError, Fault, MargoError, ProtocolError
from mochi.margo.peer import greeting as handshake
from mochi.margo.peer.budget import Budget, Grant, Reservation, Side
from mochi.margo.peer.gate import Gate
from mochi.margo.wire import (
    DESCRIPTORS,
    GREETING_LIMITS,
    ONE_WAY,
    Allocate,
    Buffer,
    Frame,
    FrameReader,
    Kind,
    Limits,
    Segment,
    SendQueue,
    allocate_private,
    encode,
)

GREETING_TIMEOUT = 10.0
"""Seconds that a peer may take to prove itself."""

REFUSING = Complaint("refusing a connection")
CLOSING = Complaint("closing a connection")
FAILED = Complaint("a handler failed", logging.ERROR)
UNEXPECTED = Complaint("an unexpected error on a connection", logging.ERROR)

MAX_OUTSTANDING = 256
"""Requests of one connection that wait for an answer before no more is read from it."""


class Owner(Protocol):
    """What a connection needs of its engine."""

    loop: asyncio.AbstractEventLoop
    gate: Gate
    instance: bytes
    budget: Budget

    def definition(self, frame: Frame) -> "Definition":
        """Return what a request is for; `Fault` when there is nothing."""

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run `function` now when this is the loop's thread, else soon."""

    def grant(self, grants: Sequence[Grant]) -> None:
        """Have what was granted by the budget called soon, and see to it that a budget that is used up comes free."""

    def has_proven(self, connection: "Connection") -> None:
        """Take note that a peer has proved itself."""

    def forget(self, connection: "Connection") -> None:
        """Drop a connection that has closed."""

    def complain(self, kind: Complaint, problem: object) -> None:
        """Log what a peer did wrong, or what was done for it and failed. Any thread."""


class Request:
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

    __slots__ = ("cancelled", "connection", "deadline", "frame", "reserved", "size")

    def __init__(self, connection: "Connection", frame: Frame, size: int) -> None:
        self.connection = connection
        self.frame = frame
        self.deadline = time.monotonic() + frame.timeout_ms / 1000 if frame.timeout_ms else float("inf")
        self.cancelled = False
        self.size = size
        self.reserved = 0

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
        if self.cancelled or time.monotonic() > self.deadline:
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
        ProtocolError
            The answer is larger than any peer takes; it may still be answered with another.
        """
        self._answer(Kind.RESPONSE, message, bulk, descriptors)

    def fail(self, error: BaseException) -> None:
        """Answer with `error`, as a fault."""
        self._answer(Kind.FAULT, rpc.pack_fault(error), (), ())

    def _answer(
        self, kind: Kind, message: bytes, bulk: Sequence[Sequence[Buffer]], descriptors: Sequence[int]
    ) -> None:
        connection = self.connection
        frame = (
            None if self.frame.flags & ONE_WAY else _encode(kind, self.frame.call, message, bulk, descriptors)
        )

        connection.engine.on_loop(lambda: connection.settle(self, frame, bulk, descriptors))


def _encode(
    kind: Kind, call: int, message: bytes, bulk: Sequence[Sequence[Buffer]], descriptors: Sequence[int]
) -> bytes:
    segments = [Segment(sum(map(len, buffers))) for buffers in bulk]
    return encode(
        kind, call=call, flags=DESCRIPTORS if descriptors else 0, message=message, segments=segments
    )


Handler: TypeAlias = Callable[[Request], None]


class Definition(msgspec.Struct, frozen=True):
    handler: Handler
    spawn: Callable[[Callable[[], None]], None]
    allocate: Allocate


class Connection:
    """One accepted connection. Lives on the loop: all its methods must be called there.

    A peer is read from only while it lets itself be answered, see `MAX_OUTSTANDING` and `mochi.margo.peer.budget`.
    Of what was read, one request is handled in a turn of the loop, so that none keeps others waiting for longer.

    Attributes
    ----------
    closed : bool
    on_close : list of callables
        Called when it has closed.
    """

    def __init__(self, engine: Owner, peer: socket.socket) -> None:
        self.engine = engine
        self.closed = False
        self.on_close: list[Callable[[], None]] = []
        self._peer = peer
        self._budget = engine.budget
        self.account = self._budget.open()
        self._reader = FrameReader(self._allocate, GREETING_LIMITS, self._admit)
        self._arrived: Iterator[Frame] | None = None
        self._turn_is_due = False
        self._admitted = 0
        self._queue = SendQueue()
        self._lending: deque[tuple[bytes, list[int]]] = deque()
        self._writing = False
        self._reading = True
        self._ending = False
        self._greeting = handshake.Answering(engine.gate.seat_of, engine.instance)
        self._outstanding: dict[int, Request] = {}
        self._greeting_timer = engine.loop.call_later(GREETING_TIMEOUT, self._greeting_expired)
        engine.loop.add_reader(peer, self._readable)

    @property
    def lends(self) -> bool:
        """Whether buffers can be lent over this connection, by file descriptor."""
        return self._peer.family == socket.AF_UNIX

    def close(self) -> None:
        """Close; what is queued is dropped, and `on_close` is called."""
        if self.closed:
            return
        self.closed = True
        self._greeting_timer.cancel()
        if self._reading:
            self.engine.loop.remove_reader(self._peer)
        if self._writing:
            self.engine.loop.remove_writer(self._peer)
        self._peer.close()
        self._queue.clear()
        for _, descriptors in self._lending:
            _close_all(descriptors)
        self._lending.clear()
        for request in self._outstanding.values():
            request.cancelled = True
        self._outstanding.clear()
        # What has half arrived goes now, and not when the garbage collector next looks at the cycles here.
        self._arrived = None
        self._reader = FrameReader(allocate_private)
        self.engine.grant(self._budget.close(self.account))
        self.engine.forget(self)
        callbacks, self.on_close = self.on_close, []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                self.engine.complain(UNEXPECTED, error)

    def end_reading(self) -> None:
        """Read no more from the peer."""
        self._ending = True
        self._update_reading()

    def reserve(self, size: int, grant: Grant) -> Reservation | None:
        """Reserve `size` bytes for what is to be sent. Any thread.

        Returns
        -------
        Reservation or None
            None if the bytes are reserved; else what waits: `grant` is called on the loop once they are. A connection
            that is closed grants nothing more.
        """
        return self._reserve(self.account.answers, size, grant)

    def _reserve(self, side: Side, size: int, grant: Grant) -> Reservation | None:
        reservation = self._budget.reserve(side, size, grant)
        self.engine.grant(())
        return reservation

    def cancel(self, reservation: Reservation) -> None:
        """Take back a reservation that waits. Any thread."""
        self.engine.on_loop(lambda: self.engine.grant(self._budget.cancel(reservation)))

    def release(self, size: int) -> None:
        """Give back what was reserved, and is not needed. Any thread."""
        self.engine.on_loop(lambda: self._change(0, -size))

    def notify(
        self, stream: int, message: bytes, bulk: Sequence[Sequence[Buffer]] = (), *, reserved: int = 0
    ) -> None:
        """Send a notice on a stream that the peer has named, for which some bytes were reserved."""
        self.put(_encode(Kind.NOTICE, stream, message, bulk, ()), bulk, (), reserved=reserved)

    def fail_stream(self, stream: int, message: bytes) -> None:
        """Send a fault, made with `rpc.pack_fault`, on a stream: nothing more will come on it."""
        self.send(Kind.FAULT, stream, message)

    def send(self, kind: Kind, call: int, message: bytes) -> None:
        """Send a frame, or queue what the socket does not take now."""
        self.put(_encode(kind, call, message, (), ()), (), ())

    def put(
        self,
        frame: bytes,
        bulk: Sequence[Sequence[Buffer]],
        descriptors: Sequence[int],
        *,
        reserved: int = 0,
        answered: int = 0,
    ) -> None:
        """Send a frame that is encoded up to its bulk; one with descriptors has none, and may be overtaken.

        Parameters
        ----------
        reserved, answered : int
            Bytes that were held for it, and for the request that it answers.
        """
        if self.closed:
            return
        before = self._queue.size + reserved
        if descriptors:
            self._lending.append((frame, [os.dup(descriptor) for descriptor in descriptors]))
        else:
            self._queue.put((frame,))
            for buffers in bulk:
                self._queue.put(buffers)
        if not self._writing:
            self._send_queued()
        self._change(-answered, self._queue.size - before)

    def _pump(self) -> None:
        """Send what waits for the socket to take it."""
        before = self._queue.size
        self._send_queued()
        self._change(0, self._queue.size - before)

    def _change(self, requests: int, answers: int) -> None:
        """Take note of what is held for this peer, more or less, and read on if that was paused."""
        if requests or answers:
            self.engine.grant(self._budget.change(self.account, requests, answers))
        if not self._reading or self._budget.is_full(self.account):
            self._update_reading()

    def _send_queued(self) -> None:
        """Send what the socket takes; never blocks."""
        size = self._queue.size
        try:
            done = self._queue.pump(self._peer.sendmsg)
            while done and self._lending:
                done = self._lend()
        except OSError:
            self._queue.clear()
            self.engine.loop.call_soon(self.close)
            return
        if done and self._writing:
            self.engine.loop.remove_writer(self._peer)
        elif not done and not self._writing:
            self.engine.loop.add_writer(self._peer, self._pump)
        if done and self._writing:
            self.account.reading.over()
        self._writing = not done
        if not done:
            self.account.reading.moved(size - self._queue.size, time.monotonic())

    def _lend(self) -> bool:
        """Send the next frame that has descriptors; they go with its first byte. The queue is empty."""
        frame, descriptors = self._lending[0]
        try:
            sent = socket.send_fds(self._peer, [frame], descriptors)
        except (BlockingIOError, InterruptedError):
            return False
        self._lending.popleft()
        _close_all(descriptors)
        self._queue.put((frame[sent:],))
        return self._queue.pump(self._peer.sendmsg)

    @property
    def has_outstanding(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._outstanding)

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the peer to read it."""
        return bool(self._queue or self._lending)

    def is_outstanding(self, request: Request) -> bool:
        """Whether a request waits for its answer."""
        return self._outstanding.get(request.frame.call) is request

    def settle(
        self,
        request: Request,
        frame: bytes | None,
        bulk: Sequence[Sequence[Buffer]],
        descriptors: Sequence[int],
    ) -> None:
        """Answer a request, with a frame if it wants one; does nothing if it is answered already."""
        if not self.is_outstanding(request):
            return
        del self._outstanding[request.frame.call]
        if frame is None:
            self._change(-request.size, -request.reserved)
        else:
            self.put(frame, bulk, descriptors, reserved=request.reserved, answered=request.size)

    def _is_full(self) -> bool:
        return (
            len(self._outstanding) >= MAX_OUTSTANDING
            or (self._budget.is_full(self.account) and not self._admitted)
            or self._reader.held_up
            or self._ending
        )

    def _update_reading(self) -> None:
        if self.closed or self._reading is not self._is_full():
            return
        self._reading = not self._reading
        if not self._reading:
            self.engine.loop.remove_reader(self._peer)
            self.account.sending.over()
            return
        self.engine.loop.add_reader(self._peer, self._readable)
        if self._arrived is not None:
            self._take_turn_soon()
        elif self._reader.is_amid:
            self.account.sending.moved(0, time.monotonic())

    def _greeting_expired(self) -> None:
        self.engine.complain(REFUSING, f"it has not proved itself within {GREETING_TIMEOUT:g} s")
        self.close()

    def let_go(self) -> None:
        """Close the connection of a peer that has not proved itself, to make room for others."""
        self._refuse(Fault("crowded", "too many connections have not proved themselves"))

    def _refuse(self, error: MargoError) -> None:
        is_proven = self._greeting.state is handshake.State.PROVEN
        self.engine.complain(CLOSING if is_proven else REFUSING, error)
        self.send(Kind.FAULT, 0, rpc.pack_fault(_as_fault(error)))
        self.close()

    def _readable(self) -> None:
        """Receive, until a frame is whole, and begin with what has arrived."""
        reader = self._reader
        for _ in range(8):
            if self._arrived is not None or not self._reading:
                return
            buffers = reader.buffers()
            try:
                peer = self._peer
                count = peer.recv_into(buffers[0]) if len(buffers) == 1 else peer.recvmsg_into(buffers)[0]
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if not count:
                self.close()
                return
            self._arrived = reader.received(count)
            handled = self._take_turn(count)
            if self.closed or handled or count < len(buffers[0]):
                return

    def _take_turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self.engine.loop.call_soon(self._take_next_turn)

    def _take_next_turn(self) -> None:
        self._turn_is_due = False
        self._take_turn(0)

    def _take_turn(self, count: int) -> bool:
        """Go on with what has arrived, `count` bytes of it just now, up to one request; tell whether there was one."""
        handled = False
        try:
            while self._arrived is not None and self._reading and not self.closed:
                if handled and self._reader.has_more:
                    self._take_turn_soon()
                    break
                frame = next(self._arrived, None)
                if frame is not None:
                    self._dispatch(frame)
                    handled |= frame.kind is Kind.REQUEST
                    if self._is_full():
                        self._update_reading()
                    continue
                self._arrived = None
                if self._reader.held_up:
                    self._update_reading()
                elif self._reader.is_amid:
                    self.account.sending.moved(count, time.monotonic())
                elif self.account.sending.since is not None:
                    self.account.sending.over()
        except MargoError as error:
            self._refuse(error)
        except Exception as error:
            self.engine.complain(UNEXPECTED, error)
            self.close()
        return handled

    def _admit(self, size: int) -> bool:
        """Take memory for the frame that has begun, or have reading go on when there is some."""
        if self._reserve(self.account.requests, size, partial(self._admitted_late, size)) is not None:
            return False
        self._admitted += size
        return True

    def _admitted_late(self, size: int) -> None:
        if not self.closed:
            self._admitted += size
            self._arrived = self._reader.go_on()
            self._update_reading()

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        definition = self.engine.definition(frame) if frame.kind is Kind.REQUEST else None
        if definition is None:
            raise Fault("bad_request", "bulk where none is expected")
        return definition.allocate(frame)

    def _dispatch(self, frame: Frame) -> None:
        if self._greeting.state is not handshake.State.PROVEN:
            self._greet(frame)
        elif frame.kind is Kind.REQUEST:
            self._handle(frame)
        elif frame.kind is Kind.CANCEL:
            request = self._outstanding.get(frame.call)
            if request is not None:
                request.cancelled = True
        else:
            raise ProtocolError(f"a client sent a frame of kind {frame.kind.name}")
        if self._admitted:
            self._change(-self._admitted, 0)
            self._admitted = 0

    def _greet(self, frame: Frame) -> None:
        reply = self._greeting.received(frame.kind, frame.message)
        if reply is not None:
            self.send(Kind.WELCOME, 0, reply)
            return
        self._reader.limits = Limits()
        self._greeting_timer.cancel()
        self.engine.has_proven(self)

    def _handle(self, frame: Frame) -> None:
        request = Request(self, frame, self._admitted)
        self._admitted = 0
        if frame.call in self._outstanding:
            raise ProtocolError(f"call number {frame.call} is still in use")
        self._outstanding[frame.call] = request
        try:
            if frame.refused is not None:
                raise frame.refused
            definition = self.engine.definition(frame)
        except Exception as error:
            request.fail(error)
            return

        def work() -> None:
            request.attempt(lambda: definition.handler(request))
            if frame.flags & ONE_WAY:
                request.reply()

        definition.spawn(work)


def _as_fault(error: MargoError) -> Fault:
    if isinstance(error, Fault):
        return error
    return Fault("authentication" if isinstance(error, AuthenticationError) else "protocol", str(error))


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
