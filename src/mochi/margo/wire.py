"""Wire format without I/O: frames out of bytes, and bytes out of frames.

A connection carries frames in both directions. A frame is a head of fixed size, extensions, segment records, a
message, and the bytes of its inline segments (see ``docs/wire-format.md``). Nothing here touches a socket.

Rules
-----
1. Every length is checked against `Limits` before memory is taken for it. Any bytes at all give frames or a
   `ProtocolError`, nothing else, and the memory held is bounded by the limits.
2. Inline segments are received straight into the buffers that `allocate` names; at most `STAGING_SIZE` bytes of them,
   those that arrived together with the head, are copied.
3. Extensions are skippable: a reader passes over tags that it does not know. A frame of unknown kind is skipped
   when its flag `SKIPPABLE` is set and it carries no bulk, and an error otherwise.
"""

import enum
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from mochi.margo.errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"MFK1"
VERSION = 2
STAGING_SIZE = 16 * 1024
MAX_SEGMENTS = 16
MAX_MESSAGE = 16 << 20

HEAD = struct.Struct("<4sBBHIIQIHHII")
SEGMENT = struct.Struct("<QIIQ")
EXTENSION = struct.Struct("<HHI")


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    PROOF = 3
    REQUEST = 4
    RESPONSE = 5
    FAULT = 6
    CANCEL = 7
    NOTICE = 8


_KINDS = {int(kind): kind for kind in Kind}

SKIPPABLE = 0x01
ONE_WAY = 0x02
DESCRIPTORS = 0x04


class Limits(msgspec.Struct, frozen=True):
    """What a peer may send, in bytes; a frame beyond any of these closes the connection."""

    message: int = MAX_MESSAGE
    extensions: int = 64 << 10
    segment: int = 1 << 33


GREETING_LIMITS = Limits(message=4096, extensions=4096, segment=0)
"""Until a peer has proved itself it may send this much and no more."""


class Segment(msgspec.Struct, frozen=True):
    """One bulk segment of a frame: `length` bytes, inline (lease 0) or at `offset` of a buffer lent before."""

    length: int
    lease: int = 0
    offset: int = 0


class Frame(msgspec.Struct):
    """One whole frame.

    Attributes
    ----------
    call : int
        Number that pairs a response with its request, or names the stream of a notice.
    bulk : list of memoryview or None
        One entry a segment; None for a segment that lies in a lent buffer, or that `allocate` refused.
    refused : Exception or None
        Why `allocate` refused; the segments' bytes were passed over.
    """

    kind: Kind
    flags: int
    provider_id: int
    rpc: int
    call: int
    timeout_ms: int
    message: bytes
    extensions: dict[int, bytes]
    segments: list[Segment]
    bulk: list[memoryview | None]
    refused: Exception | None = None


Allocate: TypeAlias = Callable[[Frame], Sequence[memoryview]]


def allocate_private(frame: Frame) -> list[memoryview]:
    """Give every inline segment of `frame` memory of its own."""
    return [memoryview(bytearray(segment.length)) for segment in frame.segments if not segment.lease]


def encode(
    kind: Kind,
    *,
    call: int = 0,
    rpc: int = 0,
    provider_id: int = 0,
    flags: int = 0,
    timeout_ms: int = 0,
    message: Buffer = b"",
    segments: Sequence[Segment] = (),
    extensions: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """Return the bytes of a frame up to its inline segments, which follow it in their order.

    Raises
    ------
    ProtocolError
        The message is longer, or the segments are more, than any peer takes.
    """
    if len(message) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(message)} bytes, at most {MAX_MESSAGE} may be sent")
    if len(segments) > MAX_SEGMENTS:
        raise ProtocolError(f"{len(segments)} bulk segments, at most {MAX_SEGMENTS} may be sent")
    tail = b"".join(EXTENSION.pack(tag, 0, len(body)) + body for tag, body in extensions)
    records = b"".join(SEGMENT.pack(s.offset, s.lease, 0, s.length) for s in segments)
    head = HEAD.pack(
        MAGIC, kind, flags, provider_id, rpc, len(message), call, len(tail), len(segments), 0, timeout_ms, 0
    )
    return b"".join((head, tail, records, message))


def _parse_extensions(raw: memoryview) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < EXTENSION.size:
            raise ProtocolError(f"{len(raw) - at} bytes left where an extension needs {EXTENSION.size}")
        tag, _, length = EXTENSION.unpack_from(raw, at)
        at += EXTENSION.size
        if length > len(raw) - at:
            raise ProtocolError(f"extension {tag} says {length} bytes, and {len(raw) - at} are left")
        found[tag] = bytes(raw[at : at + length])
        at += length
    return found


