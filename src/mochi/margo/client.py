"""The client side of margo: links to servers, driven by whoever waits.

A `Link` is one connection. Anybody sends on it from their own thread, without blocking: what the socket does not
take at once is sent on by the client's background thread. Reading is done by one thread at a time. That
is the one that waits for something, so that no answer is handed from thread to thread. Else it is the background
thread, which sleeps in the kernel; it is told to leave a link alone while another thread drives it.

Invariants
----------
1. The one thread that receives from a link and calls its receivers has claimed the link.
2. Receivers' methods run on any thread, one at a time for each link, and never block.
3. An exception that strikes while bytes are received or sent (Ctrl-C in the middle of it) costs the link: what was
   pending is told, and may be sent again on a new link. No link is left half changed, or claimed.
   The background thread alone fails links, see `mochi.margo.link`; and who sleeps is woken without a lock, which
   Ctrl-C in `threading.Condition` could leave held.
4. A call never waits for a frame of its own thread, which is suspended under it: it takes over what that reads, or
   connects anew, see `mochi.margo.owned_lock`.
5. In a forked child every link is lost and every lock is new; the parent's sockets are closed, not used. Receivers
   are not told: their locks may be held by threads that the child does not have.
"""

import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import msgspec

from mochi.margo import rpc, transport
from mochi.margo.address import TcpAddress, canonical, parse
from mochi.margo.errors import (
    AddressError,
    ConnectionLost,
    DeadlineExceeded,
    HeldUp,
    MargoError,
    ProtocolError,
    VersionMismatch,
)
from mochi.margo.fabric import FabricError, Fetcher, Plane, offer, plane_to
from mochi.margo.link import Claim, Link, PendingCall
from mochi.margo.owned_lock import OwnedLock
from mochi.margo.peer import Asking, Seat, State
from mochi.margo.wire import Buffer

R = TypeVar("R")

log = logging.getLogger(__name__)

LONGEST_SLEEP = 3600.0
"""Seconds that a wait without end, or with a far one, sleeps at a time: the kernel does not take any number."""


