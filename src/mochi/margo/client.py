"""The client side of margo: links to servers, driven by whoever waits.

A `Link` is one connection. Anybody sends on it from their own thread, without blocking: what the socket does not
take at once is sent on by the client's background thread. Reading is done by one thread at a time: by the one that
waits for something (no hand-over to another thread on the way of an answer), else by the background thread, which
sleeps in the kernel and is told to leave a link alone while another thread drives it.

Invariants
----------
1. `Link.reading` is held by the one thread that receives from the link and calls its receivers.
2. Receivers' methods run on any thread, one at a time for each link, and never block.
3. An exception that strikes while received bytes are handled (Ctrl-C in the middle of it) fails the link: what was
   pending is told, and may be sent again on a new link. No state is left half changed.
4. In a forked child every link is lost and every lock is new; the parent's sockets are closed, not used.
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


class Receiver(Protocol):
    """Whoever expects frames: a pending call, or a stream of notices."""

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        """Give the memory for the inline bulk of `frame`."""

    def receive(self, frame: Frame) -> None:
        """Take a frame."""

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

    def __init__(self, client: "Client", address: str, peer: socket.socket) -> None:
        self.client = client
        self.address = address
        self.error: MargoError | None = None
        self.reading = threading.Lock()
        self.peer = peer
        self.descriptors: deque[int] = deque()
        self._sending = threading.Lock()
        self._reader = FrameReader(self._allocate, Limits())
        self._queue = SendQueue()
        self._receivers: dict[int, tuple[Receiver, bool]] = {}
        self._numbers = itertools.count(1)
        self._driven = False
        self._interest = select.EPOLLIN
        peer.setblocking(False)
        client.poller.register(peer.fileno(), select.EPOLLIN)

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
            The link is lost; the receiver is not told again.
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
            timeout_ms=min(max(int(timeout * 1000), 1), 0xFFFFFFFF) if timeout is not None else 0,
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
        if self.error is not None and call not in self._receivers:
            return

    def _pump(self) -> None:
        """Send what the socket takes; the caller holds `_sending`."""
        try:
            self._queue.pump(self.peer.sendmsg)
        except OSError:
            self._queue.clear()  # the reading side finds out why, and fails the link
        self._update_interest()

    def _update_interest(self) -> None:
        interest = (0 if self._driven else select.EPOLLIN) | (select.EPOLLOUT if self._queue else 0)
        if interest != self._interest and self.error is None:
            self._interest = interest
            self.client.poller.modify(self.peer.fileno(), interest)

    def flush(self) -> None:
        """Send on what is queued; never blocks."""
        if self._queue:
            with self._sending:
                if self.error is None:
                    self._pump()

    def set_driven(self, driven: bool) -> None:
        """Tell the background thread to leave the reading alone, or to take it up."""
        with self._sending:
            self._driven = driven
            self._update_interest()

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._queue)

    def read(self) -> None:
        """Receive what is there, and hand it to its receivers; the caller holds `reading`. Never blocks."""
        if self.error is not None:
            return
        try:
            self._read()
        except MargoError as error:
            self.fail(error)
        except OSError as error:
            self.fail(ConnectionLost(f"the connection to {self.address} broke: {error.strerror}"))
        except BaseException:
            self.fail(ConnectionLost(f"the connection to {self.address} was given up in the middle of a message"))
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
                            self.descriptors.extend(memoryview(data).cast("i"))
            except (BlockingIOError, InterruptedError):
                return
            if not count:
                raise ConnectionLost(f"the server at {self.address} closed the connection")
            for frame in reader.received(count):
                self._dispatch(frame)
            if count < len(buffers[0]):
                return

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        entry = self._receivers.get(frame.call)
        if entry is None:
            raise ProtocolError("nobody waits for this")
        return entry[0].allocate(frame)

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT and not frame.call:
            raise rpc.unpack_fault(frame.message)
        entry = self._receivers.get(frame.call)
        if entry is None:
            if frame.flags & DESCRIPTORS and self.descriptors:
                os.close(self.descriptors.popleft())
            return
        receiver, is_stream = entry
        if not is_stream:
            del self._receivers[frame.call]
        receiver.receive(frame)

    def map_lent(self) -> memoryview:
        """Map the buffer whose descriptor came with the frame being received."""
        return bulk.map_lent(self.descriptors.popleft())

    def fail(self, error: MargoError) -> None:
        """Give the link up, and tell everybody who expects something of it. Any thread."""
        with self._sending:
            if self.error is not None:
                return
            self.error = error
            self.client.poller.unregister(self.peer.fileno())
            self.peer.close()
            self._queue.clear()
        self.client.forget(self)
        receivers = list(self._receivers.values())
        self._receivers.clear()
        for receiver, _ in receivers:
            receiver.lost(error)
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


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
        self.generation = 0
        self._tokens: dict[str, bytes] = {}
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self.poller = select.epoll()
        self._links: dict[str, Link] = {}
        self._by_descriptor: dict[int, Link] = {}
        self._connecting = threading.Lock()
        self._changed = threading.Condition()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def after_fork_in_child(self) -> None:
        """Give up the parent's links: close their sockets here, and tell their receivers."""
        links = list(self._links.values())
        self.poller.close()
        self._reset()
        self.generation += 1
        for link in links:
            link.peer.close()
            link.error = ConnectionLost("the connection belongs to the parent process")

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
        if link is not None:
            return link
        with self._connecting:
            link = self._links.get(address)
            if link is None:
                peer = self._connect(address, self.timeout if timeout is None else timeout)
                link = Link(self, address, peer)
                self._by_descriptor[peer.fileno()] = link
                self._links[address] = link
                self._closed = False
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="margo-client", daemon=True)
                    self._thread.start()
        return link

    def _connect(self, address: str, timeout: float) -> socket.socket:
        peer = transport.connect(address, timeout)
        try:
            peer.settimeout(timeout)
            greeting = handshake.hello()
            peer.sendall(encode(Kind.HELLO, message=rpc.pack(greeting)))
            frame = self._receive_greeting(peer, address)
            reply = rpc.unpack(frame.message, handshake.Welcome)
            proof = handshake.answer(greeting, reply, self._tokens.get(address), address)
            peer.sendall(encode(Kind.PROOF, message=rpc.pack(proof)))
        except OSError as error:
            peer.close()
            raise AddressError(f"the server at {address} does not greet: {error.strerror or error}") from error
        except BaseException:
            peer.close()
            raise
        return peer

    def _receive_greeting(self, peer: socket.socket, address: str) -> Frame:
        reader = FrameReader(allocate_private)
        while True:
            count = peer.recv_into(reader.buffers()[0])
            if not count:
                raise AddressError(f"the server at {address} closed the connection in the greeting")
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
        for descriptor in [d for d, l in self._by_descriptor.items() if l is link]:
            del self._by_descriptor[descriptor]

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
            mine = [link for link in wanted if link.reading.acquire(blocking=False)]
            try:
                if mine and len(mine) == len(wanted):
                    self._drive(mine, is_done, deadline)
                    continue
            finally:
                for link in mine:
                    link.reading.release()
                self.notify()
            with self._changed:
                self._waiting += 1
                try:
                    if not is_done():
                        left = deadline - time.monotonic()
                        self._changed.wait(None if left == float("inf") else max(left, 0))
                finally:
                    self._waiting -= 1
        return True

    def _drive(self, links: Sequence[Link], is_done: Callable[[], bool], deadline: float) -> None:
        for link in links:
            link.set_driven(True)
        try:
            poll = select.poll()
            while not is_done():
                live = {link.peer.fileno(): link for link in links}
                for descriptor, link in live.items():
                    poll.register(descriptor, select.POLLIN | (select.POLLOUT if link.has_queued else 0))
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                for descriptor, events in poll.poll(None if left == float("inf") else left * 1000):
                    link = live[descriptor]
                    if events & select.POLLOUT:
                        link.flush()
                    if events & ~select.POLLOUT:
                        link.read()
                self.notify()
                if any(link.error is not None for link in links):
                    return
        finally:
            for link in links:
                link.set_driven(False)

    def drain(self, link: Link) -> None:
        """Handle what has come in on `link`, and send on what is queued; never blocks."""
        link.flush()
        if link.reading.acquire(blocking=False):
            try:
                link.read()
            finally:
                link.reading.release()
            self.notify()

    def notify(self) -> None:
        """Let threads that wait look again whether they are done."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def _serve(self) -> None:
        """Run the background thread: read what nobody else reads, send on what sockets did not take."""
        poller = self.poller
        while not self._closed:
            try:
                ready = poller.poll()
            except (ValueError, OSError):
                return
            for descriptor, events in ready:
                link = self._by_descriptor.get(descriptor)
                if link is None:
                    continue
                if events & select.EPOLLOUT:
                    link.flush()
                if events & ~select.EPOLLOUT and link.reading.acquire(blocking=False):
                    try:
                        link.read()
                    finally:
                        link.reading.release()
            self.notify()

    def close(self) -> None:
        """Close all links; pending calls raise `ConnectionLost`. A later call connects again."""
        self._closed = True
        for link in list(self._links.values()):
            link.fail(ConnectionLost("the client was closed"))
        self._thread = None
        self.notify()


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork)
