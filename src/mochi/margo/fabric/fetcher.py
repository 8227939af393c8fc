"""What one connection has of a fabric: memory placed where the peer can fetch it, and the peer's fetched in order.

The receiver fetches, at both ends: a frame names memory of its sender, who keeps it until the receiver has it. Frames
that come behind one that is being fetched wait for it, as they would on a socket.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from mochi.margo.fabric.library import FabricError
from mochi.margo.fabric.plane import FETCH_SECONDS, Lease, Plane
from mochi.margo.wire import REMOTE, Buffer, Frame, Kind, Segment, encode, keys_of

PLACE_FROM = 64 << 10
"""Bytes of a segment from which it is placed: below, the socket is faster."""


class Placed(msgspec.Struct):
    """Segments of a frame, some of them in registered memory.

    Attributes
    ----------
    inline : list
        The bulk that follows the frame.
    leases : list of Lease
        What is to be kept until the peer has fetched it.
    size : int
        Bytes of that.
    """

    plane: Plane

    segments: list[Segment]
    inline: list[Sequence[Buffer]]
    leases: list[Lease]
    size: int

    def let_go(self) -> None:
        """Take note that the peer has fetched it, or never will."""
        self.plane.give_room(self.size)

    def frame(self, kind: Kind, call: int, message: bytes) -> bytes:
        """Return the bytes of a frame of a server up to its inline bulk."""
        segments = self.segments
        return encode(kind, call=call, message=message, segments=segments, extensions=keys_of(segments))


class _Waiting:
    """A frame that is being fetched, or waits for one that is."""

    __slots__ = ("frame", "hand_on", "missing")

    def __init__(self, frame: Frame, hand_on: Callable[[], None], missing: int) -> None:
        self.frame = frame
        self.hand_on = hand_on
        self.missing = missing


class Fetcher:
    """One connection's part of an endpoint; one thread at a time, but for `place`.

    Parameters
    ----------
    name : bytes
        Of the peer's endpoint.

    Raises
    ------
    FabricError
        It is no name of this provider.
    """

    def __init__(self, plane: Plane, name: bytes) -> None:
        self.plane = plane
        self._name = name
        self._peer = plane.meet(name)
        self._waiting: deque[_Waiting] = deque()
        self._come: deque[tuple[_Waiting, BaseException | None]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether a frame waits here."""
        return bool(self._waiting)

    @property
    def has_come(self) -> bool:
        """Whether `take` has something to do."""
        return bool(self._come) or (bool(self._waiting) and not self._waiting[0].missing)

    def place(self, bulk: Sequence[Sequence[Buffer]]) -> Placed | None:
        """Copy large segments into registered memory. Any thread.

        None if there are none, or no memory is to be had, or peers have not fetched much of what was placed before:
        then the socket takes all.
        """
        sizes = [sum(map(len, buffers)) for buffers in bulk]
        large = sum(size for size in sizes if size >= PLACE_FROM)
        if not large or not self.plane.take_room(large):
            return None
        placed = Placed(self.plane, [], [], [], large)
        for buffers, size in zip(bulk, sizes, strict=True):
            lease = self._copy(buffers, size) if size >= PLACE_FROM else None
            if lease is None:
                placed.segments.append(Segment(size))
                placed.inline.append(buffers)
            else:
                placed.segments.append(Segment(size, REMOTE, lease.region.base, lease.region.key))
                placed.leases.append(lease)
        if not placed.leases:
            placed.let_go()
            return None
        return placed

    def _copy(self, buffers: Sequence[Buffer], size: int) -> Lease | None:
        try:
            lease = self.plane.lease(size)
        except (FabricError, OSError):
            return None  # the socket takes it
        at = 0
        for buffer in buffers:
            end = at + len(buffer)
            lease.view[at:end] = buffer
            at = end
        return lease

    def fetch(self, frame: Frame, hand_on: Callable[[], None], on_come: Callable[[], None]) -> None:
        """Have `take` call `hand_on` once the remote bulk of a frame is here, and of those before it.

        Parameters
        ----------
        on_come : callable
            Called by any thread when there is something for `take`.
        """
        remote = [at for at, segment in enumerate(frame.segments) if segment.lease == REMOTE]
        if frame.refused is not None:
            remote = []
        waiting = _Waiting(frame, hand_on, len(remote))
        self._waiting.append(waiting)
        if not remote:
            on_come()
            return
        deadline = time.monotonic() + FETCH_SECONDS
        for at in remote:
            segment = frame.segments[at]
            told = partial(self._told, waiting, on_come)
            try:
                lease = self.plane.lease(segment.length)
                frame.bulk[at], frame.segments[at] = lease.view, Segment(segment.length)
                self.plane.read(self, self._peer, lease, segment.offset, segment.key, deadline, told)
            except (FabricError, OSError, MemoryError) as error:
                told(error)

    def _told(self, waiting: _Waiting, on_come: Callable[[], None], error: BaseException | None) -> None:
        self._come.append((waiting, error))
        on_come()

    def take(self) -> None:
        """Hand on what is here, in order.

        Raises
        ------
        FabricError
            Something could not be fetched: the connection is to end.
        """
        while self._come:
            waiting, error = self._come.popleft()
            if error is not None:
                raise (
                    error if isinstance(error, FabricError) else FabricError("fetching bulk", 12, str(error))
                )
            waiting.missing -= 1
        while self._waiting and not self._waiting[0].missing:
            self._waiting.popleft().hand_on()

    def close(self, unfetched: Sequence[Placed]) -> None:
        """Wait for nothing any more; memory that may still be filled is kept until that cannot be.

        Parameters
        ----------
        unfetched : sequence of Placed
            What the peer may still be about to fetch.
        """
        for placed in unfetched:
            self.plane.spoil(placed.leases)
            placed.let_go()
        self._waiting.clear()
        self._come.clear()
        self.plane.give_up(self, FabricError("fetching bulk", 125, "the connection was closed"))
        self._come.clear()
        self.plane.part(self._name)
