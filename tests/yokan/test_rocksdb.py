"""What is particular to the backend ``rocksdb``: its directory, its options, its durability."""

import logging
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.errors import ConfigError
from mochi.yokan.database import Collection
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.errors import StorageError
from mochi.yokan.rocksdb import TABLE_FORMAT, RocksdbBackend

WHERE = "config.database.config"

SYNCED_WITHOUT_A_LOG = """
import os, sys
from mochi.yokan.rocksdb import RocksdbBackend
backend = RocksdbBackend({"path": sys.argv[1], "write_options": {"disableWAL": True}}, "config")
backend.write({b"key": b"value"})
backend.sync()
backend.write({b"later": b"value"})
os._exit(9)
"""

IN_ANOTHER_PROCESS = """
import os, sys
from mochi.margo.errors import ConfigError
from mochi.yokan.rocksdb import RocksdbBackend
try:
    backend = RocksdbBackend({"path": sys.argv[1], "write_options": {"sync": True}}, "config.database.config")
    backend.write({b"key": b"value"})
except ConfigError as error:
    print(error)
sys.stdout.flush()
os._exit(9)
"""

BEHIND_A_FAILED_WRITE = """
import os, resource, signal, sys
from mochi.yokan.errors import StorageError
from mochi.yokan.rocksdb import RocksdbBackend

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def refused(change):
    try:
        change()
    except StorageError as error:
        return "File too large" in str(error)

path, has_first = sys.argv[1], sys.argv[2] == "True"
backend = RocksdbBackend({"path": path, "error_if_exists": True}, "config")
if has_first:
    backend.write({b"first": b"value"})
limit(100_000)
assert refused(lambda: backend.write({b"large": b"x" * 200_000}))
limit(100)
for _ in range(2):
    assert refused(lambda: backend.write({b"refused": b"value"}))
    assert refused(backend.sync)
    assert [key for key, _ in backend.scan(b"")] == [b"first"] * has_first
limit(resource.RLIM_INFINITY)
backend.write({b"later": b"value"})
backend.write({b"last": b"value", b"first": None})
limit(100)
assert refused(lambda: backend.write({b"refused": b"value"}))
if has_first:
    assert refused(backend.close)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_in_another_process(
    path: str, program: str = IN_ANOTHER_PROCESS, *arguments: str, status: int = 9
) -> str:
    command = [sys.executable, "-c", program, path, *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30)
    assert ended.returncode == status
    return ended.stdout


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "master")


def test_everything_is_there_after_a_reopening(path: str) -> None:
    database = EmbeddedDatabase(RocksdbBackend({"path": path}, WHERE))
    database.put_multi([(b"a", b"1"), (b"b", b""), (b"c", b"3")])
    database.erase(b"a")
    partitions = database.create_collection(b"partitions")
    partitions.store_multi([b"x", b"y"])
    partitions.erase(1)
    pairs = database.list_keyvals()
    database.close()
    database.close()

    database = EmbeddedDatabase(RocksdbBackend({"path": path}, WHERE))
    assert database.list_keyvals() == pairs
    assert Collection(database, b"partitions").store(b"z") == 2
    database.close()


def test_table_files_have_the_format_that_older_versions_read(path: str) -> None:
    backend = RocksdbBackend({"path": path}, WHERE)
    backend.write({b"key": b"value"})
    backend.close()
    tables = list(Path(path).glob("*.sst"))
    assert tables
    for table in tables:  # it ends with the version, and a magic number of 8 bytes
        assert struct.unpack("<I", table.read_bytes()[-12:-8]) == (TABLE_FORMAT,) == (5,)


def test_what_was_written_survives_the_death_of_the_process(path: str) -> None:
    assert run_in_another_process(path) == ""
    backend = RocksdbBackend({"path": path, "create_if_missing": False}, WHERE)
    assert backend.get(b"key") == b"value"
    backend.close()


def test_a_database_open_in_another_process_is_a_clear_error(path: str) -> None:
    backend = RocksdbBackend({"path": path}, WHERE)
    expected = f'{WHERE}.path: the database "{path}" is open in another process or provider'
    assert run_in_another_process(path).strip() == expected
    with pytest.raises(ConfigError, match="is open in another process or provider"):
        RocksdbBackend({"path": path}, WHERE)
    backend.close()


def test_only_the_last_level_of_the_path_is_made(tmp_path: Path) -> None:
    parent = tmp_path / "no" / "such"
    with pytest.raises(ConfigError) as caught:
        RocksdbBackend({"path": str(parent / "master")}, WHERE)
    assert caught.value.where == f"{WHERE}.path"
    assert caught.value.problem == f'the directory "{parent}" does not exist; make it with: mkdir -p {parent}'
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("path", ["file", "file/master"])
def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        RocksdbBackend({"path": str(tmp_path / path)}, WHERE)
    assert (caught.value.where, caught.value.problem) == (
        f"{WHERE}.path",
        f'"{tmp_path / "file"}" is not a directory',
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_in_the_home_is_where_the_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = {
        "path": "~/db",
        "create_if_missing": True,
        "db_paths": [{"path": "~/tables", "target_size": 1 << 20}],
    }
    backend = RocksdbBackend(config, "config")
    assert (tmp_path / "db" / "CURRENT").exists()
    assert backend.config["path"] == str(tmp_path / "db")
    assert backend.config["db_paths"][0]["path"] == str(tmp_path / "tables")
    backend.close()


def test_an_absent_database_is_not_made_against_the_configuration(path: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no database at .*, and create_if_missing is false"):
        RocksdbBackend({"path": path, "create_if_missing": False}, WHERE)
    assert not Path(path).exists()


def test_a_present_database_is_refused_when_it_must_be_new(path: str) -> None:
    RocksdbBackend({"path": path, "error_if_exists": True}, WHERE).close()
    with pytest.raises(ConfigError, match="already, and error_if_exists is true"):
        RocksdbBackend({"path": path, "error_if_exists": True}, WHERE)


@pytest.mark.parametrize(
    ("config", "where", "problem"),
    [
        ({}, ".path", "required field is missing"),
        ({"path": "db", "max_open_file": 5}, ".max_open_file", "did you mean 'max_open_files'"),
        (
            {"path": "db", "write_options": {"synch": True}},
            ".write_options.synch",
            "did you mean 'sync'",
        ),
        ({"path": "db", "max_open_files": "many"}, ".max_open_files", "expected int"),
        ({"path": "db", "info_log_level": "loud"}, ".info_log_level", "debug, error, fatal"),
        ({"path": "db", "write_buffer_size": -1}, ".write_buffer_size", "-1 is out of range"),
        ({"path": "db", "write_options": {"sync": True, "disableWAL": True}}, ".write_options", "exclude"),
    ],
)
def test_a_bad_option_is_named(
    config: dict[str, Any], where: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        RocksdbBackend(config, WHERE)
    assert caught.value.where == WHERE + where
    assert problem in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_options_reach_rocksdb(path: str, tmp_path: Path) -> None:
    backend = RocksdbBackend(
        {
            "path": path,
            "write_buffer_size": 1 << 20,
            "level0_file_num_compaction_trigger": 7,
            "WAL_ttl_seconds": 60,
            "wal_dir": str(tmp_path / "wal"),
            "db_paths": [{"path": str(tmp_path / "tables"), "target_size": 1 << 30}],
            "read_options": {"fill_cache": False, "verify_checksums": True},
        },
        WHERE,
    )
    backend.close()
    options = next(Path(path).glob("OPTIONS-*")).read_text().split()
    assert {
        "write_buffer_size=1048576",
        "level0_file_num_compaction_trigger=7",
        "WAL_ttl_seconds=60",
        f"wal_dir={tmp_path}/wal",
    } <= set(options)
    assert (tmp_path / "tables").is_dir()


def test_without_its_log_a_database_keeps_what_was_there_when_it_was_closed(path: str) -> None:
    backend = RocksdbBackend({"path": path, "write_options": {"disableWAL": True}}, WHERE)
    backend.write({b"key": b"value"})
    backend.close()
    backend = RocksdbBackend({"path": path}, WHERE)
    assert backend.get(b"key") == b"value"
    backend.close()


def test_without_its_log_a_database_keeps_what_was_synced_when_its_process_dies(path: str) -> None:
    run_in_another_process(path, SYNCED_WITHOUT_A_LOG)
    backend = RocksdbBackend({"path": path}, WHERE)
    assert (backend.get(b"key"), backend.get(b"later")) == (b"value", None)
    backend.close()


@pytest.mark.parametrize("has_first", [True, False])
def test_what_is_written_behind_a_write_that_failed_survives_the_death_of_the_process(
    path: str, has_first: bool
) -> None:
    run_in_another_process(path, BEHIND_A_FAILED_WRITE, str(has_first), status=-signal.SIGKILL)
    backend = RocksdbBackend({"path": path, "create_if_missing": False}, WHERE)
    assert list(backend.scan(b"")) == [(b"last", b"value"), (b"later", b"value")]
    backend.close()


def test_an_option_that_cannot_be_applied_is_warned_about_only_where_it_is_set(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    RocksdbBackend({"path": path, "allow_fallocate": True}, WHERE).close()
    assert caplog.messages == []
    config = {"path": path, "allow_fallocate": False, "read_options": {"auto_prefix_mode": True}}
    backend = RocksdbBackend(config, WHERE)
    assert [message.rpartition(" ")[2] for message in caplog.messages] == [
        "allow_fallocate",
        "auto_prefix_mode",
    ]
    assert backend.config["allow_fallocate"] is False
    backend.close()


def test_a_closed_database_fails_as_storage(path: str) -> None:
    backend = RocksdbBackend({"path": path}, WHERE)
    backend.close()
    with pytest.raises(StorageError, match="closed"):
        backend.get(b"key")
