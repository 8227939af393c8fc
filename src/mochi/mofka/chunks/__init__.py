"""The chunk files of a `default` partition: its bytes on disk, how they are written, read and recovered.

Pure storage: no RPC, no asyncio, no threads of its own; numpy, xxhash and the standard library alone. `layout`
is the format, `files` the only way to the operating system, `writer` and `reader` the two directions, `journal`
what makes a commit whole and durable by one sync, `recovery` what happens after a crash, `check` how all of it is
looked through offline, and `ChunkStore` the face of them all.
"""

from mochi.disk.contract import File, FileLayer
from mochi.disk.files import PosixFiles
from mochi.mofka.chunks.batch import Batch
from mochi.mofka.chunks.config import ChunkConfig
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
from mochi.mofka.chunks.following import ChunkFollower, follow
from mochi.mofka.chunks.layout import LOCK_NAME
from mochi.mofka.chunks.ledger import Origin, Remembered
from mochi.mofka.chunks.reader import EventRange
from mochi.mofka.chunks.removal import remove_partition
from mochi.mofka.chunks.retention import Retention
from mochi.mofka.chunks.store import ChunkStore, ChunkView, view

__all__ = [
    "LOCK_NAME",
    "Batch",
    "ChunkConfig",
    "ChunkFollower",
    "ChunkStore",
    "ChunkView",
    "CorruptPartition",
    "DamagedEvents",
    "EventRange",
    "ExpiredEvents",
    "File",
    "FileLayer",
    "InvalidBatch",
    "Origin",
    "OutOfRange",
    "PartitionLocked",
    "PartitionPoisoned",
    "PosixFiles",
    "Remembered",
    "Retention",
    "StorageError",
    "follow",
    "remove_partition",
    "view",
]
