"""Bulk buffers: tiers, reuse, leases, and what may be mapped of another process."""

import fcntl
import gc
import mmap
import os

import numpy as np
import pytest

from mochi.margo import bulk
from mochi.margo.bulk import BufferPool, BufferPoolConfig, BulkBuffer, map_lent


def make_pool(shareable: bool = False, num_buffers: int = 0) -> BufferPool:
    config = BufferPoolConfig(first_size=4096, num_tiers=3, num_buffers=num_buffers, size_multiple=2.0)
    return BufferPool(config, shareable=shareable)


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (16384, 16384), (16385, 16385)],
)
def test_a_buffer_comes_from_the_smallest_tier_that_holds_it(asked: int, given: int) -> None:
    assert make_pool().acquire(asked).size == given


def test_the_buffer_returned_last_is_handed_out_first() -> None:
    pool = make_pool()
    a, b = pool.acquire(1), pool.acquire(1)
    pool.release(a)
    pool.release(b)
    assert pool.acquire(1) is b
    assert pool.acquire(1) is a


def test_a_free_buffer_of_a_larger_tier_is_taken_before_a_new_one_is_made() -> None:
    pool = make_pool()
    large = pool.acquire(16384)
    pool.release(large)
    assert pool.acquire(1) is large


def test_buffers_are_made_in_advance() -> None:
    pool = make_pool(num_buffers=2)
    made = [pool.acquire(4096) for _ in range(2)]
    for buffer in made:
        pool.release(buffer)
    assert {id(pool.acquire(4096)) for _ in range(2)} == {id(buffer) for buffer in made}


def test_a_buffer_beyond_the_tiers_is_not_kept() -> None:
    pool = make_pool()
    large = pool.acquire(20000)
    pool.release(large)
    assert pool.acquire(20000) is not large


@pytest.mark.parametrize(("used", "kept"), [(1000, 25), (4000, 25), (8192, 12), (60000, 1)])
def test_a_tier_keeps_no_more_than_it_may(used: int, kept: int) -> None:
    pool = BufferPool(BufferPoolConfig(first_size=65536, max_kept=100_000))
    for buffer in [pool.acquire(used) for _ in range(25)]:
        pool.release(buffer)
    assert len(pool._free[65536]) == kept


def test_few_buffers_are_kept_however_little_of_them_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_FREE", 3)
    pool = make_pool(num_buffers=2)
    buffers = [pool.acquire(1) for _ in range(9)]
    for buffer in buffers:
        pool.release(buffer)
    again = [pool.acquire(1) for _ in range(9)]
    assert len({id(buffer) for buffer in again} & {id(buffer) for buffer in buffers}) >= 3


def test_a_lease_comes_back_when_the_last_view_of_it_dies() -> None:
    pool = make_pool()
    buffer = pool.acquire(4096)
    pool.release(buffer)
    view = pool.lease(100)
    assert len(view) == 100
    slices = [view[10:20], np.frombuffer(view[20:40], np.uint8)]
    del view
    assert pool.acquire(4096) is not buffer
    slices.pop(0)
    slices.pop()
    assert pool.acquire(4096) is buffer


def test_an_empty_lease_is_empty() -> None:
    assert len(make_pool().lease(0)) == 0


def test_a_lease_may_come_back_while_the_collector_runs_inside_the_pool() -> None:
    pool = make_pool()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            cycle: list[object] = [pool.lease(10)]
            cycle.append(cycle)
            del cycle
    finally:
        gc.set_threshold(*threshold)


def test_a_shared_buffer_is_seen_by_both_sides() -> None:
    buffer = make_pool(shareable=True).acquire(4096)
    lent = map_lent(os.dup(buffer.fd))
    lent[:5] = b"hello"
    assert bytes(buffer.view[:5]) == b"hello"
    assert len(lent) == 4096


def test_a_shared_buffer_cannot_be_resized() -> None:
    buffer = BulkBuffer(4096, shareable=True)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(buffer.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(buffer.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@pytest.mark.parametrize("size", [0, 4096])
def test_a_buffer_that_could_kill_its_reader_is_not_mapped(size: int) -> None:
    descriptor = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    with pytest.raises(OSError, match="not sealed"):
        map_lent(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_something_else_than_memory_is_not_mapped() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        map_lent(os.open("/dev/null", os.O_RDWR))


def test_buffers_give_their_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pool = make_pool(shareable=True)
    held = [pool.acquire(4096) for _ in range(5)]
    lent = map_lent(os.dup(held[0].fd))
    assert len(os.listdir("/proc/self/fd")) > before
    for buffer in held:
        pool.release(buffer)
    del pool, held, buffer, lent
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_is_taken_on_first_touch_only() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * mmap.PAGESIZE

    before = resident()
    buffer = BulkBuffer(256 << 20, shareable=False)
    buffer.view[0] = 1
    assert resident() - before < 64 << 20


def test_what_a_forked_child_writes_is_its_own() -> None:
    pool = BufferPool(BufferPoolConfig(first_size=4096))
    kept, free = pool.acquire(100), pool.acquire(100)
    kept.view[:6] = b"parent"
    pool.release(free)
    if not (child := os.fork()):
        kept.view[:6] = b"child!"
        pool.acquire(100).view[:6] = b"child!"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(kept.view[:6]) == b"parent"
    assert bytes(pool.acquire(100).view[:6]) == bytes(6)
