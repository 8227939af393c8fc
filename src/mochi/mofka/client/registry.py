"""Topics as the master database records them, in the original's keys.

For a topic T: keys ``MOFKA:GLOBAL:T:validator``, ``:selector`` and ``:serializer`` (JSON text), and a collection
``MOFKA:GLOBAL:T:partitions`` with one document a partition. The collection is made first, which only one creator can
do; the keys are put last, all at once, and make the topic visible.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from diaspora_stream.errors import DiasporaError, TopicExists
from mochi.mofka.client.service import PartitionInfo
from mochi.yokan.database import Database
from mochi.yokan.errors import KeyExists
from mochi.yokan.mode import Mode

_PREFIX = "MOFKA:GLOBAL:"
_PARTS = ("validator", "selector", "serializer")
_PAGE = 64


def _key(topic: str, part: str) -> bytes:
    return f"{_PREFIX}{topic}:{part}".encode()


class TopicRecord(msgspec.Struct, frozen=True):
    """A topic in the master database."""

    validator: dict[str, Any]
    selector: dict[str, Any]
    serializer: dict[str, Any]
    partitions: list[PartitionInfo]


class _Document(msgspec.Struct):
    address: str
    provider_id: int
    uuid: str


class Registry:
    """The topics in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exists(self, topic: str) -> bool:
        """Tell whether there is such a topic."""
        return self._database.exists(_key(topic, "validator"))

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        names: list[str] = []
        start = b""
        prefix = _PREFIX.encode()
        while keys := self._database.list_keys(start, prefix, _PAGE):
            names.extend(
                key[len(prefix) : -len(b":validator")].decode() for key in keys if key.endswith(b":validator")
            )
            start = keys[-1]
        return sorted(names)

    def reserve(self, topic: str) -> None:
        """Begin to create a topic; `TopicExists` where another creator was first."""
        if self.exists(topic):
            raise TopicExists(topic)
        try:
            self._database.coll_create(_key(topic, "partitions"))
        except KeyExists:
            if self.exists(topic):
                raise TopicExists(topic) from None
            raise DiasporaError(
                f"topic {topic!r} is being created by somebody else, or its creation was interrupted"
            ) from None

    def commit(
        self,
        topic: str,
        descriptions: Sequence[dict[str, Any]],
        partitions: Sequence[PartitionInfo],
    ) -> None:
        """Make a reserved topic visible; `descriptions` are those of validator, selector and serializer."""
        documents = [msgspec.json.encode(partition.as_dict()) for partition in partitions]
        if documents:
            self._database.doc_store(_key(topic, "partitions"), documents)
        pairs = [
            (_key(topic, part), msgspec.json.encode(description))
            for part, description in zip(_PARTS, descriptions, strict=True)
        ]
        self._database.put_multi(pairs, Mode.NEW_ONLY)

    def add_partition(self, topic: str, partition: PartitionInfo) -> None:
        """Add a partition to a topic."""
        self._database.doc_store(_key(topic, "partitions"), [msgspec.json.encode(partition.as_dict())])

    def release(self, topic: str) -> None:
        """Undo `reserve`."""
        self._database.coll_drop(_key(topic, "partitions"))

    def load(self, topic: str) -> TopicRecord | None:
        """Return what is recorded of a topic, or None if there is none of this name."""
        texts = self._database.get_multi([_key(topic, part) for part in _PARTS])
        if any(text is None for text in texts):
            return None
        validator, selector, serializer = (msgspec.json.decode(text) for text in texts if text is not None)
        partitions: list[PartitionInfo] = []
        start = 0
        while page := self._database.doc_list(_key(topic, "partitions"), start, _PAGE):
            for number, text in page:
                document = msgspec.json.decode(text, type=_Document)
                partitions.append(
                    PartitionInfo(len(partitions), document.address, document.provider_id, document.uuid)
                )
                start = number + 1
        return TopicRecord(validator, selector, serializer, partitions)