class FrameReader:
    """Turns received bytes into frames; owns where the next bytes go.

    Parameters
    ----------
    allocate : callable
        Given a frame whose `bulk` is still empty, returns one writable buffer of the right length for each inline
        segment. What it raises is kept as `Frame.refused`; the bytes are then passed over.
    limits : Limits
        Replaced by the owner once the peer has proved itself.
    admit : callable
        Asked before more than `STAGING_SIZE` bytes are taken for a frame. Where it says no, the reader is `held_up`
        until `go_on`.

    Attributes
    ----------
    held_up : bool
        Whether the frame that comes next waits for memory; `buffers` must not be received into.

    Notes
    -----
    Use: receive into `buffers()`, in their order, then hand the number of bytes to `received()`. Not for use by
    two threads at once. Cost: one small copy of head and message a frame, nothing per event.
    """

    def __init__(
        self,
        allocate: Allocate,
        limits: Limits = GREETING_LIMITS,
        admit: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self.limits = limits
        self.held_up = False
        self._allocate = allocate
        self._admit = admit
        self._announced: tuple[Frame, int] | None = None
        self._staging = memoryview(bytearray(STAGING_SIZE))
        self._held = self._staging
        self._start = 0
        self._end = 0
        self._need = HEAD.size
        self._frame: Frame | None = None
        self._missing: deque[memoryview] = deque()
        self._skip = 0

    def buffers(self) -> list[memoryview]:
        """Return where to put the next bytes from the peer."""
        if self._missing:
            return [*self._missing, self._staging]
        if self._skip:
            return [self._staging[: min(self._skip, STAGING_SIZE)]]
        return [self._held[self._end :]]

    def received(self, count: int) -> Iterator[Frame]:
        """Take note of `count` bytes in `buffers()`, and yield the frames that they complete.

        Exhaust the iterator before the next `buffers()`. Limits changed meanwhile hold for the next frame.

        Raises
        ------
        ProtocolError
            The bytes break the wire format. The reader is of no more use.
        """
        if self._missing or self._skip:
            return self._continued(count)
        self._end += count
        return self._parsed()

    def _continued(self, count: int) -> Iterator[Frame]:
        if self._missing:
            self._end += self._fill(count)
            if not self._missing:
                yield self._finish()
                yield from self._parsed()
        else:
            self._skip -= count
            if not self._skip:
                yield self._finish()

    def go_on(self) -> Iterator[Frame]:
        """Return what `received` would have yielded, had `admit` said yes."""
        self.held_up = False
        return self._gone_on()

    def _gone_on(self) -> Iterator[Frame]:
        if self._announced is not None:
            (frame, inline), self._announced = self._announced, None
            whole = self._begin_bulk(frame, inline)
            if whole is not None:
                yield whole
            yield from self._parsed()
        else:
            self._grow()

    @property
    def is_amid(self) -> bool:
        """Whether a frame has begun that is not whole."""
        return self._frame is not None or self._end > self._start

    @property
    def has_more(self) -> bool:
        """Whether the iterator of `received` may have another frame."""
        return self._frame is None and not self.held_up and self._end - self._start >= self._need

    def _parsed(self) -> Iterator[Frame]:
        while self._frame is None and self._end - self._start >= self._need:
            frame = self._parse()
            if frame is not None:
                yield frame
            elif self.held_up:
                return
        self._make_space()

    def _fill(self, count: int) -> int:
        missing = self._missing
        while count and missing:
            view = missing[0]
            if count < len(view):
                missing[0] = view[count:]
                return 0
            count -= len(view)
            missing.popleft()
        return count

    def _finish(self) -> Frame:
        frame = self._frame
        assert frame is not None
        self._frame = None
        return frame

    def _make_space(self) -> None:
        """Make room for the rest of an unfinished head; only ever moves bytes of that head."""
        left = self._end - self._start
        if self._frame is not None or not left:
            self._start = self._end = 0
            self._held = self._staging
        elif self._need > len(self._held):
            self.held_up = not self._admit(self._need)
            if not self.held_up:
                self._grow()
        elif self._start:
            rest = bytes(self._held[self._start : self._end])
            self._held[:left] = rest
            self._start, self._end = 0, left

    def _grow(self) -> None:
        left = self._end - self._start
        grown = memoryview(bytearray(self._need))
        grown[:left] = self._held[self._start : self._end]
        self._held, self._start, self._end = grown, 0, left

    def _parse(self) -> Frame | None:
        """Parse one head; return the frame if it is whole, else note what is missing of it."""
        held, at = self._held, self._start
        (
            magic, kind, flags, provider_id, rpc, message_length, call, extension_length, segment_count, zero,
            timeout_ms, zero2,
        ) = HEAD.unpack_from(held, at)  # fmt: skip
        if magic != MAGIC:
            raise ProtocolError(f"a frame starts with {bytes(magic)!r}, expected {MAGIC!r}")
        if zero or zero2:
            raise ProtocolError("reserved bytes of a frame's head are not zero")
        if kind not in _KINDS and (segment_count or not flags & SKIPPABLE):
            raise ProtocolError(f"unknown frame kind {kind}")
        limits = self.limits
        if message_length > limits.message:
            raise ProtocolError(f"a message of {message_length} bytes, at most {limits.message} are allowed")
        if extension_length > limits.extensions:
            raise ProtocolError(
                f"extensions of {extension_length} bytes, at most {limits.extensions} are allowed"
            )
        if segment_count > MAX_SEGMENTS:
            raise ProtocolError(f"{segment_count} bulk segments, at most {MAX_SEGMENTS} are allowed")
        size = HEAD.size + extension_length + SEGMENT.size * segment_count + message_length
        if self._end - at < size:
            self._need = size
            return None
        self._need = HEAD.size
        at += HEAD.size
        extensions = _parse_extensions(held[at : at + extension_length]) if extension_length else {}
        at += extension_length
        segments: list[Segment] = []
        inline = 0
        for _ in range(segment_count):
            offset, lease, zero, length = SEGMENT.unpack_from(held, at)
            at += SEGMENT.size
            if zero:
                raise ProtocolError("reserved bytes of a segment record are not zero")
            if length > limits.segment:
                raise ProtocolError(f"a bulk segment of {length} bytes, at most {limits.segment} are allowed")
            segments.append(Segment(length, lease, offset))
            inline += 0 if lease else length
        message = bytes(held[at : at + message_length])
        self._start = at + message_length
        if kind not in _KINDS:
            return None
        frame = Frame(
            _KINDS[kind], flags, provider_id, rpc, call, timeout_ms, message, extensions, segments, []
        )  # fmt: skip
        if inline > STAGING_SIZE and not self._admit(inline):
            self._announced = frame, inline
            self.held_up = True
            return None
        return self._begin_bulk(frame, inline) if segments else frame

    def _begin_bulk(self, frame: Frame, inline: int) -> Frame | None:
        here = min(inline, self._end - self._start)
        try:
            targets = list(self._allocate(frame))
            if [len(t) for t in targets] != [s.length for s in frame.segments if not s.lease]:
                raise ProtocolError("the memory for the bulk is not of the size of the bulk")
        except Exception as error:
            frame.refused = error
            frame.bulk = [None] * len(frame.segments)
            self._start += here
            if here == inline:
                return frame
            self._skip = inline - here
            self._frame = frame
            return None
        remaining = iter(targets)
        frame.bulk = [None if segment.lease else next(remaining) for segment in frame.segments]
        self._missing.extend(target for target in targets if len(target))
        while here and self._missing:
            target = self._missing[0]
            part = min(here, len(target))
            target[:part] = self._held[self._start : self._start + part]
            self._start += part
            here -= part
            self._fill(part)
        if not self._missing:
            return frame
        self._frame = frame
        return None


class SendQueue:
    """Buffers on their way out, in order. Not for use by two threads at once.

    `pump` sends what the socket takes now: no copy, gathered up to `IOV` buffers a call.

    Attributes
    ----------
    size : int
        Bytes in the queue.
    """

    IOV = 512

    def __init__(self) -> None:
        self.size = 0
        self._queue: deque[Buffer] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, buffers: Iterable[Buffer]) -> None:
        """Append `buffers`; they are kept by reference until they are sent."""
        for buffer in buffers:
            if length := len(buffer):
                self._queue.append(buffer)
                self.size += length

    def pump(self, send: Callable[[Sequence[Buffer]], int]) -> bool:
        """Send until the queue is empty (True) or `send` would block (False).

        Parameters
        ----------
        send : callable
            Takes a list of buffers and returns the number of bytes taken, like ``socket.sendmsg``; raises
            BlockingIOError when nothing can be taken.
        """
        queue = self._queue
        while queue:
            window = list(queue) if len(queue) <= self.IOV else [queue[i] for i in range(self.IOV)]
            try:
                sent = send(window)
            except (BlockingIOError, InterruptedError):
                return False
            self.size -= sent
            while sent:
                first = queue[0]
                if sent < len(first):
                    queue[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                queue.popleft()
        return True

    def clear(self) -> None:
        """Forget what has not been sent."""
        self._queue.clear()
        self.size = 0
