"""Arguments of the RPCs, one struct for each shape; the fields are the parameters of the verbs.

Values travel as MessagePack binaries inside the message. Results are what the verbs return.
"""

from msgspec import Struct

__all__ = ["Documents", "Ids", "Keys", "Listing", "ListingDocuments", "Name", "Nothing", "Pairs", "Updates"]


class Nothing(Struct, frozen=True, array_like=True):
    """``yk_count``, ``yk_sync``."""


class Pairs(Struct, frozen=True, array_like=True):
    """``yk_put``."""

    pairs: list[tuple[bytes, bytes]]
    mode: int


class Keys(Struct, frozen=True, array_like=True):
    """``yk_get``, and with no mode ``yk_length``, ``yk_erase``."""

    keys: list[bytes]
    mode: int = 0


class Name(Struct, frozen=True, array_like=True):
    """``yk_erase_range``, where it is a prefix, and all ``yk_coll_*``."""

    name: bytes


class Listing(Struct, frozen=True, array_like=True):
    """``yk_list_keys``, ``yk_list_keyvals``."""

    from_key: bytes
    prefix: bytes
    limit: int | None
    mode: int


class Documents(Struct, frozen=True, array_like=True):
    """``yk_doc_store``."""

    name: bytes
    documents: list[bytes]


class Updates(Struct, frozen=True, array_like=True):
    """``yk_doc_update``."""

    name: bytes
    documents: list[tuple[int, bytes]]
    mode: int


class Ids(Struct, frozen=True, array_like=True):
    """``yk_doc_load``, ``yk_doc_length``, ``yk_doc_erase``."""

    name: bytes
    ids: list[int]


class ListingDocuments(Struct, frozen=True, array_like=True):
    """``yk_doc_list``."""

    name: bytes
    start_id: int
    limit: int | None
