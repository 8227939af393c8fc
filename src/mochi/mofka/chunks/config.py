"""What can be set about the chunk files.

Names and defaults are those of the original (`mofka:src/DefaultPartitionManager.cpp`).
"""

from dataclasses import dataclass

from mochi.mofka.chunks.retention import KEEP_ALL, Retention


@dataclass(frozen=True, slots=True)
class ChunkConfig:
    """Limits of a chunk, and how its files are used.

    Attributes
    ----------
    max_chunk_size : int
        Bytes that each file of a chunk may have. One batch larger than that has a chunk of its own.
    max_events_per_chunk : int
        Events that a chunk may have. One batch of more events has a chunk of its own.
    sync : bool
        Whether a batch is on disk before `PartitionDirectory.append` returns.
    fd_cache_capacity : int
        Files kept open for reading, at least one.
    retention : Retention
        What `PartitionDirectory.trim` drops; nothing by default.
    """

    max_chunk_size: int = 67108864
    max_events_per_chunk: int = 1000000
    sync: bool = True
    fd_cache_capacity: int = 64
    retention: Retention = KEEP_ALL

    def __post_init__(self) -> None:
        for name, least in (("max_chunk_size", 0), ("max_events_per_chunk", 0), ("fd_cache_capacity", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
