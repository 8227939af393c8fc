"""Databases as programs of the original use them: `mochi.yokan.client` over a real server."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mochi.bedrock.server import Server
from mochi.margo.engine import Engine
from mochi.mofka.testing import running
from mochi.yokan import exception, mode
from mochi.yokan.client import Client, Collection, Database
from mochi.yokan.exception import Exception as YokanException
from mochi.yokan.messages import Nothing

CONFIG = {
    "libraries": ["libyokan-bedrock-module.so"],
    "providers": [{"name": "db", "type": "yokan", "provider_id": 3, "config": {"database": {"type": "map"}}}],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("na+sm", CONFIG) as server:
        yield server


@pytest.fixture
def database(server: Server) -> Database:
    database = Client(engine=server.margo.engine).make_database_handle(server.address, 3)
    database.erase_range("")
    return database


def code(call: Any, *arguments: Any, **named: Any) -> int:
    with pytest.raises(YokanException) as caught:
        call(*arguments, **named)
    assert str(caught.value)
    return caught.value.code


def test_values_go_in_as_text_or_buffers_and_come_out_into_buffers(database: Database) -> None:
    database.put("text", "väl")
    database.put(bytearray(b"array"), np.arange(3, dtype="<u2"))
    assert database.count() == 2
    assert database.length("text") == 4
    buffer = bytearray(10)
    assert database.get("text", buffer) == 4
    assert buffer[:4].decode() == "väl"
    numbers = np.zeros(3, "<u2")
    assert database.get(b"array", numbers) == 6
    assert numbers.tolist() == [0, 1, 2]
    assert database.get_multi([("text", buffer), ("none", bytearray()), ("array", numbers)]) == [4, None, 6]
    assert code(database.get, "none", buffer) == exception.YOKAN_ERR_KEY_NOT_FOUND
    assert code(database.get, "text", bytearray(3)) == exception.YOKAN_ERR_BUFFER_SIZE
    assert code(database.get, "text", bytes(30)) == exception.YOKAN_ERR_INVALID_ARGS


def test_what_does_not_fit_is_not_consumed(database: Database) -> None:
    database.put("key", b"12345")
    consume = mode.YOKAN_MODE_CONSUME
    assert code(database.get, "key", bytearray(4), mode=consume) == exception.YOKAN_ERR_BUFFER_SIZE
    assert (
        code(database.get_packed, "key", [3], bytearray(4), mode=consume) == exception.YOKAN_ERR_BUFFER_SIZE
    )
    buffer = bytearray(5)
    assert database.get("key", buffer, mode=consume) == 5
    assert buffer == b"12345"
    assert not database.exists("key")


def test_packed_verbs_are_the_plain_ones(database: Database) -> None:
    database.put_packed("abbccc", [1, 2, 3], b"123456", [3, 2, 1])
    buffer = bytearray(6)
    assert database.get_packed("abbccc", [1, 2, 3], buffer) == [3, 2, 1]
    assert buffer == b"123456"
    assert database.get_packed("aX", [1, 1], buffer) == [3, None]
    assert database.length_packed("aX", [1, 1]) == [3, None]
    assert database.exists_packed("aXbb", [1, 1, 2]) == [True, False, True]
    found: dict[int, Any] = {}
    database.fetch_packed("aX", [1, 1], found.__setitem__)
    assert {index: value and bytes(value) for index, value in found.items()} == {0: b"123", 1: None}
    database.erase_packed("abb", [1, 2])
    assert database.count() == 1
    assert code(database.put_packed, "ab", [1, 2], "12", [1, 1]) == exception.YOKAN_ERR_INVALID_ARGS


def test_keys_are_listed_into_buffers(database: Database) -> None:
    database.put_multi([(f"k{number:03}", str(number)) for number in range(100)])
    database.put("other", "")
    buffers = [bytearray(8) for _ in range(3)]
    assert database.list_keys(buffers, "k097", "k") == [4, 4]
    assert [bytes(buffer[:4]) for buffer in buffers[:2]] == [b"k098", b"k099"]
    packed = bytearray(8)
    assert database.list_keys_packed(packed, 2, "k000", "k", mode=mode.YOKAN_MODE_INCLUSIVE) == [4, 4]
    assert packed == b"k000k001"
    pairs = [(bytearray(4), bytearray(4)) for _ in range(2)]
    assert database.list_keyvals(pairs, filter="k") == [(4, 1), (4, 1)]
    values = bytearray(8)
    assert database.list_keyvals_packed(packed, values, 2, "k097") == [(4, 2), (4, 2)]
    assert values[:4] == b"9899"
    assert code(database.list_keys, [bytearray(1)]) == exception.YOKAN_ERR_BUFFER_SIZE


@pytest.mark.parametrize("batch_size", [0, 1, 7, 1000])
@pytest.mark.parametrize("count", [0, 10, 1000])
def test_iteration_passes_over_all_in_batches(database: Database, batch_size: int, count: int) -> None:
    database.put_multi([(f"k{number:03}", str(number)) for number in range(100)])
    database.put("other", "")
    found: list[tuple[int, bytes, bytes]] = []

    def see(index: int, key: memoryview, value: memoryview) -> None:
        found.append((index, bytes(key), bytes(value)))

    whole = [(number, b"%03d" % number, b"%d" % number) for number in range(100)]
    no_prefix = int(mode.YOKAN_MODE_NO_PREFIX)
    database.iter(see, filter="k", count=count, batch_size=batch_size, mode=no_prefix)
    assert found == whole[: count or None]
    found.clear()
    inclusive = int(mode.YOKAN_MODE_INCLUSIVE)
    database.iter(see, "k005", "k", count, batch_size, ignore_values=True, mode=inclusive)
    assert found == [(index, b"k%03d" % (index + 5), b"") for index in range(95)][: count or None]


def test_values_are_fetched(database: Database) -> None:
    database.put("a", "1")
    found: list[bytes] = []
    database.fetch("a", lambda value: found.append(bytes(value)))
    assert found == [b"1"]
    assert code(database.fetch, "b", found.append) == exception.YOKAN_ERR_KEY_NOT_FOUND
    with pytest.raises(ZeroDivisionError):
        database.fetch("a", lambda value: 1 / 0)


def test_documents(database: Database) -> None:
    documents = database.create_collection("docs")
    assert database.collection_exists("docs")
    assert code(database.create_collection, "docs") == exception.YOKAN_ERR_KEY_EXISTS
    assert code(database.open_collection, "none") == exception.YOKAN_ERR_KEY_NOT_FOUND
    assert documents.store("zero") == 0
    assert documents.store_multi([b"one", "two"]) == [1, 2]
    assert documents.store_packed("threefour", [5, 4]) == [3, 4]
    assert (documents.size, documents.last_id) == (5, 4)
    again: Collection = database.open_collection("docs")
    buffer = bytearray(8)
    assert again.load(3, buffer) == 5
    assert buffer[:5] == b"three"
    again.update(1, "ONE")
    again.update_packed([2, 3], "TWOTHREE", [3, 5])
    assert again.load_multi([(1, buffer), (9, buffer)]) == [3, None]
    packed = bytearray(11)
    assert again.load_packed([1, 2, 3], packed) == [3, 3, 5]
    assert packed == b"ONETWOTHREE"
    assert again.length(4) == 4
    assert again.length_multi([4, 9]) == [4, None]
    assert again.list_docs(3, [bytearray(5), bytearray(5), bytearray(5)]) == [(3, 5), (4, 4)]
    assert again.list_docs_packed(0, packed, 2) == [(0, 4), (1, 3)]
    found: list[tuple[int, int, bytes]] = []
    again.iter(lambda index, id, document: found.append((index, id, bytes(document))), 1, batch_size=2)
    assert found == [(0, 1, b"ONE"), (1, 2, b"TWO"), (2, 3, b"THREE"), (3, 4, b"four")]
    again.erase(0)
    again.erase_multi([1, 2])
    assert again.size == 2
    assert code(again.load, 0, buffer) == exception.YOKAN_ERR_KEY_NOT_FOUND
    assert code(again.update, 77, "x") == exception.YOKAN_ERR_KEY_NOT_FOUND
    again.update(77, "x", mode=mode.YOKAN_MODE_UPDATE_NEW)
    database.drop_collection("docs")
    assert not database.collection_exists("docs")


def test_modes_and_errors_have_their_codes(server: Server, database: Database) -> None:
    database.put("a", "1")
    assert code(database.put, "a", "2", mode=mode.YOKAN_MODE_NEW_ONLY) == exception.YOKAN_ERR_KEY_EXISTS
    assert code(database.exists, "a", mode=mode.YOKAN_MODE_CONSUME) == exception.YOKAN_ERR_MODE
    assert code(database.put, "", "1") == exception.YOKAN_ERR_INVALID_ARGS
    client = Client(mid=server.margo.mid)
    assert code(client.make_database_handle, server.address, 9) == exception.YOKAN_ERR_INVALID_PROVIDER
    assert code(client.make_database_handle, "na+sm://nobody", 3) == exception.YOKAN_ERR_FROM_MERCURY
    assert isinstance(client.make_database_handle("na+sm://nobody", 3, check=False), Database)
    with pytest.raises(TypeError, match="either engine= or mid="):
        Client()
    with pytest.raises(TypeError, match="protocol"):
        Client(engine=3.5)


def test_a_verb_takes_no_longer_than_it_may() -> None:
    released = threading.Event()
    engine = Engine("na+sm")
    engine.define("yk_count", 3, Nothing, lambda _: int(released.wait(60)))
    with running(engine):
        database = Client("na+sm").make_database_handle(engine.address, 3, check=False)
        assert code(database.count, timeout_ms=50) == exception.YOKAN_ERR_TIMEOUT
        released.set()
        assert database.count(timeout_ms=60000) == 1
