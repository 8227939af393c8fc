"""Topics in the master database: visible as a whole or not at all, wherever a change is cut short."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mochi.mofka.lifecycle import State
from mochi.mofka.registry import BadRecord, PartitionRecord, Registry
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.errors import KeyExists, KeyNotFound
from mochi.yokan.map import MapBackend

DESCRIPTIONS = [{"type": "default"}, {"type": "default"}, {"type": "default"}]


class CrashError(Exception):
    """The client, or the server, is gone."""


class CrashingBackend(MapBackend):
    """A map that takes so many writes, and then no more."""

    def __init__(self) -> None:
        super().__init__({}, "config")
        self.writes_left = 1 << 30
        self.syncs = 0

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        if not self.writes_left:
            raise CrashError
        self.writes_left -= 1
        super().write(changes)

    def sync(self) -> None:
        self.syncs += 1


@pytest.fixture
def backend() -> CrashingBackend:
    return CrashingBackend()


@pytest.fixture
def registry(backend: CrashingBackend) -> Registry:
    return Registry(EmbeddedDatabase(backend))


def partition(number: int, **fields: Any) -> PartitionRecord:
    return PartitionRecord("tcp://10.0.0.1:4000", number, f"uuid-{number}", **{"rank": number % 2, **fields})


PARTITIONS = [partition(number) for number in range(3)]


def create(registry: Registry, topic: str = "topic") -> None:
    registry.reserve(topic, [replace(each, provider_id=65535) for each in PARTITIONS])
    registry.update(topic, PARTITIONS)
    registry.publish(topic, DESCRIPTIONS)


def delete(registry: Registry) -> None:
    registry.withdraw("topic")
    for each in registry.partitions("topic"):
        registry.forget("topic", [each.uuid])


def test_a_record_has_the_fields_of_the_original_and_what_brings_the_partition_back(
    registry: Registry, backend: CrashingBackend
) -> None:
    full = partition(
        0, type="default", partition={"path": "/data"}, dependencies={"pool": ["p"], "io_controller": ["io"]}
    )
    create(registry)
    registry.add_partition("topic", full)
    record = registry.load("topic")
    assert record is not None
    assert record.partitions == [*PARTITIONS, full]
    (text,) = (text for _, text in EmbeddedDatabase(backend).doc_list(b"MOFKA:GLOBAL:topic:partitions", 3))
    document = msgspec.json.decode(text)
    original = {"address": full.address, "provider_id": 0, "uuid": "uuid-0"}
    assert document.items() >= {**original, "rank": 0, "type": "default"}.items()


def test_a_record_of_the_original_is_read(registry: Registry, backend: CrashingBackend) -> None:
    create(registry)
    text = b'{"address":"ofi+tcp://10.0.0.1:41811","provider_id":5,"uuid":"5d1c0a2b"}'
    EmbeddedDatabase(backend).doc_store(b"MOFKA:GLOBAL:topic:partitions", [text])
    assert registry.partitions("topic")[-1] == PartitionRecord("ofi+tcp://10.0.0.1:41811", 5, "5d1c0a2b")


def test_what_somebody_is_told_of_is_on_disk(registry: Registry, backend: CrashingBackend) -> None:
    changes: list[Callable[[], object]] = [
        lambda: create(registry),
        lambda: registry.add_partition("topic", partition(3)),
        lambda: registry.withdraw("topic"),
    ]
    for change in changes:
        before = backend.syncs
        change()
        assert backend.syncs == before + 1


def test_a_topic_that_cannot_be_synced_is_not_visible(
    registry: Registry, backend: CrashingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise CrashError

    monkeypatch.setattr(backend, "sync", fail)
    registry.reserve("topic", PARTITIONS)
    with pytest.raises(CrashError):
        registry.publish("topic", DESCRIPTIONS)
    assert registry.load("topic") is None
    assert registry.leftovers() == ["topic"]


def test_updating_finds_partitions_by_their_uuids(registry: Registry) -> None:
    create(registry)
    moved = replace(PARTITIONS[1], address="tcp://10.0.0.2:4000", provider_id=9)
    registry.update("topic", [moved])
    assert registry.partitions("topic") == [PARTITIONS[0], moved, PARTITIONS[2]]
    with pytest.raises(KeyNotFound, match="uuid-7"):
        registry.update("topic", [partition(7)])


def test_a_name_is_given_once(registry: Registry) -> None:
    create(registry)
    with pytest.raises(KeyExists):
        registry.reserve("topic", [])
    create(registry, "topic2")
    assert registry.names() == ["topic", "topic2"]
    delete(registry)
    assert registry.names() == ["topic2"]
    create(registry)
    assert registry.names() == ["topic", "topic2"]


def test_a_topic_without_partitions_is_deleted_as_well(registry: Registry) -> None:
    registry.reserve("topic", [])
    registry.publish("topic", DESCRIPTIONS)
    registry.forget("topic", ["uuid-0"])
    assert registry.load("topic") is not None
    registry.withdraw("topic")
    registry.forget("topic", [])
    assert registry.leftovers() == []
    registry.reserve("topic", [])


@pytest.mark.parametrize("begins_visible", [True, False])
def test_wherever_a_change_is_cut_short_the_topic_is_there_or_can_be_cleared_away(
    begins_visible: bool,
) -> None:
    seen = set()
    for writes in count():
        backend = CrashingBackend()
        registry = Registry(EmbeddedDatabase(backend))
        if begins_visible:
            create(registry)
        backend.writes_left = writes
        try:
            delete(registry) if begins_visible else create(registry)
        except CrashError:
            pass
        else:
            assert writes > 3
            assert registry.names() == ([] if begins_visible else ["topic"])
            break
        backend.writes_left = 1 << 30
        seen.add((registry.names() != [], registry.leftovers() != []))
        assert registry.names() == [] or registry.leftovers() == []
        record = registry.load("topic")
        if record is not None:
            assert [each.uuid for each in record.partitions] == [each.uuid for each in PARTITIONS]
        elif registry.leftovers():
            assert registry.state("topic") is State.LEFT
            with pytest.raises(KeyExists):
                registry.reserve("topic", PARTITIONS)
            left = registry.partitions("topic")
            assert all(each.deleted == begins_visible for each in left)
            registry.forget("topic", [each.uuid for each in left])
        assert registry.leftovers() == []
        if record is None:
            create(registry)
        assert registry.names() == ["topic"]
    assert (False, True) in seen
    assert (begins_visible, False) in seen or not begins_visible


def test_a_partition_that_is_being_added_is_known_until_it_is_there(registry: Registry) -> None:
    create(registry)
    added = partition(3, type="default", partition={"path": "/data"})
    assert (registry.adding(), registry.being_added("topic")) == ([], None)
    registry.begin_adding("topic", added)
    assert (registry.adding(), registry.being_added("topic")) == (["topic"], added)
    assert registry.names() == ["topic"]
    assert registry.leftovers() == []
    registry.add_partition("topic", replace(added, provider_id=9))
    assert registry.being_added("topic") is None
    registry.end_adding("topic")
    assert registry.adding() == []


def test_a_record_that_cannot_be_read_costs_its_topic_which_can_be_deleted(
    registry: Registry, backend: CrashingBackend
) -> None:
    database = EmbeddedDatabase(backend)
    for topic in ("good", "json", "kind", "part", "lacking", "junk"):
        create(registry, topic)
    database.put(b"MOFKA:GLOBAL:json:validator", b"\xff{")
    database.put(b"MOFKA:GLOBAL:kind:selector", b"[]")
    database.doc_store(b"MOFKA:GLOBAL:part:partitions", [b"no\xff"])
    database.erase(b"MOFKA:GLOBAL:lacking:serializer")
    database.coll_drop(b"MOFKA:GLOBAL:junk:partitions")
    database.put(b"MOFKA:GLOBAL:junk:partitions", b"no collection")
    database.put(b"MOFKA:ADDING:good", b"no record")
    assert registry.being_added("good") is None
    database.put(b"MOFKA:GLOBAL:\xff\xfe:validator", b"{}")
    assert registry.names() == ["good", "json", "junk", "kind", "lacking", "part"]
    assert registry.bad_names() == ["\\xff\\xfe"]
    problems = {
        "json": "validator: ",
        "kind": "selector: ",
        "part": "a partition: ",
        "lacking": "serializer: ",
        "junk": "there is no collection",
    }
    for topic, problem in problems.items():
        with pytest.raises(BadRecord) as raised:
            registry.load(topic)
        assert raised.value.topic == topic
        assert raised.value.problem.startswith(problem)
        registry.withdraw(topic)
        left = registry.partitions(topic, readable_only=True)
        assert [each.uuid for each in left] == [each.uuid for each in PARTITIONS if topic != "junk"]
        assert all(each.deleted for each in left)
        registry.forget(topic, [each.uuid for each in left])
        assert registry.state(topic) is State.ABSENT
    assert registry.names() == ["good"]
    assert registry.load("good") is not None
