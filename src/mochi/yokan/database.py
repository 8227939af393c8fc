"""The contract of a database: verbs over byte strings, and collections of numbered documents.

`Database` is what programs hold. Its abstract verbs take several keys at once; those for one key are built on
them here. `EmbeddedDatabase` carries them out in this process, `DatabaseHandle` has a provider carry them
out: the two answer alike, the errors of `mochi.yokan.errors` included.

Every verb is one atomic step: it sees, and leaves, the database before or after any other verb, and a verb
that raises has changed nothing. All may be called from any thread.

Keys are non-empty. Everywhere `mode` is a combination of `mochi.yokan.mode.Mode`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mochi.yokan.mode import Mode

__all__ = ["Collection", "Database"]


class Database(ABC):
    """Keys and values, sorted by key, and collections of documents among them."""

    @abstractmethod
    def count(self) -> int:
        """Number of keys, those of collections and documents included."""

    @abstractmethod
    def sync(self) -> None:
        """Return when all changes so far would survive a crash of the machine; a `map` never does."""

    @abstractmethod
    def put_multi(self, pairs: Sequence[tuple[bytes, bytes]], mode: int = Mode.DEFAULT) -> None:
        """Put all pairs, later ones over earlier ones of the same key. Modes: APPEND, NEW_ONLY, EXIST_ONLY.

        Raises
        ------
        KeyExists, KeyNotFound
            NEW_ONLY or EXIST_ONLY does not hold for a key; none is put. Of two equal keys the second is not
            new.
        InvalidArguments
            A key is empty.
        """

    @abstractmethod
    def get_multi(self, keys: Sequence[bytes], mode: int = Mode.DEFAULT) -> list[bytes | None]:
        """Values of `keys`, None where there is none. Mode: CONSUME."""

    @abstractmethod
    def length_multi(self, keys: Sequence[bytes]) -> list[int | None]:
        """Bytes in the value of each key, None where there is none."""

    @abstractmethod
    def erase_multi(self, keys: Sequence[bytes]) -> None:
        """Erase what there is of `keys`."""

    @abstractmethod
    def erase_range(self, prefix: bytes) -> None:
        """Erase all keys that begin with `prefix`; every key when it is empty."""

    @abstractmethod
    def list_keys(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[bytes]:
        """At most `limit` keys after `from_key` with this `prefix`, sorted. Modes: INCLUSIVE, NO_PREFIX."""

    @abstractmethod
    def list_keyvals(
        self, from_key: bytes = b"", prefix: bytes = b"", limit: int | None = None, mode: int = Mode.DEFAULT
    ) -> list[tuple[bytes, bytes]]:
        """Like `list_keys`, with the values. Modes: INCLUSIVE, NO_PREFIX, IGNORE_KEYS, KEEP_LAST."""

    @abstractmethod
    def coll_create(self, name: bytes) -> None:
        """Make an empty collection.

        Raises
        ------
        KeyExists
            There is a collection, or a key, of that name.
        InvalidArguments
            The name is empty or has a NUL in it.
        """

    @abstractmethod
    def coll_drop(self, name: bytes) -> None:
        """Erase a collection and its documents; `KeyNotFound` if there is none, as in all verbs below."""

    @abstractmethod
    def coll_exists(self, name: bytes) -> bool:
        """Whether there is a collection of that name."""

    @abstractmethod
    def coll_size(self, name: bytes) -> int:
        """Number of documents."""

    @abstractmethod
    def coll_last_id(self, name: bytes) -> int:
        """The highest id ever given, -1 when none was."""

    @abstractmethod
    def doc_store(self, name: bytes, documents: Sequence[bytes]) -> list[int]:
        """Add documents; returns their ids, which follow one another from the last id on."""

    @abstractmethod
    def doc_load(self, name: bytes, ids: Sequence[int]) -> list[bytes | None]:
        """The documents of `ids`, None where there is none."""

    @abstractmethod
    def doc_update(
        self, name: bytes, documents: Sequence[tuple[int, bytes]], mode: int = Mode.DEFAULT
    ) -> None:
        """Replace documents. Mode: UPDATE_NEW, by which ids without a document get one.

        Raises
        ------
        KeyNotFound
            An id has no document; none is replaced.
        InvalidArguments
            An id is negative or above 2**64 - 2.
        """

    @abstractmethod
    def doc_length(self, name: bytes, ids: Sequence[int]) -> list[int | None]:
        """Bytes in each document, None where there is none."""

    @abstractmethod
    def doc_erase(self, name: bytes, ids: Sequence[int]) -> None:
        """Erase what there is of `ids`; ids are never given again."""

    @abstractmethod
    def doc_list(self, name: bytes, start_id: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        """Ids and documents in order of id, from `start_id` on, itself included; at most `limit`."""

    def put(self, key: bytes, value: bytes, mode: int = Mode.DEFAULT) -> None:
        """Put one pair; see `put_multi`."""
        self.put_multi([(key, value)], mode)

    def get(self, key: bytes, mode: int = Mode.DEFAULT) -> bytes | None:
        """Value of `key`, or None; see `get_multi`."""
        return self.get_multi([key], mode)[0]

    def length(self, key: bytes) -> int | None:
        """Bytes in the value of `key`, or None."""
        return self.length_multi([key])[0]

    def exists_multi(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether there is a value for each key."""
        return [length is not None for length in self.length_multi(keys)]

    def exists(self, key: bytes) -> bool:
        """Whether there is a value for `key`."""
        return self.length(key) is not None

    def erase(self, key: bytes) -> None:
        """Erase `key` if it is there."""
        self.erase_multi([key])

    def collection(self, name: bytes) -> "Collection":
        """The collection of that name; whether it exists shows when it is used."""
        return Collection(self, name)

    def create_collection(self, name: bytes) -> "Collection":
        """Make a collection; see `coll_create`."""
        self.coll_create(name)
        return Collection(self, name)


