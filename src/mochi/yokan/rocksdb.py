"""Backend ``rocksdb``: a RocksDB database in a directory of its own, kept from one start to the next.

The configuration has the options of the original's backend, with its defaults; fields are named as the
setters of rocksdict, and renamed to what users write where the two differ. What rocksdict has no setter for
is echoed, and warned about where it is not at its default.

What a change that failed may have left in RocksDB's log is where its replay ends: all behind it would be lost with
the process. So RocksDB is kept from going on (`paranoid_checks`), and the database is opened again, which begins a
new log, before anything else is changed. As long as that fails, for want of space as a rule, changes are refused and
it is open for reading. So it is if there is no space when it is opened first, or the file system is read-only.
"""

import errno
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType, field
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DBPath,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from mochi.margo.config import convert
from mochi.margo.errors import ConfigError
from mochi.margo.paths import expand_home
from mochi.yokan.backend import Backend
from mochi.yokan.errors import StorageError
from mochi.yokan.place import check_place

__all__ = ["RocksdbBackend", "RocksdbConfig"]

log = logging.getLogger(__name__)


class ReadTuning(Struct, frozen=True, forbid_unknown_fields=True):
    """``read_options``."""

    readahead_size: int = 0
    max_skippable_internal_keys: int = 0
    value_size_soft_limit: int = 0
    fill_cache: bool = True
    verify_checksums: bool = False
    tailing: bool = False
    total_order_seek: bool = False
    auto_prefix_mode: bool = False
    prefix_same_as_start: bool = False
    pin_data: bool = False
    background_purge_on_iterator_cleanup: bool = False
    ignore_range_deletions: bool = False


class WriteTuning(Struct, frozen=True, forbid_unknown_fields=True):
    """``write_options``. Several keys always go in one write batch, whatever `use_write_batch` says."""

    sync: bool = False
    """Every write is on disk before it is answered; without, until the next `Database.sync`, it survives a crash of
    the process alone."""
    disable_wal: bool = field(default=False, name="disableWAL")
    ignore_missing_column_families: bool = False
    no_slowdown: bool = False
    low_pri: bool = False
    memtable_insert_hint_per_batch: bool = False
    use_write_batch: bool = False


class DbPath(Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``db_paths``: a directory for table files and the bytes it should hold."""

    path: str
    target_size: int


class RocksdbConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of a ``rocksdb``; sizes in bytes."""

    path: str
    """Directory of the database; its parent must exist."""
    create_if_missing: bool = True
    error_if_exists: bool = False
    create_missing_column_families: bool = True
    paranoid_checks: bool = False
    """On in a database with a log, whatever this says."""
    track_and_verify_wals_in_manifest: bool = False
    use_fsync: bool = False
    allow_fallocate: bool = True
    is_fd_close_on_exec: bool = True
    advise_random_on_open: bool = True
    allow_mmap_reads: bool = False
    allow_mmap_writes: bool = False
    use_direct_reads: bool = False
    use_direct_io_for_flush_and_compaction: bool = False
    persist_stats_to_disk: bool = False
    disable_auto_compactions: bool = False
    max_total_wal_size: int = 0
    max_log_file_size: int = 0
    log_file_time_to_roll: int = 0
    recycle_log_file_num: int = 0
    wal_ttl_seconds: int = field(default=0, name="WAL_ttl_seconds")
    wal_size_limit_mb: int = field(default=0, name="WAL_size_limit_MB")
    db_write_buffer_size: int = 0
    compaction_readahead_size: int = 0
    snap_refresh_nanos: int = 0
    max_background_compactions: int = -1
    max_background_flushes: int = -1
    db_log_dir: str = ""
    wal_dir: str = ""
    write_buffer_size: int = 64 << 20
    max_open_files: int = 1000
    max_file_opening_threads: int = 16
    delete_obsolete_files_period_micros: int = 21_600_000_000
    max_background_jobs: int = 2
    max_subcompactions: int = 1
    keep_log_file_num: int = 1000
    max_manifest_file_size: int = 1 << 30
    manifest_preallocation_size: int = 4 << 20
    stats_dump_period_sec: int = 600
    stats_persist_period_sec: int = 600
    stats_history_buffer_size: int = 1 << 20
    level_zero_file_num_compaction_trigger: int = field(default=4, name="level0_file_num_compaction_trigger")
    max_bytes_for_level_base: int = 256 << 20
    read_options: ReadTuning = ReadTuning()
    write_options: WriteTuning = WriteTuning()
    db_paths: tuple[DbPath, ...] | UnsetType = UNSET
    info_log_level: Literal["debug", "info", "warn", "error", "fatal", "header"] | UnsetType = UNSET
    logger_redirects_to_margo: bool | UnsetType = UNSET
    disable_doc_mixin_lock: bool | UnsetType = UNSET


_TAKEN_APART = (
    "path",
    "paranoid_checks",
    "read_options",
    "write_options",
    "db_paths",
    "disable_doc_mixin_lock",
)
"""Fields that `_tune` does not hand to a setter."""

TABLE_FORMAT = 5
"""Version of the table files that are written: RocksDB reads it since 6.6; what rocksdict would write, since 8.6."""

_LOCKED = ("While lock file", "lock hold by current process")
"""Words of RocksDB when somebody else, or this process, has the database open."""


_UNWRITABLE = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]
"""Words of RocksDB when a database cannot be written, and may be read all the same."""


