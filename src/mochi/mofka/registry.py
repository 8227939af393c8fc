"""Topics as the master database records them, in the original's keys.

For a topic T: keys ``MOFKA:GLOBAL:T:validator``, ``:selector`` and ``:serializer`` (JSON text), which make the topic
visible, and a collection ``MOFKA:GLOBAL:T:partitions`` with one document a partition. The original's three fields of
a document are followed by ours, which say what brings the partition back.

Every change is such that it may be cut short anywhere. A topic is created by making the collection, which only one
creator can do, with all that the partitions are going to be; the keys come last, all at once. It is deleted by
marking its documents and erasing its keys, all at once; then the documents go one by one, and the collection when it
is empty. So a collection without keys is a list of what is to be removed. Of marked partitions that is everything;
of others, whose creation was cut short, it is what has no events in it. A partition that is being added is recorded
beforehand in a key of ours beside those, ``MOFKA:ADDING:T``.

A record that cannot be read costs its topic and no other, and does not keep the topic from being deleted.

That a topic is there, has one more partition, or is deleted, is on disk before anybody is told, if the database has
one. Each change that makes it so is followed by a sync, which takes all before it along.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from mochi.margo.errors import MargoError
from mochi.mofka.lifecycle import State
from mochi.yokan.database import Database
from mochi.yokan.errors import KeyNotFound
from mochi.yokan.mode import Mode

_PREFIX = "MOFKA:GLOBAL:"
_ADDING = "MOFKA:ADDING:"
_PARTS = ("validator", "selector", "serializer")
_PAGE = 64


def _key(topic: str, part: str) -> bytes:
    return f"{_PREFIX}{topic}:{part}".encode()


class PartitionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A partition of a topic: where it is served, and what brings it back.

    Attributes
    ----------
    rank : int or None
        Ordinal of its server; None for one that the original recorded, which nobody brings back until it is attached.
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


class BadRecord(MargoError):
    """What is recorded of a topic, and cannot be read.

    Attributes
    ----------
    topic : str
    problem : str
    """

    def __init__(self, topic: str, problem: str) -> None:
        super().__init__(f"topic {topic!r}: its record in the master database cannot be read: {problem}")
        self.topic = topic
        self.problem = problem


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

    def state(self, topic: str) -> State:
        """Tell what a topic is that nobody changes."""
        if self.exists(topic):
            return State.THERE
        return State.LEFT if self._database.exists(_key(topic, "partitions")) else State.ABSENT

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return sorted(_decoded(self._raw_names("validator")))

    def bad_names(self) -> list[str]:
        """Return what can be shown of names that are no text."""
        return [
            name.decode(errors="backslashreplace")
            for name in self._raw_names("validator")
            if not _decoded([name])
        ]

    def leftovers(self) -> list[str]:
        """Return the names, sorted, of topics whose creation or deletion is not finished."""
        return sorted({*_decoded(self._raw_names("partitions"))} - {*self.names()})

    def adding(self) -> list[str]:
        """Return the names, sorted, of topics that a partition was to be added to, which is not finished."""
        prefix = _ADDING.encode()
        return sorted(_decoded(key[len(prefix) :] for key in self._keys(prefix)))

    def _raw_names(self, part: str) -> list[bytes]:
        prefix, suffix = _PREFIX.encode(), f":{part}".encode()
        return [key[len(prefix) : -len(suffix)] for key in self._keys(prefix) if key.endswith(suffix)]

    def _keys(self, prefix: bytes) -> Iterator[bytes]:
        start = b""
        while keys := self._database.list_keys(start, prefix, _PAGE):
            yield from keys
            start = keys[-1]

    def reserve(self, topic: str, partitions: Sequence[PartitionRecord]) -> None:
        """Begin to create a topic, with what its partitions are going to be; `KeyExists` if there is anything of it."""
        self._database.coll_create(_key(topic, "partitions"))
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

    def begin_adding(self, topic: str, partition: PartitionRecord) -> None:
        """Record that a partition is going to be added to a topic."""
        self._database.put(f"{_ADDING}{topic}".encode(), msgspec.json.encode(partition))

    def being_added(self, topic: str) -> PartitionRecord | None:
        """Return the partition that was to be added to a topic, and is not one of it; None if there is none."""
        text = self._database.get(f"{_ADDING}{topic}".encode())
        if text is None:
            return None
        with suppress(KeyNotFound, BadRecord):
            partition = _record(topic, text)
            if all(other.uuid != partition.uuid for other in self.partitions(topic, readable_only=True)):
                return partition
        return None

    def end_adding(self, topic: str) -> None:
        """Forget what was going to be added to a topic."""
        self._database.erase(f"{_ADDING}{topic}".encode())

    def add_partition(self, topic: str, partition: PartitionRecord) -> None:
        """Add a partition to a topic."""
        self._store(topic, [partition])
        self._database.sync()

    def _store(self, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        documents = [msgspec.json.encode(partition) for partition in partitions]
        self._database.doc_store(_key(topic, "partitions"), documents)

    def update(self, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        """Replace the records of partitions, found by their uuids; `KeyNotFound` if one is not there (any more)."""
        ids = {partition.uuid: number for number, partition in self._readable(topic)}
        documents = []
        for partition in partitions:
            if partition.uuid not in ids:
                raise KeyNotFound(f"topic {topic!r} has no partition {partition.uuid} (any more)")
            documents.append((ids[partition.uuid], msgspec.json.encode(partition)))
        self._database.doc_update(_key(topic, "partitions"), documents)

    def attach(self, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        """Record by whom partitions are served from now on, and what brings them back."""
        self.update(topic, partitions)
        self._database.sync()

    def withdraw(self, topic: str) -> None:
        """Begin to delete a topic: it is not visible any more. Does nothing to one that is not visible anyway."""
        if self.exists(topic):
            with suppress(KeyNotFound):
                marked = [
                    (number, msgspec.json.encode(replace(partition, deleted=True)))
                    for number, partition in self._readable(topic)
                ]
                self._database.doc_update(_key(topic, "partitions"), marked)
            self._database.erase_multi([_key(topic, part) for part in _PARTS])
            self._database.sync()

    def forget(self, topic: str, uuids: Iterable[str]) -> None:
        """Drop partitions of a topic that is not visible, and with the last readable one the topic; idempotent."""
        forgotten, collection = set(uuids), _key(topic, "partitions")
        try:
            documents = list(self._readable(topic))
        except KeyNotFound:
            if not self.exists(topic):
                self._database.erase(collection)  # what was there was no collection
            return
        gone = [number for number, partition in documents if partition.uuid in forgotten]
        self._database.doc_erase(collection, gone)
        if len(gone) == len(documents) and not self.exists(topic):
            self._database.coll_drop(collection)

    def partitions(self, topic: str, *, readable_only: bool = False) -> list[PartitionRecord]:
        """Return the partitions of a topic, visible or not.

        Raises
        ------
        KeyNotFound
            There is nothing of it; unless those that can be read, which may be none, are enough.
        BadRecord
            A record cannot be read, likewise.
        """
        if readable_only:
            with suppress(KeyNotFound):
                return [partition for _, partition in self._readable(topic)]
            return []
        return [_record(topic, text) for _, text in self._documents(topic)]

    def load(self, topic: str) -> TopicRecord | None:
        """Return what is recorded of a topic, or None if there is none of this name; `BadRecord` if it is no record."""
        texts = self._database.get_multi([_key(topic, part) for part in _PARTS])
        if texts[0] is None:
            return None
        parts: list[dict[str, Any]] = []
        for part, text in zip(_PARTS, texts, strict=True):
            try:
                parts.append(msgspec.json.decode(text or b"", type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise BadRecord(topic, f"{part}: {error}") from None
        validator, selector, serializer = parts
        try:
            return TopicRecord(validator, selector, serializer, self.partitions(topic))
        except KeyNotFound as error:
            if not self.exists(topic):  # it was deleted meanwhile
                return None
            raise BadRecord(topic, str(error)) from None

    def _documents(self, topic: str) -> Iterator[tuple[int, bytes]]:
        start = 0
        while page := self._database.doc_list(_key(topic, "partitions"), start, _PAGE):
            yield from page
            start = page[-1][0] + 1

    def _readable(self, topic: str) -> Iterator[tuple[int, PartitionRecord]]:
        for number, text in self._documents(topic):
            with suppress(BadRecord):
                yield number, _record(topic, text)


def _record(topic: str, text: bytes) -> PartitionRecord:
    try:
        return msgspec.json.decode(text, type=PartitionRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRecord(topic, f"a partition: {error}") from None


def _decoded(names: Iterable[bytes]) -> list[str]:
    """Return those of the names that are text."""
    decoded = []
    for name in names:
        with suppress(UnicodeDecodeError):
            decoded.append(name.decode())
    return decoded
