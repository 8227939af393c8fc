"""Backend ``lmdb``: an LMDB database in a directory of its own, kept from one start to the next.

Every write is one transaction that is on disk before it is answered. What fails leaves the last transaction in force:
LMDB writes pages that nothing refers to yet, and the reference last.

The database is this process's alone, by a lock of our own. LMDB's, which lets processes share it, is left out: a
verb here is a step of several transactions. And the file of LMDB's locks is mapped, so that a full disk would kill
the process.

The map, the room that LMDB reserves in the address space, is doubled as the data grow.
"""

import errno
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lmdb
import msgspec
from msgspec import UNSET, Struct, UnsetType

from mochi.disk import File, PosixFiles
from mochi.margo.config import convert
from mochi.margo.errors import ConfigError
from mochi.margo.paths import expand_home
from mochi.yokan.backend import Backend
from mochi.yokan.errors import InvalidArguments, StorageError
from mochi.yokan.place import check_place

__all__ = ["LmdbBackend", "LmdbConfig"]

DATA = "data.mdb"
LOCK = "LOCK"

MAP_SIZE = 64 << 20
"""Bytes of address space at first."""

LONGEST = 511
"""Bytes of a key at most, as LMDB is built everywhere."""

_UNWRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Why a database cannot be written, and may be read all the same."""

log = logging.getLogger(__name__)


class LmdbConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of an ``lmdb``."""

    path: str
    """Directory of the database; its parent must exist."""
    create_if_missing: bool = True
    no_lock: bool = False
    """Accepted and echoed: this process has the database for itself, whatever this says."""
    disable_doc_mixin_lock: bool | UnsetType = UNSET


@contextmanager
def _storage(what: str) -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, MemoryError, OSError) as error:
        raise StorageError(f"lmdb cannot {what}: {error}") from error


class LmdbBackend(Backend):
    """An LMDB database, open for this process alone.

    Parameters
    ----------
    config : dict
        Fields of `LmdbConfig`.
    where : str
        JSON path of `config`, for errors.
    by_umask : bool
        Whether the umask alone says who may use what is made; else it is the owner's (modes 0700 and 0600).

    Raises
    ------
    ConfigError
        A field is unknown or has a wrong value; the directory's parent is missing; the database is absent against the
        configuration, or open elsewhere.
    """

    def __init__(self, config: Mapping[str, Any], where: str, *, by_umask: bool = False) -> None:
        parsed = convert(config, LmdbConfig, where)
        path = expand_home(parsed.path, f"{where}.path")
        self._config = msgspec.structs.replace(parsed, path=path)
        self._mode = 0o666 if by_umask else 0o600
        self._files = PosixFiles(by_umask=by_umask)
        self._lock: File | None = None
        self._env: lmdb.Environment | None = None
        self._must_reopen = False
        check_place(path, f"{where}.path", DATA, create_if_missing=parsed.create_if_missing)
        try:
            self._files.make_directory(path, private=True)
            self._open_at_start()
        except BaseException as error:
            self.close()
            if isinstance(error, BlockingIOError):
                problem = f"is open in another process or provider: {error.strerror}"
            elif isinstance(error, lmdb.Error | OSError):
                problem = f"does not open: {error}"
            else:
                raise
            raise ConfigError(f"{where}.path", f'the database "{path}" {problem}') from error

    def _open_at_start(self) -> None:
        try:
            self._open()
        except OSError as error:
            if error.errno not in _UNWRITABLE or not os.path.exists(os.path.join(self._config.path, DATA)):
                raise
            self._env = self._environment(readonly=True)
            self._must_reopen = True
            log.error(
                'the database "%s" can be read alone, until it can be written again: %s',
                self._config.path,
                error,
            )

    def _open(self) -> None:
        """Lock the database and open it; of one that is open for reading alone, keep it until this one is open."""
        if self._lock is None:
            self._lock = self._files.lock(os.path.join(self._config.path, LOCK))
        if self._env is not None:
            self._env.close()
        self._env = self._environment()
        self._must_reopen = False

    def _environment(self, readonly: bool = False) -> lmdb.Environment:
        return lmdb.open(
            self._config.path, map_size=MAP_SIZE, readonly=readonly, lock=False, create=False, mode=self._mode
        )

    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            raise StorageError(f'the database "{self._config.path}" is closed')
        return self._env

    @property
    def config(self) -> dict[str, Any]:
        expanded: dict[str, Any] = msgspec.to_builtins(self._config)
        return expanded

    def get(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= LONGEST:
            return None
        with _storage("get"), self._opened().begin() as transaction:
            return transaction.get(key)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is not None and len(key) > LONGEST:
                raise InvalidArguments(
                    f"a key of {len(key)} bytes; those of an lmdb have at most {LONGEST}, of a rocksdb any number"
                )
        with _storage("write"):
            if self._must_reopen:
                self._open()
                log.warning(
                    'the database "%s" was opened again after a change that failed', self._config.path
                )
            try:
                while not self._try_to_write(self._opened(), changes):
                    self._opened().set_mapsize(2 * self._opened().info()["map_size"])
            except Exception:
                self._must_reopen = True
                raise

    def _try_to_write(self, env: lmdb.Environment, changes: Mapping[bytes, bytes | None]) -> bool:
        try:
            with env.begin(write=True) as transaction:
                for key, value in changes.items():
                    if value is not None:
                        transaction.put(key, value)
                    elif 0 < len(key) <= LONGEST:
                        transaction.delete(key)
        except lmdb.MapFullError:
            return False
        return True

    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        with _storage("scan"), self._opened().begin() as transaction, transaction.cursor() as cursor:
            is_any = cursor.set_range(start[:LONGEST]) if start else cursor.first()
            if is_any:
                yield from (pair for pair in cursor.iternext() if pair[0] >= start)

    def count(self) -> int:
        with _storage("count"):
            return self._opened().stat()["entries"]

    def sync(self) -> None:
        """Do nothing but look whether the database is open: every write is on disk when it returns."""
        self._opened()

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
