"""The contract of a target: regions of bytes, made with a size, written and read in parts.

`MemoryTarget` and `FileTarget` carry it out in this process, `mochi.warabi.client.TargetHandle` has a provider carry it
out: all answer alike, the errors of `mochi.warabi.errors` included.

A region is named by 16 bytes, which mean something to its target alone. What was never written of it is zeros. All
calls may be made from any thread, and block; calls on one region at once see each other's bytes in any order.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, TypeAlias

from mochi.margo.wire import Buffer
from mochi.warabi.errors import InvalidArguments

REGION_ID_SIZE: Final = 16
"""Bytes of a region's name."""

Parts: TypeAlias = Sequence[tuple[int, int]]
"""Parts of a region, each an offset and a length in bytes."""


class Target(ABC):
    """Where regions are kept."""

    @abstractmethod
    def create(self, size: int) -> bytes:
        """Make a region of `size` bytes, 1 or more, and return its name.

        Raises
        ------
        InvalidArguments
            It has no bytes, or more than the target can address.
        StorageError
            There is no room for it.
        """

    @abstractmethod
    def write(self, region: bytes, parts: Parts, data: Buffer, *, persist: bool = False) -> None:
        """Write `data` into parts of a region, one after the other.

        Parameters
        ----------
        data : buffer
            As many bytes as the parts have together.
        persist : bool
            Return when they are on disk, where the target has one.

        Raises
        ------
        InvalidRegion, InvalidArguments
            There is no such region, or a part is not in it, or the lengths differ; nothing was written.
        StorageError
            The parts may be written in part.
        """

    @abstractmethod
    def persist(self, region: bytes, parts: Parts) -> None:
        """Return when parts of a region are on disk, where the target has one; raises as `write` does."""

    @abstractmethod
    def read(self, region: bytes, parts: Parts) -> memoryview:
        """Return parts of a region, one after the other; raises as `write` does."""

    @abstractmethod
    def erase(self, region: bytes) -> None:
        """Erase a region, and free the room it takes; `InvalidRegion` if there is none of this name."""

    def create_write(self, data: Buffer, *, persist: bool = False) -> bytes:
        """Make a region of these bytes, and return its name; raises as `create` and `write` do."""
        region = self.create(len(data))
        self.write(region, [(0, len(data))], data, persist=persist)
        return region


def total_of(parts: Parts, size: int) -> int:
    """Return the bytes that parts of a region of `size` bytes have together.

    Raises
    ------
    InvalidArguments
        One of them is not in the region.
    """
    for offset, length in parts:
        if offset < 0 or length < 0 or offset + length > size:
            raise InvalidArguments(f"bytes {offset} to {offset + length} are not in a region of {size} bytes")
    return sum(length for _, length in parts)


def matched(parts: Parts, size: int, data: Buffer) -> None:
    """Check that `data` fills parts of a region of `size` bytes; `InvalidArguments` if not."""
    total = total_of(parts, size)
    if total != len(data):
        raise InvalidArguments(f"{len(data)} bytes for parts of {total} bytes")
