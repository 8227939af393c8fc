"""One connection of a client: requests out, answers and notices in.

Anybody sends on a link from their own thread, without blocking: what the socket does not take at once is sent on by
the client's background thread. Reading is done by the one thread that has claimed it, see `mochi.margo.client`.

Invariants
----------
1. Who finds that a link is of no more use marks it lost and shuts its socket down. The background thread finds that,
   fails the link, and tells the receivers: there Ctrl-C does not strike in the middle of it.
2. Ctrl-C strikes at calls and at jumps, before a Python function's first statement and after a C function's last.
   Marking a link lost and shutting it down, noting an interest and telling the poller, are each a store followed by
   one call of a C function: done both or neither.
3. A claim lasts no longer than its token: one that was left behind by Ctrl-C is taken over. A claim knows its thread: a
   call that strikes while a frame of its own thread waits (a signal handler's, say) takes the link over, gives it
   back when it is done, and wakes that frame, for which something may have come.
4. A link is held up for a thread that is suspended in the middle of sending or receiving on it, see
   `mochi.margo.owned_lock`. What this thread sends then is left to the suspended frame; it cannot receive, and who
   wants to wait for an answer gets another link.
"""

import itertools
import logging
import os
import select
import socket
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import get_ident
from typing import Protocol

from mochi.margo import bulk, rpc
from mochi.margo.errors import ConnectionLost, MargoError, ProtocolError
from mochi.margo.owned_lock import OwnedLock
from mochi.margo.peer.greeting import refusal
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

    def rouse(self) -> None:
        """Have those that wait while they read links look again whether they are done."""

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


