"""Which system calls a configuration gets, and what is said where io_uring is missing."""

import errno
import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from mochi.abt_io.calls import SystemCalls, open_calls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import open_files


def test_without_urings_the_calls_are_plain_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert type(open_calls("io", AbtIoConfig(liburing_flags=["IOSQE_ASYNC"]))) is SystemCalls
    assert caplog.records == []


def test_without_the_library_one_warning_names_the_extra_and_plain_calls_do_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for module in ("mochi.abt_io.uring", "mochi.abt_io.ring"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "liburing", None)
    config = AbtIoConfig(num_urings=1)
    with caplog.at_level(logging.WARNING):
        calls = open_calls("io", config)
    (record,) = caplog.records
    assert "abt_io provider 'io': config.num_urings is 1, but there is no io_uring here" in record.message
    assert "pip install 'mofka[uring]'" in record.message
    assert type(calls) is SystemCalls
    file = open_files("io", config, calls).open(str(tmp_path / "a"), writable=True)
    file.write([b"x"], 0)
    file.sync()
    file.close()
    assert (tmp_path / "a").read_bytes() == b"x"


def test_several_files_are_synced_at_once_and_each_has_an_outcome_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = threading.Barrier(3, timeout=10)

    def fdatasync(fd: int) -> None:
        together.wait()
        if fd == 8:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    calls = SystemCalls()
    first, second, third = calls.sync([7, 8, 9])
    assert (first, third) == (None, None)
    assert isinstance(second, OSError)
    assert second.errno == errno.EIO
    calls.close()
    together.abort()
    with pytest.raises(threading.BrokenBarrierError):
        calls.sync([7])


def test_without_threads_several_files_are_synced_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, str]] = []

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append((fd, threading.current_thread().name)))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    calls = SystemCalls()
    assert calls.sync([7, 8, 9]) == [None, None, None]
    assert synced == [(fd, threading.current_thread().name) for fd in (7, 8, 9)]
    calls.close()
