"""A `default` partition on disk: how its directory is laid out, written, read and recovered.

Pure storage: no RPC, no asyncio, no threads of its own. `PartitionDirectory` is its face, `format` the bytes and
nothing else. Nobody outside imports what is behind this package's names.
"""

from mochi.disk import Buffer, Cut, Descriptors, File, FileLayer, Overlay, PosixFiles
from mochi.mofka.chunks.catalog import read_first, update_roster
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
from mochi.mofka.chunks.format import layout, ledger, seals
from mochi.mofka.chunks.format.journal import Head, Mode
from mochi.mofka.chunks.format.layout import LOCK_NAME, Chunk
from mochi.mofka.chunks.format.ledger import MAX_PRODUCERS, REMEMBERED_BATCHES, Ledger, Origin, Remembered
from mochi.mofka.chunks.format.seals import SealRun, Slots
from mochi.mofka.chunks.journal import Journal, read_head
from mochi.mofka.chunks.pieces import DataRequest, Pieces, gathered, rearranged, touch
from mochi.mofka.chunks.place import ASIDE, remove_partition
from mochi.mofka.chunks.reader import ChunkReader
from mochi.mofka.chunks.recovery import Recovery, make_again, recover, see_that_files_are_files
from mochi.mofka.chunks.writer import Commit

__all__ = [
    "ASIDE",
    "KEEP_ALL",
    "LOCK_NAME",
    "MAX_PRODUCERS",
    "REMEMBERED_BATCHES",
    "Batch",
    "Buffer",
    "Chunk",
    "ChunkConfig",
    "ChunkFiles",
    "ChunkFollower",
    "ChunkReader",
    "Commit",
    "CorruptPartition",
    "Cut",
    "DamagedEvents",
    "DataRequest",
    "Descriptors",
    "EventRange",
    "ExpiredEvents",
    "File",
    "FileLayer",
    "Head",
    "InvalidBatch",
    "Journal",
    "Ledger",
    "Mode",
    "Origin",
    "OutOfRange",
    "Overlay",
    "PartitionDirectory",
    "PartitionLocked",
    "PartitionPoisoned",
    "Pieces",
    "PosixFiles",
    "Recovery",
    "Remembered",
    "Retention",
    "SealRun",
    "Slots",
    "StorageError",
    "follow",
    "fresh_memory",
    "gathered",
    "layout",
    "ledger",
    "make_again",
    "read_first",
    "read_head",
    "rearranged",
    "recover",
    "remove_partition",
    "seals",
    "see_that_files_are_files",
    "touch",
    "update_roster",
]
