"""Wire format without I/O: frames out of bytes, and bytes out of frames.

A connection carries frames in both directions. A frame is a head of fixed size, extensions, segment records, a
message, and the bytes of its inline segments (see ``docs/wire-format.md``). Nothing here touches a socket.

Rules
-----
1. Every length is checked against `Limits` before memory is taken for it. Any bytes at all give frames or a
   `RemoteProtocolError`, nothing else, and the memory held is bounded by the limits.
2. Inline segments are received straight into the buffers that `allocate` names; at most `STAGING_SIZE` bytes of them,
   those that arrived together with the head, are copied.
3. Extensions are skippable: a reader passes over tags that it does not know. A frame of unknown kind is skipped
   when its flag `SKIPPABLE` is set and it carries no bulk, and an error otherwise.
"""

import enum
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeAlias

import msgspec

from mochi.margo.errors import LocalProtocolError, RemoteProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"MFK1"
VERSION = 2
STAGING_SIZE = 16 * 1024
MAX_SEGMENTS = 16
MAX_MESSAGE = 16 << 20

HEAD = struct.Struct("<4sBBHIIQIHHII")
SEGMENT = struct.Struct("<QIIQ")
EXTENSION = struct.Struct("<HHI")
_RECORDS = [struct.Struct("<" + SEGMENT.format[1:] * count) for count in range(MAX_SEGMENTS + 1)]


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
    FETCHED = 9


_KINDS = {int(kind): kind for kind in Kind}

SKIPPABLE = 0x01
ONE_WAY = 0x02
DESCRIPTORS = 0x04

REMOTE = 0xFFFF_FFFF
"""The lease of a segment that lies in registered memory of the sender, at `offset` of a fabric's address space."""

KEYS = 1
"""Tag of the extension with the keys of remote segments, 8 bytes each, in their order."""

_KEY = struct.Struct("<Q")


class Limits(msgspec.Struct, frozen=True):
    """What a peer may send, in bytes; a frame beyond any of these closes the connection."""

    message: int = MAX_MESSAGE
    extensions: int = 64 << 10
    segment: int = 1 << 33


GREETING_LIMITS = Limits(message=4096, extensions=4096, segment=0)
"""Until a peer has proved itself it may send this much and no more."""


class Segment(msgspec.Struct, frozen=True):
    """One bulk segment of a frame: `length` bytes, inline (lease 0), or at `offset` of a buffer lent before.

    A remote one (lease `REMOTE`) is fetched by the receiver, at `offset` with `key`.
    """

    length: int
    lease: int = 0
    offset: int = 0
    key: int = 0


class Frame(msgspec.Struct):
    """One whole frame.

    Attributes
    ----------
    call : int
        Number that pairs a response with its request, or names the stream of a notice.
    bulk : list of memoryview or None
        One entry a segment; None for a segment that lies in a lent buffer, that is not fetched yet, or that `allocate`
        refused.
    refused : Exception or None
        Why `allocate` refused; the segments' bytes were passed over.
    is_remote : bool
        Whether some segments are to be fetched.
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
    is_remote: bool = False


Allocate: TypeAlias = Callable[[Frame], Sequence[memoryview]]


def keys_of(segments: Sequence[Segment]) -> list[tuple[int, bytes]]:
    """Return the extensions of a frame with these segments: the keys of those that are remote."""
    keys = [_KEY.pack(segment.key) for segment in segments if segment.lease == REMOTE]
    return [(KEYS, b"".join(keys))] if keys else []


def allocate_private(frame: Frame) -> list[memoryview]:
    """Return memory of its own for every inline segment of `frame`."""
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
    LocalProtocolError
        The message is longer, or the segments are more, than any peer takes.
    """
    size, count = len(message), len(segments)
    if size > MAX_MESSAGE:
        raise LocalProtocolError(f"a message of {size} bytes, at most {MAX_MESSAGE} may be sent")
    if count > MAX_SEGMENTS:
        raise LocalProtocolError(f"{count} bulk segments, at most {MAX_SEGMENTS} may be sent")
    tail = b""
    if extensions:
        tail = b"".join([EXTENSION.pack(tag, 0, len(body)) + body for tag, body in extensions])
    head = HEAD.pack(
        MAGIC, kind, flags, provider_id, rpc, size, call, len(tail) if tail else 0, count, 0, timeout_ms, 0
    )
    if not count:
        return head + tail + message
    fields: list[int] = []
    for segment in segments:
        fields += (segment.offset, segment.lease, 0, segment.length)
    return head + tail + _RECORDS[count].pack(*fields) + message


