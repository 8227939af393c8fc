"""One connection of a client: the rim of `mochi.margo.peer.Asking` for threads that wait.

Anybody sends on a link from their own thread, without blocking: what the socket does not take at once is sent on by
the client's background thread. Reading is done by the one thread that has claimed it, see `mochi.margo.client`.

Invariants
----------
1. Who finds that a link is of no more use marks it lost and shuts its socket down. The background thread finds that,
   fails the link, and tells the receivers: there Ctrl-C does not strike in the middle of it.
2. Ctrl-C strikes at calls and at jumps, before a Python function's first statement and after a C function's last.
   Marking a link lost and shutting it down is a store followed by one call of a C function: both are done, or
   neither. So is noting an interest and telling the poller.
3. A claim lasts no longer than its token: one that was left behind by Ctrl-C is taken over. A claim knows its thread. A
   call of a signal handler, say, may strike while a frame of its own thread waits. It takes the link over, gives it
   back when it is done, and wakes that frame, for which something may have come.
4. A link is held up for a thread that is suspended in the middle of sending or receiving on it, see
   `mochi.margo.owned_lock`. What this thread sends then is put into the queue, which the suspended frame empties; it
   cannot receive, and who wants to wait for an answer gets another link.
"""

import logging
import os
import select
import socket
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Protocol

from mochi.margo import bulk as bulk_buffers
from mochi.margo.errors import ConnectionLost, LocalProtocolError, MargoError
from mochi.margo.fabric import FabricError, Fetcher
from mochi.margo.owned_lock import OwnedLock
from mochi.margo.peer import Asking, Delivery, PendingCall, Receiver
from mochi.margo.wire import Buffer, Segment

__all__ = ["Claim", "Link", "PendingCall", "Receiver"]

log = logging.getLogger(__name__)

_DESCRIPTOR_SPACE = socket.CMSG_LEN(8 * 4)


