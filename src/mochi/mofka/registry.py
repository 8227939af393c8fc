"""Topics as the master database records them, in the original's keys.

For a topic T: keys ``MOFKA:GLOBAL:T:validator``, ``:selector`` and ``:serializer`` (JSON text), which make the topic
visible, and a collection ``MOFKA:GLOBAL:T:partitions`` with one document a partition. The original's three fields of
a document are followed by ours, which say what brings the partition back.

Every change is such that it may be cut short anywhere. A topic is created by making the collection, which only one
creator can do, with all that the partitions are going to be; the keys come last, all at once. It is deleted by marking
its documents and erasing its keys, all at once; then the documents go one by one, and the collection when it is
empty. So a collection without keys is a list of what is to be removed: of marked partitions everything, of others,
whose creation was cut short, what has no events in it.

That a topic is there, has one more partition, or is deleted, is on disk before anybody is told, if the database has
one: each change that makes it so is followed by a sync, which takes all before it along.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from diaspora_stream.errors import DiasporaError, TopicExists
from mochi.yokan.database import Database
from mochi.yokan.errors import KeyExists, KeyNotFound
from mochi.yokan.mode import Mode

_PREFIX = "MOFKA:GLOBAL:"
_PARTS = ("validator", "selector", "serializer")
_PAGE = 64


def _key(topic: str, part: str) -> bytes:
    return f"{_PREFIX}{topic}:{part}".encode()


class PartitionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A partition of a topic: where it is served, and what brings it back.

    Attributes
    ----------
    rank : int or None
        Ordinal of its server; None for one that the original recorded, which nobody brings back.
    partition : Mapping
        The ``partition`` section of its configuration, as it was given.
    dependencies : Mapping
        Names of what it depends on, as they were given.
    deleted : bool
        Whether its topic was deleted; means something only without the topic's keys.
    """

    address: str
    provider_id: int
    uuid: str
    rank: int | None = None
    type: str = "memory"
    partition: dict[str, Any] = {}
    dependencies: dict[str, list[str]] = {}
    deleted: bool = False


class TopicRecord(msgspec.Struct, frozen=True):
    """A topic in the master database."""

    validator: dict[str, Any]
    selector: dict[str, Any]
    serializer: dict[str, Any]
    partitions: list[PartitionRecord]


class Registry:
    """The topics in one database. Every method raises what the database does, `MargoError` where it is elsewhere."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exists(self, topic: str) -> bool:
        """Tell whether there is such a topic."""
        return self._database.exists(_key(topic, "validator"))

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return self._names_with("validator")

    def leftovers(self) -> list[str]:
        """Return the names, sorted, of topics whose creation or deletion is not finished."""
        return sorted({*self._names_with("partitions")} - {*self.names()})

    def _names_with(self, part: str) -> list[str]:
        names: list[str] = []
        start = b""
        prefix, suffix = _PREFIX.encode(), f":{part}".encode()
        while keys := self._database.list_keys(start, prefix, _PAGE):
            names.extend(key[len(prefix) : -len(suffix)].decode() for key in keys if key.endswith(suffix))
            start = keys[-1]
        return sorted(names)

    def reserve(self, topic: str, partitions: Sequence[PartitionRecord]) -> None:
        """Begin to create a topic, with what its partitions are going to be.

        Raises
        ------
        TopicExists
            There is one of this name.
        DiasporaError
            Its creation by somebody else, or its deletion, is not finished.
        """
        if self.exists(topic):
            raise TopicExists(topic)
        try:
            self._database.coll_create(_key(topic, "partitions"))
        except KeyExists:
            if self.exists(topic):
                raise TopicExists(topic) from None
            raise DiasporaError(
                f"topic {topic!r} is being created or deleted by somebody else, or that was interrupted; what is left "
                "of it goes when the servers concerned start again, or when it is deleted (again)"
            ) from None
        self._store(topic, partitions)

    def publish(self, topic: str, descriptions: Sequence[dict[str, Any]]) -> None:
        """Make a reserved topic visible, or not if that fails.

        `descriptions` are those of validator, selector and serializer.
        """
        pairs = [
            (_key(topic, part), msgspec.json.encode(description))
            for part, description in zip(_PARTS, descriptions, strict=True)
        ]
        self._database.put_multi(pairs, Mode.NEW_ONLY)
        try:
            self._database.sync()
        except BaseException:
            self._database.erase_multi([key for key, _ in pairs])
            raise

    def add_partition(self, topic: str, partition: PartitionRecord) -> None:
        """Add a partition to a topic."""
        self._store(topic, [partition])
        self._database.sync()

    def _store(self, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        documents = [msgspec.json.encode(partition) for partition in partitions]
        self._database.doc_store(_key(topic, "partitions"), documents)

    def update(self, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        """Replace the records of partitions, found by their uuids; `KeyNotFound` if one is not there (any more)."""
        ids = {partition.uuid: number for number, partition in self._documents(topic)}
        documents = []
        for partition in partitions:
            if partition.uuid not in ids:
                raise KeyNotFound(f"topic {topic!r} has no partition {partition.uuid} (any more)")
            documents.append((ids[partition.uuid], msgspec.json.encode(partition)))
        self._database.doc_update(_key(topic, "partitions"), documents)

    def withdraw(self, topic: str) -> None:
        """Begin to delete a topic: it is not visible any more. Does nothing to one that is not visible anyway."""
        if self.exists(topic):
            marked = [
                (number, msgspec.json.encode(replace(partition, deleted=True)))
                for number, partition in self._documents(topic)
            ]
            self._database.doc_update(_key(topic, "partitions"), marked)
            self._database.erase_multi([_key(topic, part) for part in _PARTS])
            self._database.sync()

    def forget(self, topic: str, uuids: Iterable[str]) -> None:
        """Drop partitions of a topic that is not visible, and with the last one the topic; idempotent."""
        forgotten, collection = set(uuids), _key(topic, "partitions")
        with suppress(KeyNotFound):  # others may be at it
            gone = [number for number, partition in self._documents(topic) if partition.uuid in forgotten]
            self._database.doc_erase(collection, gone)
            if not self._database.coll_size(collection) and not self.exists(topic):
                self._database.coll_drop(collection)

    def partitions(self, topic: str) -> list[PartitionRecord]:
        """Return the partitions of a topic, visible or not; `KeyNotFound` if there is nothing of it."""
        return [partition for _, partition in self._documents(topic)]

    def load(self, topic: str) -> TopicRecord | None:
        """Return what is recorded of a topic, or None if there is none of this name."""
        texts = self._database.get_multi([_key(topic, part) for part in _PARTS])
        if any(text is None for text in texts):
            return None
        validator, selector, serializer = (msgspec.json.decode(text) for text in texts if text is not None)
        return TopicRecord(validator, selector, serializer, self.partitions(topic))

    def _documents(self, topic: str) -> list[tuple[int, PartitionRecord]]:
        documents: list[tuple[int, PartitionRecord]] = []
        start = 0
        while page := self._database.doc_list(_key(topic, "partitions"), start, _PAGE):
            for number, text in page:
                documents.append((number, msgspec.json.decode(text, type=PartitionRecord)))
                start = number + 1
        return documents
