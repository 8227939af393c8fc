"""Collections of documents on every database, and how they lie among its keys."""

import struct
from collections.abc import Callable

import pytest

from mochi.yokan.database import Collection, Database
from mochi.yokan.errors import InvalidArguments, InvalidMode, KeyExists, KeyNotFound
from mochi.yokan.mode import Mode


@pytest.fixture
def partitions(database: Database) -> Collection:
    return database.create_collection(b"partitions")


def test_a_new_collection_is_empty_and_has_given_no_id(database: Database) -> None:
    assert not database.coll_exists(b"partitions")
    partitions = database.create_collection(b"partitions")
    assert database.coll_exists(b"partitions")
    assert (partitions.size, partitions.last_id, partitions.list_docs()) == (0, -1, [])


def test_ids_count_from_zero_in_order_of_storing(partitions: Collection) -> None:
    assert partitions.store(b"a") == 0
    assert partitions.store_multi([b"b", b"", b"d"]) == [1, 2, 3]
    assert (partitions.size, partitions.last_id) == (4, 3)
    assert partitions.load(2) == b""
    assert partitions.load_multi([3, 9, 0]) == [b"d", None, b"a"]
    assert partitions.length(0) == 1
    assert partitions.length_multi([2, 9]) == [0, None]


def test_ids_never_come_back(partitions: Collection) -> None:
    partitions.store_multi([b"a", b"b", b"c"])
    partitions.erase_multi([2, 1, 1, 7])
    partitions.erase(0)
    assert (partitions.size, partitions.last_id) == (0, 2)
    assert partitions.store(b"d") == 3
    assert partitions.list_docs() == [(3, b"d")]


def test_documents_are_listed_by_id_from_the_given_one(partitions: Collection) -> None:
    partitions.store_multi([str(id).encode() for id in range(300)])
    partitions.erase(255)
    assert partitions.list_docs(254, 3) == [(254, b"254"), (256, b"256"), (257, b"257")]
    assert [id for id, _ in partitions.list_docs()] == [*range(255), *range(256, 300)]
    assert partitions.list_docs(300) == []


def test_an_update_replaces_documents_that_exist(partitions: Collection) -> None:
    partitions.store_multi([b"a", b"b"])
    partitions.update(1, b"B")
    partitions.update_multi([(0, b"A"), (1, b"BB")])
    assert partitions.list_docs() == [(0, b"A"), (1, b"BB")]
    assert partitions.size == 2


def test_an_update_of_an_absent_document_changes_nothing(partitions: Collection) -> None:
    partitions.store(b"a")
    with pytest.raises(KeyNotFound, match="no document 5") as caught:
        partitions.update_multi([(0, b"A"), (5, b"F")])
    assert caught.value.details == {"key": "partitions", "id": 5}
    assert partitions.list_docs() == [(0, b"a")]


def test_update_new_makes_documents_and_later_ids_follow(partitions: Collection) -> None:
    partitions.store(b"a")
    partitions.update_multi([(5, b"x"), (5, b"f"), (0, b"A")], Mode.UPDATE_NEW)
    assert (partitions.size, partitions.last_id) == (2, 5)
    assert partitions.store(b"g") == 6
    assert partitions.list_docs() == [(0, b"A"), (5, b"f"), (6, b"g")]


def test_an_id_out_of_range_is_refused(partitions: Collection) -> None:
    for id in (-1, 2**64 - 1):
        with pytest.raises(InvalidArguments, match="out of range"):
            partitions.update(id, b"x", Mode.UPDATE_NEW)
    assert partitions.size == 0


def test_an_update_has_no_other_mode(partitions: Collection) -> None:
    with pytest.raises(
        InvalidMode, match="doc_update does not take mode NEW_ONLY; it takes NO_RDMA, UPDATE_NEW"
    ):
        partitions.update(0, b"x", Mode.NEW_ONLY)


def test_a_collection_that_exists_is_not_made_again(database: Database, partitions: Collection) -> None:
    partitions.store(b"a")
    with pytest.raises(KeyExists, match="partitions"):
        database.create_collection(b"partitions")
    assert partitions.size == 1


@pytest.mark.parametrize("name", [b"", b"a\0b"])
def test_a_name_that_cannot_be_a_collections_is_refused(database: Database, name: bytes) -> None:
    with pytest.raises(InvalidArguments, match="cannot name a collection"):
        database.create_collection(name)


def test_dropping_takes_its_documents_and_no_other_key(database: Database, partitions: Collection) -> None:
    others = [(b"partition", b"1"), (b"partitions\0note", b"2"), (b"partitions2", b"3")]
    database.put_multi(others)
    partitions.store_multi([b"a", b"b"])
    database.coll_drop(b"partitions")
    assert database.list_keyvals() == others
    assert database.create_collection(b"partitions").store(b"c") == 0


def verbs_of(collection: Collection) -> list[Callable[[], object]]:
    return [
        lambda: collection.size,
        lambda: collection.last_id,
        lambda: collection.store(b"x"),
        lambda: collection.load(0),
        lambda: collection.length(0),
        lambda: collection.update(0, b"x"),
        lambda: collection.erase(0),
        lambda: collection.list_docs(),
        lambda: collection.database.coll_drop(collection.name),
    ]


def test_every_verb_on_an_absent_collection_names_it(database: Database) -> None:
    database.put(b"plain", b"no record")
    for name in (b"absent", b"plain"):
        absent = database.collection(name)
        assert not database.coll_exists(name)
        for verb in verbs_of(absent):
            with pytest.raises(KeyNotFound, match=f'no collection "{name.decode()}"'):
                verb()


def test_a_collection_lies_among_the_keys_as_the_original_lays_it(
    database: Database, partitions: Collection
) -> None:
    partitions.store_multi([b"zero", b"one"])
    partitions.erase(0)
    assert database.list_keyvals() == [
        (b"partitions", struct.pack("<QQ", 1, 2)),
        (b"partitions\0" + struct.pack(">Q", 1), b"one"),
    ]


def test_other_keys_between_its_documents_are_not_listed(database: Database, partitions: Collection) -> None:
    partitions.store_multi([b"a", b"b"])
    database.put(b"partitions\0" + bytes(8) + b"tail", b"alien")
    assert partitions.list_docs() == [(0, b"a"), (1, b"b")]