class Collection:
    """Documents of one collection: the ``doc_*`` verbs of its database under their short names.

    Attributes
    ----------
    database : Database
    name : bytes
    """

    def __init__(self, database: Database, name: bytes) -> None:
        self.database = database
        self.name = name

    @property
    def size(self) -> int:
        """Number of documents."""
        return self.database.coll_size(self.name)

    @property
    def last_id(self) -> int:
        """The highest id ever given, -1 when none was."""
        return self.database.coll_last_id(self.name)

    def store(self, document: bytes) -> int:
        """Add a document; returns its id."""
        return self.database.doc_store(self.name, [document])[0]

    def store_multi(self, documents: Sequence[bytes]) -> list[int]:
        """Add documents; returns their ids."""
        return self.database.doc_store(self.name, documents)

    def load(self, id: int) -> bytes | None:
        """The document of that id, or None."""
        return self.database.doc_load(self.name, [id])[0]

    def load_multi(self, ids: Sequence[int]) -> list[bytes | None]:
        """The documents of `ids`, None where there is none."""
        return self.database.doc_load(self.name, ids)

    def update(self, id: int, document: bytes, mode: int = Mode.DEFAULT) -> None:
        """Replace one document; see `Database.doc_update`."""
        self.database.doc_update(self.name, [(id, document)], mode)

    def update_multi(self, documents: Sequence[tuple[int, bytes]], mode: int = Mode.DEFAULT) -> None:
        """Replace documents; see `Database.doc_update`."""
        self.database.doc_update(self.name, documents, mode)

    def length(self, id: int) -> int | None:
        """Bytes in the document of that id, or None."""
        return self.database.doc_length(self.name, [id])[0]

    def length_multi(self, ids: Sequence[int]) -> list[int | None]:
        """Bytes in each document, None where there is none."""
        return self.database.doc_length(self.name, ids)

    def erase(self, id: int) -> None:
        """Erase the document if it is there."""
        self.database.doc_erase(self.name, [id])

    def erase_multi(self, ids: Sequence[int]) -> None:
        """Erase what there is of `ids`."""
        self.database.doc_erase(self.name, ids)

    def list_docs(self, start_id: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        """Ids and documents in order of id, from `start_id` on; at most `limit`."""
        return self.database.doc_list(self.name, start_id, limit)
