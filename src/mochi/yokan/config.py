"""Configuration of a provider: which backend its database stands on, and with which options."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from diaspora_stream.console.hints import nearest, suggestion
from mochi.margo.config import convert
from mochi.margo.errors import ConfigError
from mochi.yokan.backend import Backend
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.map import MapBackend, SetBackend, UnorderedMapBackend, UnorderedSetBackend
from mochi.yokan.rocksdb import RocksdbBackend

__all__ = ["BACKENDS", "ProviderConfig", "open_database"]


def _lmdb(config: Mapping[str, Any], where: str, *, by_umask: bool = False) -> Backend:
    try:
        from mochi.yokan.lmdb import LmdbBackend
    except ImportError as error:
        problem = f'"lmdb" needs a package that cannot be loaded ({error}): pip install "mofka[lmdb]"; or use "rocksdb"'
        raise ConfigError("config.database.type", problem) from error
    return LmdbBackend(config, where, by_umask=by_umask)


BACKENDS: Mapping[str, Callable[..., Backend]] = {
    "map": MapBackend,
    "unordered_map": UnorderedMapBackend,
    "set": SetBackend,
    "unordered_set": UnorderedSetBackend,
    "rocksdb": RocksdbBackend,
    "lmdb": _lmdb,
}
"""Backends by the type that a configuration names."""

_IN_FILES = '"rocksdb" or "lmdb", with a new path, for files of the other are not read'
_IN_MEMORY = '"map"'
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("leveldb", "berkeleydb", "gdbm", "tkrzw", "unqlite", "log"), _IN_FILES),
    **dict.fromkeys(("null", "array"), _IN_MEMORY),
}
"""The original's other types, and what to use in their place."""


class DatabaseConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``database``: a type of `BACKENDS` and that backend's own configuration."""

    type: str
    config: dict[str, Any] = {}


class BufferCacheConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``buffer_cache``: transfer buffers of the original; accepted and echoed, there are none here."""

    type: Literal["lru", "keep_all", "dummy", "external"] = "lru"


class ProviderConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a provider of type ``yokan``."""

    database: DatabaseConfig
    buffer_cache: BufferCacheConfig = BufferCacheConfig()


def open_database(
    config: Mapping[str, Any], *, by_umask: bool = False
) -> tuple[EmbeddedDatabase, dict[str, Any]]:
    """Open the database that a provider's configuration describes.

    Parameters
    ----------
    by_umask : bool
        Whether the umask alone says who may use the database's files; else they are the owner's.

    Returns
    -------
    EmbeddedDatabase
    dict
        The configuration with every default filled in; it opens the same database again.

    Raises
    ------
    ConfigError
        Something in the configuration is unknown or wrong, or the database does not open.
    """
    parsed = convert(config, ProviderConfig, "config")
    if parsed.database.type not in BACKENDS:
        raise ConfigError("config.database.type", _unknown_type(parsed.database.type))
    backend = BACKENDS[parsed.database.type](
        parsed.database.config, "config.database.config", by_umask=by_umask
    )
    expanded = {
        "buffer_cache": msgspec.to_builtins(parsed.buffer_cache),
        "database": {"config": backend.config, "type": parsed.database.type},
    }
    return EmbeddedDatabase(backend), expanded


def _unknown_type(kind: str) -> str:
    if kind in INSTEAD:
        return f'"{kind}" is not built in; use {INSTEAD[kind]}'
    if ".so" in kind:
        return f'"{kind}" is of a shared library, which cannot be loaded here; use "rocksdb", "lmdb" or "map"'
    near = suggestion(nearest(kind, BACKENDS))
    return f'unknown type "{kind}"{near or "."} Built in are {", ".join(BACKENDS)}'
