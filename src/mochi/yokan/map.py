"""Backend ``map``: in memory, sorted, gone with the process.

Invariant: `_keys` holds exactly the keys of `_values`, sorted.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mochi.margo.config import convert
from mochi.yokan.backend import Backend

__all__ = ["MapBackend", "MapConfig"]


class Allocators(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory allocators of the original; accepted and echoed, Python has its own."""

    key_allocator: str = "default"
    key_allocator_config: dict[str, Any] = {}
    value_allocator: str = "default"
    value_allocator_config: dict[str, Any] = {}
    node_allocator: str = "default"
    node_allocator_config: dict[str, Any] = {}


class MapConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a ``map``; access is always serialised, whatever the two locks say."""

    use_lock: bool = True
    comparator: Literal["default"] = "default"
    allocators: Allocators = Allocators()
    disable_doc_mixin_lock: bool | UnsetType = UNSET


class MapBackend(Backend):
    """A dict and the sorted list of its keys.

    A get costs a look-up in the dict; a new or erased key a binary search and a move of the list's tail.

    Parameters
    ----------
    config : dict
        Fields of `MapConfig`.
    where : str
        JSON path of `config`, for errors.
    by_umask : bool
        Of no concern: nothing is kept in files.

    Raises
    ------
    ConfigError
        A field is unknown or has a wrong type.
    """

    def __init__(self, config: Mapping[str, Any], where: str, *, by_umask: bool = False) -> None:
        self._config = convert(config, MapConfig, where)
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    @property
    def config(self) -> dict[str, Any]:
        expanded: dict[str, Any] = msgspec.to_builtins(self._config)
        return expanded

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is not None:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value
            elif self._values.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in islice(self._keys, bisect_left(self._keys, start), None):
            yield key, self._values[key]

    def count(self) -> int:
        return len(self._values)

    def sync(self) -> None:
        """Do nothing: what is in memory is gone with the process."""

    def close(self) -> None:
        self._values.clear()
        self._keys.clear()
