"""The command ``mofka-fsck``: directories of partitions checked and repaired offline; no server runs any of it."""

from mochi.mofka.fsck.command import main

__all__ = ["main"]