PATIENCE = 5.0
"""Seconds that a wait for a server lasts before the log is told of it."""


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
        self._seats: dict[str, Seat] = {}
        self._ways: dict[str, str] = {}
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self._links: dict[str, Link] = {}
        self._by_descriptor: dict[int, Link] = {}
        self._connecting: dict[str, OwnedLock] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        self._without_fabric: set[str] = set()
        self._changing = OwnedLock()
        self._sleeping: set[SimpleQueue[None]] = set()
        self._polling: set[_Bell] = set()
        self._bells: list[_Bell] = []
        self._background: _Background | None = None

    def after_fork_in_child(self) -> None:
        """Abandon the parent's links, and what belongs to them."""
        for link in list(self._by_descriptor.values()):
            link.abandon()
        if self._background is not None:
            self._background.abandon()
        self._reset()

    def set_token(
        self, address: str, token: bytes, rank: int | None = None, *, via: str | None = None
    ) -> None:
        """Use `token` with the server at `address` from now on.

        Parameters
        ----------
        rank : int, optional
            Which member of the service is meant; another one that answers there is not spoken to. None takes any.
        via : str, optional
            Another address of this member, that of a tunnel perhaps, which is tried first.
        """
        address = canonical(address)
        self._seats[address] = Seat(token, rank)
        if via is None or canonical(via) == address:
            self._ways.pop(address, None)
        else:
            self._ways[address] = canonical(via)

    def link(self, address: str, timeout: float | None = None) -> Link:
        """Return the link to `address`, connecting where there is none.

        Raises
        ------
        AddressError
            Nobody answers there, or not the member that is meant, or one that lets nobody in yet.
        AuthenticationError
            The server and this client do not hold the same token.
        VersionMismatch
            They do not speak the same version.
        """
        address = canonical(address)
        link = self.living_link(address)
        if link is not None:
            return link
        began = time.monotonic()
        with self._connecting.setdefault(address, OwnedLock()):
            link = self.living_link(address)
            if link is None:
                when, why = self._refused.get(address, (0.0, ""))
                if when > began:  # another thread found out meanwhile
                    raise AddressError(why)
                limit = self.timeout if timeout is None else min(timeout, self.timeout)
                try:
                    link = self._adopt(address, *self._connect(address, limit))
                except AddressError as error:
                    self._refused[address] = (time.monotonic(), str(error))
                    raise
        return link

    def living_link(self, address: str) -> Link | None:
        """Return the link to `address` if there is one that this thread can use; never blocks."""
        link = self._links.get(canonical(address))
        if link is None or link.is_lost:
            return None
        if link.is_held_up:
            self.set_aside(link)
            return None
        return link

    def set_aside(self, link: Link) -> None:
        """Hand a link out no more: those who have it keep it, others connect anew."""
        link.is_aside = True
        if self._links.get(link.address) is link:
            del self._links[link.address]

    def _adopt(self, address: str, connected: socket.socket, peer: Asking, plane: Plane | None) -> Link:
        fabric = None
        if plane is not None and peer.fabric is not None:
            fabric = Fetcher(plane, peer.fabric.name)
        with self._changing:
            if self._background is None:
                made = _Background(self)
                if self._background is None:  # a call within this thread may have been here
                    self._background = made
            link = Link(self, address, peer, connected, self._background.poller, fabric)
            self._by_descriptor[link.descriptor] = link
            self._links[address] = link
        return link

    def _connect(self, address: str, timeout: float) -> tuple[socket.socket, Asking, Plane | None]:
        seat, via = self._seats.get(address), self._ways.get(address)
        if via is None:
            return self._greet(address, seat, timeout)
        deadline = time.monotonic() + timeout
        try:
            return self._greet(via, seat, timeout / 2)
        except MargoError as error:
            failure = error
        try:
            return self._greet(address, seat, deadline - time.monotonic())
        except AddressError as error:
            raise AddressError(f"{error}; nor by {via}: {failure}") from error

    def _greet(
        self, address: str, seat: Seat | None, timeout: float
    ) -> tuple[socket.socket, Asking, Plane | None]:
        deadline = time.monotonic() + timeout
        connected = transport.connect(address, timeout)
        try:
            plane = self._plane_to(address, connected)
            peer = Asking(seat, address, None if plane is None else offer(plane))
            while peer.queue.pump(connected.sendmsg) and peer.state is not State.OPEN:
                connected.settimeout(max(deadline - time.monotonic(), 1e-3))
                count = connected.recv_into(peer.reader.buffers()[0])
                if not count:
                    raise AddressError(f"the server at {address} closed the connection in the greeting")
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out")
                peer.reader.received(count)
                peer.next_event()
        except OSError as error:
            connected.close()
            raise AddressError(
                f"the server at {address} does not greet: {error.strerror or error}"
            ) from error
        except VersionMismatch:
            connected.close()
            raise
        except ProtocolError as error:
            connected.close()
            raise ProtocolError(f"what answers at {address} is no server of this kind: {error}") from error
        except BaseException:
            connected.close()
            raise
        if plane is not None and not peer.uses_fabric:
            self._do_without(address, f"the server has {peer.fabric or 'none'}, this process {offer(plane)}")
            plane = None
        return connected, peer, plane

    def _plane_to(self, address: str, connected: socket.socket) -> Plane | None:
        """Return the endpoint of a fabric to use beside a socket, if the address names one that works."""
        parsed = parse(address)
        if not isinstance(parsed, TcpAddress) or not parsed.fabric or address in self._without_fabric:
            return None
        try:
            return plane_to(parsed, connected.getsockname()[0])
        except FabricError as error:
            self._do_without(address, str(error))
            return None

    def _do_without(self, address: str, why: str) -> None:
        """Use the socket alone with a server from now on, and say so once."""
        if address not in self._without_fabric:
            self._without_fabric.add(address)
            log.warning("the fabric of %s is not used, its socket carries all: %s", address, why)

    def fabric_failed(self, link: Link, error: Exception) -> None:
        """Take note that bulk could not be fetched over a link, which is lost."""
        self._do_without(link.address, str(error))

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
        """Call an RPC defined with `Engine.define`; raises as `transfer` does."""
        return self.transfer(address, name, args, result, provider_id=provider_id, timeout=timeout)[0]

    def transfer(
        self,
        address: str,
        name: str,
        args: msgspec.Struct,
        result: type[R],
        *,
        provider_id: int = 0,
        timeout: float | None = None,
        bulk: Sequence[Sequence[Buffer]] = (),
    ) -> tuple[R, Sequence[memoryview | None]]:
        """Call an RPC, with bulk of the request, and return its answer, and the bulk of that.

        Parameters
        ----------
        bulk : sequence of sequence of buffers
            Segments, sent as they are when the call returns.

        Raises
        ------
        Fault
            What the handler raised.
        AddressError, AuthenticationError, ConnectionLost, DeadlineExceeded
            There was no answer. After the last two the call may have taken effect.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        link = self.link(address, seconds)
        pending = PendingCall()
        number = link.request(name, provider_id, rpc.pack(args), pending, bulk=bulk, timeout=seconds)
        whom = f"the server at {address} to answer {name}"
        if not self.wait_for_server(pending.is_done, lambda: (link,), deadline, lambda: whom):
            link.cancel(number)
            raise DeadlineExceeded(f"{name} at {address} has not answered within {seconds:g} s")
        if pending.error is not None:
            raise pending.error
        assert pending.frame is not None
        return rpc.unpack(pending.frame.message, result), pending.frame.bulk

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

        Raises
        ------
        HeldUp
            A frame of this thread is suspended in the middle of a message of one of `links`.
        """
        while not is_done():
            if time.monotonic() >= deadline:
                return False
            wanted = list(links())
            drives = bool(wanted)
            for link in wanted:
                if link.is_lost:
                    drives = False
                elif link.is_held_up:
                    raise HeldUp(
                        f"a call cannot wait for {link.address} where it has struck: this thread is suspended in the "
                        f"middle of a message of that connection"
                    )
            claim = Claim()
            try:
                try:
                    for link in wanted:
                        drives = drives and link.claim(claim)
                    if drives:
                        self._drive(claim, wanted, is_done, deadline)
                finally:
                    for link in wanted:
                        link.release(claim)
            except BaseException:
                # Ctrl-C may strike anywhere, also in the finally clause above.
                for link in wanted:
                    link.release(claim)
                self.notify()
                raise
            if drives:
                self.notify()
            else:
                self._sleep(is_done, deadline)
        return True

    def wait_for_server(
        self,
        is_done: Callable[[], bool],
        links: Callable[[], Collection[Link]],
        deadline: float,
        whom: Callable[[], str],
    ) -> bool:
        """Wait as `wait` does; one that lasts longer than `PATIENCE` is told to the log, and again when it is over.

        Parameters
        ----------
        whom : callable
            Tells server and reason, as they are then; empty if somebody else tells the log.
        """
        patience = min(deadline, time.monotonic() + PATIENCE)
        if self.wait(is_done, links, patience):
            return True
        if patience == deadline:
            return False
        server = whom()
        if not server:
            return self.wait(is_done, links, deadline)
        began = time.monotonic() - PATIENCE
        log.warning("waiting for %s, for %g s already", server, PATIENCE)
        outcome = "was interrupted"
        try:
            done = self.wait(is_done, links, deadline)
            outcome = "is over" if done else "was in vain"
        finally:
            log.warning("the wait for %s %s after %.1f s", server, outcome, time.monotonic() - began)
        return done

    def _sleep(self, is_done: Callable[[], bool], deadline: float) -> None:
        """Sleep until a `notify`, or the deadline."""
        alarm: SimpleQueue[None] = SimpleQueue()
        self._sleeping.add(alarm)
        try:
            if not is_done():
                alarm.get(timeout=min(max(deadline - time.monotonic(), 0), LONGEST_SLEEP))
        except Empty:
            pass
        finally:
            self._sleeping.discard(alarm)

    def _drive(
        self, claim: Claim, links: Sequence[Link], is_done: Callable[[], bool], deadline: float
    ) -> None:
        """Read claimed links until `is_done`, the deadline, or the loss of one of them."""
        try:
            bell = self._bells.pop()
        except IndexError:
            bell = _Bell()
        self._polling.add(bell)
        try:
            self._poll(claim, links, bell, is_done, deadline)
        finally:
            self._polling.discard(bell)
            self._bells.append(bell)

    def _poll(
        self,
        claim: Claim,
        links: Sequence[Link],
        bell: "_Bell",
        is_done: Callable[[], bool],
        deadline: float,
    ) -> None:
        by_descriptor = {link.descriptor: link for link in links}
        for link in links:
            link.set_driven(True)
        poll = select.poll()
        poll.register(bell.descriptor, select.POLLIN)
        while not is_done():
            for descriptor, link in by_descriptor.items():
                if link.is_lost:
                    return
                poll.register(descriptor, select.POLLIN | (select.POLLOUT if link.has_queued else 0))
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for descriptor, events in poll.poll(min(left, LONGEST_SLEEP) * 1000):
                if descriptor == bell.descriptor:
                    bell.clear()
                    for link in links:
                        if link.has_fetched and link.is_claimed_by(claim):
                            link.read()
                    continue
                link = by_descriptor[descriptor]
                if events & select.POLLOUT:
                    link.flush()
                if events & ~select.POLLOUT:
                    if not link.is_claimed_by(claim):
                        return
                    link.read()
            self.notify()

    def drain(self, link: Link) -> None:
        """Handle what has come in on `link`, and send on what is queued; never blocks."""
        link.flush()
        if self._read(link):
            self.notify()

    def _read(self, link: Link) -> bool:
        """Read a link, unless another thread does; return whether."""
        claim = Claim()
        try:
            try:
                if not link.claim(claim):
                    return False
                link.read()
            finally:
                link.release(claim)
        except BaseException:
            link.release(claim)
            raise
        return True

    def fetched(self, link: Link) -> None:
        """See to it that bulk that has come by a fabric is handed over: here, or by who reads the link."""
        if self._read(link):
            self.notify()
        else:
            self.rouse()

    def notify(self) -> None:
        """Let threads that wait look again whether they are done."""
        if self._sleeping:
            for alarm in list(self._sleeping):
                alarm.put(None)
                self._sleeping.discard(alarm)

    def rouse(self) -> None:
        """Have all that wait look again, those as well that read links meanwhile: it came by another way than those."""
        for bell in list(self._polling):
            bell.ring()
        self.notify()

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
            if link.is_lost:
                link.fail()
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
        self.rouse()
        self._bells.clear()


class _Bell:
    """Wakes a thread that polls links."""

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def __del__(self) -> None:
        with suppress(AttributeError):  # Ctrl-C struck while it was made
            os.close(self.descriptor)


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
        thread = threading.Thread(
            target=_serve,
            args=(weakref.ref(client), self.poller, self._wake),
            name="margo-client",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            # The interpreter exits, and starts no thread any more: who waits reads.

    def abandon(self) -> None:
        """Let go in a forked child, which has no such thread."""
        self.stop.detach()
        self.poller.close()
        os.close(self._wake)


def _serve(client: "weakref.ref[Client]", poller: select.epoll, wake: int) -> None:
    """Handle what comes until woken. The one who wakes comes last: `wake` is not closed, and another's, before."""
    try:
        while True:
            ready = poller.poll()
            if any(descriptor == wake for descriptor, _ in ready):
                return
            owner = client()
            if owner is not None:
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