class Owner(Protocol):
    """What a link needs of its client."""

    def rouse(self) -> None:
        """Have those that wait while they read links look again whether they are done."""

    def forget(self, link: "Link") -> None:
        """Drop a link that is lost."""

    def fetched(self, link: "Link") -> None:
        """See to it that bulk that has come by a fabric is handed over."""

    def fabric_failed(self, link: "Link", error: Exception) -> None:
        """Take note that bulk could not be fetched."""


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
    queue : SendQueue
        What is to be sent.
    lends : bool
        Whether the server can lend buffers over this link.
    fabric : Fetcher or None
        What moves bulk beside the socket.
    is_lost : bool
        Whether the link is of no more use.
    is_aside : bool
        Whether nobody is given the link any more: it ends with the last who expects something of it.
    error : MargoError or None
        Why the link is lost, once its receivers are being told.
    """

    def __init__(
        self,
        client: Owner,
        address: str,
        peer: Asking,
        connected: socket.socket,
        poller: select.epoll,
        fabric: Fetcher | None = None,
    ) -> None:
        self.client = client
        self.address = address
        self.instance = peer.instance
        self.is_lost = False
        self.is_aside = False
        self.error: MargoError | None = None
        self._reason: MargoError | None = None
        self.fabric = fabric
        self._peer = peer
        self.queue = peer.queue
        self._socket = connected
        self.descriptor = connected.fileno()
        self.lends = connected.family == socket.AF_UNIX
        self._claims: dict[str, weakref.ref[Claim]] = {}
        self._sending = OwnedLock()
        self._reading = 0
        self._is_driven = False
        self._interest = select.EPOLLIN
        self._poller = poller
        connected.setblocking(False)
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
        LocalProtocolError
            The request is larger than any peer takes.
        """
        if self.is_lost:
            raise self._loss()
        try:
            placed = None
            if self.fabric is not None and receiver is not None:
                placed = self.fabric.place(bulk)
            call = self._peer.request(
                name, provider_id, message, receiver, bulk=bulk, lent=lent, timeout=timeout, placed=placed
            )
        except LocalProtocolError:
            if self.is_lost:  # since just now
                raise self._loss() from None
            raise
        self.flush()
        if self.error is not None and (receiver is None or self._peer.forget(call)):
            raise self._loss()
        return call

    def open_stream(self, receiver: Receiver) -> int:
        """Return the number of a new stream; its notices go to `receiver` until `close_stream`."""
        return self._peer.open_stream(receiver)

    def close_stream(self, number: int) -> None:
        """Forget a stream, or a call whose answer is of no interest any more."""
        self._peer.forget(number)

    def cancel(self, call: int) -> None:
        """Tell the server that nobody waits for a call any more."""
        self._peer.cancel(call)
        self.flush()

    @property
    def is_held_up(self) -> bool:
        """Whether a frame of this thread is suspended while it sends or receives."""
        return self._reading == get_ident() or self._sending.is_mine()

    @property
    def has_queued(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self.queue)

    def flush(self) -> None:
        """Send on what is queued; never blocks."""
        queue, sending = self.queue, self._sending
        while queue and not sending.is_mine():  # invariant 4: else the suspended frame does it
            with sending:
                if self.is_lost:
                    return
                try:
                    is_empty = queue.pump(self._socket.sendmsg)
                    if self._interest & select.EPOLLOUT or not is_empty:
                        self._update_interest()
                except BaseException as error:
                    self.is_lost = True
                    try:  # noqa: SIM105, see invariant 2
                        self._socket.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
                    if not isinstance(error, OSError):
                        raise
                    return
            if not is_empty:
                return

    def _loss(self) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self.address} is lost: {self._why()}")

    def _why(self) -> MargoError:
        return (
            self.error
            or self._reason
            or ConnectionLost(f"the connection to {self.address} was given up in the middle of a message")
        )

    def _update_interest(self) -> None:
        while self.error is None:
            interest = (0 if self._is_driven else select.EPOLLIN) | (select.EPOLLOUT if self.queue else 0)
            if interest == self._interest:
                return
            self._interest = interest
            try:
                self._poller.modify(self.descriptor, interest)
            except (OSError, ValueError):
                if self.error is None:  # else it was failed meanwhile
                    raise

    def claim(self, token: Claim) -> bool:
        """Let the holder of `token` alone read, unless another thread does, or this one in the middle of a message."""
        place = self._claims.setdefault("reader", weakref.ref(token))
        holder = place()
        if holder is token:
            return True
        if holder is None or (holder.thread == token.thread and self._reading != token.thread):
            with self._sending:
                if self._claims.get("reader") is place:
                    if holder is not None:
                        token.below[self] = (holder, self._is_driven)
                    self._claims["reader"] = weakref.ref(token)
            self.flush()
        return self.is_claimed_by(token)

    def is_claimed_by(self, token: Claim) -> bool:
        """Tell whether the holder of `token` alone reads."""
        holder = self._claims.get("reader")
        return holder is not None and holder() is token

    def release(self, token: Claim) -> None:
        """Let others read, if the link was claimed with `token`; may be repeated."""
        holder = self._claims.get("reader")
        if holder is None or holder() is not token:
            return
        if self in token.below:
            below, driven = token.below.pop(self)
            self.set_driven(driven)
            self._claims["reader"] = weakref.ref(below)
            self.client.rouse()
            return
        if self._is_driven:
            self.set_driven(False)
        self._claims.pop("reader", None)
        if self.error is not None:
            self._socket.close()
        elif self.fabric is not None and self.fabric.has_come:
            self.client.fetched(self)
        if self.is_aside and not self._peer.is_awaited:
            self.lose(ConnectionLost(f"the connection to {self.address} is not needed any more"))

    def set_driven(self, driven: bool) -> None:
        """Tell the background thread to leave the reading alone, or to take it up; the caller has claimed the link."""
        with self._sending:
            self._is_driven = driven
            self._update_interest()
        if self.queue:
            self.flush()

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
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            raise

    def lose(self, error: MargoError) -> None:
        """Have the background thread fail the link, with `error`."""
        self._reason = error
        self.is_lost = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        peer = self._peer
        reader = peer.reader
        if self.fabric is not None and self.fabric.has_come:
            self._take_fetched()
        for _ in range(16):
            buffers = reader.buffers()
            try:
                if self.lends:
                    count, ancillary, _, _ = self._socket.recvmsg_into(
                        buffers, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC
                    )
                    for _, kind, data in ancillary:
                        if kind == socket.SCM_RIGHTS:
                            peer.offer(memoryview(data).cast("i"))
                elif len(buffers) == 1:
                    count = self._socket.recv_into(buffers[0])
                else:
                    count = self._socket.recvmsg_into(buffers)[0]
            except (BlockingIOError, InterruptedError):
                return
            if not count:
                raise ConnectionLost(f"the server at {self.address} closed the connection")
            reader.received(count)
            while reader.has_more:
                event = peer.next_event()
                if self.is_lost:
                    return
                if event is not None:
                    self._deliver_in_order(event)
            if count < len(buffers[0]):
                return

    @property
    def has_fetched(self) -> bool:
        """Whether bulk has come by the fabric that `read` hands over."""
        return self.fabric is not None and self.fabric.has_come

    def _take_fetched(self) -> None:
        assert self.fabric is not None
        try:
            self.fabric.take()
        except FabricError as error:
            self.client.fabric_failed(self, error)
            raise ConnectionLost(f"bulk from {self.address} could not be fetched: {error}") from error
        self.flush()

    def _deliver_in_order(self, event: Delivery) -> None:
        """Hand a frame over once its bulk is here, and that of those before it."""
        fabric = self.fabric
        if fabric is None or not (event.frame.is_remote or fabric.is_busy):
            self._deliver(event)
        else:
            fabric.fetch(
                event.frame, partial(self._deliver_fetched, event), partial(self.client.fetched, self)
            )

    def _deliver_fetched(self, event: Delivery) -> None:
        if event.frame.is_remote:
            self._peer.fetched(event.frame)
        self._deliver(event)

    def _deliver(self, event: Delivery) -> None:
        if event.refused is None:
            event.receiver.receive(event.frame)
        else:
            event.receiver.lost(event.refused)
        self._peer.delivered(event)
        if self._peer.discarded:
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        discarded = self._peer.discarded
        while discarded:
            os.close(discarded.popleft())

    def map_lent(self) -> memoryview:
        """Map the buffer whose descriptor came with the frame being received.

        Raises
        ------
        RemoteProtocolError
            None came.
        """
        return bulk_buffers.map_lent(self._peer.take_descriptor())

    def fail(self, error: MargoError | None = None) -> None:
        """End the link, and tell everybody who expects something of it. Any thread.

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
                self._socket.shutdown(socket.SHUT_RDWR)
            if not held_up:  # else the suspended frame finds that nothing can be sent any more
                self.queue.clear()
        # Whoever has claimed the link may be about to poll its descriptor, which must not be another's by then.
        if not self._claims:
            self._socket.close()
        self.client.forget(self)
        if self.fabric is not None:
            self.fabric.close(self._peer.unfetched())
        self._peer.close()
        while (receiver := self._peer.take_receiver()) is not None:
            try:
                receiver.lost(error)
            except Exception:
                log.exception("a receiver failed")
        self._close_descriptors()

    def abandon(self) -> None:
        """End the link in a forked child, without a word to the server or to anybody here."""
        self.is_lost = True
        self.error = ConnectionLost(f"the connection to {self.address} belongs to the parent process")
        self._sending = OwnedLock()
        self._reading = 0
        self._claims = {}
        self._peer.close()
        while self._peer.take_receiver() is not None:
            pass
        self._socket.close()
        self._close_descriptors()


def _loss(error: Exception, address: str) -> MargoError:
    """Return what to tell of a link that broke with `error`; without its traceback, which would keep frames alive."""
    if isinstance(error, OSError) and not isinstance(error, MargoError):
        return ConnectionLost(f"the connection to {address} broke: {error.strerror or error}")
    if not isinstance(error, MargoError):
        return ConnectionLost(f"the connection to {address} was given up: {error!r}")
    error.__context__ = None
    return error.with_traceback(None)