def _parse_extensions(raw: memoryview) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < EXTENSION.size:
            raise RemoteProtocolError(f"{len(raw) - at} bytes left where an extension needs {EXTENSION.size}")
        tag, _, length = EXTENSION.unpack_from(raw, at)
        at += EXTENSION.size
        if length > len(raw) - at:
            raise RemoteProtocolError(f"extension {tag} says {length} bytes, and {len(raw) - at} are left")
        found[tag] = bytes(raw[at : at + length])
        at += length
    return found


def _take_keys(frame: Frame) -> None:
    """Put the keys of a frame into its remote segments."""
    keys = frame.extensions.get(KEYS, b"")
    remote = [at for at, segment in enumerate(frame.segments) if segment.lease == REMOTE]
    if len(keys) != _KEY.size * len(remote):
        raise RemoteProtocolError(f"{len(keys)} bytes of keys for {len(remote)} remote segments")
    for at, (key,) in zip(remote, _KEY.iter_unpack(keys), strict=True):
        segment = frame.segments[at]
        frame.segments[at] = Segment(segment.length, REMOTE, segment.offset, key)
    frame.is_remote = True


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
    has_more : bool
        Whether `next_frame` may return a frame.
    is_amid : bool
        Whether a frame has begun that is not whole.

    Notes
    -----
    Use: receive into `buffers()`, in their order, say to `received` how many bytes these are, and call `next_frame`
    until it returns None. Not for use by two threads at once. Cost: one small copy of head and message a frame,
    nothing per event.
    """

    def __init__(
        self,
        allocate: Allocate,
        limits: Limits = GREETING_LIMITS,
        admit: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self.limits = limits
        self.held_up = False
        self.has_more = False
        self.is_amid = False
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
        if self._start == self._end:
            self._start = self._end = 0
            self._held = self._staging
            return [self._staging]
        if self._start:  # only ever moves bytes of an unfinished head
            rest = bytes(self._held[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._held[: self._end] = rest
        return [self._held[self._end :]]

    def received(self, count: int) -> None:
        """Take note of `count` bytes in `buffers()`."""
        self.has_more = True
        if self._missing:
            self._end += self._fill(count)
        elif self._skip:
            self._skip -= count
        else:
            self._end += count

    def go_on(self) -> None:
        """Go on as if `admit` had said yes."""
        self.held_up = False
        self.has_more = True
        if self._announced is None:
            self._grow()

    def next_frame(self) -> Frame | None:
        """Return the next frame that is whole; None if there is none. Limits changed meanwhile hold for the next.

        Raises
        ------
        RemoteProtocolError
            The bytes break the wire format. The reader is of no more use.
        """
        found = self._frame
        if found is not None:
            if self._missing or self._skip:
                self.has_more = False
                return None
            self._frame = None
        elif self._announced is not None and not self.held_up:
            (announced, inline), self._announced = self._announced, None
            found = self._begin_bulk(announced, inline)
        while found is None and self._frame is None and self._end - self._start >= self._need:
            found = self._parse()
            if self.held_up:
                break
        left = self._end - self._start
        if self._need > len(self._held) and not self.held_up:
            self.held_up = not self._admit(self._need)
            if not self.held_up:
                self._grow()
        self.has_more = self._frame is None and not self.held_up and left >= self._need
        self.is_amid = self._frame is not None or left > 0
        return found

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
            raise RemoteProtocolError(f"a frame starts with {bytes(magic)!r}, expected {MAGIC!r}")
        if zero or zero2:
            raise RemoteProtocolError("reserved bytes of a frame's head are not zero")
        if kind not in _KINDS and (segment_count or not flags & SKIPPABLE):
            raise RemoteProtocolError(f"unknown frame kind {kind}")
        limits = self.limits
        if message_length > limits.message:
            raise RemoteProtocolError(
                f"a message of {message_length} bytes, at most {limits.message} are allowed"
            )
        if extension_length > limits.extensions:
            raise RemoteProtocolError(
                f"extensions of {extension_length} bytes, at most {limits.extensions} are allowed"
            )
        if segment_count > MAX_SEGMENTS:
            raise RemoteProtocolError(f"{segment_count} bulk segments, at most {MAX_SEGMENTS} are allowed")
        size = HEAD.size + extension_length + SEGMENT.size * segment_count + message_length
        if self._end - at < size:
            self._need = size
            return None
        self._need = HEAD.size
        at += HEAD.size
        extensions = _parse_extensions(held[at : at + extension_length]) if extension_length else {}
        at += extension_length
        segments: list[Segment] = []
        inline = remote = 0
        is_remote = False
        if segment_count:
            fields = iter(_RECORDS[segment_count].unpack_from(held, at))
            for offset, lease, zero, length in zip(fields, fields, fields, fields, strict=True):
                if zero:
                    raise RemoteProtocolError("reserved bytes of a segment record are not zero")
                if length > limits.segment:
                    raise RemoteProtocolError(
                        f"a bulk segment of {length} bytes, at most {limits.segment} are allowed"
                    )
                segments.append(Segment(length, lease, offset))
                if not lease:
                    inline += length
                elif lease == REMOTE:
                    remote += length
                    is_remote = True
            at += SEGMENT.size * segment_count
        message = bytes(held[at : at + message_length])
        self._start = at + message_length
        if kind not in _KINDS:
            return None
        frame = Frame(
            _KINDS[kind], flags, provider_id, rpc, call, timeout_ms, message, extensions, segments, []
        )  # fmt: skip
        if not segments:
            return frame
        if is_remote:
            _take_keys(frame)
        if inline + remote > STAGING_SIZE and not self._admit(inline + remote):
            self._announced = frame, inline
            self.held_up = True
            return None
        return self._begin_bulk(frame, inline)

    def _begin_bulk(self, frame: Frame, inline: int) -> Frame | None:
        """Find the places for the bulk of a frame; return the frame if all of it is here already."""
        here = min(inline, self._end - self._start)
        try:
            targets = [] if frame.is_remote and not inline else [*self._allocate(frame)]
            if [*map(len, targets)] != [segment.length for segment in frame.segments if not segment.lease]:
                raise LocalProtocolError("the memory for the bulk is not of the size of the bulk")
        except Exception as error:
            frame.refused = error
            frame.bulk = [None] * len(frame.segments)
            self._start += here
            if here == inline:
                return frame
            self._skip = inline - here
        else:
            places = iter(targets)
            frame.bulk = [None if segment.lease else next(places) for segment in frame.segments]
            held, at = self._held, self._start
            self._start += here
            for target in targets:
                size = len(target)
                if not size:
                    continue
                if size <= here:
                    target[:] = held[at : at + size]
                    at += size
                    here -= size
                else:
                    target[:here] = held[at : at + here]
                    self._missing.append(target[here:] if here else target)
                    at, here = at + here, 0
            if not self._missing:
                return frame
        self._start = self._end = 0
        self._held = self._staging
        self._frame = frame
        return None


class SendQueue(deque[Buffer]):
    """Buffers on their way out, in order.

    Any thread, and any call that strikes in the middle of `pump`, may `put`: that is one operation of the interpreter.
    `pump` is for one at a time: it sends what the socket takes now, without a copy, up to `IOV` buffers a call.
    """

    IOV = 512

    put = deque.extend
    """Append buffers; they are kept by reference until they are sent."""

    @property
    def size(self) -> int:
        """Bytes in the queue."""
        return sum(map(len, self))

    def pump(self, send: Callable[[Sequence[Buffer]], int]) -> bool:
        """Send until the queue is empty (True) or `send` would block (False).

        Parameters
        ----------
        send : callable
            Takes a list of buffers and returns the number of bytes taken, like ``socket.sendmsg``; raises
            BlockingIOError when nothing can be taken.
        """
        while self:
            window = [*self] if len(self) <= self.IOV else [*islice(self, self.IOV)]
            try:
                sent = send(window)
            except (BlockingIOError, InterruptedError):
                return False
            for buffer in window:
                size = len(buffer)
                if size > sent:
                    if sent:
                        self[0] = memoryview(buffer)[sent:]
                    break
                sent -= size
                del self[0]
        return True
