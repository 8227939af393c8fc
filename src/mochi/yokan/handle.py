"""A database that a provider serves: every verb is one RPC."""

from collections.abc import Sequence
from types import NoneType
from typing import TypeVar

from msgspec import Struct

from mochi.margo.client import Client
from mochi.margo.errors import Fault
from mochi.yokan.database import Database
from mochi.yokan.errors import YokanError
from mochi.yokan.messages import (
    Documents,
    Ids,
    Keys,
    Listing,
    ListingDocuments,
    Name,
    Nothing,
    Pairs,
    Updates,
)
from mochi.yokan.mode import Mode

__all__ = ["DatabaseHandle"]

R = TypeVar("R")


class DatabaseHandle(Database):
    """A database somewhere else.

    Every verb costs a round trip, and beside its own errors raises those of `Client.call`: `ConnectionLost`
    and `DeadlineExceeded` leave open whether it has taken effect. Usable from any thread, and after a fork,
    as its client is.

    Parameters
    ----------
    client : Client
        What one verb takes, and what it returns, each fit in one message: list in pages, by `limit`, what may
        be larger.
    address : str
        Of the server.
    provider_id : int
    timeout : float, optional
        Seconds that each verb may take; those of the client if not given.
    """

    def __init__(
        self, client: Client, address: str, provider_id: int, *, timeout: float | None = None
    ) -> None:
        self.address = address
        self.provider_id = provider_id
        self._client = client
        self._timeout = timeout

    def _call(self, rpc: str, args: Struct, result: type[R]) -> R:
        try:
            return self._client.call(
                self.address, rpc, args, result, provider_id=self.provider_id, timeout=self._timeout
            )
        except Fault as fault:
            raise YokanError.revive(fault) from None

    def count(self) -> int:
        return self._call("yk_count", Nothing(), int)

    def sync(self) -> None:
        self._call("yk_sync", Nothing(), NoneType)

    def put_multi(self, pairs: Sequence[tuple[bytes, bytes]], mode: int = Mode.DEFAULT) -> None:
        self._call("yk_put", Pairs(list(pairs), int(mode)), NoneType)

    def get_multi(self, keys: Sequence[bytes], mode: int = Mode.DEFAULT) -> list[bytes | None]:
        return self._call("yk_get", Keys(list(keys), int(mode)), list[bytes | None])

    def length_multi(self, keys: Sequence[bytes]) -> list[int | None]:
        return self._call("yk_length", Keys(list(keys)), list[int | None])

    def erase_multi(self, keys: Sequence[bytes]) -> None:
        self._call("yk_erase", Keys(list(keys)), NoneType)

    def erase_range(self, prefix: bytes) -> None:
        self._call("yk_erase_range", Name(prefix), NoneType)

    def list_keys(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[bytes]:
        return self._call("yk_list_keys", Listing(from_key, prefix, limit, int(mode)), list[bytes])

    def list_keyvals(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[tuple[bytes, bytes]]:
        args = Listing(from_key, prefix, limit, int(mode))
        return self._call("yk_list_keyvals", args, list[tuple[bytes, bytes]])

    def coll_create(self, name: bytes) -> None:
        self._call("yk_coll_create", Name(name), NoneType)

    def coll_drop(self, name: bytes) -> None:
        self._call("yk_coll_drop", Name(name), NoneType)

    def coll_exists(self, name: bytes) -> bool:
        return self._call("yk_coll_exists", Name(name), bool)

    def coll_size(self, name: bytes) -> int:
        return self._call("yk_coll_size", Name(name), int)

    def coll_last_id(self, name: bytes) -> int:
        return self._call("yk_coll_last_id", Name(name), int)

    def doc_store(self, name: bytes, documents: Sequence[bytes]) -> list[int]:
        return self._call("yk_doc_store", Documents(name, list(documents)), list[int])

    def doc_load(self, name: bytes, ids: Sequence[int]) -> list[bytes | None]:
        return self._call("yk_doc_load", Ids(name, list(ids)), list[bytes | None])

    def doc_update(
        self, name: bytes, documents: Sequence[tuple[int, bytes]], mode: int = Mode.DEFAULT
    ) -> None:
        self._call("yk_doc_update", Updates(name, list(documents), int(mode)), NoneType)

    def doc_length(self, name: bytes, ids: Sequence[int]) -> list[int | None]:
        return self._call("yk_doc_length", Ids(name, list(ids)), list[int | None])

    def doc_erase(self, name: bytes, ids: Sequence[int]) -> None:
        self._call("yk_doc_erase", Ids(name, list(ids)), NoneType)

    def doc_list(self, name: bytes, start_id: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        args = ListingDocuments(name, start_id, limit)
        return self._call("yk_doc_list", args, list[tuple[int, bytes]])