def _tune(options: Options | ReadOptions, tuning: Struct, where: str) -> None:
    """Apply the fields of `tuning`; warn of those without a setter that are not at their default."""
    left = []
    for option in msgspec.structs.fields(tuning):
        value = getattr(tuning, option.name)
        if option.name in _TAKEN_APART:
            continue
        if setter := getattr(options, f"set_{option.name}", None) or getattr(options, option.name, None):
            try:
                setter(value)
            except OverflowError:
                raise ConfigError(f"{where}.{option.encode_name}", f"{value} is out of range") from None
        elif value != option.default:
            left.append(option.encode_name)
    if left:
        log.warning("%s: not supported by this binding of RocksDB, ignored: %s", where, ", ".join(left))


def _at_home(config: RocksdbConfig, where: str) -> RocksdbConfig:
    """Return the configuration with the home of the user in its paths."""
    expanded: dict[str, Any] = {"path": expand_home(config.path, f"{where}.path")}
    if config.db_paths is not UNSET:
        expanded["db_paths"] = tuple(
            DbPath(expand_home(each.path, f"{where}.db_paths"), each.target_size) for each in config.db_paths
        )
    return msgspec.structs.replace(config, **expanded)


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """Turn what rocksdict raises, whose own classes say nothing, into a `StorageError`."""
    try:
        yield
    except Exception as error:
        raise StorageError(f"rocksdb cannot {what}: {error}") from error


