"""What is particular to the backend ``lmdb``: its files, its lock, its durability, and what it has no room for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mochi.margo.errors import ConfigError
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.errors import InvalidArguments, StorageError
from mochi.yokan.lmdb import LONGEST, LmdbBackend

WHERE = "config.database.config"

BEHIND_A_FAILED_WRITE = """
import os, resource, signal, sys
from mochi.yokan.errors import StorageError
from mochi.yokan.lmdb import LmdbBackend

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
backend = LmdbBackend({"path": sys.argv[1]}, "config")
backend.write({b"first": b"value"})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        backend.write({b"first": None, b"large": bytes(2 << 20)})
    except StorageError as error:
        assert "lmdb cannot write" in str(error)
    else:
        os._exit(1)
    assert list(backend.scan(b"")) == [(b"first", b"value")]
backend.write({b"last": b"value"})
backend.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""

HOLDING = """
import sys
from mochi.yokan.lmdb import LmdbBackend
backend = LmdbBackend({"path": sys.argv[1], "no_lock": True}, "config")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "master")


def opened(path: str, **config: object) -> LmdbBackend:
    return LmdbBackend({"path": path, **config}, WHERE)


def test_everything_is_there_after_a_reopening(path: str) -> None:
    database = EmbeddedDatabase(opened(path))
    database.put_multi([(b"a", b"1"), (b"b", b"")])
    database.create_collection(b"partitions").store_multi([b"x", b"y"])
    pairs = database.list_keyvals()
    database.close()
    database.close()
    database = EmbeddedDatabase(opened(path, create_if_missing=False))
    assert database.list_keyvals() == pairs
    assert database.collection(b"partitions").store(b"z") == 2
    database.close()


@pytest.mark.parametrize(("by_umask", "modes"), [(False, (0o700, 0o600)), (True, (0o755, 0o644))])
def test_its_files_are_its_owners_unless_the_umask_decides(
    path: str, by_umask: bool, modes: tuple[int, int]
) -> None:
    before = os.umask(0o022)
    try:
        LmdbBackend({"path": path}, WHERE, by_umask=by_umask).close()
    finally:
        os.umask(before)
    files = list(Path(path).iterdir())
    assert Path(path).stat().st_mode & 0o777 == modes[0]
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {modes[1]}


def test_what_is_written_behind_a_write_that_failed_survives_the_death_of_the_process(path: str) -> None:
    command = [sys.executable, "-c", BEHIND_A_FAILED_WRITE, path]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    backend = opened(path, create_if_missing=False)
    assert list(backend.scan(b"")) == [(b"first", b"value"), (b"last", b"value")]
    backend.close()


def test_who_has_the_database_open_is_named(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(
            ConfigError, match=f"is open in another process .*: locked by process {holder.pid} "
        ):
            opened(path)
        holder.communicate(timeout=30)
    backend = opened(path)
    with pytest.raises(ConfigError, match="is open in another process or provider"):
        opened(path)
    backend.close()
    opened(path).close()


def test_a_full_disk_leaves_what_is_there_and_is_left_behind(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(path)
    backend.write({b"key": b"value"})
    backend.close()

    def refused(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("mochi.yokan.lmdb.os.open", refused)
        backend = opened(path)
        assert list(backend.scan(b"")) == [(b"key", b"value")]
        with pytest.raises(StorageError, match="No space left on device"):
            backend.write({b"other": b"value"})
        assert backend.get(b"key") == b"value"
    backend.write({b"other": b"value"})
    assert backend.count() == 2
    with pytest.raises(ConfigError, match="is open in another process or provider"):
        opened(path)
    backend.close()


def test_a_database_that_is_not_there_is_not_made_on_a_full_disk(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("mochi.yokan.lmdb.os.open", refused)
        with pytest.raises(ConfigError, match=r"does not open: .*No space left on device"):
            opened(path)
    opened(path).close()


def test_a_key_that_lmdb_has_no_room_for_is_refused_and_is_never_there(path: str) -> None:
    database = EmbeddedDatabase(opened(path))
    longest = b"k" * LONGEST
    database.put(longest, b"value")
    with pytest.raises(InvalidArguments, match=r"512 bytes; those of an lmdb have at most 511"):
        database.put_multi([(b"other", b""), (longest + b"k", b"")])
    assert database.get(longest + b"k") is None
    database.erase(longest + b"k")
    assert database.list_keys() == [longest]
    assert database.list_keys(longest) == []
    assert database.list_keys(b"", longest + b"k") == []
    database.close()


def test_what_is_no_database_is_not_opened(path: str) -> None:
    os.mkdir(path)
    (Path(path) / "data.mdb").write_bytes(b"mine" * 5000)
    with pytest.raises(ConfigError, match="does not open"):
        opened(path)
    assert (Path(path) / "data.mdb").read_bytes() == b"mine" * 5000
    with pytest.raises(ConfigError, match="create_if_missing is false"):
        opened(path + "-other", create_if_missing=False)


def test_a_closed_database_fails_as_storage(path: str) -> None:
    backend = opened(path)
    backend.close()
    for use in (
        backend.count,
        backend.sync,
        lambda: backend.get(b"key"),
        lambda: backend.write({b"k": b"v"}),
    ):
        with pytest.raises(StorageError, match="closed"):
            use()
