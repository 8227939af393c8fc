"""A database in this process: the verbs, the modes and the collections over any backend.

Invariants: one lock makes each verb one step, and all changes of a verb go to the backend in one `write`.
"""

import threading
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from mochi.yokan.backend import Backend
from mochi.yokan.database import Database
from mochi.yokan.errors import InvalidArguments, KeyExists, KeyNotFound
from mochi.yokan.layout import CollectionRecord, document_id, document_key, is_document_key
from mochi.yokan.mode import Mode, check_mode

__all__ = ["EmbeddedDatabase"]


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


def _key_exists(key: bytes) -> KeyExists:
    return KeyExists(f'key "{_text(key)}" exists already', {"key": _text(key)})


def _key_not_found(what: str, key: bytes) -> KeyNotFound:
    return KeyNotFound(f'there is no {what} "{_text(key)}"', {"key": _text(key)})


def _page(pairs: Iterator[tuple[bytes, bytes]], limit: int | None) -> Iterator[tuple[bytes, bytes]]:
    if limit is not None and not 0 <= limit < 2**63:
        raise InvalidArguments(f"limit {limit} is out of range, allowed are 0 to 2**63 - 1 and None")
    return islice(pairs, limit)


class EmbeddedDatabase(Database):
    """Verbs carried out here and now, by the calling thread.

    A batch costs its look-ups and one write of the backend; a list the pairs it passes over. Any thread; not
    usable in a forked child.

    Attributes
    ----------
    backend : Backend
        Belongs to this object from now on.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the backend, after the verb under way; idempotent."""
        with self._lock:
            self.backend.close()

    def count(self) -> int:
        with self._lock:
            return self.backend.count()

    def sync(self) -> None:
        with self._lock:
            self.backend.sync()

    def put_multi(self, pairs: Sequence[tuple[bytes, bytes]], mode: int = Mode.DEFAULT) -> None:
        check_mode("put", mode, Mode.APPEND | Mode.NEW_ONLY | Mode.EXIST_ONLY)
        append, new_only, exist_only = (
            bool(mode & flag) for flag in (Mode.APPEND, Mode.NEW_ONLY, Mode.EXIST_ONLY)
        )
        changes: dict[bytes, bytes | None] = {}
        with self._lock:
            for key, value in pairs:
                if not key:
                    raise InvalidArguments("a key is empty")
                if mode:
                    old = changes[key] if key in changes else self.backend.get(key)
                    if new_only and old is not None:
                        raise _key_exists(key)
                    if exist_only and old is None:
                        raise _key_not_found("key", key)
                    if append and old:
                        value = old + value
                changes[key] = value
            self.backend.write(changes)

    def get_multi(self, keys: Sequence[bytes], mode: int = Mode.DEFAULT) -> list[bytes | None]:
        check_mode("get", mode, Mode.CONSUME)
        with self._lock:
            values = [self.backend.get(key) for key in keys]
            if mode & Mode.CONSUME:
                self.backend.write(dict.fromkeys(keys))
            return values

    def length_multi(self, keys: Sequence[bytes]) -> list[int | None]:
        return [None if value is None else len(value) for value in self.get_multi(keys)]

    def erase_multi(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            self.backend.write(dict.fromkeys(keys))

    def erase_range(self, prefix: bytes) -> None:
        with self._lock:
            self.backend.write({key: None for key, _ in self._scan(prefix, prefix)})

    def list_keys(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[bytes]:
        check_mode("list_keys", mode, Mode.INCLUSIVE | Mode.NO_PREFIX)
        return [key for key, _ in self.list_keyvals(from_key, prefix, limit, mode)]

    def list_keyvals(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[tuple[bytes, bytes]]:
        check_mode("list_keyvals", mode, Mode.INCLUSIVE | Mode.NO_PREFIX | Mode.KEEP_LAST)
        start = from_key if mode & Mode.INCLUSIVE or not from_key else from_key + b"\0"
        with self._lock:
            pairs = list(_page(self._scan(max(start, prefix), prefix), limit))
        if mode & Mode.NO_PREFIX:
            pairs = [(key[len(prefix) :], value) for key, value in pairs]
        if mode & Mode.IGNORE_KEYS:
            kept = pairs[-1:] if mode & Mode.KEEP_LAST == Mode.KEEP_LAST else []
            pairs = [(b"", value) for _, value in pairs[: len(pairs) - len(kept)]] + kept
        return pairs

    def coll_create(self, name: bytes) -> None:
        if not name or b"\0" in name:
            raise InvalidArguments(
                f'"{_text(name)}" cannot name a collection: it is empty or has a NUL in it'
            )
        self.put(name, CollectionRecord(0, 0).pack(), Mode.NEW_ONLY)

    def coll_drop(self, name: bytes) -> None:
        with self._lock:
            self._record(name)
            self.backend.write({name: None, **{key: None for key, _ in self._documents(name, 0)}})

    def coll_exists(self, name: bytes) -> bool:
        return CollectionRecord.unpack(self.get(name)) is not None

    def coll_size(self, name: bytes) -> int:
        with self._lock:
            return self._record(name).size

    def coll_last_id(self, name: bytes) -> int:
        with self._lock:
            return self._record(name).next_id - 1

    def doc_store(self, name: bytes, documents: Sequence[bytes]) -> list[int]:
        with self._lock:
            size, first = self._record(name)
            ids = list(range(first, first + len(documents)))
            changes = {document_key(name, id): document for id, document in zip(ids, documents, strict=True)}
            record = CollectionRecord(size + len(ids), first + len(ids))
            self.backend.write({name: record.pack(), **changes})
            return ids

    def doc_load(self, name: bytes, ids: Sequence[int]) -> list[bytes | None]:
        with self._lock:
            self._record(name)
            return [self.backend.get(document_key(name, id)) for id in ids]

    def doc_update(
        self, name: bytes, documents: Sequence[tuple[int, bytes]], mode: int = Mode.DEFAULT
    ) -> None:
        check_mode("doc_update", mode, Mode.UPDATE_NEW)
        with self._lock:
            size, next_id = self._record(name)
            changes = {document_key(name, id): document for id, document in documents}
            added = [key for key in changes if self.backend.get(key) is None]
            if added and not mode & Mode.UPDATE_NEW:
                raise KeyNotFound(
                    f'there is no document {document_id(added[0])} in the collection "{_text(name)}"',
                    {"key": _text(name), "id": document_id(added[0])},
                )
            record = CollectionRecord(size + len(added), max([next_id, *(id + 1 for id, _ in documents)]))
            self.backend.write({name: record.pack(), **changes})

    def doc_length(self, name: bytes, ids: Sequence[int]) -> list[int | None]:
        return [None if document is None else len(document) for document in self.doc_load(name, ids)]

    def doc_erase(self, name: bytes, ids: Sequence[int]) -> None:
        with self._lock:
            size, next_id = self._record(name)
            keys = {document_key(name, id) for id in ids}
            erased = [key for key in keys if self.backend.get(key) is not None]
            record = CollectionRecord(size - len(erased), next_id)
            self.backend.write({name: record.pack(), **dict.fromkeys(erased)})

    def doc_list(self, name: bytes, start_id: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        with self._lock:
            self._record(name)
            page = _page(self._documents(name, start_id), limit)
            return [(document_id(key), document) for key, document in page]

    def _record(self, name: bytes) -> CollectionRecord:
        record = CollectionRecord.unpack(self.backend.get(name))
        if record is None:
            raise _key_not_found("collection", name)
        return record

    def _scan(self, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return takewhile(lambda pair: pair[0].startswith(prefix), self.backend.scan(start))

    def _documents(self, name: bytes, start_id: int) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._scan(document_key(name, start_id), name + b"\0")
        return (pair for pair in pairs if is_document_key(name, pair[0]))
