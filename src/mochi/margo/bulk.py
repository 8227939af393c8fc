"""Bulk buffers: tiered pools of reusable memory, private or shared with another process.

A buffer to share is a memfd, sealed against resizing so that nobody can take pages away from under a mapping. Pages
are taken on first touch only: a buffer of 64 MiB that has held 1 MiB costs 1 MiB. A tier hands out the buffer returned
last, which is the warm one.
"""

import errno
import fcntl
import mmap
import os
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np

MAX_FREE = 256
"""Buffers that a tier keeps at most, however few of their bytes were used, beyond those made in advance."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class BufferPoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Tiers of a buffer pool: tier k holds buffers of ``first_size * size_multiple ** k`` bytes.

    Attributes
    ----------
    num_buffers : int
        Buffers made in advance in each tier; more are made on demand.
    max_kept : int
        Bytes that were used of the buffers that each tier keeps when they come back; more go back to the system, beyond
        `num_buffers` and `MAX_FREE`.
    """

    first_size: int
    num_tiers: int = 1
    num_buffers: int = 0
    size_multiple: float = 4.0
    max_kept: int = 128 << 20


class BulkBuffer:
    """`size` bytes of memory; the kernel frees it with its last holder.

    Attributes
    ----------
    fd : int
        Descriptor of the sealed memfd behind a shareable buffer, else -1.
    used : int
        Bytes that were handed out of it at most, which is what it costs.
    region : Any
        What stands for it where it was registered.
    retire : callable or None
        Called when it goes, if it was registered; keeps the memory until it is not registered any more.
    """

    __slots__ = ("fd", "region", "retire", "size", "used", "view")

    def __init__(self, size: int, shareable: bool) -> None:
        self.size = size
        self.used = 0
        self.fd = -1
        self.region: Any = None
        self.retire: Callable[[], None] | None = None
        if shareable:
            self.fd = os.memfd_create("mofka-bulk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        # Anonymous memory that is not private would be written by forked children as well.
        self.view = memoryview(mmap.mmap(self.fd, size, mmap.MAP_SHARED if shareable else mmap.MAP_PRIVATE))

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if self.retire is not None:
            self.retire()


def map_lent(fd: int) -> memoryview:
    """Map a buffer lent by a server; takes over `fd`.

    Raises
    ------
    OSError
        It is not a memfd sealed against resizing, so that reading it could kill this process.
    """
    try:
        size = os.fstat(fd).st_size
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS or not size:
            raise OSError(errno.EPERM, "a buffer that is empty, or not sealed against resizing, was lent")
        return memoryview(mmap.mmap(fd, size))
    finally:
        os.close(fd)


class BufferPool:
    """Hands out buffers by size, and keeps those returned for the next one who asks.

    A request goes to the smallest free buffer that holds it; where none is free, a buffer is added to the smallest
    tier that holds it. A request larger than every tier gets a buffer of its own, which is dropped on its return.
    Thread-safe without a lock, by single operations on lists. So a lease may come back while the garbage collector
    runs in the middle of `acquire`, and a child may be forked at any time. `acquire` costs about a microsecond when a
    buffer is free, a mapping otherwise; it never blocks.
    """

    def __init__(self, config: BufferPoolConfig, *, shareable: bool = False) -> None:
        self.config = config
        self._shareable = shareable
        sizes = [int(config.first_size * config.size_multiple**tier) for tier in range(config.num_tiers)]
        self._free = {
            size: [BulkBuffer(size, shareable) for _ in range(config.num_buffers)] for size in sizes
        }

    def acquire(self, size: int) -> BulkBuffer:
        """Return a buffer of at least `size` bytes, whose content is arbitrary."""
        fitting = [tier for tier in self._free if tier >= size]
        for tier in fitting:
            try:
                buffer = self._free[tier].pop()
            except IndexError:
                continue
            break
        else:
            buffer = BulkBuffer(fitting[0] if fitting else size, self._shareable)
        buffer.used = max(buffer.used, size)
        return buffer

    def lease(self, size: int) -> memoryview:
        """Return `size` bytes of a buffer, which comes back by itself once nobody holds a view of them."""
        buffer = self.acquire(size)
        owner = np.frombuffer(buffer.view, np.uint8, size)
        weakref.finalize(owner, self.release, buffer).atexit = False
        return owner.data

    def release(self, buffer: BulkBuffer) -> None:
        """Take `buffer` back; nobody may look at its memory any more."""
        free = self._free.get(buffer.size)
        if free is None:
            return
        count = len(free) + 1
        if count <= self.config.num_buffers or (count <= MAX_FREE and self._has_room(free, buffer)):
            free.append(buffer)

    def _has_room(self, free: list[BulkBuffer], buffer: BulkBuffer) -> bool:
        most = self.config.max_kept
        if (len(free) + 1) * buffer.size <= most:
            return True
        return sum(other.used for other in free) + buffer.used <= most


@cache
def shared_pool(config: BufferPoolConfig) -> BufferPool:
    """Return the pool of this process with these tiers: what one user gives back serves the next one."""
    return BufferPool(config)
