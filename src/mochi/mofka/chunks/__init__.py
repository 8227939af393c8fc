"""A `default` partition on disk: how its directory is laid out, written, read and recovered.

Pure storage: no RPC, no asyncio, no threads of its own. `PartitionDirectory` is its face, `format` the bytes and
nothing else. Nobody outside imports what is behind this package's names.
"""

from mochi.mofka.chunks import format, recovery
from mochi.mofka.chunks.chunk_files import ChunkFiles
from mochi.mofka.chunks.config import KEEP_ALL, ChunkConfig, Retention
from mochi.mofka.chunks.directory import PartitionDirectory
from mochi.mofka.chunks.errors import (
    CorruptPartition,
    DamagedEvents,
    ExpiredEvents,
    InvalidBatch,
    OutOfRange,
    PartitionLocked,
    PartitionPoisoned,
    StorageError,
)
from mochi.mofka.chunks.events import Batch, EventRange, fresh_memory
from mochi.mofka.chunks.following import ChunkFollower, follow
from mochi.mofka.chunks.format.layout import LOCK_NAME
from mochi.mofka.chunks.format.ledger import MAX_PRODUCERS, REMEMBERED_BATCHES, Ledger, Origin, Remembered
from mochi.mofka.chunks.pieces import DataRequest, Pieces, gathered, rearranged, touch
from mochi.mofka.chunks.place import ASIDE, remove_partition
from mochi.mofka.chunks.writer import Commit

__all__ = [
    "ASIDE",
    "KEEP_ALL",
    "LOCK_NAME",
    "MAX_PRODUCERS",
    "REMEMBERED_BATCHES",
    "Batch",
    "ChunkConfig",
    "ChunkFiles",
    "ChunkFollower",
    "Commit",
    "CorruptPartition",
    "DamagedEvents",
    "DataRequest",
    "EventRange",
    "ExpiredEvents",
    "InvalidBatch",
    "Ledger",
    "Origin",
    "OutOfRange",
    "PartitionDirectory",
    "PartitionLocked",
    "PartitionPoisoned",
    "Pieces",
    "Remembered",
    "Retention",
    "StorageError",
    "follow",
    "format",
    "fresh_memory",
    "gathered",
    "rearranged",
    "recovery",
    "remove_partition",
    "touch",
]
