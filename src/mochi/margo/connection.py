"""One accepted connection, and the requests that come on it.

A peer that breaks the wire format, or greets without the token, loses its connection and nothing else. What a peer
can make a server hold is bounded: see `MAX_OUTSTANDING`, `MAX_OUTSTANDING_BYTES` and `MAX_QUEUED_BYTES`.
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from mochi.margo import handshake, rpc
from mochi.margo.complaints import Complaint
from mochi.margo.errors import AuthenticationError, Fault, MargoError, ProtocolError
from mochi.margo.gate import Gate
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
    encode,
)

GREETING_TIMEOUT = 10.0
"""Seconds that a peer may take to prove itself."""

REFUSING = Complaint("refusing a connection")
CLOSING = Complaint("closing a connection")
FAILED = Complaint("a handler failed", logging.ERROR)
UNEXPECTED = Complaint("an unexpected error on a connection", logging.ERROR)

MAX_OUTSTANDING = 256
MAX_OUTSTANDING_BYTES = 128 << 20
"""Requests of one connection, and bytes of their bulk, that wait for an answer before no more is read from it."""

MAX_QUEUED_BYTES = 64 << 20
"""Bytes that wait for a peer to read them before no more is read from it."""


class Owner(Protocol):
    """What a connection needs of its engine."""

    loop: asyncio.AbstractEventLoop
    gate: Gate
    instance: bytes

    def definition(self, frame: Frame) -> "Definition":
        """Return what a request is for; `Fault` when there is nothing."""

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run `function` now when this is the loop's thread, else soon."""

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
    `reply` and `fail` may be called from any thread; the first call answers, later ones do nothing. A request that
    wants no answer counts as one that waits for it until its handler returns.
    """

    __slots__ = ("cancelled", "connection", "deadline", "frame", "size")

    def __init__(self, connection: "Connection", frame: Frame) -> None:
        self.connection = connection
        self.frame = frame
        self.deadline = time.monotonic() + frame.timeout_ms / 1000 if frame.timeout_ms else float("inf")
        self.cancelled = False
        self.size = sum(segment.length for segment in frame.segments)

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

        def send() -> None:
            if connection.settle(self) and frame is not None:
                connection.put(frame, bulk, descriptors)

        connection.engine.on_loop(send)


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

    A peer is read from only while it lets itself be answered, see `MAX_OUTSTANDING` and `MAX_QUEUED_BYTES`.
    """

    def __init__(self, engine: Owner, peer: socket.socket) -> None:
        self.engine = engine
        self.closed = False
        self.on_close: list[Callable[[], None]] = []
        self._peer = peer
        self._reader = FrameReader(self._allocate, GREETING_LIMITS)
        self._queue = SendQueue()
        self._lending: deque[tuple[bytes, list[int]]] = deque()
        self._writing = False
        self._reading = True
        self._ending = False
        self._greeting = handshake.Answering(engine.gate.seat_of, engine.instance)
        self._outstanding: dict[int, Request] = {}
        self._outstanding_bytes = 0
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
        self.engine.forget(self)
        for callback in self.on_close:
            try:
                callback()
            except Exception as error:
                self.engine.complain(UNEXPECTED, error)

    def end_reading(self) -> None:
        """Read no more from the peer."""
        self._ending = True
        self._update_reading()

    def notify(self, stream: int, message: bytes, bulk: Sequence[Sequence[Buffer]] = ()) -> None:
        """Send a notice on a stream that the peer has named."""
        self.send(Kind.NOTICE, stream, message, bulk, ())

    def fail_stream(self, stream: int, message: bytes) -> None:
        """Send a fault, made with `rpc.pack_fault`, on a stream: nothing more will come on it."""
        self.send(Kind.FAULT, stream, message)

    def send(
        self,
        kind: Kind,
        call: int,
        message: bytes,
        bulk: Sequence[Sequence[Buffer]] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a frame, or queue what the socket does not take now."""
        self.put(_encode(kind, call, message, bulk, ()), bulk, ())

    def put(self, frame: bytes, bulk: Sequence[Sequence[Buffer]], descriptors: Sequence[int]) -> None:
        """Send a frame that is encoded up to its bulk; one with descriptors has none, and may be overtaken."""
        if self.closed:
            return
        if descriptors:
            self._lending.append((frame, [os.dup(descriptor) for descriptor in descriptors]))
        else:
            self._queue.put((frame,))
            for buffers in bulk:
                self._queue.put(buffers)
        if not self._writing:
            self._pump()

    def _pump(self) -> None:
        """Send what the socket takes; never blocks."""
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
        self._writing = not done
        if not (done and self._reading):
            self._update_reading()

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

    def settle(self, request: Request) -> bool:
        """Take note that a request is answered; False if that is not news. Reads on if that was paused."""
        if self._outstanding.get(request.frame.call) is not request:
            return False
        del self._outstanding[request.frame.call]
        self._outstanding_bytes -= request.size
        if not self._reading:
            self._update_reading()
        return True

    def _is_full(self) -> bool:
        return (
            len(self._outstanding) >= MAX_OUTSTANDING
            or self._outstanding_bytes >= MAX_OUTSTANDING_BYTES
            or self._queue.size >= MAX_QUEUED_BYTES
            or self._ending
        )

    def _update_reading(self) -> None:
        if self.closed or self._reading is not self._is_full():
            return
        self._reading = not self._reading
        if self._reading:
            self.engine.loop.add_reader(self._peer, self._readable)
        else:
            self.engine.loop.remove_reader(self._peer)

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
        reader = self._reader
        for _ in range(8):
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
            try:
                for frame in reader.received(count):
                    self._dispatch(frame)
            except MargoError as error:
                self._refuse(error)
            except Exception as error:
                self.engine.complain(UNEXPECTED, error)
                self.close()
            if self.closed or not self._reading:
                return
            if self._is_full():
                self._update_reading()
                return
            if count < len(buffers[0]):
                return

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

    def _greet(self, frame: Frame) -> None:
        reply = self._greeting.received(frame.kind, frame.message)
        if reply is not None:
            self.send(Kind.WELCOME, 0, reply)
            return
        self._reader.limits = Limits()
        self._greeting_timer.cancel()
        self.engine.has_proven(self)

    def _handle(self, frame: Frame) -> None:
        request = Request(self, frame)
        if frame.call in self._outstanding:
            raise ProtocolError(f"call number {frame.call} is still in use")
        self._outstanding[frame.call] = request
        self._outstanding_bytes += request.size
        try:
            if frame.refused is not None:
                raise frame.refused
            definition = self.engine.definition(frame)
        except Exception as error:
            request.fail(error)
            return

        def work() -> None:
            if request.cancelled or time.monotonic() > request.deadline:
                request.fail(Fault("deadline", "the request was taken back, or its deadline has passed"))
                return
            try:
                definition.handler(request)
            except Exception as error:
                if not isinstance(error, MargoError):
                    self.engine.complain(FAILED, error)
                request.fail(error)
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
