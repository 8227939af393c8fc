"""Batches on a producer's side, without I/O: events collected, then laid out for the wire.

A batch collects flat triples (metadata, data, future): one list operation an event, which is atomic under the
interpreter's lock, so that threads need no other. Sealing lays it out, and tells each future its place.
"""

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from diaspora_stream.errors import DiasporaError
from diaspora_stream.future import FutureUint
from mochi.margo.wire import Buffer

FIELDS = 3
"""Slots of `Batch.entries` for each event: metadata, data, future."""

JOINED_BYTES = 4096
"""Data is joined into one buffer where its mean size is below this, and gathered by the kernel above."""

MAX_BATCH_BYTES = 8 << 20
"""Bytes of metadata and data at which a batch goes, whatever its number of events."""

MAX_BATCH_EVENTS = 2048
"""Events of an adaptive batch at most. With fewer, larger events may be appended without the lock: up to 2 KiB each."""

MAX_FIXED_EVENTS = 65536
"""Events of any batch at most."""

PREFIX_BYTES = 8
"""Bytes of the length that the default serializer writes before each JSON text."""

_PREFIXES = [struct.pack("<Q", length) for length in range(4096)]


class Gather:
    """Several buffers that are the data of one event; its length is theirs together."""

    __slots__ = ("buffers", "size")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = buffers
        self.size = sum(map(len, buffers))

    def __len__(self) -> int:
        return self.size


def byte_view(view: memoryview) -> memoryview:
    """Return the bytes of a contiguous view of any format, shape and order, in the order they have in memory."""
    if view.format == "B" and view.ndim == 1:
        return view
    if not view.nbytes:
        return memoryview(b"")
    array = np.asarray(view)
    return np.frombuffer(array if view.c_contiguous else array.T, np.uint8).data


def _prefix(length: int) -> bytes:
    return _PREFIXES[length] if length < len(_PREFIXES) else struct.pack("<Q", length)


def _prefixed(texts: Sequence[bytes], lengths: Sequence[int], count: int) -> list[bytes]:
    """Return the texts, each after its length as the default serializer writes it."""
    try:
        prefixes = list(map(_PREFIXES.__getitem__, lengths))
    except IndexError:
        prefixes = list(map(_prefix, lengths))
    mixed: list[bytes] = [b""] * (2 * count)
    mixed[0::2] = prefixes
    mixed[1::2] = texts
    return mixed


class Batch(msgspec.Struct, eq=False):
    """Events of one producer for one partition: open, then sealed, then stored or failed.

    Attributes
    ----------
    lane : Any
        Who waits for the outcome, see `Batch.wait_for`.
    limit : int
        Length of `entries` at which the one who appends has to look after the batch; 0 once it is sealed. It is
        never raised.
    entries : list
        Flat triples, see the module.
    large : int
        Bytes of the events that were counted one by one.
    due : bool
        Whether the batch goes as soon as it may, full or not.
    count : int
        Number of events, once it is sealed and its entries are gone.
    first : int or None
        Id of the first event, once stored.
    error : DiasporaError or None
        Why the batch is not stored, or why nobody knows.
    """

    lane: Any
    limit: int
    entries: list[Any] = []
    large: int = 0
    due: bool = False
    count: int = 0
    first: int | None = None
    error: DiasporaError | None = None

    def seal(self, sequence: int, prefixed: bool, created: int) -> "Sealed":
        """Close the batch, and return it laid out; costs about 0.1 µs an event.

        The entries stay: what is interrupted may be done again, with the events that came meanwhile.

        Parameters
        ----------
        prefixed : bool
            Whether each metadata is JSON text that wants its length before it.
        """
        self.limit = 0
        flat = self.entries
        end = len(flat)
        count = end // FIELDS
        texts, data = flat[0:end:FIELDS], flat[1:end:FIELDS]
        for index, future in enumerate(flat[2:end:FIELDS]):
            future.index = index
        lengths, data_lengths = list(map(len, texts)), list(map(len, data))
        if prefixed:
            texts = _prefixed(texts, lengths, count)
            lengths = list(map(PREFIX_BYTES.__add__, lengths))
        data_bytes = sum(data_lengths)
        buffers: list[Buffer]
        if data_bytes < JOINED_BYTES * count:
            buffers = [b"".join([b"".join(d.buffers) if type(d) is Gather else d for d in data])]
        else:
            buffers = [
                buffer for d in data for buffer in (d.buffers if type(d) is Gather else (d,)) if len(buffer)
            ]
        sizes = struct.pack(f"<{2 * count}I", *lengths, *data_lengths)
        return Sealed(self, sequence, count, sizes, b"".join(texts), buffers, data_bytes, created)

    def settle(self, count: int, first: int | None, error: DiasporaError | None) -> None:
        """Take note of the outcome, and let go of the content; nothing but the first time."""
        if self.first is None and self.error is None:
            self.count = count
            self.first = first
            self.error = error
            self.entries = []

    def is_done(self) -> bool:
        """Tell whether the outcome is known."""
        return self.first is not None or self.error is not None

    def wait_for(self, future: FutureUint, timeout: float | None) -> int | None:
        """Wait for the outcome, see `diaspora_stream.future.Pending`; sends the batch if it has not gone yet."""
        if self.first is None and not self.lane.wait_for(self, timeout):
            return None
        if self.error is not None:
            self.lane.options.told = self.error
            raise self.error.with_traceback(None)
        assert self.first is not None
        return self.first + future.index


class Sealed(msgspec.Struct, eq=False):
    """A batch as it goes over the wire.

    Attributes
    ----------
    sequence : int
        Its place among the batches of its lane.
    times_sent : int
        How often it was sent, or tried to be.
    """

    batch: Batch
    sequence: int
    events: int
    sizes: bytes
    metadata: bytes
    data: list[Buffer]
    data_bytes: int
    created: int
    times_sent: int = 0
