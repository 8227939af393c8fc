"""The contract of file layers, held by all of them: what is read is what was written, and what is refused is named."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mochi.abt_io.calls import open_calls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import open_files
from mochi.abt_io.threads import IoThreads
from mochi.disk import (
    Descriptors,
    File,
    FileLayer,
    KeptFiles,
    Locked,
    Overlay,
    PosixFiles,
    RoomyFiles,
    StorageError,
)
from mochi.mofka.files.storage import OwnFiles
from tests.abt_io.uring_here import needs_uring
from tests.chunks.recording_files import RecordingFiles
from tests.mofka.partition_io import BreakableFiles


def traced() -> FileLayer:
    return open_files("io", AbtIoConfig(trace_io=True))


def kept() -> FileLayer:
    """Files that are closed whenever they are not in use, which they never are here."""
    return KeptFiles(PosixFiles(), Descriptors(0))


CHANGING: dict[str, Callable[[], FileLayer]] = {
    "posix": PosixFiles,
    "umask": lambda: PosixFiles(by_umask=True),
    "abt_io": lambda: open_files("io", AbtIoConfig()),
    "traced": traced,
    "own": OwnFiles,
    "roomy": lambda: RoomyFiles(PosixFiles(), Descriptors(0)),
    "kept": kept,
    "recording": RecordingFiles,
    "breakable": BreakableFiles,
}
"""Layers that change what is on disk."""


@pytest.fixture(params=CHANGING)
def changing(request: pytest.FixtureRequest) -> FileLayer:
    return CHANGING[request.param]()


@pytest.fixture(params=[*CHANGING, "overlay", pytest.param("uring", marks=needs_uring)])
def files(request: pytest.FixtureRequest) -> Iterator[FileLayer]:
    if request.param == "overlay":
        with closing(Overlay(PosixFiles(), "unkept-")) as overlay:
            yield overlay
    elif request.param == "uring":
        config = AbtIoConfig(num_urings=1)
        calls = open_calls("io", config)
        yield open_files("io", config, calls)
        calls.close()
    else:
        yield CHANGING[request.param]()


@pytest.fixture
def threads() -> Iterator[IoThreads]:
    threads = IoThreads("layers")
    yield threads
    threads.close()


def content(file: File, length: int, offset: int = 0) -> bytes:
    target = bytearray(length)
    file.read(memoryview(target), offset)
    return bytes(target)


def test_what_is_read_is_what_was_written(files: FileLayer, threads: IoThreads, tmp_path: Path) -> None:
    path = str(tmp_path / "file")

    def write_and_read() -> None:
        with closing(files.open(path, writable=True)) as file:
            assert file.path == path
            file.write([b"one", bytearray(b"two"), b"", memoryview(b"--three")[2:]], 4)
            file.write([], 0)
            assert content(file, 15) == b"\0\0\0\0onetwothree"
            file.truncate(9)
            file.truncate(12)
            file.sync()
            files.sync_all([file])
        with closing(files.open(path, writable=False)) as file:
            assert content(file, 12) == b"\0\0\0\0onetw\0\0\0"
            assert content(file, 0, 12) == b""
            with pytest.raises(StorageError, match="the file ends at byte 12, 3 bytes too early") as short:
                content(file, 4, 11)
            assert (short.value.operation, short.value.errno) == ("read", errno.EIO)
            assert short.value.path == path

    threads.submit(write_and_read).result(20)  # by an io_uring, where there is one
    assert files.size(path) == 12
    assert files.list_directory(str(tmp_path)) == ["file"]
    files.sync_directory(str(tmp_path))


def test_more_buffers_than_one_call_takes_are_all_written(
    files: FileLayer, threads: IoThreads, tmp_path: Path
) -> None:
    buffers = [b"%06d" % number for number in range(2 * os.sysconf("SC_IOV_MAX") + 3)]
    with closing(files.open(str(tmp_path / "file"), writable=True)) as file:
        threads.submit(lambda: file.write(buffers, 0)).result(20)
        assert content(file, 6 * len(buffers)) == b"".join(buffers)


def test_names_are_given_and_taken(files: FileLayer, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        with closing(files.open(path, writable=True)) as file:
            file.write([path.encode()], 0)
    files.rename(*paths)
    assert files.list_directory(str(tmp_path)) == ["two"]
    with closing(files.open(paths[1], writable=False)) as file:
        assert content(file, len(paths[0])) == paths[0].encode()
    files.remove(paths[1])
    assert files.list_directory(str(tmp_path)) == []


def test_what_is_missing_is_named(files: FileLayer, tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    for call in (
        lambda: files.open(path, writable=False),
        lambda: files.size(path),
        lambda: files.list_directory(path),
        lambda: files.remove(path),
        lambda: files.rename(path, path + "2"),
        lambda: files.lock_shared(path),
    ):
        with pytest.raises(StorageError, match=f"cannot .* {path}: No such file") as missing:
            call()
        assert (missing.value.errno, missing.value.path) == (errno.ENOENT, path)
        assert isinstance(missing.value, FileNotFoundError)
    assert not files.is_directory(path)


def test_what_is_no_file_has_no_size(files: FileLayer, tmp_path: Path) -> None:
    for path, number in ((str(tmp_path), errno.EISDIR), ("/dev/null", errno.EINVAL)):
        with pytest.raises(StorageError, match="cannot examine") as refused:
            files.size(path)
        assert refused.value.errno == number


def test_a_lock_is_held_until_it_is_closed(changing: FileLayer, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with closing(changing.lock(path)):
        for lock in (changing.lock, changing.lock_shared):
            with pytest.raises(Locked, match=f"lock is locked by process {os.getpid()} on ") as refused:
                lock(path)
            assert refused.value.path == path
    with (
        closing(changing.lock_shared(path)),
        closing(changing.lock_shared(path)),
        pytest.raises(Locked, match="locked by whoever checks it just now"),
    ):
        changing.lock(path)
    changing.lock(path).close()


def test_a_directory_is_made_once_and_goes_when_it_is_empty(changing: FileLayer, tmp_path: Path) -> None:
    path = str(tmp_path / "directory")
    assert changing.make_directory(path, private=True)
    assert not changing.make_directory(path, private=True)
    assert changing.is_directory(path)
    changing.open(f"{path}/file", writable=True).close()
    with pytest.raises(StorageError, match=r"cannot remove .*not empty"):
        changing.remove_directory(path)
    changing.remove(f"{path}/file")
    os.symlink(path, tmp_path / "link")
    for name in ("link", "directory"):
        changing.remove_directory(str(tmp_path / name))
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot make .*file: is not a directory \(ENOTDIR\)"):
        changing.make_directory(str(tmp_path / "file"), private=True)


@pytest.mark.parametrize(("name", "modes"), [("posix", (0o700, 0o600)), ("umask", (0o775, 0o664))])
def test_what_is_made_is_its_owners_unless_the_umask_decides(
    tmp_path: Path, name: str, modes: tuple[int, int]
) -> None:
    files = CHANGING[name]()
    before = os.umask(0o002)
    try:
        files.make_directory(str(tmp_path / "private"), private=True)
        files.make_directory(str(tmp_path / "above"), private=False)
        files.open(str(tmp_path / "file"), writable=True).close()
        files.lock(str(tmp_path / "lock")).close()
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"private": modes[0], "above": 0o775, "file": modes[1], "lock": modes[1]}


def test_a_full_device_is_an_error_with_its_path() -> None:
    for files in (PosixFiles(), open_files("io", AbtIoConfig())):
        with (
            closing(files.open("/dev/full", writable=True)) as file,
            pytest.raises(StorageError, match=r"cannot write /dev/full: No space left on device \(ENOSPC\)"),
        ):
            file.write([b"x"], 0)
