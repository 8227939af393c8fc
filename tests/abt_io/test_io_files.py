"""The calls on files, on real files: complete or failed, with the file's path in every error."""

import errno
import fcntl
import inspect
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import open_files
from mochi.disk import File, FileLayer, PosixFile, PosixFiles


def plain() -> PosixFiles:
    return open_files("io", AbtIoConfig())


def content(file: File, length: int, offset: int = 0) -> bytes:
    target = bytearray(length)
    file.read(memoryview(target), offset)
    return bytes(target)


@pytest.mark.parametrize(("ours", "theirs"), [(PosixFiles, FileLayer), (PosixFile, File)])
def test_storage_finds_every_call_that_it_needs(ours: type, theirs: type) -> None:
    needed = {
        name: call for name, call in vars(theirs).items() if not name.startswith("_") and callable(call)
    }
    assert needed
    for name, call in needed.items():
        offered = inspect.signature(getattr(ours, name)).parameters.values()
        assert [(each.name, each.kind) for each in offered] == [
            (each.name, each.kind) for each in inspect.signature(call).parameters.values()
        ]


def test_buffers_are_written_one_after_the_other_at_the_offset(tmp_path: Path) -> None:
    file = plain().open(str(tmp_path / "a"), writable=True)
    file.write([b"one", bytearray(b"two"), b"", memoryview(b"three")], 4)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0\0onetwothree"
    assert content(file, 3, 7) == b"two"
    file.close()


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    buffers = [b"%06d" % number for number in range(os.sysconf("SC_IOV_MAX") * 2 + 3)]
    file = plain().open(str(tmp_path / "a"), writable=True)
    file.write(buffers, 0)
    file.close()
    assert (tmp_path / "a").read_bytes() == b"".join(buffers)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 9), st.integers(0, 5))
def test_short_reads_and_writes_are_continued(
    tmp_path: Path, buffers: list[bytes], most: int, offset: int
) -> None:
    pwritev, preadv = os.pwritev, os.preadv

    def short_pwritev(fd: int, views: Sequence[memoryview], position: int) -> int:
        return pwritev(fd, [b"".join(views)[:most]], position)

    def short_preadv(fd: int, views: Sequence[memoryview], position: int) -> int:
        return preadv(fd, [views[0][:most]], position)

    expected = b"".join(buffers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", short_pwritev)
        patch.setattr(os, "preadv", short_preadv)
        file = plain().open(str(tmp_path / "a"), writable=True)
        file.truncate(0)
        file.write(buffers, offset)
        assert content(file, len(expected), offset) == expected
        file.close()
    assert (tmp_path / "a").read_bytes()[offset:] == expected


def test_a_file_that_may_not_grow_fails_after_the_part_that_fitted(tmp_path: Path) -> None:
    script = """if True:
        import resource, sys
        from mochi.abt_io.config import AbtIoConfig
        from mochi.abt_io.files import open_files
        file = open_files("io", AbtIoConfig()).open(sys.argv[1], writable=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            file.write([b"a" * 600, b"b" * 600], 0)
        except OSError as error:
            print(error.errno, error.filename)
    """
    path = str(tmp_path / "a")
    finished = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    assert finished.stdout == f"{errno.EFBIG} {path}\n"
    assert (tmp_path / "a").read_bytes() == b"a" * 600 + b"b" * 400
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_full_device_is_an_error_with_its_path() -> None:
    file = plain().open("/dev/full", writable=True)
    with pytest.raises(
        OSError, match=r"cannot write /dev/full: No space left on device \(ENOSPC\)"
    ) as caught:
        file.write([b"x"], 0)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    file.close()


def test_a_file_that_ends_too_early_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    file = plain().open(str(tmp_path / "a"), writable=False)
    with pytest.raises(OSError, match="ends at byte 5, 3 bytes too early") as caught:
        content(file, 6, 2)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a"))
    file.close()


def test_a_file_opened_for_reading_is_neither_made_nor_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        plain().open(str(tmp_path / "a"), writable=False)
    assert caught.value.filename == str(tmp_path / "a")
    (tmp_path / "a").touch()
    file = plain().open(str(tmp_path / "a"), writable=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write([b"x"], 0)
    file.close()


def test_what_is_written_is_there_after_a_sync_and_a_truncation(tmp_path: Path) -> None:
    files = plain()
    file = files.open(str(tmp_path / "a"), writable=True)
    file.write([b"0123456789"], 0)
    file.sync()
    file.truncate(4)
    file.close()
    files.sync_directory(str(tmp_path))
    assert files.size(str(tmp_path / "a")) == 4
    assert files.list_directory(str(tmp_path)) == ["a"]


def test_a_closed_file_cannot_be_synced(tmp_path: Path) -> None:
    file = plain().open(str(tmp_path / "a"), writable=True)
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        file.sync()
    assert caught.value.filename == str(tmp_path / "a")


def test_a_directory_is_made_once_and_removed_when_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a"
    umask = os.umask(0)
    try:
        assert plain().make_directory(str(path), private=True)
    finally:
        os.umask(umask)
    assert not plain().make_directory(str(path), private=True)
    assert plain().is_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        plain().remove_directory(str(path))
    (path / "file").unlink()
    plain().remove_directory(str(path))
    assert not plain().is_directory(str(path))


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="is not a directory") as caught:
        plain().make_directory(str(tmp_path / "a"), private=True)
    assert caught.value.filename == str(tmp_path / "a")


def test_a_lock_that_was_removed_while_it_was_taken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    flock = fcntl.flock

    def after_its_removal(fd: int, operation: int) -> None:
        path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", after_its_removal)
    with pytest.raises(BlockingIOError, match="removed meanwhile"):
        plain().lock(str(path))


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    held = plain().lock(path)
    with pytest.raises(BlockingIOError, match=f"locked by process {os.getpid()} on ") as caught:
        plain().lock(path)
    assert caught.value.filename == path
    held.close()
    plain().lock(path).close()


def test_null_writes_leave_the_file_as_it_is(tmp_path: Path) -> None:
    file = open_files("io", AbtIoConfig(null_io_write=True)).open(str(tmp_path / "a"), writable=True)
    file.write([b"lost"], 0)
    file.sync()
    file.close()
    assert (tmp_path / "a").read_bytes() == b""


def test_null_reads_leave_the_target_as_it_is(tmp_path: Path) -> None:
    file = open_files("io", AbtIoConfig(null_io_read=True)).open(str(tmp_path / "a"), writable=True)
    file.write([b"kept"], 0)
    assert content(file, 4) == b"\0\0\0\0"
    file.close()
    assert (tmp_path / "a").read_bytes() == b"kept"


def test_the_trace_has_a_line_for_each_operation_failed_ones_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "a")
    file = open_files("io", AbtIoConfig(trace_io=True)).open(path, writable=True)
    file.write([b"ab", b"cd"], 8)
    with pytest.raises(OSError, match="too early"):
        content(file, 100, 6)
    file.close()
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [(line[:5], line[7]) for line in lines] == [
        (["X_ABT_IO", "io", "open", "0", "0"], path),
        (["X_ABT_IO", "io", "write", "8", "4"], path),
        (["X_ABT_IO", "io", "read", "6", "100"], path),
        (["X_ABT_IO", "io", "close", "0", "0"], path),
    ]
    times = [float(time) for line in lines for time in line[5:7]]
    assert times == sorted(times)


def test_without_the_trace_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = plain().open(str(tmp_path / "a"), writable=True)
    file.write([b"x"], 0)
    file.close()
    assert capsys.readouterr().err == ""
