"""The server's end of a connection: the greeting, calls that are to be answered, and what may be held for the peer.

A peer is read from only while it lets itself be answered: see `MAX_OUTSTANDING`, and `mochi.margo.peer.budget`.

| a call | what happens | next |
|---|---|---|
| | REQUEST | outstanding; its memory counts as that of requests |
| outstanding | CANCEL | outstanding and cancelled: its handler need not begin |
| outstanding | it is answered, also one that wants no answer | its number is free; its answer counts until it is sent |
| outstanding | the connection closes | cancelled; what answers it later does nothing |

| reading | what happens | next |
|---|---|---|
| goes on | too much is outstanding, held, or waits for memory; or nothing more is wanted | paused |
| paused | none of these | goes on |
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from mochi.margo import rpc
from mochi.margo.errors import AuthenticationError, Fault, LocalProtocolError, MargoError, RemoteProtocolError
from mochi.margo.handshake import (
    FABRIC,
    Fabric,
    Proof,
    Seat,
    Terms,
    fabric_in,
    is_proof,
    read_hello,
    welcome,
)
from mochi.margo.peer.budget import Budget, Grant, Reservation, Side
from mochi.margo.peer.gate import Gate
from mochi.margo.peer.states import REFUSAL, Conversation, Role, State
from mochi.margo.wire import (
    DESCRIPTORS,
    GREETING_LIMITS,
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

MAX_OUTSTANDING = 256
"""Requests of one connection that wait for an answer before no more is read from it."""


class House(Protocol):
    """What the connections of a server have in common."""

    gate: Gate
    instance: bytes
    budget: Budget
    fabric: Fabric | None

    def grant(self, grants: Sequence[Grant]) -> None:
        """Have what was granted by the budget called soon, and see to it that a budget that is used up comes free."""


class Kept(Protocol):
    """Memory that the peer fetches."""

    def let_go(self) -> None:
        """Take note that it was fetched."""


class Call:
    """A request that waits for its answer.

    Attributes
    ----------
    frame : Frame
    size, reserved : int
        Bytes that are held for it, and that are reserved for its answer.
    cancelled : bool
        True once the caller has taken the request back.
    """

    __slots__ = ("cancelled", "frame", "reserved", "size")

    def __init__(self, frame: Frame, size: int) -> None:
        self.frame = frame
        self.size = size
        self.reserved = 0
        self.cancelled = False


C = TypeVar("C", bound=Call)


class Answering(Conversation, Generic[C]):
    """The server's end of a connection. One thread at a time, but for `reserve`.

    Parameters
    ----------
    house : House
    make : callable
        Makes a call of a frame and of the bytes that are held for it.
    allocate : callable
        Returns the memory for a request's bulk.
    go_on : callable
        Called when memory has come that reading was paused for.
    clock : callable
        Returns seconds that only grow.

    Attributes
    ----------
    account : Account
        What is held for this peer.
    reader : FrameReader
        Where the next bytes go, while `is_reading`.
    queue : SendQueue
        What is to be sent.
    lending : deque
        Frames that go with descriptors, when the queue is empty; they have no bulk, and may be overtaken.
    calls : dict
        Those outstanding, by their numbers.
    peer_fabric : Fabric or None
        What the peer has of a fabric, if it is used.
    is_reading : bool
        Whether the peer is read from.
    """

    def __init__(
        self,
        house: House,
        make: Callable[[Frame, int], C],
        allocate: Allocate,
        go_on: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(Role.SERVER)
        self._budget = house.budget
        self.account = self._budget.open()
        self.reader = FrameReader(allocate, GREETING_LIMITS, self._admit)
        self.queue = SendQueue()
        self.lending: deque[tuple[bytes, list[int]]] = deque()
        self.calls: dict[int, C] = {}
        self.is_reading = True
        self.peer_fabric: Fabric | None = None
        self._kept: dict[int, deque[Kept]] = {}
        self._is_ending = False
        self._house = house
        self._make = make
        self._go_on = go_on
        self._clock = clock
        self._admitted = 0
        self._queued = 0
        self._counted = 0
        self._answered = 0
        self._token: bytes | None = None
        self._said: tuple[bytes, bytes] = b"", b""

    def next_event(self, count: int = 0) -> C | None:
        """Return the next request; None if more bytes are needed, or reading is to pause, see `turn`.

        Parameters
        ----------
        count : int
            Bytes of it that have come just now.

        Raises
        ------
        MargoError
            The peer is to be refused.
        """
        reader = self.reader
        call = None
        while call is None and not self.is_full:
            frame = reader.next_frame()
            if frame is None:
                break
            if self.state is not State.OPEN:
                self._greet(frame)
            elif frame.kind is Kind.REQUEST:
                if frame.is_remote and self.peer_fabric is None:
                    raise RemoteProtocolError("a request names memory of a fabric that is not used")
                if frame.call in self.calls:
                    raise RemoteProtocolError(f"call number {frame.call} is still in use")
                call = self.calls[frame.call] = self._make(frame, self._admitted)
                self._admitted = 0
            else:
                self.hear(frame.kind)
                if frame.kind is Kind.FETCHED:
                    self._let_go(frame.call)
                else:
                    self._cancel(frame.call)
            if self._admitted:
                self._change(-self._admitted, 0)
                self._admitted = 0
        if not reader.has_more and self.is_reading and not reader.held_up:
            sending = self.account.sending
            if reader.is_amid:
                sending.moved(count, self._clock())
            elif sending.since is not None:
                sending.over()
        return call

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be taken from the peer for now."""
        return (
            len(self.calls) >= MAX_OUTSTANDING
            or (self.account.held >= self._budget.connection and not self._admitted)
            or self.reader.held_up
            or self._is_ending
        )

    def turn(self) -> bool | None:
        """Look whether reading is to go on; return True if it does again, False if it pauses, None if all stays."""
        if self.is_reading is not self.is_full or self.state is State.CLOSED:
            return None
        self.is_reading = not self.is_reading
        if not self.is_reading:
            self.account.sending.over()
        elif self.reader.is_amid and not self.reader.has_more:
            self.account.sending.moved(0, self._clock())
        return self.is_reading

    def end_reading(self) -> None:
        """Take no more from the peer."""
        self._is_ending = True

    def answer(
        self,
        call: C,
        frame: bytes | None,
        bulk: Sequence[Sequence[Buffer]] = (),
        descriptors: Sequence[int] = (),
    ) -> bool:
        """Queue the answer to a call, if it wants one; return False if it is answered already.

        Parameters
        ----------
        frame : bytes or None
            Encoded up to its bulk.
        descriptors : sequence of int
            Those of a frame with the flag DESCRIPTORS; closed by who sends it.
        """
        number = call.frame.call
        if self.calls.get(number) is not call:
            return False
        del self.calls[number]
        self._answered += call.size
        self._counted += call.reserved
        if frame is not None:
            self._put(frame, bulk, descriptors)
        return True

    def notify(
        self, stream: int, message: bytes, bulk: Sequence[Sequence[Buffer]] = (), reserved: int = 0
    ) -> None:
        """Queue a notice on a stream that the peer has named, for which some bytes were reserved."""
        self.notify_encoded(frame_of(Kind.NOTICE, stream, message, bulk), bulk, reserved)

    def notify_encoded(self, frame: bytes, bulk: Sequence[Sequence[Buffer]], reserved: int) -> None:
        """Queue a notice that is encoded up to its bulk."""
        self.say(Kind.NOTICE)
        self._counted += reserved
        self._put(frame, bulk)

    def fail_stream(self, stream: int, message: bytes) -> None:
        """Queue a fault on a stream: nothing more will come on it."""
        self.say(Kind.FAULT)
        self._put(encode(Kind.FAULT, call=stream, message=message))

    def refuse(self, error: MargoError) -> None:
        """Queue what tells the peer why the connection ends."""
        self.say(REFUSAL)
        self._put(encode(Kind.FAULT, message=rpc.pack_fault(_as_fault(error))))

    def sent(self, is_all: bool) -> None:
        """Take note that all that was queued is sent, or what of it the peer took."""
        before, self._queued = self._queued, 0 if is_all else self.queue.size
        reading = self.account.reading
        if not is_all:
            reading.moved(before - self._queued, self._clock())
        elif reading.since is not None:
            reading.over()
        if self._answered or self._queued != self._counted:
            self.count()

    def count(self) -> None:
        """Have the budget know what was answered, and what is queued now."""
        answered, queued = self._answered, self._queued - self._counted
        self._answered, self._counted = 0, self._queued
        if answered or queued:
            self._change(-answered, queued)

    def reserve(self, size: int, grant: Grant) -> Reservation | None:
        """Reserve bytes for what is to be sent; None if they are there, else what waits for `grant`. Any thread."""
        return self._reserve(self.account.answers, size, grant)

    def cancel(self, reservation: Reservation) -> None:
        """Take back a reservation that waits."""
        self._house.grant(self._budget.cancel(reservation))

    def release(self, size: int) -> None:
        """Return what was reserved, and is not needed, to the budget."""
        self._change(0, -size)

    def close(self) -> list[int]:
        """Say and hear nothing any more, and let go of all that is held; return descriptors that are to be closed."""
        self.enter(State.CLOSED)
        self.queue.clear()
        left = [descriptor for _, descriptors in self.lending for descriptor in descriptors]
        self.lending.clear()
        for call in self.calls.values():
            call.cancelled = True
        self.calls.clear()
        self._kept.clear()
        # What has half arrived goes now, and not when the garbage collector next looks at the cycles here.
        self.reader = FrameReader(allocate_private)
        self._make = self._go_on = _gone
        self._house.grant(self._budget.close(self.account))
        return left

    def _put(
        self, frame: bytes, bulk: Sequence[Sequence[Buffer]] = (), descriptors: Sequence[int] = ()
    ) -> None:
        if descriptors:
            self.lending.append((frame, list(descriptors)))
            return
        self._queued += len(frame)
        self.queue.append(frame)
        for buffers in bulk:
            self._queued += sum(map(len, buffers))
            self.queue.put(buffers)

    def keep(self, number: int, memory: Kept) -> None:
        """Keep memory that the peer fetches for the next frame of a call or stream.

        It is bounded where it is made, and nothing waits for it: what says that it was fetched may come late.
        """
        self._kept.setdefault(number, deque()).append(memory)

    def unfetched(self) -> list[Any]:
        """Return the memory that the peer has not said to have fetched."""
        return [memory for kept in self._kept.values() for memory in kept]

    def _let_go(self, number: int) -> None:
        kept = self._kept.get(number)
        if not kept:
            raise RemoteProtocolError(f"nothing was to be fetched on call {number}")
        kept.popleft().let_go()
        if not kept:
            del self._kept[number]

    def _cancel(self, number: int) -> None:
        if number in self.calls:
            self.calls[number].cancelled = True

    def _greet(self, frame: Frame) -> None:
        if frame.kind not in self.theirs:
            raise AuthenticationError(self.describe(Role.CLIENT, frame.kind))
        if frame.kind is Kind.HELLO:
            greeting = read_hello(frame.message)
            seat: Seat | None = self._house.gate.seat_of(greeting)
            self.hear(Kind.HELLO)
            self._token = None if seat is None else seat.token
            reply = welcome(greeting, frame.message, self._token, self._house.instance, self._house.fabric)
            if rpc.unpack(reply.terms, Terms).features & FABRIC:
                self.peer_fabric = fabric_in(greeting.more)
            self._said = frame.message, reply.terms
            self.say(Kind.WELCOME)
            self._put(encode(Kind.WELCOME, message=rpc.pack(reply)))
            return
        proof = rpc.unpack(frame.message, Proof)
        if not is_proof(proof, self._token, *self._said):
            raise AuthenticationError("the token is not that of this service")
        self.hear(Kind.PROOF)
        self.reader.limits = Limits()

    def _admit(self, size: int) -> bool:
        """Take memory for the frame that has begun, or have reading go on when there is some."""
        if self._reserve(self.account.requests, size, partial(self._admitted_late, size)) is not None:
            return False
        self._admitted += size
        return True

    def _admitted_late(self, size: int) -> None:
        if self.state is not State.CLOSED:
            self._admitted += size
            self.reader.go_on()
            self._go_on()

    def _reserve(self, side: Side, size: int, grant: Grant) -> Reservation | None:
        reservation = self._budget.reserve(side, size, grant)
        self._house.grant(())
        return reservation

    def _change(self, requests: int, answers: int) -> None:
        self._house.grant(self._budget.change(self.account, requests, answers))


def _gone(*_: object) -> Any:
    raise LocalProtocolError("the connection is closed")


def frame_of(
    kind: Kind,
    call: int,
    message: bytes,
    bulk: Sequence[Sequence[Buffer]] = (),
    descriptors: Sequence[int] = (),
) -> bytes:
    """Return the bytes of a frame of a server up to its bulk."""
    segments = [Segment(sum(map(len, buffers))) for buffers in bulk] if bulk else ()
    return encode(
        kind, call=call, flags=DESCRIPTORS if descriptors else 0, message=message, segments=segments
    )


def _as_fault(error: MargoError) -> Fault:
    if isinstance(error, Fault):
        return error
    return Fault("authentication" if isinstance(error, AuthenticationError) else "protocol", str(error))
