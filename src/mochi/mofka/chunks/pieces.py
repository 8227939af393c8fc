"""Pieces of the data of events, as arrays: which bytes of which events are wanted. No I/O.

Nothing here is done for one piece at a time: a thousand pieces cost some calls of numpy.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

DataRequest = tuple[int, Sequence[tuple[int, int]]]
"""An event's id, and the (offset, length) of the pieces wanted of its data."""

Numbers = NDArray[np.int64]

LARGEST = 2**63 - 1
_MANY = 8


class Pieces(NamedTuple):
    """For each piece the id of its event, and offset and length in that event's data.

    A piece of no bytes asks whether the event is there. Those who read pieces take them in ascending order of events,
    and of offsets in each event; pieces may overlap.
    """

    events: Numbers
    offsets: Numbers
    lengths: Numbers

    @classmethod
    def of(cls, requests: Sequence[DataRequest]) -> Self:
        """Return the pieces of requests, in their order. Numbers beyond 64 bits become ones that no event has."""
        parts = [pieces or [(0, 0)] for _, pieces in requests]
        events = chain.from_iterable(map(repeat, [event for event, _ in requests], map(len, parts)))
        offsets, lengths = zip(*chain.from_iterable(parts), strict=True) if parts else ((), ())
        return cls(_numbers(events), _numbers(offsets), _numbers(lengths))

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return int(self.lengths.sum())

    def at(self, index: Numbers | slice) -> "Pieces":
        """Return some of the pieces."""
        return Pieces(self.events[index], self.offsets[index], self.lengths[index])

    def order(self) -> Numbers | None:
        """Return the places of the pieces in ascending order; None if that is how they are."""
        before, after = self.events[:-1], self.events[1:]
        ascend = (before < after) | ((before == after) & (self.offsets[:-1] <= self.offsets[1:]))
        return None if ascend.all() else np.lexsort((self.offsets, self.events))

    def beyond(self, sizes: NDArray[np.integer]) -> int | None:
        """Return the place of a piece that is not within the data of its event; None if all are.

        Parameters
        ----------
        sizes : integer array
            For each piece, bytes of the data of its event.
        """
        offsets, lengths = self.offsets, self.lengths
        room = sizes.astype(np.int64) - offsets
        bad = (offsets < 0) | (lengths < 0) | (lengths > room)
        return int(bad.argmax()) if bad.any() else None

    def text(self, place: int, size: int) -> str:
        """Return what one piece asks for, for messages."""
        event, offset, length = (int(numbers[place]) for numbers in self)
        return f"bytes {offset} to {offset + length} of event {event}, which has {size} of data"


def _numbers(values: Iterable[int]) -> Numbers:
    numbers = list(values)
    try:
        return np.array(numbers, np.int64)
    except OverflowError:
        return np.array([min(max(number, -1), LARGEST) for number in numbers], np.int64)


def starts_of(lengths: Numbers) -> Numbers:
    """Return where each of several parts begins that lie back to back."""
    return np.cumsum(lengths) - lengths


def touch(starts: Numbers, lengths: Numbers) -> bool:
    """Tell whether parts lie back to back, in their order."""
    return bool((starts[1:] == starts[:-1] + lengths[:-1]).all())


def gathered(content: memoryview, starts: Numbers, lengths: Numbers) -> memoryview:
    """Return parts of a buffer back to back: without a copy if they lie so, else a copy."""
    if not len(starts):
        return memoryview(b"")
    if touch(starts, lengths):
        return content[int(starts[0]) : int(starts[-1] + lengths[-1])]
    width = int(lengths[0])
    if len(starts) >= _MANY and width and (lengths == width).all():
        rows = np.ndarray((len(content) - width + 1, width), np.uint8, content, strides=(1, 1))
        return rows[starts].reshape(-1).data
    stops = starts + lengths
    return memoryview(b"".join(map(content.__getitem__, map(slice, starts.tolist(), stops.tolist()))))


def rearranged(content: memoryview, pieces: Pieces, order: Numbers) -> memoryview:
    """Return pieces in their own order, which were read in the ascending `order`."""
    starts = np.empty_like(order)
    starts[order] = starts_of(pieces.lengths[order])
    return gathered(content, starts, pieces.lengths)
