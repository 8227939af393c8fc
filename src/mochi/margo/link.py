"""One connection of a client: requests out, answers and notices in.

Anybody sends on a link from their own thread, without blocking: what the socket does not take at once is sent on by
the client's background thread. Reading is done by the one thread that has claimed it, see `mochi.margo.client`.
"""

import itertools
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from mochi.margo import bulk, rpc
from mochi.margo.errors import ConnectionLost, MargoError, ProtocolError
from mochi.margo.wire import (
    DESCRIPTORS,
    ONE_WAY,
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

log = logging.getLogger(__name__)

_DESCRIPTOR_SPACE = socket.CMSG_LEN(8 * 4)
_MAX_DESCRIPTORS = 64


class Receiver(Protocol):
    """Whoever expects frames: a pending call, or a stream of notices."""

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        """Give the memory for the inline bulk of `frame`."""

    def receive(self, frame: Frame) -> None:
        """Take a frame, a fault perhaps; its bulk is whole."""

    def lost(self, error: MargoError) -> None:
        """Take note that nothing more will come."""


class Owner(Protocol):
    """What a link needs of its client."""

    def forget(self, link: "Link") -> None:
        """Drop a link that is lost."""


class PendingCall:
    """A `Receiver` of one response."""

    __slots__ = ("error", "frame")

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.error: MargoError | None = None

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return allocate_private(frame)

    def receive(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT:
            self.error = rpc.unpack_fault(frame.message)
        else:
            self.frame = frame

    def lost(self, error: MargoError) -> None:
        self.error = error

    def is_done(self) -> bool:
        return self.frame is not None or self.error is not None


class Link:
    """One connection to a server; made by `Client.link`.

    Attributes
    ----------
    address : str
    instance : bytes
        Tells the server's start: another value at the same address is a server that was started again.
    error : MargoError or None
        Why the link is lost, or None while it lives.
    """

    def __init__(
        self, client: Owner, address: str, instance: bytes, peer: socket.socket, poller: select.epoll
    ) -> None:
        self.client = client
        self.address = address
        self.instance = instance
        self.error: MargoError | None = None
        self.peer = peer
        self.descriptor = peer.fileno()
        self._offered: deque[int] = deque()
        self._claims: dict[str, object] = {}
        self._sending = threading.Lock()
        self._reader = FrameReader(self._allocate, Limits())
        self._queue = SendQueue()
        self._receivers: dict[int, tuple[Receiver, bool]] = {}
        self._numbers = itertools.count(1)
        self._driven = False
        self._interest = select.EPOLLIN
        self._poller = poller
        peer.setblocking(False)
        poller.register(self.descriptor, select.EPOLLIN)

    @property
    def lends(self) -> bool:
        """Whether the server can lend buffers over this link."""
        return self.peer.family == socket.AF_UNIX

    def request(
        self,
        name: str,
        provider_id: int,
        message: bytes,
        receiver: Receiver | None,
        *,
        bulk: Sequence[Sequence[Buffer]] = (),
        lent: Segment | None = None,
        timeout: float | None = None,
    ) -> int:
        """Send a request; return its call number.

        Parameters
        ----------
        receiver : Receiver or None
            Who takes the response; None for a request that wants none.
        bulk : sequence of sequence of buffers
            Inline segments; kept by reference, unchanged by the owner, until the response.
        lent : Segment, optional
            A last segment that lies in a buffer lent by the server.
        timeout : float, optional
            Seconds after which the server need not answer any more.

        Raises
        ------
        ConnectionLost
            The link is lost, or was while this was under way; the receiver may have been told as well.
        ProtocolError
            The request is larger than any peer takes.
        """
        call = next(self._numbers)
        segments = [Segment(sum(map(len, buffers))) for buffers in bulk]
        if lent is not None:
            segments.append(lent)
        head = encode(
            Kind.REQUEST,
            call=call,
            rpc=rpc.number(name),
            provider_id=provider_id,
            flags=0 if receiver is not None else ONE_WAY,
            timeout_ms=int(min(max(timeout * 1000, 1), 0xFFFFFFFF)) if timeout is not None else 0,
            message=message,
            segments=segments,
        )
        if receiver is not None:
            self._receivers[call] = (receiver, False)
        self._send([head, *itertools.chain.from_iterable(bulk)], call)
        return call

    def open_stream(self, receiver: Receiver) -> int:
        """Return the number of a new stream; its notices go to `receiver` until `close_stream`."""
        number = next(self._numbers)
        self._receivers[number] = (receiver, True)
        return number

    def close_stream(self, number: int) -> None:
        """Forget a stream, or a call whose answer is of no interest any more."""
        self._receivers.pop(number, None)

    def cancel(self, call: int) -> None:
        """Tell the server that nobody waits for a call any more."""
        if self._receivers.pop(call, None) is not None and self.error is None:
            self._send([encode(Kind.CANCEL, call=call)], 0)

    def _send(self, buffers: Sequence[Buffer], call: int) -> None:
        with self._sending:
            if self.error is not None:
                self._receivers.pop(call, None)
                raise ConnectionLost(f"the connection to {self.address} is lost: {self.error}")
            try:
                self._queue.put(buffers)
            except BaseException:  # half a frame is queued
                self._break()
                raise
            self._pump()

    def _pump(self) -> None:
        """Send what the socket takes; the caller holds `_sending`.

        What breaks the sending shuts the connection down, and the reading side finds that and fails the link: here a
        receiver cannot be told, because the caller may hold its lock.
        """
        try:
            self._queue.pump(self.peer.sendmsg)
        except BaseException as error:
            self._break()
            if not isinstance(error, OSError):
                raise
        self._update_interest()

    def _break(self) -> None:
        self._queue.clear()
        self._shut_down()

    def _shut_down(self) -> None:
        with suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)

    def _update_interest(self) -> None:
        interest = (0 if self._driven else select.EPOLLIN) | (select.EPOLLOUT if self._queue else 0)
        if interest != self._interest and self.error is None:
            self._poller.modify(self.descriptor, interest)
            self._interest = interest

    def flush(self) -> None:
        """Send on what is queued; never blocks."""
        if self._queue:
            with self._sending:
                if self.error is None:
                    self._pump()

    def claim(self, token: object) -> bool:
        """Let the holder of `token` alone read, unless another does."""
        return self._claims.setdefault("reader", token) is token

    def release(self, token: object) -> None:
        """Let others read, if the link was claimed with `token`; may be repeated."""
        if self._claims.get("reader") is not token:
            return
        if self._driven:
            self.set_driven(False)
        self._claims.pop("reader", None)
        if self.error is not None:
            self.peer.close()

    def set_driven(self, driven: bool) -> None:
        """Tell the background thread to leave the reading alone, or to take it up; the caller has claimed the link."""
        with self._sending:
            self._driven = driven
            self._update_interest()

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._queue)

    def read(self) -> None:
        """Receive what is there, and hand it to its receivers; the caller has claimed the link. Never blocks."""
        if self.error is not None:
            return
        try:
            self._read()
        except MargoError as error:
            self.fail(error)
        except OSError as error:
            self.fail(ConnectionLost(f"the connection to {self.address} broke: {error.strerror or error}"))
        except Exception as error:
            log.exception("a receiver failed")
            self.fail(ConnectionLost(f"the connection to {self.address} was given up: {error!r}"))
        except BaseException:
            self.fail(
                ConnectionLost(f"the connection to {self.address} was given up in the middle of a message")
            )
            raise

    def _read(self) -> None:
        reader = self._reader
        for _ in range(16):
            buffers = reader.buffers()
            try:
                if len(buffers) == 1 and not self.lends:
                    count = self.peer.recv_into(buffers[0])
                else:
                    count, ancillary, _, _ = self.peer.recvmsg_into(
                        buffers, _DESCRIPTOR_SPACE if self.lends else 0, socket.MSG_CMSG_CLOEXEC
                    )
                    for _, kind, data in ancillary:
                        if kind == socket.SCM_RIGHTS:
                            self._take_descriptors(memoryview(data).cast("i"))
            except (BlockingIOError, InterruptedError):
                return
            if not count:
                raise ConnectionLost(f"the server at {self.address} closed the connection")
            for frame in reader.received(count):
                self._dispatch(frame)
            if count < len(buffers[0]):
                return

    def _take_descriptors(self, descriptors: memoryview) -> None:
        self._offered.extend(descriptors)
        if len(self._offered) > _MAX_DESCRIPTORS:
            raise ProtocolError(f"the server at {self.address} sends file descriptors that belong to nothing")

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        entry = self._receivers.get(frame.call)
        if entry is None:
            raise ProtocolError("nobody waits for this")
        return entry[0].allocate(frame)

    def _dispatch(self, frame: Frame) -> None:
        if not frame.flags & DESCRIPTORS:
            self._hand_over(frame)
            return
        if not self._offered:
            raise ProtocolError(f"the server at {self.address} announced a file descriptor that did not come")
        offered = self._offered[0]
        try:
            self._hand_over(frame)
        finally:
            if self._offered and self._offered[0] == offered:
                os.close(self._offered.popleft())

    def _hand_over(self, frame: Frame) -> None:
        kind = frame.kind
        if kind is Kind.FAULT and not frame.call:
            raise rpc.unpack_fault(frame.message)
        entry = self._receivers.get(frame.call)
        if entry is None:
            return
        receiver, is_stream = entry
        if kind is not (Kind.NOTICE if is_stream else Kind.RESPONSE) and kind is not Kind.FAULT:
            raise ProtocolError(f"the server at {self.address} sent a {kind.name} on call {frame.call}")
        if frame.refused is None:
            receiver.receive(frame)
        else:
            receiver.lost(MargoError(f"no memory for the bulk from {self.address}: {frame.refused!r}"))
        if not is_stream or kind is Kind.FAULT or frame.refused is not None:
            self._receivers.pop(frame.call, None)

    def map_lent(self) -> memoryview:
        """Map the buffer whose descriptor came with the frame being received.

        Raises
        ------
        ProtocolError
            None came.
        """
        if not self._offered:
            raise ProtocolError(f"the server at {self.address} lent a buffer without its descriptor")
        return bulk.map_lent(self._offered.popleft())

    def fail(self, error: MargoError) -> None:
        """Give the link up, and tell everybody who expects something of it. Any thread."""
        with self._sending:
            if self.error is not None:
                return
            self.error = error
            with suppress(OSError, ValueError):  # the poller may be closed
                self._poller.unregister(self.descriptor)
            self._shut_down()
            self._queue.clear()
        # Whoever has claimed the link may be about to poll its descriptor, which must not be another's by then.
        if not self._claims:
            self.peer.close()
        self.client.forget(self)
        while self._receivers:
            _, (receiver, _) = self._receivers.popitem()
            try:
                receiver.lost(error)
            except Exception:
                log.exception("a receiver failed")
        while self._offered:
            os.close(self._offered.popleft())

    def abandon(self) -> None:
        """Give the link up in a forked child, without a word to the server or to anybody here."""
        self.error = ConnectionLost(f"the connection to {self.address} belongs to the parent process")
        self._sending = threading.Lock()
        self._claims = {}
        self._receivers = {}
        self.peer.close()
        while self._offered:
            os.close(self._offered.popleft())
