"""A flock provider on a real engine: its view over RPC, the token it brings, the life of the group file."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mochi.flock import group_file
from mochi.flock.client import FlockClient
from mochi.flock.errors import ConfigError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.flock.module import FlockModule
from mochi.flock.provider import FlockProvider
from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.margo.errors import AuthenticationError

PROVIDER_ID = 7


@contextmanager
def serving() -> Iterator[Engine]:
    engine = Engine("na+sm")
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.finalize()
        thread.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving() as engine:
        yield engine


def start(engine: Engine, path: Path | None, **fields: Any) -> FlockProvider:
    config: dict[str, Any] = {"bootstrap": "self", "group": {"type": "static"}, **fields}
    if path is not None:
        config["file"] = str(path)
    return FlockModule().create(engine, "group_manager", PROVIDER_ID, config, [], {})


def test_the_pool_is_an_optional_dependency() -> None:
    assert FlockModule().dependencies({}) == {"pool": ("pool", False)}


def test_a_provider_shows_its_expanded_configuration(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    assert start(engine, path).config == {
        "bootstrap": "self",
        "file": str(path),
        "gateway": {"config": {}, "type": "default"},
        "group": {"config": {}, "type": "static"},
    }


def test_a_wrong_configuration_leaves_nothing_behind(engine: Engine) -> None:
    with pytest.raises(ConfigError):
        start(engine, None, bootstrap="view")
    assert engine.token is None
    start(engine, None)


def test_the_group_file_appears_when_the_server_is_ready(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    provider = start(engine, path)
    assert not path.exists()
    provider.ready(engine)
    view = group_file.read(path)
    assert view.members == (Member(engine.address, PROVIDER_ID, 0),)
    assert view.token == engine.token
    assert {**view.metadata, "__token__": "secret"} == {
        "__config__": "{}",
        "__token__": "secret",
        "__type__": "static",
    }
    assert list(json.loads(path.read_text())) == ["members", "metadata"]


def test_without_a_file_the_token_is_set_all_the_same(engine: Engine) -> None:
    provider = start(engine, None)
    provider.ready(engine)
    provider.close()
    assert engine.token is not None
    assert len(engine.token) == 32


def test_two_services_have_different_tokens(engine: Engine) -> None:
    with serving() as other:
        start(engine, None)
        start(other, None)
        assert engine.token != other.token


def test_a_file_that_cannot_be_written_stops_the_start(engine: Engine, tmp_path: Path) -> None:
    provider = start(engine, tmp_path / "nowhere" / "mofka.json")
    with pytest.raises(GroupFileError, match=r"nowhere/mofka\.json"):
        provider.ready(engine)


def test_the_group_file_goes_with_the_service(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    provider = start(engine, path)
    provider.ready(engine)
    provider.close()
    assert not path.exists()
    provider.close()


def test_the_file_of_a_service_that_came_after_stays(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    provider = start(engine, path)
    provider.ready(engine)
    successor = GroupView((Member(engine.address, PROVIDER_ID),), {"__token__": "00"})
    group_file.write(path, successor)
    provider.close()
    assert group_file.read(path) == successor


def test_a_relative_file_stays_where_the_process_was_started(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    provider = start(engine, Path("mofka.json"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    provider.ready(engine)
    assert group_file.read(tmp_path / "mofka.json").token == engine.token
    assert provider.config["file"] == "mofka.json"


def test_a_client_with_the_token_sees_the_view_without_it(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    start(engine, path).ready(engine)
    published = group_file.read(path)
    assert published.token is not None
    client = Client(timeout=10)
    try:
        client.set_token(engine.address, published.token)
        view = FlockClient(client).view(engine.address, PROVIDER_ID)
    finally:
        client.close()
    assert view == published.without_token()


@pytest.mark.parametrize("token", [None, b"guessed"])
def test_a_client_without_the_token_sees_nothing(engine: Engine, token: bytes | None) -> None:
    start(engine, None).ready(engine)
    client = Client(timeout=10)
    try:
        if token is not None:
            client.set_token(engine.address, token)
        with pytest.raises(AuthenticationError):
            FlockClient(client).view(engine.address, PROVIDER_ID)
    finally:
        client.close()
