"""Blobs: regions of bytes in targets, in memory or in a file, served over RPC.

`Target` is the contract; `mochi.warabi.client` reaches one that a provider serves.
"""

from mochi.warabi.errors import InvalidArguments, InvalidRegion, StorageError, WarabiError
from mochi.warabi.target import REGION_ID_SIZE, Target

__all__ = ["REGION_ID_SIZE", "InvalidArguments", "InvalidRegion", "StorageError", "Target", "WarabiError"]