class Claim:
    """A token of who reads links; lives as long as the call that reads.

    Attributes
    ----------
    thread : int
    below : dict
        For each link that was taken over from a frame of the same thread, that frame's token, and whether it drove.
    """

    __slots__ = ("__weakref__", "below", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.below: dict[Link, tuple[Claim, bool]] = {}


class Link:
    """One connection to a server; made by `Client.link`.

    Attributes
    ----------
    address : str
    instance : bytes
        Tells the server's start: another value at the same address is a server that was started again.
    lends : bool
        Whether the server can lend buffers over this link.
    is_lost : bool
        Whether the link is of no more use.
    is_aside : bool
        Whether nobody is given the link any more: it ends with the last who expects something of it.
    error : MargoError or None
        Why the link is lost, once its receivers are being told.
    """

    def __init__(
        self, client: Owner, address: str, instance: bytes, peer: socket.socket, poller: select.epoll
    ) -> None:
        self.client = client
        self.address = address
        self.instance = instance
        self.is_lost = False
        self.error: MargoError | None = None
        self._reason: MargoError | None = None
        self.peer = peer
        self.descriptor = peer.fileno()
        self.lends = peer.family == socket.AF_UNIX
        self._offered: deque[int] = deque()
        self._claims: dict[str, weakref.ref[Claim]] = {}
        self.is_aside = False
        self._sending = OwnedLock()
        self._left: deque[Sequence[Buffer]] = deque()
        self._reading = 0
        self._reader = FrameReader(self._allocate, Limits())
        self._queue = SendQueue()
        self._receivers: dict[int, tuple[Receiver, bool]] = {}
        self._numbers = itertools.count(1)
        self._driven = False
        self._interest = select.EPOLLIN
        self._poller = poller
        peer.setblocking(False)
        poller.register(self.descriptor, select.EPOLLIN)

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
        if self._receivers.pop(call, None) is not None and not self.is_lost:
            self._send([encode(Kind.CANCEL, call=call)], 0)

    @property
    def is_held_up(self) -> bool:
        """Whether a frame of this thread is suspended while it sends or receives."""
        return self._reading == get_ident() or self._sending.is_mine()

    def _send(self, buffers: Sequence[Buffer], call: int) -> None:
        if self._sending.is_mine():
            self._left.append(buffers)
            return
        with self._sending:
            if self.is_lost:
                self._receivers.pop(call, None)
                raise ConnectionLost(f"the connection to {self.address} is lost: {self._why()}")
            self._transmit(buffers)
        if self._left:
            self.flush()

    def _transmit(self, buffers: Sequence[Buffer]) -> None:
        """Queue `buffers`, and send what the socket takes; the caller holds `_sending`."""
        try:
            if self._left:
                self._queue_left()
            self._queue.put(buffers)
            if self._left:
                self._queue_left()
            self._queue.pump(self.peer.sendmsg)
            self._update_interest()
        except BaseException as error:
            self.is_lost = True
            try:  # noqa: SIM105, see invariant 2
                self.peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            if not isinstance(error, OSError):
                raise

    def _queue_left(self) -> None:
        """Queue what calls within this thread have left, before what it sends later on."""
        while self._left:
            self._queue.put(self._left.popleft())

    def _why(self) -> MargoError:
        return (
            self.error
            or self._reason
            or ConnectionLost(f"the connection to {self.address} was given up in the middle of a message")
        )

    def _update_interest(self) -> None:
        while self.error is None:
            interest = (0 if self._driven else select.EPOLLIN) | (select.EPOLLOUT if self._queue else 0)
            if interest == self._interest:
                return
            self._interest = interest
            try:
                self._poller.modify(self.descriptor, interest)
            except (OSError, ValueError):
                if self.error is None:  # else it was failed meanwhile
                    raise

    def flush(self) -> None:
        """Send on what is queued; never blocks."""
        if (self._queue or self._left) and not self._sending.is_mine():
            with self._sending:
                if not self.is_lost:
                    self._transmit(())

    def claim(self, token: Claim) -> bool:
        """Let the holder of `token` alone read, unless another thread does, or this one in the middle of a message."""
        place = self._claims.setdefault("reader", weakref.ref(token))
        holder = place()
        if holder is not token and (
            holder is None or (holder.thread == token.thread and self._reading != token.thread)
        ):
            with self._sending:
                if self._claims.get("reader") is place:
                    if holder is not None:
                        token.below[self] = (holder, self._driven)
                    self._claims["reader"] = weakref.ref(token)
            if self._left:
                self.flush()
        return self.is_claimed_by(token)

    def is_claimed_by(self, token: Claim) -> bool:
        """Tell whether the holder of `token` alone reads."""
        holder = self._claims.get("reader")
        return holder is not None and holder() is token

    def release(self, token: Claim) -> None:
        """Let others read, if the link was claimed with `token`; may be repeated."""
        if not self.is_claimed_by(token):
            return
        if self in token.below:
            below, driven = token.below.pop(self)
            self.set_driven(driven)
            self._claims["reader"] = weakref.ref(below)
            self.client.rouse()
            return
        self.set_driven(False)
        self._claims.pop("reader", None)
        if self.error is not None:
            self.peer.close()
        if self.is_aside and not self._receivers:
            self.lose(ConnectionLost(f"the connection to {self.address} is not needed any more"))

    def set_driven(self, driven: bool) -> None:
        """Tell the background thread to leave the reading alone, or to take it up; the caller has claimed the link."""
        with self._sending:
            self._driven = driven
            self._update_interest()
        if self._left:
            self.flush()

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._queue or self._left)

    def read(self) -> None:
        """Receive what is there, and hand it to its receivers; the caller has claimed the link. Never blocks."""
        if self.is_lost:
            return
        try:
            self._reading = get_ident()
            self._read()
            self._reading = 0
        except Exception as error:
            self._reading = 0
            if not isinstance(error, MargoError | OSError):
                log.exception("a receiver failed")
            self.lose(_loss(error, self.address))
        except BaseException:
            self._reading = 0
            self.is_lost = True
            try:  # noqa: SIM105, see invariant 2
                self.peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            raise

    def lose(self, error: MargoError) -> None:
        """Have the background thread fail the link, with `error`."""
        self._reason = error
        self.is_lost = True
        with suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)

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
                if self.is_lost:
                    return
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
            raise refusal(rpc.unpack_fault(frame.message), self.address)
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

    def fail(self, error: MargoError | None = None) -> None:
        """Give the link up, and tell everybody who expects something of it. Any thread.

        Parameters
        ----------
        error : MargoError, optional
            Why, if the link does not know.
        """
        held_up = self._sending.is_mine()
        with self._sending:
            if self.error is not None:
                return
            self.is_lost = True
            self.error = error = error or self._why()
            with suppress(OSError, ValueError):  # the poller may be closed
                self._poller.unregister(self.descriptor)
            with suppress(OSError):
                self.peer.shutdown(socket.SHUT_RDWR)
            if not held_up:  # else the suspended frame finds that nothing can be sent any more
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
        self.is_lost = True
        self.error = ConnectionLost(f"the connection to {self.address} belongs to the parent process")
        self._sending = OwnedLock()
        self._reading = 0
        self._claims = {}
        self._receivers = {}
        self.peer.close()
        while self._offered:
            os.close(self._offered.popleft())


def _loss(error: Exception, address: str) -> MargoError:
    """Return what to tell of a link that broke with `error`; without its traceback, which would keep frames alive."""
    if isinstance(error, OSError) and not isinstance(error, MargoError):
        return ConnectionLost(f"the connection to {address} broke: {error.strerror or error}")
    if not isinstance(error, MargoError):
        return ConnectionLost(f"the connection to {address} was given up: {error!r}")
    error.__context__ = None
    return error.with_traceback(None)
