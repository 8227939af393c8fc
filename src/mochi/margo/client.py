"""The client side of margo: links to servers, driven by whoever waits.

A `Link` is one connection. Anybody sends on it from their own thread, without blocking: what the socket does not
take at once is sent on by the client's background thread. Reading is done by one thread at a time: by the one that
waits for something (no hand-over to another thread on the way of an answer), else by the background thread, which
sleeps in the kernel and is told to leave a link alone while another thread drives it.

Invariants
----------
1. The one thread that receives from a link and calls its receivers has claimed the link.
2. Receivers' methods run on any thread, one at a time for each link, and never block.
3. An exception that strikes while bytes are received or sent (Ctrl-C in the middle of it) costs the link: what was
   pending is told, and may be sent again on a new link. No link is left half changed, or claimed.
4. In a forked child every link is lost and every lock is new; the parent's sockets are closed, not used. Receivers
   are not told: their locks may be held by threads that the child does not have.
"""

import itertools
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec

from mochi.margo import bulk, handshake, rpc, transport
from mochi.margo.errors import (
    AddressError,
    ConnectionLost,
    DeadlineExceeded,
    MargoError,
    ProtocolError,
)
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

R = TypeVar("R")

log = logging.getLogger(__name__)

_DESCRIPTOR_SPACE = socket.CMSG_LEN(8 * 4)
_MAX_DESCRIPTORS = 64

LONGEST_SLEEP = 3600.0
"""Seconds that a wait without end, or with a far one, sleeps at a time: the kernel does not take any number."""