class RocksdbBackend(Backend):
    """A RocksDB database, open for this process alone.

    Parameters
    ----------
    config : dict
        Fields of `RocksdbConfig`.
    where : str
        JSON path of `config`, for errors.
    by_umask : bool
        Whether the umask alone says who may use directories that are made; else they are the owner's (mode 0700).

    Raises
    ------
    ConfigError
        A field is unknown or has a wrong value; the directory's parent is missing; the database is absent,
        present or open elsewhere when it must not be.
    """

    def __init__(self, config: Mapping[str, Any], where: str, *, by_umask: bool = False) -> None:
        self._config = _at_home(convert(config, RocksdbConfig, where), where)
        check_place(
            self._config.path,
            f"{where}.path",
            "CURRENT",
            create_if_missing=self._config.create_if_missing,
            error_if_exists=self._config.error_if_exists,
        )
        self._directory_mode = 0o777 if by_umask else 0o700
        if self._config.write_options.sync and self._config.write_options.disable_wal:
            raise ConfigError(f"{where}.write_options", "sync and disableWAL exclude each other")
        self._options = options = Options(raw_mode=True)
        self._read_options, self._write_options = ReadOptions(), WriteOptions()
        tables = BlockBasedOptions()
        tables.set_format_version(TABLE_FORMAT)
        options.set_block_based_table_factory(tables)
        has_log = not self._config.write_options.disable_wal
        options.set_paranoid_checks(has_log or self._config.paranoid_checks)
        _tune(options, self._config, where)
        _tune(self._read_options, self._config.read_options, f"{where}.read_options")
        if self._config.db_paths:
            options.set_db_paths([DBPath(p.path, p.target_size) for p in self._config.db_paths])
        for name in self._config.write_options.__struct_fields__:
            if name != "use_write_batch":
                setattr(self._write_options, name, getattr(self._config.write_options, name))
        self._has_failed = False
        self._closed = False
        try:
            self._make_directories()
            self._db = self._open_at_start()
        except Exception as error:
            is_locked = any(sign in str(error) for sign in _LOCKED)
            problem = "is open in another process or provider" if is_locked else f"does not open: {error}"
            raise ConfigError(f"{where}.path", f'the database "{self._config.path}" {problem}') from error
        options.create_if_missing(False)
        options.set_error_if_exists(False)

    def _make_directories(self) -> None:
        """Make the database's directories where they are missing, for RocksDB would make them for all to read."""
        tables = self._config.db_paths or ()
        for path in (
            self._config.path,
            self._config.db_log_dir,
            self._config.wal_dir,
            *(p.path for p in tables),
        ):
            if path and not os.path.isdir(path) and os.path.isdir(os.path.dirname(os.path.abspath(path))):
                os.mkdir(path, self._directory_mode)

    def _open(self, access: AccessType) -> Rdict:
        db = Rdict(self._config.path, self._options, access_type=access)
        db.set_read_options(self._read_options)
        return db

    def _open_at_start(self) -> Rdict:
        try:
            return self._open(AccessType.read_write())
        except Exception as error:
            if not any(sign in str(error) for sign in _UNWRITABLE):
                raise
            problem = error
        try:
            db = self._open(AccessType.read_only(False))
        except Exception:
            raise problem from None
        self._has_failed = True
        log.error(
            'the database "%s" can be read alone, until it can be written again: %s',
            self._config.path,
            problem,
        )
        return db

    def _open_again(self) -> None:
        """Leave what a failed change has left in the log behind; raises, open for reading, if that cannot be done."""
        with suppress(Exception):  # it cannot write what it still has in memory, which is in its log
            self._db.close()
        try:
            self._db = self._open(AccessType.read_write())
        except Exception:
            # Where not even the few bytes that rocksdict writes have space, all fails.
            with suppress(Exception):
                self._db = self._open(AccessType.read_only(False))
            raise
        self._has_failed = False
        log.warning('the database "%s" was opened again after a change that failed', self._config.path)

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        with _storage(what):
            if self._has_failed and not self._closed:
                self._open_again()
            try:
                yield
            except Exception:
                self._has_failed = not self._config.write_options.disable_wal
                raise

    @property
    def config(self) -> dict[str, Any]:
        expanded: dict[str, Any] = msgspec.to_builtins(self._config)
        return expanded

    def get(self, key: bytes) -> bytes | None:
        with _storage("get"):
            return cast(bytes | None, self._db.get(key))

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        with self._changing("write"):
            self._db.write(batch, self._write_options)

    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        with _storage("scan"):
            yield from cast(Iterator[tuple[bytes, bytes]], self._db.items(from_key=start))

    def count(self) -> int:
        """Number of keys; reads them all."""
        with _storage("count"):
            return sum(1 for _ in cast(Iterator[bytes], self._db.keys()))

    def sync(self) -> None:
        with self._changing("sync"):
            if self._config.write_options.disable_wal:
                self._db.flush()
            else:
                self._db.flush_wal(sync=True)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with _storage("close"):
                self._db.close()
