"""The client's end of a connection: the greeting, calls and streams that wait for frames, and descriptors that came.

| what waits | frame | what follows |
|---|---|---|
| a call | RESPONSE or FAULT of its number | it is given the frame, and waits no more |
| a stream | NOTICE of its number | it is given the frame |
| a stream | FAULT of its number | it is given the frame, and waits no more |
| nobody | any | the frame is passed over; its descriptor is closed |
| anybody | the connection is lost | all are told so |

A `Delivery` is looked at, carried out, and then taken out by `delivered`: who was interrupted while carrying it out is
among those that are told of the loss. Each change of the table is one operation of the interpreter, so requests and
cancellations may come from any thread, and from calls that strike in the middle of others.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from mochi.margo import rpc
from mochi.margo.errors import MargoError, ProtocolError, RemoteProtocolError
from mochi.margo.handshake import (
    FABRIC,
    Fabric,
    Seat,
    Terms,
    Welcome,
    answer,
    fabric_in,
    hello,
    refusal,
)
from mochi.margo.peer.states import REFUSAL, Conversation, Role, State
from mochi.margo.wire import (
    DESCRIPTORS,
    GREETING_LIMITS,
    ONE_WAY,
    REMOTE,
    Buffer,
    Frame,
    FrameReader,
    Kind,
    Limits,
    Segment,
    SendQueue,
    allocate_private,
    encode,
    keys_of,
)

MAX_DESCRIPTORS = 64
"""Descriptors that came, and that no frame has announced yet."""


class Receiver(Protocol):
    """Whoever expects frames: a pending call, or a stream of notices."""

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        """Return the memory for the inline bulk of `frame`."""

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
        """Whether there is an answer, or will be none."""
        return self.frame is not None or self.error is not None


class Placed(Protocol):
    """Bulk of a request, some of it in memory that the server fetches."""

    segments: list[Segment]
    inline: list[Sequence[Buffer]]

    def let_go(self) -> None:
        """Take note that the server has what it wants of it."""


class Delivery(msgspec.Struct, frozen=True):
    """Who is to be given a frame.

    Attributes
    ----------
    refused : MargoError or None
        Why there is no memory for its bulk: told to the receiver instead.
    is_last : bool
        Whether the receiver waits for no more.
    descriptor : int or None
        The descriptor that came with the frame.
    """

    receiver: Receiver
    frame: Frame
    refused: MargoError | None
    is_last: bool
    descriptor: int | None


class Asking(Conversation):
    """The client's end of a connection.

    Parameters
    ----------
    seat : Seat or None
        Who is meant; None if no token is known.
    where : str
        The server's address, for messages.
    fabric : Fabric or None
        What this end has of a fabric.

    Attributes
    ----------
    instance : bytes
        Tells the server's start; empty before WELCOME.
    fabric : Fabric or None
        What the server has of a fabric; it is used if `uses_fabric`.
    reader : FrameReader
        Where the next bytes go.
    queue : SendQueue
        What is to be sent; at first the greeting.
    offered : deque of int
        Descriptors that came, in order; each belongs to one of the frames that come next.
    discarded : deque of int
        Those that nobody has taken, which are to be closed.
    """

    def __init__(self, seat: Seat | None, where: str, fabric: Fabric | None = None) -> None:
        super().__init__(Role.CLIENT)
        self.instance = b""
        self.fabric: Fabric | None = None
        self.uses_fabric = False
        self.reader = FrameReader(self._allocate, GREETING_LIMITS)
        self.queue = SendQueue()
        self.offered: deque[int] = deque()
        self.discarded: deque[int] = deque()
        self._where = where
        self._receivers: dict[int, tuple[Receiver, bool]] = {}
        self._placed: dict[int, Placed] = {}
        self._numbers = itertools.count(1)
        self._token = None if seat is None else seat.token
        self._greeting = hello(seat, fabric)
        self.say(Kind.HELLO)
        self.queue.append(encode(Kind.HELLO, message=rpc.pack(self._greeting)))

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for a frame."""
        return bool(self._receivers)

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
        placed: Placed | None = None,
    ) -> int:
        """Queue a request; return its call number. See `mochi.margo.link.Link.request`."""
        if Kind.REQUEST not in self.ours:
            self.say(Kind.REQUEST)
        call = next(self._numbers)
        if placed is None:
            segments = [Segment(sum(map(len, buffers))) for buffers in bulk] if bulk else []
        else:
            segments, bulk = [*placed.segments], placed.inline
            self._placed[call] = placed
        if lent is not None:
            segments.append(lent)
        buffers: list[Buffer] = [
            encode(
                Kind.REQUEST,
                call=call,
                rpc=rpc.number(name),
                provider_id=provider_id,
                flags=0 if receiver is not None else ONE_WAY,
                timeout_ms=0 if timeout is None else int(min(max(timeout * 1000, 1), 0xFFFFFFFF)),
                message=message,
                segments=segments,
                extensions=() if placed is None else keys_of(segments),
            )
        ]
        for segment in bulk:
            buffers += segment
        if receiver is not None:
            self._receivers[call] = (receiver, False)
        self.queue.put(buffers)
        return call

    def open_stream(self, receiver: Receiver) -> int:
        """Return the number of a new stream, whose frames go to `receiver`."""
        number = next(self._numbers)
        self._receivers[number] = (receiver, True)
        return number

    def forget(self, number: int) -> bool:
        """Wait no more for the frames of a stream, or for an answer; return whether that was waited for."""
        return self._receivers.pop(number, None) is not None

    def cancel(self, call: int) -> None:
        """Wait no more for an answer, and queue what says so to the server."""
        if self.forget(call) and Kind.CANCEL in self.ours:
            self.queue.append(encode(Kind.CANCEL, call=call))

    def fetched(self, frame: Frame) -> None:
        """Queue what says that the remote bulk of a frame was fetched, and may go."""
        if Kind.FETCHED in self.ours:
            self.queue.append(encode(Kind.FETCHED, call=frame.call))

    def unfetched(self) -> list[Any]:
        """Return the bulk of requests that the server may still fetch: of all that it has not answered."""
        return [*self._placed.values()]

    def offer(self, descriptors: Sequence[int]) -> None:
        """Take note of descriptors that came with the bytes that come next.

        Raises
        ------
        RemoteProtocolError
            There are too many that nothing has announced.
        """
        self.offered.extend(descriptors)
        if len(self.offered) > MAX_DESCRIPTORS:
            raise RemoteProtocolError(
                f"the server at {self._where} sends file descriptors that belong to nothing"
            )

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the frame being received, which is the caller's then.

        Raises
        ------
        RemoteProtocolError
            None came.
        """
        if not self.offered:
            raise RemoteProtocolError(f"the server at {self._where} lent a buffer without its descriptor")
        return self.offered.popleft()

    def next_event(self) -> Delivery | None:
        """Return who is to be given the next frame; None when more bytes are needed.

        Raises
        ------
        MargoError
            The server has ended the connection, or broken the format.
        """
        while (frame := self.reader.next_frame()) is not None:
            kind = frame.kind
            if self.state is not State.OPEN:
                self._greet(frame)
                continue
            if kind not in self.theirs or (kind is Kind.FAULT and not frame.call):
                self._end(frame)
            descriptor = None
            if frame.flags & DESCRIPTORS:
                if not self.offered:
                    raise RemoteProtocolError(
                        f"the server at {self._where} announced a file descriptor that did not come"
                    )
                descriptor = self.offered[0]
            if frame.is_remote and not self.uses_fabric:
                raise RemoteProtocolError(
                    f"the server at {self._where} names memory of a fabric that is not used"
                )
            receiver, is_stream = self._receivers.get(frame.call, _NOBODY)
            if frame.call in self._placed and kind is not Kind.NOTICE:
                self._placed.pop(frame.call).let_go()
            if receiver is None:
                if frame.is_remote:
                    self.fetched(frame)
                self._discard(descriptor)
                continue
            if kind is not (Kind.NOTICE if is_stream else Kind.RESPONSE):
                if kind is not Kind.FAULT:
                    raise RemoteProtocolError(
                        f"the server at {self._where} sent a {kind.name} on call {frame.call}"
                    )
                is_stream = False
            refused = None
            if frame.refused is not None:
                refused = MargoError(f"no memory for the bulk from {self._where}: {frame.refused!r}")
                is_stream = False
            return Delivery(receiver, frame, refused, not is_stream, descriptor)
        return None

    def delivered(self, delivery: Delivery) -> None:
        """Take out what was carried out."""
        if delivery.is_last:
            self._receivers.pop(delivery.frame.call, None)
        if delivery.descriptor is not None:
            self._discard(delivery.descriptor)

    def _discard(self, descriptor: int | None) -> None:
        if self.offered and self.offered[0] == descriptor:
            self.discarded.append(self.offered.popleft())

    def close(self) -> None:
        """Say and hear nothing any more."""
        self.enter(State.CLOSED)
        while self.offered:
            self.discarded.append(self.offered.popleft())

    def take_receiver(self) -> Receiver | None:
        """Return somebody who waits for frames, and does not any more; for a connection that is lost."""
        try:
            return self._receivers.popitem()[1][0]
        except KeyError:
            return None

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        receiver, _ = self._receivers.get(frame.call, _NOBODY)
        if receiver is None:
            raise ProtocolError("nobody waits for this")
        if frame.is_remote:  # what is fetched is not the receiver's to allocate
            inline = [segment for segment in frame.segments if segment.lease != REMOTE]
            frame = msgspec.structs.replace(frame, segments=inline)
        return receiver.allocate(frame)

    def _greet(self, frame: Frame) -> None:
        if frame.kind is Kind.FAULT:
            self._end(frame)
        self.hear(frame.kind)
        reply = rpc.unpack(frame.message, Welcome)
        proof = answer(self._greeting, reply, self._token, self._where)
        terms = rpc.unpack(reply.terms, Terms)
        self.instance = terms.instance
        self.fabric = fabric_in(terms.more)
        self.uses_fabric = bool(terms.features & FABRIC)
        self.reader.limits = Limits()
        self.say(Kind.PROOF)
        self.queue.append(encode(Kind.PROOF, message=rpc.pack(proof)))

    def _end(self, frame: Frame) -> None:
        """Raise for a frame that ends the connection."""
        if frame.kind is not Kind.FAULT:
            self.hear(frame.kind)
        self.hear(REFUSAL)
        raise refusal(rpc.unpack_fault(frame.message), self._where)


_NOBODY: tuple[None, bool] = None, False
