"""How collections lie among the keys of a database; bytes are those of the original.

A collection C is the key C, whose value is a record of 16 bytes: the number of its documents and the next id,
both u64 little-endian. Its document of id i is the key C + NUL + i, the id as u64 big-endian, so that
documents sort by id. Both show up among the other keys.
"""

import struct
from typing import NamedTuple

from mochi.yokan.errors import InvalidArguments

__all__ = ["MAX_ID", "CollectionRecord", "document_id", "document_key", "is_document_key"]

MAX_ID = 2**64 - 2
"""Highest id; the one above could not be followed by a next id."""

_RECORD = struct.Struct("<QQ")
_ID = struct.Struct(">Q")


class CollectionRecord(NamedTuple):
    """Value of a collection's key."""

    size: int
    next_id: int

    def pack(self) -> bytes:
        """The 16 bytes."""
        return _RECORD.pack(self.size, self.next_id)

    @classmethod
    def unpack(cls, value: bytes | None) -> "CollectionRecord | None":
        """The record in `value`, None where it cannot be one."""
        return cls(*_RECORD.unpack(value)) if value is not None and len(value) == _RECORD.size else None


def document_key(name: bytes, id: int) -> bytes:
    """Key of a document; `InvalidArguments` for an id that is negative or above `MAX_ID`."""
    if not 0 <= id <= MAX_ID:
        raise InvalidArguments(f"document id {id} is out of range, allowed are 0 to 2**64 - 2")
    return name + b"\0" + _ID.pack(id)


def document_id(key: bytes) -> int:
    """Id in a document's key."""
    return int.from_bytes(key[-_ID.size :], "big")


def is_document_key(name: bytes, key: bytes) -> bool:
    """Whether `key` is that of a document of the collection `name`."""
    return len(key) == len(name) + 1 + _ID.size and key.startswith(name + b"\0")