class Receiver(Protocol):
    """Whoever expects frames: a pending call, or a stream of notices."""

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        """Give the memory for the inline bulk of `frame`."""

    def receive(self, frame: Frame) -> None:
        """Take a frame, a fault perhaps; its bulk is whole."""

    def lost(self, error: MargoError) -> None:
        """Take note that nothing more will come."""


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
    error : MargoError or None
        Why the link is lost, or None while it lives.
    """

    def __init__(self, client: "Client", address: str, peer: socket.socket, poller: select.epoll) -> None:
        self.client = client
        self.address = address
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
            self._queue.put(buffers)
            self._pump()

    def _pump(self) -> None:
        """Send what the socket takes; the caller holds `_sending`.

        What breaks the sending shuts the connection down, and the reading side finds that and fails the link: here a
        receiver cannot be told, because the caller may hold its lock.
        """
        try:
            self._queue.pump(self.peer.sendmsg)
        except BaseException as error:
            self._queue.clear()
            self._shut_down()
            if not isinstance(error, OSError):
                raise
        self._update_interest()

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


class Client:
    """Calls servers, by address; shared by everything in a process that talks to the same service.

    Parameters
    ----------
    timeout : float
        Seconds that a call may take where it names no time-out of its own.

    Notes
    -----
    All methods may be called from any thread, also in a forked child, which connects by itself. Blocking methods
    end at their time-out, or by Ctrl-C. The background thread starts with the first link, and an idle client never
    wakes up.
    """

    def __init__(self, *, timeout: float = 30.0) -> None:
        self.timeout = timeout
        self._tokens: dict[str, bytes] = {}
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self._links: dict[str, Link] = {}
        self._by_descriptor: dict[int, Link] = {}
        self._connecting: dict[str, threading.Lock] = {}
        self._changing = threading.Lock()
        self._changed = threading.Condition()
        self._waiting = 0
        self._background: _Background | None = None

    def after_fork_in_child(self) -> None:
        """Give up the parent's links, and what belongs to them."""
        for link in list(self._by_descriptor.values()):
            link.abandon()
        if self._background is not None:
            self._background.abandon()
        self._reset()

    def set_token(self, address: str, token: bytes) -> None:
        """Use `token` with the server at `address` from now on."""
        self._tokens[address] = token

    def link(self, address: str, timeout: float | None = None) -> Link:
        """Return the link to `address`, connecting where there is none.

        Raises
        ------
        AddressError
            Nobody answers there.
        AuthenticationError
            The server and this client do not hold the same token.
        """
        link = self._links.get(address)
        if link is not None and link.error is None:
            return link
        with self._connecting.setdefault(address, threading.Lock()):
            link = self._links.get(address)
            if link is None or link.error is not None:
                limit = self.timeout if timeout is None else min(timeout, self.timeout)
                link = self._adopt(address, self._connect(address, limit))
        return link

    def _adopt(self, address: str, peer: socket.socket) -> Link:
        with self._changing:
            if self._background is None:
                self._background = _Background(self)
            link = Link(self, address, peer, self._background.poller)
            self._by_descriptor[link.descriptor] = link
            self._links[address] = link
        return link

    def _connect(self, address: str, timeout: float) -> socket.socket:
        deadline = time.monotonic() + timeout
        peer = transport.connect(address, timeout)
        try:
            greeting = handshake.hello()
            peer.sendall(encode(Kind.HELLO, message=rpc.pack(greeting)))
            frame = self._receive_greeting(peer, address, deadline)
            reply = rpc.unpack(frame.message, handshake.Welcome)
            proof = handshake.answer(greeting, reply, self._tokens.get(address), address)
            peer.sendall(encode(Kind.PROOF, message=rpc.pack(proof)))
        except OSError as error:
            peer.close()
            raise AddressError(
                f"the server at {address} does not greet: {error.strerror or error}"
            ) from error
        except BaseException:
            peer.close()
            raise
        return peer

    def _receive_greeting(self, peer: socket.socket, address: str, deadline: float) -> Frame:
        reader = FrameReader(allocate_private)
        while True:
            peer.settimeout(max(deadline - time.monotonic(), 1e-3))
            count = peer.recv_into(reader.buffers()[0])
            if not count:
                raise AddressError(f"the server at {address} closed the connection in the greeting")
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
            for frame in reader.received(count):
                if frame.kind is Kind.FAULT:
                    raise rpc.unpack_fault(frame.message)
                if frame.kind is not Kind.WELCOME:
                    raise ProtocolError(f"the server at {address} greets with {frame.kind.name}")
                return frame

    def forget(self, link: Link) -> None:
        """Drop a link that is lost."""
        if self._links.get(link.address) is link:
            del self._links[link.address]
        if self._by_descriptor.get(link.descriptor) is link:
            del self._by_descriptor[link.descriptor]

    def call(
        self,
        address: str,
        name: str,
        args: msgspec.Struct,
        result: type[R],
        *,
        provider_id: int = 0,
        timeout: float | None = None,
    ) -> R:
        """Call an RPC defined with `Engine.define`.

        Raises
        ------
        Fault
            What the handler raised.
        AddressError, AuthenticationError, ConnectionLost, DeadlineExceeded
            There was no answer. After the last two the call may have taken effect.
        """
        seconds = self.timeout if timeout is None else timeout
        link = self.link(address, seconds)
        pending = PendingCall()
        number = link.request(name, provider_id, rpc.pack(args), pending, timeout=seconds)
        if not self.wait(pending.is_done, lambda: (link,), time.monotonic() + seconds):
            link.cancel(number)
            raise DeadlineExceeded(f"{name} at {address} has not answered within {seconds:g} s")
        if pending.error is not None:
            raise pending.error
        assert pending.frame is not None
        return rpc.unpack(pending.frame.message, result)

    def wait(
        self, is_done: Callable[[], bool], links: Callable[[], Collection[Link]], deadline: float
    ) -> bool:
        """Wait until `is_done`, driving `links` meanwhile; return whether it is.

        Parameters
        ----------
        is_done : callable
            Becomes true by what a receiver of one of `links` is given, or before a `notify`.
        links : callable
            Tells which links to drive; asked again whenever one was lost.
        deadline : float
            On the clock of ``time.monotonic``; infinity waits for ever.

        Notes
        -----
        Interruptible by Ctrl-C. Costs some microseconds more than the wait itself.
        """
        while not is_done():
            if time.monotonic() >= deadline:
                return False
            wanted = [link for link in links() if link.error is None]
            token = object()
            try:
                try:
                    drives = bool(wanted) and all(link.claim(token) for link in wanted)
                    if drives:
                        self._drive(wanted, is_done, deadline)
                finally:
                    for link in wanted:
                        link.release(token)
            except BaseException:
                # Ctrl-C may strike anywhere, also in the finally clause above.
                for link in wanted:
                    link.release(token)
                raise
            if drives:
                self.notify()
                continue
            with self._changed:
                self._waiting += 1
                try:
                    if not is_done():
                        self._changed.wait(min(max(deadline - time.monotonic(), 0), LONGEST_SLEEP))
                finally:
                    self._waiting -= 1
        return True

    def _drive(self, links: Sequence[Link], is_done: Callable[[], bool], deadline: float) -> None:
        """Read claimed links until `is_done`, the deadline, or the loss of one of them."""
        by_descriptor = {link.descriptor: link for link in links}
        for link in links:
            link.set_driven(True)
        poll = select.poll()
        while not is_done():
            for descriptor, link in by_descriptor.items():
                if link.error is not None:
                    return
                poll.register(descriptor, select.POLLIN | (select.POLLOUT if link.has_queued else 0))
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for descriptor, events in poll.poll(min(left, LONGEST_SLEEP) * 1000):
                link = by_descriptor[descriptor]
                if events & select.POLLOUT:
                    link.flush()
                if events & ~select.POLLOUT:
                    link.read()
            self.notify()

    def drain(self, link: Link) -> None:
        """Handle what has come in on `link`, and send on what is queued; never blocks."""
        link.flush()
        if self._read(link):
            self.notify()

    def _read(self, link: Link) -> bool:
        """Read a link, unless another thread does; return whether."""
        token = object()
        try:
            try:
                if not link.claim(token):
                    return False
                link.read()
            finally:
                link.release(token)
        except BaseException:
            link.release(token)
            raise
        return True

    def notify(self) -> None:
        """Let threads that wait look again whether they are done."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def handle(self, ready: Sequence[tuple[int, int]]) -> None:
        """Read what nobody else reads, and send on what sockets did not take; for the background thread."""
        for descriptor, events in ready:
            link = self._by_descriptor.get(descriptor)
            if link is None:
                continue
            if events & select.EPOLLOUT:
                link.flush()
            if events & ~select.EPOLLOUT:
                self._read(link)
        self.notify()

    def close(self) -> None:
        """Close all links; pending calls raise `ConnectionLost`. A later call connects again."""
        with self._changing:
            links = list(self._by_descriptor.values())
            background, self._background = self._background, None
        for link in links:
            link.fail(ConnectionLost("the client was closed"))
        if background is not None:
            background.stop()
        self.notify()


class _Background:
    """The background thread of a client, and the poller that it sleeps in.

    The thread holds the client by a weak reference, and ends with it.
    """

    def __init__(self, client: Client) -> None:
        self.poller = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.poller.register(self._wake, select.EPOLLIN)
        self.stop = weakref.finalize(client, os.eventfd_write, self._wake, 1)
        self.stop.atexit = False
        threading.Thread(
            target=_serve,
            args=(weakref.ref(client), self.poller, self._wake),
            name="margo-client",
            daemon=True,
        ).start()

    def abandon(self) -> None:
        """Let go in a forked child, which has no such thread."""
        self.stop.detach()
        self.poller.close()
        os.close(self._wake)


def _serve(client: "weakref.ref[Client]", poller: select.epoll, wake: int) -> None:
    try:
        while True:
            ready = poller.poll()
            owner = client()
            if owner is None or any(descriptor == wake for descriptor, _ in ready):
                return
            owner.handle(ready)
            del owner
    finally:
        poller.close()
        os.close(wake)


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork)
