"""A server in a thread of a program, as programs of the original have one."""

import gc
import json
import subprocess
import sys
import threading

import pytest

from mochi.bedrock.client import Client
from mochi.bedrock.server import Server
from mochi.bedrock.spec import ProcSpec
from mochi.margo.errors import AddressError, ConfigError, ConnectionLost

CONFIG = {
    "libraries": ["libyokan-bedrock-module.so"],
    "providers": [
        {
            "name": "db",
            "type": "yokan",
            "provider_id": 3,
            "config": {"database": {"type": "map", "config": {}}},
        }
    ],
}


@pytest.mark.parametrize(
    "config", [CONFIG, json.dumps(CONFIG), ProcSpec.from_dict(CONFIG)], ids=lambda c: type(c).__name__
)
def test_a_server_serves_from_its_construction_on(config: "dict[str, object] | str | ProcSpec") -> None:
    with Server("na+sm", config=config) as server:
        assert [provider.name for provider in server.providers] == ["db"]
        assert server.providers["db"].provider_id == 3
        assert server.config["libraries"] == CONFIG["libraries"]
        assert server.margo.config["mercury"]["address"] == server.address
        for engine in (server.margo.engine, server.margo.mid, "na+sm"):
            handle = Client(engine).make_service_handle(server.address)
            assert handle.config == server.config
    with pytest.raises((AddressError, ConnectionLost)):
        handle.config  # noqa: B018


def test_a_client_ends_it() -> None:
    server = Server("na+sm", CONFIG)
    waiting = threading.Thread(target=server.wait_for_finalize)
    waiting.start()
    Client("na+sm").make_service_handle(server.address).shutdown()
    waiting.join(30)
    assert not waiting.is_alive()
    server.finalize()
    server.finalize()


def test_what_stops_the_deployment_is_raised_where_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"providers\[0\]\.type"):
        Server("na+sm", {"providers": [{"name": "a", "type": "nothing"}]})
    with pytest.raises(ConfigError):
        Server("na+sm", "{")
    with pytest.raises(AddressError, match="na\\+sm"):
        Server("na+sn")


def test_one_that_is_dropped_ends() -> None:
    server = Server("na+sm", CONFIG)
    handle = Client("na+sm").make_service_handle(server.address)
    assert handle.config
    del server
    gc.collect()
    with pytest.raises((AddressError, ConnectionLost)):
        handle.config  # noqa: B018


def test_a_program_ends_that_has_one() -> None:
    code = f"from mochi.bedrock.server import Server; server = Server('na+sm', {CONFIG!r}); print(server.address)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("na+sm://")
    assert "Traceback" not in done.stderr
