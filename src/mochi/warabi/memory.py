"""A target in memory: gone with its process."""

import itertools
import struct
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from mochi.margo.config import convert
from mochi.margo.wire import Buffer
from mochi.warabi.errors import InvalidArguments, InvalidRegion, StorageError
from mochi.warabi.target import REGION_ID_SIZE, Parts, Target, matched, total_of

_ID = struct.Struct("<QQ")


class MemoryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a ``memory`` target: none."""


class MemoryTarget(Target):
    """Regions in memory; a name holds a number, and the size.

    Parameters
    ----------
    config : mapping
        Fields of `MemoryConfig`.
    where : str
        JSON path of `config`, for errors.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        convert(config, MemoryConfig, where)
        self._numbers = itertools.count()
        self._regions: dict[bytes, memoryview] = {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration with all that was filled in."""
        return {}

    def create(self, size: int) -> bytes:
        if size < 1:
            raise InvalidArguments(f"a region has 1 byte or more, not {size}")
        try:
            memory = memoryview(bytearray(size))
        except (MemoryError, OverflowError) as error:
            raise StorageError(f"no memory for a region of {size} bytes") from error
        region = _ID.pack(next(self._numbers), size)
        self._regions[region] = memory
        return region

    def write(self, region: bytes, parts: Parts, data: Buffer, *, persist: bool = False) -> None:
        memory = self._memory(region)
        matched(parts, len(memory), data)
        view, at = memoryview(data), 0
        for offset, length in parts:
            memory[offset : offset + length] = view[at : at + length]
            at += length

    def persist(self, region: bytes, parts: Parts) -> None:
        total_of(parts, len(self._memory(region)))

    def read(self, region: bytes, parts: Parts) -> memoryview:
        memory = self._memory(region)
        total_of(parts, len(memory))
        return memoryview(b"".join(memory[offset : offset + length] for offset, length in parts))

    def erase(self, region: bytes) -> None:
        if self._regions.pop(bytes(region), None) is None:
            raise _unknown(region)

    def close(self) -> None:
        """Drop all regions; idempotent."""
        self._regions.clear()

    def _memory(self, region: bytes) -> memoryview:
        memory = self._regions.get(bytes(region))
        if memory is None:
            raise _unknown(region)
        return memory


def _unknown(region: bytes) -> InvalidRegion:
    if len(region) != REGION_ID_SIZE:
        return InvalidRegion(f"the name of a region has {REGION_ID_SIZE} bytes, not {len(region)}")
    return InvalidRegion(f"there is no region {region.hex()} (any more)")
