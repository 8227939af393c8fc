"""The real file layer, against the real operating system."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import PartitionLocked, StorageError


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel write up to `size` bytes of a file, and refuse what comes after."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_more_buffers_than_one_call_takes_are_all_written_in_order(tmp_path: Path) -> None:
    buffers = [b"%d," % i for i in range(3 * os.sysconf("SC_IOV_MAX") + 5)]
    buffers[7] = b""
    with closing(PosixFiles().open(str(tmp_path / "file"), writable=True)) as file:
        file.write(buffers, 3)
    assert (tmp_path / "file").read_bytes() == bytes(3) + b"".join(buffers)


def test_writing_goes_on_after_a_short_write_until_the_kernel_refuses(tmp_path: Path) -> None:
    with closing(PosixFiles().open(str(tmp_path / "file"), writable=True)) as file:
        with (
            file_size_limit(10),
            pytest.raises(StorageError, match=r"cannot write .*file: .*EFBIG") as caught,
        ):
            file.write([b"0123456", b"789ABC", b"DEF"], 0)
        assert (caught.value.operation, caught.value.errno) == ("write", errno.EFBIG)
        assert caught.value.path == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_kernel_that_moves_three_bytes_a_call_moves_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev, preadv = os.pwritev, os.preadv
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: pwritev(fd, [buffers[0][:3]], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:3]], offset))
    with closing(PosixFiles().open(str(tmp_path / "file"), writable=True)) as file:
        file.write([b"01234567", b"89", b"ABCDEF"], 0)
        target = bytearray(16)
        file.read(memoryview(target), 0)
    assert target == b"0123456789ABCDEF"


def test_a_full_device_is_reported_by_name(tmp_path: Path) -> None:
    with (
        closing(PosixFiles().open("/dev/full", writable=True)) as file,
        pytest.raises(StorageError, match=r"cannot write /dev/full: No space left on device \(ENOSPC\)"),
    ):
        file.write([b"x"], 0)


def test_reading_past_the_end_says_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with closing(PosixFiles().open(str(tmp_path / "file"), writable=False)) as file:
        target = bytearray(4)
        file.read(memoryview(target), 6)
        assert target == b"6789"
        with pytest.raises(StorageError, match="ends at byte 10, 2 bytes too early"):
            file.read(memoryview(target), 8)


def test_a_missing_file_is_an_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        PosixFiles().open(str(tmp_path / "none"), writable=False)
    assert (caught.value.operation, caught.value.errno) == ("open", errno.ENOENT)


def test_a_directory_is_made_once_and_only_where_nothing_else_has_its_name(tmp_path: Path) -> None:
    assert PosixFiles().make_directory(str(tmp_path / "a"), private=True)
    assert not PosixFiles().make_directory(str(tmp_path / "a"), private=True)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot make .*file: is not a directory \(ENOTDIR\)"):
        PosixFiles().make_directory(str(tmp_path / "file"), private=True)


def test_the_second_lock_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = PosixFiles().lock(path)
    with pytest.raises(PartitionLocked, match=f"process {os.getpid()} on "):
        PosixFiles().lock(path)
    first.close()
    PosixFiles().lock(path).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holding = (
        "import sys; from mochi.disk import PosixFiles\n"
        f"lock = PosixFiles().lock({path!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PartitionLocked, match=f"process {holder.pid} on ") as caught:
            PosixFiles().lock(path)
        assert caught.value.path == path
        holder.kill()
    PosixFiles().lock(path).close()
