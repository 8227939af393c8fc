"""Databases as programs of the original use them: values are read into buffers that the caller has.

`mochi.yokan.handle.DatabaseHandle` is what all else here uses. Keys, values and documents are text or buffers. Every
verb takes a `mode` (see `mochi.yokan.mode`) and `timeout_ms`, 0 for that of the connections; raises
`mochi.yokan.exception.Exception`; and is usable from any thread.

In verbs named ``_packed``, many keys or values lie in one buffer back to back, and their sizes come beside.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from mochi.margo.client import Client as MargoClient
from mochi.margo.sharing import connect
from mochi.yokan.errors import KeyNotFound
from mochi.yokan.exception import YOKAN_ERR_BUFFER_SIZE, YOKAN_ERR_INVALID_ARGS, Exception, raising
from mochi.yokan.handle import DatabaseHandle
from mochi.yokan.mode import Mode, check_mode

__all__ = ["Client", "Collection", "Database", "DatabaseHandle", "Exception"]

Data: TypeAlias = Any
"""Text, or anything with the buffer protocol."""

_BATCH = 64

T = TypeVar("T")


def _bytes(data: Data) -> bytes:
    return data.encode() if isinstance(data, str) else memoryview(data).tobytes()


def _view(buffer: Any) -> memoryview:
    """Return the bytes of a buffer that is to be filled."""
    view = memoryview(buffer).cast("B")
    if view.readonly:
        raise Exception(
            YOKAN_ERR_INVALID_ARGS, f"a buffer to be filled is read-only: {type(buffer).__name__}"
        )
    return view


def _check_room(buffer: Any, size: int) -> memoryview:
    view = _view(buffer)
    if len(view) < size:
        raise Exception(YOKAN_ERR_BUFFER_SIZE, f"{size} bytes do not fit into a buffer of {len(view)}")
    return view


def _fill(buffer: Any, value: bytes) -> int:
    """Copy a value into a buffer; return its size."""
    _check_room(buffer, len(value))[: len(value)] = value
    return len(value)


def _fill_all(buffers: Sequence[Any], values: Sequence[bytes | None]) -> list[int | None]:
    return [
        None if value is None else _fill(buffer, value) for buffer, value in zip(buffers, values, strict=True)
    ]


def _fill_packed(buffer: Any, values: Sequence[bytes | None]) -> list[int | None]:
    _fill(buffer, b"".join(value for value in values if value is not None))
    return [None if value is None else len(value) for value in values]


def _split(data: Data, sizes: Iterable[int]) -> list[bytes]:
    """Return the parts that lie in a buffer back to back."""
    whole = _bytes(data)
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size
    if start > len(whole):
        raise Exception(
            YOKAN_ERR_INVALID_ARGS, f"sizes add up to {start} bytes, and the buffer has {len(whole)}"
        )
    return parts


def _found(value: T | None, what: object) -> T:
    if value is None:
        raise KeyNotFound(f"there is no {what!r}")
    return value


class Client:
    """Makes handles of databases.

    Parameters
    ----------
    engine, mid : str, Engine or int
        A protocol, or an engine, see `mochi.margo.sharing.connect`.
    """

    def __init__(self, engine: Any = None, mid: Any = None) -> None:
        if (engine is None) == (mid is None):
            raise TypeError("Client() needs either engine= or mid=")
        self._client, self._token = connect(mid if engine is None else engine)

    def make_database_handle(self, address: str, provider_id: int, check: bool = True) -> "Database":
        """Return a database; `Exception` if it is checked whether the provider is there, and it is not."""
        address = str(address)
        if self._token is not None:
            self._client.set_token(address, self._token)
        database = Database(self._client, address, provider_id)
        if check:
            database.count()
        return database


class Database:
    """A database of a provider."""

    def __init__(self, client: MargoClient, address: str, provider_id: int) -> None:
        self.address = address
        self.provider_id = provider_id
        self._client = client

    def __repr__(self) -> str:
        return f"<Database yokan:{self.provider_id}@{self.address}>"

    def handle(self, timeout_ms: float = 0.0) -> DatabaseHandle:
        """Return what carries out the verbs."""
        timeout = timeout_ms / 1000 if timeout_ms else None
        return DatabaseHandle(self._client, self.address, self.provider_id, timeout=timeout)

    @raising()
    def count(self, mode: int = 0, timeout_ms: float = 0.0) -> int:
        """Return the number of keys."""
        check_mode("count", mode, Mode.DEFAULT)
        return self.handle(timeout_ms).count()

    def put(self, key: Data, value: Data, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Put a pair."""
        self.put_multi([(key, value)], mode, timeout_ms)

    @raising()
    def put_multi(self, pairs: Iterable[tuple[Data, Data]], mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Put pairs, all or none."""
        self.handle(timeout_ms).put_multi([(_bytes(key), _bytes(value)) for key, value in pairs], mode)

    def put_packed(
        self,
        keys: Data,
        key_sizes: Sequence[int],
        values: Data,
        value_sizes: Sequence[int],
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Put pairs, all or none."""
        pairs = zip(_split(keys, key_sizes), _split(values, value_sizes), strict=True)
        self.put_multi(pairs, mode, timeout_ms)

    def get(self, key: Data, buffer: Any, mode: int = 0, timeout_ms: float = 0.0) -> int:
        """Fill a buffer with a value; return its size."""
        (size,) = self.get_multi([(key, buffer)], mode, timeout_ms)
        with raising():
            return _found(size, key)

    def get_multi(
        self, pairs: Iterable[tuple[Data, Any]], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int | None]:
        """Fill the buffer of each key with its value; return the sizes, None where there is no such key."""
        given = list(pairs)
        keys = [_bytes(key) for key, _ in given]
        buffers = [buffer for _, buffer in given]
        if mode & Mode.CONSUME:  # what does not fit is not consumed
            for buffer, length in zip(buffers, self.length_multi(keys, 0, timeout_ms), strict=True):
                _check_room(buffer, length or 0)
        return _fill_all(buffers, self._values(keys, mode, timeout_ms))

    def get_packed(
        self, keys: Data, key_sizes: Sequence[int], buffer: Any, mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int | None]:
        """Fill a buffer with the values; return their sizes, None where there is no such key."""
        parts = _split(keys, key_sizes)
        if mode & Mode.CONSUME:
            _check_room(buffer, sum(length or 0 for length in self.length_multi(parts, 0, timeout_ms)))
        return _fill_packed(buffer, self._values(parts, mode, timeout_ms))

    @raising()
    def _values(self, keys: Sequence[bytes], mode: int, timeout_ms: float) -> list[bytes | None]:
        return self.handle(timeout_ms).get_multi(keys, mode)

    def fetch(
        self, key: Data, callback: Callable[[memoryview], Any], mode: int = 0, timeout_ms: float = 0.0
    ) -> None:
        """Call back with a value."""
        with raising():
            value = _found(self.handle(timeout_ms).get(_bytes(key), mode), key)
        callback(memoryview(value))

    def fetch_multi(
        self,
        keys: Iterable[Data],
        callback: Callable[[int, memoryview | None], Any],
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Call back with the index of each key, and its value or None."""
        for index, value in enumerate(self._values([_bytes(key) for key in keys], mode, timeout_ms)):
            callback(index, None if value is None else memoryview(value))

    def fetch_packed(
        self,
        keys: Data,
        key_sizes: Sequence[int],
        callback: Callable[[int, memoryview | None], Any],
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Call back as `fetch_multi` does."""
        self.fetch_multi(_split(keys, key_sizes), callback, mode, timeout_ms)

    def exists(self, key: Data, mode: int = 0, timeout_ms: float = 0.0) -> bool:
        """Tell whether there is a key."""
        return self.length(key, mode, timeout_ms) is not None

    def exists_multi(self, keys: Iterable[Data], mode: int = 0, timeout_ms: float = 0.0) -> list[bool]:
        """Tell for each key whether it is there."""
        return [length is not None for length in self.length_multi(keys, mode, timeout_ms)]

    def exists_packed(
        self, keys: Data, key_sizes: Sequence[int], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[bool]:
        """Tell for each key whether it is there."""
        return self.exists_multi(_split(keys, key_sizes), mode, timeout_ms)

    def length(self, key: Data, mode: int = 0, timeout_ms: float = 0.0) -> int | None:
        """Return the size of a value, None if there is no such key."""
        return self.length_multi([key], mode, timeout_ms)[0]

    @raising()
    def length_multi(self, keys: Iterable[Data], mode: int = 0, timeout_ms: float = 0.0) -> list[int | None]:
        """Return the size of each value, None where there is no such key."""
        check_mode("length", mode, Mode.DEFAULT)
        return self.handle(timeout_ms).length_multi([_bytes(key) for key in keys])

    def length_packed(
        self, keys: Data, key_sizes: Sequence[int], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int | None]:
        """Return the size of each value, None where there is no such key."""
        return self.length_multi(_split(keys, key_sizes), mode, timeout_ms)

    def erase(self, key: Data, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase a key, if it is there."""
        self.erase_multi([key], mode, timeout_ms)

    @raising()
    def erase_multi(self, keys: Iterable[Data], mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase what there is of some keys."""
        check_mode("erase", mode, Mode.DEFAULT)
        self.handle(timeout_ms).erase_multi([_bytes(key) for key in keys])

    def erase_packed(
        self, keys: Data, key_sizes: Sequence[int], mode: int = 0, timeout_ms: float = 0.0
    ) -> None:
        """Erase what there is of some keys."""
        self.erase_multi(_split(keys, key_sizes), mode, timeout_ms)

    @raising()
    def erase_range(self, prefix: Data, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase all keys that begin with a prefix."""
        check_mode("erase_range", mode, Mode.DEFAULT)
        self.handle(timeout_ms).erase_range(_bytes(prefix))

    @raising()
    def list_keys(
        self,
        buffers: Sequence[Any],
        from_key: Data = b"",
        filter: Data = b"",
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> list[int]:
        """Fill each buffer with a key after `from_key` that begins with `filter`; return the sizes of the keys."""
        keys = self._keys(from_key, filter, len(buffers), mode, timeout_ms)
        return [_fill(buffer, key) for buffer, key in zip(buffers, keys, strict=False)]

    @raising()
    def list_keys_packed(
        self,
        buffer: Any,
        count: int,
        from_key: Data = b"",
        filter: Data = b"",
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> list[int]:
        """Fill a buffer with up to `count` keys; return their sizes."""
        keys = self._keys(from_key, filter, count, mode, timeout_ms)
        _fill(buffer, b"".join(keys))
        return [len(key) for key in keys]

    def _keys(self, from_key: Data, filter: Data, count: int, mode: int, timeout_ms: float) -> list[bytes]:
        return self.handle(timeout_ms).list_keys(_bytes(from_key), _bytes(filter), count, mode)

    @raising()
    def list_keyvals(
        self,
        pairs: Sequence[tuple[Any, Any]],
        from_key: Data = b"",
        filter: Data = b"",
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> list[tuple[int, int]]:
        """Fill each pair of buffers with a key and its value, see `list_keys`; return their sizes."""
        found = self._pairs(from_key, filter, len(pairs), mode, timeout_ms)
        return [
            (_fill(buffers[0], key), _fill(buffers[1], value))
            for buffers, (key, value) in zip(pairs, found, strict=False)
        ]

    @raising()
    def list_keyvals_packed(
        self,
        keys: Any,
        values: Any,
        count: int,
        from_key: Data = b"",
        filter: Data = b"",
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> list[tuple[int, int]]:
        """Fill one buffer with up to `count` keys, and another one with their values; return their sizes."""
        found = self._pairs(from_key, filter, count, mode, timeout_ms)
        _fill(keys, b"".join(key for key, _ in found))
        _fill(values, b"".join(value for _, value in found))
        return [(len(key), len(value)) for key, value in found]

    @raising()
    def _pairs(
        self, from_key: Data, filter: Data, count: int, mode: int, timeout_ms: float
    ) -> list[tuple[bytes, bytes]]:
        return self.handle(timeout_ms).list_keyvals(_bytes(from_key), _bytes(filter), count, mode)

    def iter(
        self,
        callback: Callable[[int, memoryview, memoryview], Any],
        from_key: Data = b"",
        filter: Data = b"",
        count: int = 0,
        batch_size: int = 0,
        ignore_values: bool = False,
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Call back with the index of each pair, its key, and its value, empty if values are ignored.

        Parameters
        ----------
        count : int
            Pairs at most; 0 for all.
        batch_size : int
            Pairs that are asked for at a time; 0 for some number.
        """
        with raising():
            check_mode("iter", mode, Mode.INCLUSIVE | Mode.NO_PREFIX)
        after, prefix = _bytes(from_key), _bytes(filter)
        listing = mode & ~int(Mode.NO_PREFIX)  # one that is cut off is no place to go on from
        cut = len(prefix) if mode & Mode.NO_PREFIX else 0
        index = 0
        while not count or index < count:
            wanted = min(batch_size or _BATCH, count - index if count else batch_size or _BATCH)
            if ignore_values:
                with raising():
                    found = [(key, b"") for key in self._keys(after, prefix, wanted, listing, timeout_ms)]
            else:
                found = self._pairs(after, prefix, wanted, listing, timeout_ms)
            for key, value in found:
                callback(index, memoryview(key)[cut:], memoryview(value))
                index += 1
            if len(found) < wanted:
                return
            after = found[-1][0]
            listing &= ~int(Mode.INCLUSIVE)

    @raising()
    def create_collection(self, name: str, mode: int = 0, timeout_ms: float = 0.0) -> "Collection":
        """Make a collection."""
        check_mode("create_collection", mode, Mode.DEFAULT)
        self.handle(timeout_ms).coll_create(_bytes(name))
        return Collection(name, self)

    @raising()
    def open_collection(self, name: str, mode: int = 0, timeout_ms: float = 0.0) -> "Collection":
        """Return a collection; `Exception` if there is none of this name."""
        if not self.collection_exists(name, mode, timeout_ms):
            raise KeyNotFound(f"there is no collection {name!r}")
        return Collection(name, self)

    @raising()
    def drop_collection(self, name: str, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase a collection and its documents."""
        check_mode("drop_collection", mode, Mode.DEFAULT)
        self.handle(timeout_ms).coll_drop(_bytes(name))

    @raising()
    def collection_exists(self, name: str, mode: int = 0, timeout_ms: float = 0.0) -> bool:
        """Tell whether there is a collection."""
        check_mode("collection_exists", mode, Mode.DEFAULT)
        return self.handle(timeout_ms).coll_exists(_bytes(name))


class Collection:
    """Documents of a database, by their numbers.

    Parameters
    ----------
    name : str
    db : Database
    """

    def __init__(self, name: str, db: Database) -> None:
        self.name = name
        self.db = db
        self._name = _bytes(name)

    @property
    @raising()
    def size(self) -> int:
        """Number of documents."""
        return self.db.handle().coll_size(self._name)

    @property
    @raising()
    def last_id(self) -> int:
        """The highest id ever given, -1 when none was."""
        return self.db.handle().coll_last_id(self._name)

    def store(self, document: Data, mode: int = 0, timeout_ms: float = 0.0) -> int:
        """Add a document; return its id."""
        return self.store_multi([document], mode, timeout_ms)[0]

    @raising()
    def store_multi(self, documents: Iterable[Data], mode: int = 0, timeout_ms: float = 0.0) -> list[int]:
        """Add documents; return their ids."""
        check_mode("store", mode, Mode.DEFAULT)
        return self.db.handle(timeout_ms).doc_store(self._name, [_bytes(document) for document in documents])

    def store_packed(
        self, documents: Data, sizes: Sequence[int], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int]:
        """Add documents; return their ids."""
        return self.store_multi(_split(documents, sizes), mode, timeout_ms)

    def update(self, id: int, document: Data, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Replace a document."""
        self.update_multi([(id, document)], mode, timeout_ms)

    @raising()
    def update_multi(
        self, documents: Iterable[tuple[int, Data]], mode: int = 0, timeout_ms: float = 0.0
    ) -> None:
        """Replace documents, all or none."""
        pairs = [(id, _bytes(document)) for id, document in documents]
        self.db.handle(timeout_ms).doc_update(self._name, pairs, mode)

    def update_packed(
        self,
        ids: Sequence[int],
        documents: Data,
        sizes: Sequence[int],
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Replace documents, all or none."""
        self.update_multi(zip(ids, _split(documents, sizes), strict=True), mode, timeout_ms)

    @raising()
    def _documents(self, ids: Sequence[int], mode: int, timeout_ms: float) -> list[bytes | None]:
        check_mode("load", mode, Mode.DEFAULT)
        return self.db.handle(timeout_ms).doc_load(self._name, ids)

    @raising()
    def load(self, id: int, buffer: Any, mode: int = 0, timeout_ms: float = 0.0) -> int:
        """Fill a buffer with a document; return its size."""
        return _fill(buffer, _found(self._documents([id], mode, timeout_ms)[0], id))

    def load_multi(
        self, pairs: Iterable[tuple[int, Any]], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int | None]:
        """Fill the buffer of each id with its document; return the sizes, None where there is no such document."""
        given = list(pairs)
        documents = self._documents([id for id, _ in given], mode, timeout_ms)
        return _fill_all([buffer for _, buffer in given], documents)

    def load_packed(
        self, ids: Sequence[int], buffer: Any, mode: int = 0, timeout_ms: float = 0.0
    ) -> list[int | None]:
        """Fill a buffer with documents; return their sizes, None where there is no such document."""
        return _fill_packed(buffer, self._documents(ids, mode, timeout_ms))

    def fetch(
        self, id: int, callback: Callable[[memoryview], Any], mode: int = 0, timeout_ms: float = 0.0
    ) -> None:
        """Call back with a document."""
        with raising():
            document = _found(self._documents([id], mode, timeout_ms)[0], id)
        callback(memoryview(document))

    def fetch_multi(
        self,
        ids: Sequence[int],
        callback: Callable[[int, memoryview | None], Any],
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Call back with the index of each id, and its document or None."""
        for index, document in enumerate(self._documents(ids, mode, timeout_ms)):
            callback(index, None if document is None else memoryview(document))

    def length(self, id: int, mode: int = 0, timeout_ms: float = 0.0) -> int | None:
        """Return the size of a document, None if there is no such document."""
        return self.length_multi([id], mode, timeout_ms)[0]

    @raising()
    def length_multi(self, ids: Sequence[int], mode: int = 0, timeout_ms: float = 0.0) -> list[int | None]:
        """Return the size of each document, None where there is no such document."""
        check_mode("length", mode, Mode.DEFAULT)
        return self.db.handle(timeout_ms).doc_length(self._name, ids)

    def erase(self, id: int, mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase a document, if it is there."""
        self.erase_multi([id], mode, timeout_ms)

    @raising()
    def erase_multi(self, ids: Sequence[int], mode: int = 0, timeout_ms: float = 0.0) -> None:
        """Erase what there is of some documents."""
        check_mode("erase", mode, Mode.DEFAULT)
        self.db.handle(timeout_ms).doc_erase(self._name, ids)

    @raising()
    def _listed(self, start_id: int, count: int, mode: int, timeout_ms: float) -> list[tuple[int, bytes]]:
        check_mode("list_docs", mode, Mode.DEFAULT)
        return self.db.handle(timeout_ms).doc_list(self._name, start_id, count)

    def list_docs(
        self, start_id: int, buffers: Sequence[Any], mode: int = 0, timeout_ms: float = 0.0
    ) -> list[tuple[int, int]]:
        """Fill each buffer with a document from `start_id` on; return the ids and sizes of those there are."""
        found = self._listed(start_id, len(buffers), mode, timeout_ms)
        return [(id, _fill(buffer, document)) for buffer, (id, document) in zip(buffers, found, strict=False)]

    def list_docs_packed(
        self, start_id: int, buffer: Any, count: int, mode: int = 0, timeout_ms: float = 0.0
    ) -> list[tuple[int, int]]:
        """Fill a buffer with up to `count` documents; return their ids and sizes."""
        found = self._listed(start_id, count, mode, timeout_ms)
        _fill(buffer, b"".join(document for _, document in found))
        return [(id, len(document)) for id, document in found]

    def iter(
        self,
        callback: Callable[[int, int, memoryview], Any],
        start_id: int = 0,
        count: int = 0,
        batch_size: int = 0,
        mode: int = 0,
        timeout_ms: float = 0.0,
    ) -> None:
        """Call back with the index of each document, its id, and the document; see `Database.iter`."""
        index = 0
        while not count or index < count:
            wanted = min(batch_size or _BATCH, count - index if count else batch_size or _BATCH)
            found = self._listed(start_id, wanted, mode, timeout_ms)
            for id, document in found:
                callback(index, id, memoryview(document))
                index += 1
            if len(found) < wanted:
                return
            start_id = found[-1][0] + 1
