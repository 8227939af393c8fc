"""The cache of open files, watched from outside by which descriptors the process has open."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mochi.disk import Descriptors, FdCache, PosixFiles
from mochi.mofka.chunks import StorageError


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in "abcdef"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return [str(path) for path in paths]


def opened(paths: list[str]) -> str:
    """Give the names of the files among `paths` that this process has open."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return "".join(os.path.basename(path) for path in paths if path in found)


def use(cache: FdCache, path: str) -> bytes:
    target = bytearray(1)
    with cache.open(path) as file:
        file.read(memoryview(target), 0)
    return bytes(target)


def test_the_file_not_used_for_longest_is_closed_first(paths: list[str]) -> None:
    cache = FdCache(PosixFiles(), 2, Descriptors())
    a, b, c, *_ = paths
    assert [use(cache, path) for path in (a, b, a, c)] == [b"a", b"b", b"a", b"c"]
    assert opened(paths) == "ac"
    cache.close()


def test_a_file_is_opened_once_while_it_stays(paths: list[str]) -> None:
    cache = FdCache(PosixFiles(), 2, Descriptors())
    with cache.open(paths[0]) as first, cache.open(paths[0]) as second:
        assert first is second
    cache.close()


def test_files_in_use_stay_open_beyond_the_capacity(paths: list[str]) -> None:
    cache = FdCache(PosixFiles(), 1, Descriptors())
    with cache.open(paths[0]), cache.open(paths[1]), cache.open(paths[2]):
        assert opened(paths) == "abc"
    assert len(opened(paths)) == 1
    cache.close()
    assert opened(paths) == ""


def test_closing_leaves_a_file_in_use_to_its_last_user(paths: list[str]) -> None:
    cache = FdCache(PosixFiles(), 3, Descriptors())
    use(cache, paths[1])
    with cache.open(paths[0]) as file:
        cache.close()
        assert opened(paths) == "a"
        file.read(memoryview(bytearray(1)), 0)
    assert opened(paths) == ""
    with pytest.raises(StorageError, match="store is closed"):
        use(cache, paths[0])


def test_a_failed_open_is_not_remembered(paths: list[str], tmp_path: Path) -> None:
    cache = FdCache(PosixFiles(), 2, Descriptors())
    late = tmp_path / "late"
    with pytest.raises(StorageError, match="ENOENT"):
        use(cache, str(late))
    late.write_bytes(b"x")
    assert use(cache, str(late)) == b"x"
    cache.close()


def test_many_threads_read_the_right_files_through_a_small_cache(paths: list[str]) -> None:
    cache = FdCache(PosixFiles(), 2, Descriptors())
    wanted = [paths[i * 7 % len(paths)] for i in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda path: use(cache, path), wanted))
    assert read == [os.path.basename(path).encode() for path in wanted]
    assert len(opened(paths)) == 2
    cache.close()
    assert opened(paths) == ""
