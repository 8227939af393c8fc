"""The events that are measured: the same bytes for the service and for the limits of the machine.

Event ``i`` of any run is ``pairs[i % CYCLE]``, so a consumer can tell from the position alone what it should
have received.
"""

import random
from typing import Any

import msgspec

CYCLE = 1000
BLOBS = 8
BATCH_BYTES = 8 << 20

Pair = tuple[dict[str, Any], bytes]


class Events:
    """`CYCLE` prepared events with `data_size` bytes of incompressible data each.

    Attributes
    ----------
    pairs : list of (dict, bytes)
        What is pushed: five keys, 120 bytes of JSON, and the data.
    size : int
        Bytes of an event on average, metadata as JSON text and data.
    """

    def __init__(self, data_size: int) -> None:
        generator = random.Random(data_size)
        blobs = [generator.randbytes(data_size) for _ in range(BLOBS)]
        self.pairs = [(metadata(frame), blobs[frame % BLOBS]) for frame in range(CYCLE)]
        self.size = sum(len(msgspec.json.encode(pair[0])) for pair in self.pairs) // CYCLE + data_size

    def batch(self) -> tuple[int, bytes]:
        """One batch, as number of events and bytes: `CYCLE` events, or as many as `BATCH_BYTES` hold."""
        count = min(CYCLE, max(1, BATCH_BYTES // self.size))
        pairs = self.pairs[:count]
        text = b"".join(msgspec.json.encode(metadata) for metadata, _ in pairs)
        return count, text + b"".join(data for _, data in pairs)


def metadata(frame: int) -> dict[str, Any]:
    """Metadata of a detector's frame: a small dict such as applications push."""
    return {
        "detector": "eiger-4m-07",
        "exposure": 0.0125,
        "file": f"run-0042/frame-{frame:08d}.h5",
        "frame": frame,
        "timestamp": 1763886171.25 + frame * 0.0128,
    }


def size_name(size: int) -> str:
    """``0B``, ``128B``, ``1KiB``, ``64KiB``, ``1MiB``: sizes as they appear in names of cases."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"
