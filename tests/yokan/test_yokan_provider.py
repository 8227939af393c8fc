"""The provider over RPC: pools, errors that travel, many callers, what stays after the end."""

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.margo.errors import Fault
from mochi.yokan.errors import KeyExists, YokanError
from mochi.yokan.handle import DatabaseHandle
from mochi.yokan.mode import Mode
from mochi.yokan.module import YokanModule

MAP = {"database": {"type": "map"}}


def test_bedrock_finds_the_module_by_the_name_of_the_library() -> None:
    (entry,) = importlib.metadata.entry_points(
        group="mochi.bedrock.modules", name="libyokan-bedrock-module.so"
    )
    module = entry.load()()
    assert isinstance(module, YokanModule)
    assert (module.type, module.dependencies({})) == ("yokan", {"pool": ("pool", False)})


@pytest.mark.parametrize("address", ["na+sm", "ofi+tcp://127.0.0.1:0"])
@pytest.mark.parametrize("pool", [None, "__primary__", "disk"])
def test_verbs_run_in_the_pool_they_are_given_over_any_transport(serve: Any, address: str, pool: str) -> None:
    margo = {
        "argobots": {
            "pools": [{"name": "disk"}],
            "xstreams": [{"name": "disk_0", "scheduler": {"type": "basic_wait", "pools": ["disk"]}}],
        }
    }
    with serve(MAP, address, margo, pool) as database:
        database.put(b"key", b"v" * 1_000_000)
        assert database.length(b"key") == 1_000_000
        assert database.get(b"key") == b"v" * 1_000_000


def test_of_many_callers_that_create_the_same_key_one_succeeds(serve: Any) -> None:
    def create(caller: int) -> bool:
        try:
            database.put_multi([(b"topic", b"%d" % caller), (b"mine%d" % caller, b"")], Mode.NEW_ONLY)
        except KeyExists:
            return False
        return True

    margo = {"rpc_thread_count": 4}
    with serve(MAP, "na+sm", margo) as database, ThreadPoolExecutor(8) as callers:
        created = list(callers.map(create, range(8)))
        assert created.count(True) == 1
        winner = created.index(True)
        assert database.list_keyvals() == [(b"mine%d" % winner, b""), (b"topic", b"%d" % winner)]


def test_ids_given_to_many_callers_are_all_different(serve: Any) -> None:
    with serve(MAP, "na+sm", {"rpc_thread_count": 4}) as database, ThreadPoolExecutor(4) as callers:
        collection = database.create_collection(b"partitions")
        ids = list(callers.map(collection.store, [b"document"] * 40))
        assert sorted(ids) == list(range(40))


def test_a_restarted_provider_has_what_the_one_before_had(serve: Any, tmp_path: Path) -> None:
    config = {"database": {"type": "rocksdb", "config": {"path": str(tmp_path / "master")}}}
    with serve(config) as database:
        database.put(b"topic", b"{}")
        database.create_collection(b"topic:partitions").store(b"partition")
    with serve(config) as database:
        assert database.get(b"topic") == b"{}"
        assert database.collection(b"topic:partitions").list_docs() == [(0, b"partition")]


def test_a_fault_that_is_not_the_databases_arrives_as_it_is(serve: Any) -> None:
    with serve(MAP) as database:
        client = Client(timeout=10)
        with pytest.raises(Fault) as caught:
            DatabaseHandle(client, database.address, 4).count()
        client.close()
        assert caught.value.code == "no_provider"
    assert YokanError.revive(caught.value) is caught.value


def test_arguments_of_a_wrong_type_are_refused_and_the_provider_goes_on(serve: Any) -> None:
    with serve(MAP) as database:
        with pytest.raises(Fault) as caught:
            database.put("key", "value")
        assert caught.value.code == "bad_request"
        database.put(b"key", b"value")
        assert database.count() == 1


def test_closing_twice_is_closing_once_and_frees_the_database(tmp_path: Path) -> None:
    config = {"database": {"type": "rocksdb", "config": {"path": str(tmp_path / "master")}}}
    engine = Engine("na+sm")
    for _ in range(2):
        provider = YokanModule().create(engine, "master", 1, config, [], {})
        assert provider.config["database"]["type"] == "rocksdb"
        provider.close()
        provider.close()
    engine.finalize()
    engine.run()
