"""A target in a file: what stays, what is refused, what a full or a failing disk does."""

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from mochi.disk import PosixFile
from mochi.margo.errors import ConfigError
from mochi.warabi import StorageError
from tests.warabi.blob_server import Serve, in_file


def test_regions_stay_when_the_server_ends(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "blobs"
    with serve(in_file(path)) as (_, target):
        first, second = target.create_write(b"first"), target.create_write(b"second")
    with serve(in_file(path)) as (_, target):
        third = target.create_write(b"third")
        found = [bytes(target.read(region, [(0, 5)])) for region in (first, second, third)]
    assert found == [b"first", b"secon", b"third"]


def test_the_layout_is_the_originals(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "blobs"
    with serve(in_file(path, alignment=16)) as (_, target):
        names = [target.create_write(data) for data in (b"abc", b"d" * 17, b"e")]
    assert [struct.unpack("<QQ", name) for name in names] == [(0, 16), (16, 32), (48, 16)]
    assert path.read_bytes() == b"abc".ljust(16, b"\0") + b"d" * 17 + bytes(15) + b"e".ljust(16, b"\0")


def test_a_file_is_its_owners(serve: Serve, tmp_path: Path) -> None:
    with serve(in_file(tmp_path / "blobs")):
        assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o600


def test_an_erased_region_gives_its_room_back(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "blobs"
    with serve(in_file(path)) as (_, target):
        region = target.create_write(os.urandom(1 << 20), persist=True)
        before = path.stat().st_blocks
        target.erase(region)
        os.sync()
        assert path.stat().st_blocks < before
        assert path.stat().st_size == 1 << 20


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"type": "abtio", "config": {}}, "path"),
        ({"type": "abtio", "config": {"path": "{}/none"}}, "no file .*/none, and create_if_missing is false"),
        ({"type": "abtio", "config": {"path": "{}", "create_if_missing": True}}, "is not a regular file"),
        ({"type": "abtio", "config": {"path": "/dev/null"}}, "is not a regular file"),
        (
            {"type": "abtio", "config": {"path": "{}/a/b", "create_if_missing": True}},
            "a/b cannot be used: No such",
        ),
        ({"type": "abtio", "config": {"path": "{}/a", "aligment": 8}}, "aligment: unknown.*'alignment'"),
        ({"type": "abtio", "config": {"path": "{}/a", "alignment": 12}}, "alignment"),
        (
            {"type": "abtio", "config": {"path": "{}/a", "abt_io": {"num_uring": 1}}},
            r"config\.abt_io\.num_uring",
        ),
        (
            {"type": "pmdk", "config": {"path": "{}/a", "create_if_missing_with_size": 5}},
            "create_if_missing_with",
        ),
        ({"type": "memory", "config": {"path": "x"}}, r"target\.config\.path"),
        ({"type": "abt_io", "config": {}}, "unknown type \"abt_io\"; did you mean 'abtio'"),
    ],
)
def test_what_cannot_be_used_is_named(
    serve: Serve, tmp_path: Path, target: dict[str, Any], words: str
) -> None:
    given = {**target["config"]}
    if "path" in given:
        given["path"] = given["path"].format(tmp_path)
    with pytest.raises(ConfigError, match=words), serve({"target": {**target, "config": given}}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_serves_one_target_at_a_time(serve: Serve, tmp_path: Path) -> None:
    with (
        serve(in_file(tmp_path / "blobs")),
        pytest.raises(ConfigError, match="is the target of another provider"),
        serve(in_file(tmp_path / "blobs")),
    ):
        pass


def test_a_file_is_begun_anew_on_demand(serve: Serve, tmp_path: Path) -> None:
    with serve(in_file(tmp_path / "blobs")) as (_, target):
        target.create_write(b"old")
    with serve(in_file(tmp_path / "blobs", override_if_exists=True)) as (_, target):
        assert struct.unpack("<QQ", target.create_write(b"new")) == (0, 8)


def test_persistent_memory_is_a_file_with_one_warning(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"path": str(tmp_path / "pool"), "create_if_missing_with_size": 8 << 20}
    with serve({"target": {"type": "pmdk", "config": given}}) as (provider, target):
        region = target.create_write(b"abc")
        assert provider.config["target"] == {"type": "pmdk", "config": given}
    assert caplog.text.count("a pmdk target is a plain file here") == 1
    with serve({"target": {"type": "pmdk", "config": {"path": given["path"]}}}) as (_, target):
        assert bytes(target.read(region, [(0, 3)])) == b"abc"


@pytest.mark.parametrize("fields", [{}, {"sync": True}, {"directio": True}])
def test_the_expanded_configuration_opens_the_same_target(
    serve: Serve, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with serve(in_file(tmp_path / "blobs", **fields)) as (provider, target):
        region = target.create_write(b"abc")
        expanded = provider.config
    assert expanded["target"]["config"]["alignment"] == 8
    assert expanded["transfer_manager"] == {"type": "__default__", "config": {}}
    with serve(expanded) as (provider, target):
        assert provider.config == expanded
        assert bytes(target.read(region, [(0, 3)])) == b"abc"


def test_a_transfer_manager_is_checked_and_shown(serve: Serve) -> None:
    pipeline = {
        "num_pools": 1,
        "num_buffers_per_pool": 2,
        "first_buffer_size": 1024,
        "buffer_size_multiplier": 2.0,
    }
    with serve({"transfer_manager": {"type": "pipeline", "config": pipeline}}) as (provider, _):
        assert provider.config["transfer_manager"]["config"] == pipeline
    for wrong in ({"type": "pipeline", "config": {}}, {"type": "pipe"}):
        with pytest.raises(ConfigError, match="transfer_manager"), serve({"transfer_manager": wrong}):
            pass


def test_after_a_failed_sync_nothing_is_promised(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(in_file(tmp_path / "blobs")) as (_, target):
        region = target.create_write(b"abc")
        with monkeypatch.context() as patched:
            patched.setattr(PosixFile, "sync", lambda file: _refuse(file, errno.EIO))
            with pytest.raises(StorageError, match="Input/output error"):
                target.persist(region, [(0, 3)])
        for refused in (
            lambda: target.create(5),
            lambda: target.persist(region, []),
            lambda: target.erase(region),
        ):
            with pytest.raises(StorageError, match="nothing is certain any more"):
                refused()
        assert bytes(target.read(region, [(0, 3)])) == b"abc"


def test_a_full_disk_fails_a_write_and_no_more(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(in_file(tmp_path / "blobs")) as (_, target):
        region = target.create(3)
        with monkeypatch.context() as patched:
            patched.setattr(PosixFile, "write", lambda file, buffers, offset: _refuse(file, errno.ENOSPC))
            with pytest.raises(StorageError, match="No space left"):
                target.write(region, [(0, 3)], b"abc")
        target.write(region, [(0, 3)], b"abc")
        assert bytes(target.read(region, [(0, 3)])) == b"abc"


def _refuse(file: PosixFile, number: int) -> None:
    raise OSError(number, os.strerror(number), file.path)
