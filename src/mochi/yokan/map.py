"""Backends in memory, gone with the process: ``map``, ``set`` and their unordered kin.

All are sorted here, which the original's unordered ones are not. A set has keys alone.

Invariant: `_keys` holds exactly the keys of `_values`, sorted.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mochi.margo.config import convert
from mochi.yokan.backend import Backend
from mochi.yokan.errors import InvalidArguments

__all__ = ["MapBackend", "SetBackend", "UnorderedMapBackend", "UnorderedSetBackend"]


class KeyAllocators(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory allocators of the original; accepted and echoed, Python has its own."""

    key_allocator: str = "default"
    key_allocator_config: dict[str, Any] = {}
    node_allocator: str = "default"
    node_allocator_config: dict[str, Any] = {}


class Allocators(KeyAllocators, frozen=True, forbid_unknown_fields=True):
    """The same for what has values."""

    value_allocator: str = "default"
    value_allocator_config: dict[str, Any] = {}


class _Config(Struct, frozen=True, forbid_unknown_fields=True):
    """What all have; access is always serialised, whatever the two locks say."""

    use_lock: bool = True
    disable_doc_mixin_lock: bool | UnsetType = UNSET


class MapConfig(_Config, frozen=True, forbid_unknown_fields=True):
    """Configuration of a ``map``."""

    comparator: Literal["default"] = "default"
    allocators: Allocators = Allocators()


class UnorderedMapConfig(_Config, frozen=True, forbid_unknown_fields=True):
    """Configuration of an ``unordered_map``; its buckets are echoed, there are none here."""

    initial_bucket_count: int = 23
    allocators: Allocators = Allocators()


class SetConfig(_Config, frozen=True, forbid_unknown_fields=True):
    """Configuration of a ``set``."""

    comparator: Literal["default"] = "default"
    allocators: KeyAllocators = KeyAllocators()


class UnorderedSetConfig(_Config, frozen=True, forbid_unknown_fields=True):
    """Configuration of an ``unordered_set``."""

    initial_bucket_count: int = 23
    allocators: KeyAllocators = KeyAllocators()


class MapBackend(Backend):
    """A dict and the sorted list of its keys.

    A get costs a look-up in the dict; a new or erased key a binary search and a move of the list's tail.

    Parameters
    ----------
    config : dict
        Fields of `fields`.
    where : str
        JSON path of `config`, for errors.
    by_umask : bool
        Of no concern: nothing is kept in files.

    Raises
    ------
    ConfigError
        A field is unknown or has a wrong type.
    """

    fields: ClassVar[type[_Config]] = MapConfig

    def __init__(self, config: Mapping[str, Any], where: str, *, by_umask: bool = False) -> None:
        self._config = convert(config, self.fields, where)
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


class UnorderedMapBackend(MapBackend):
    """A map that was asked for without an order."""

    fields = UnorderedMapConfig


class SetBackend(MapBackend):
    """A map whose values are empty; so it has no collections."""

    fields: ClassVar[type[_Config]] = SetConfig

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        if any(changes.values()):
            raise InvalidArguments("a set has keys alone, without values or collections; use a map for those")
        super().write(changes)


class UnorderedSetBackend(SetBackend):
    """A set that was asked for without an order."""

    fields = UnorderedSetConfig
