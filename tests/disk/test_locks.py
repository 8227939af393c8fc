import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi.disk import share, take
from mochi.disk.locks import _lockers


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def again(path: Path) -> int:
    return os.open(path, os.O_RDWR)


def test_who_comes_too_late_is_told_who_has_the_lock(tmp_path: Path, lock: int) -> None:
    take(lock)
    other = again(tmp_path / "lock")
    for attempt in (take, share):
        with pytest.raises(
            BlockingIOError, match=f"locked by process {os.getpid()} on {socket.gethostname()}"
        ):
            attempt(other)
    os.close(other)


def test_those_who_share_a_lock_keep_out_who_wants_it_alone(tmp_path: Path, lock: int) -> None:
    share(lock)
    other, third = again(tmp_path / "lock"), again(tmp_path / "lock")
    share(other)
    with pytest.raises(BlockingIOError, match="locked by whoever checks it just now"):
        take(third)
    os.close(other)
    os.close(third)
    assert os.pread(lock, 10, 0) == b""


def test_a_dead_process_is_not_named(tmp_path: Path, lock: int) -> None:
    """A child that inherited the lock holds it after the one that took it has died."""
    code = (
        "import os, sys, time; from mochi.disk import take\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); take(fd)\n"
        "if child := os.fork():\n    print(child, flush=True); os._exit(0)\n"
        "os.close(1); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.wait()
    try:
        assert f"process {owner.pid} on".encode() in os.pread(lock, 256, 0)
        with pytest.raises(BlockingIOError, match="locked by a process that is not known"):
            take(lock)
    finally:
        os.kill(child, signal.SIGKILL)
        owner.stdout.close()


def test_the_name_of_a_process_on_another_machine_is_believed(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(lock)
    os.pwrite(lock, b"process 7 on node42\n".ljust(64), 0)
    monkeypatch.setattr("mochi.disk.locks._lockers", lambda inode: [])
    other = again(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match="locked by process 7 on node42"):
        take(other)
    os.close(other)


def test_the_kernel_names_who_has_a_lock_that_bears_no_name(lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert _lockers(os.fstat(lock).st_ino) == [os.getpid()]
