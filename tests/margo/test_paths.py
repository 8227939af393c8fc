"""Paths that people give: the home in them, and what is read only if it is a file of a moderate size."""

import os
import threading
from pathlib import Path

import pytest

from mochi.margo import paths
from mochi.margo.errors import ConfigError
from mochi.margo.paths import check_regular, expand_home, read_small


def test_the_home_of_a_user_stands_for_the_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~/data", "config.path") == "/home/me/data"
    assert expand_home("~", "config.path") == "/home/me"
    assert expand_home("a/~b", "config.path") == "a/~b"
    assert expand_home("./~b", "config.path") == "./~b"


def test_the_home_of_nobody_is_an_error_and_no_directory_of_that_name() -> None:
    with pytest.raises(ConfigError, match=r"config\.path: '~nobody-here/x' begins with the home of no user"):
        expand_home("~nobody-here/x", "config.path")


def test_a_regular_file_is_read_and_one_that_is_not_there_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    check_regular(str(path))
    path.write_bytes(b"content")
    check_regular(str(path))
    assert read_small(str(path)) == b"content"
    (tmp_path / "link").symlink_to(path)
    assert read_small(str(tmp_path / "link")) == b"content"
    with pytest.raises(FileNotFoundError):
        read_small(str(tmp_path / "none"))


def test_what_is_no_file_is_neither_opened_nor_taken_for_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("/dev/null")
    for name, kind in {"pipe": "a pipe", "directory": "a directory", "link": "a device"}.items():
        for refuse in (read_small, check_regular):
            with pytest.raises(OSError, match=f"is {kind}, no file"):
                refuse(str(tmp_path / name))
    with pytest.raises(OSError, match="is a device, no file"):
        read_small("/dev/zero", pipes=True)


def test_a_pipe_that_was_typed_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"content"))
    writer.start()
    assert read_small(str(pipe), pipes=True) == b"content"
    writer.join()


def test_a_read_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SMALL", 10)
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert len(read_small(str(tmp_path / "file"))) == 10
    (tmp_path / "file").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_small(str(tmp_path / "file"))
