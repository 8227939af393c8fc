"""Groups as programs of the original use them."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi.bedrock.server import Server
from mochi.flock import group_file
from mochi.flock.client import Client
from mochi.flock.errors import FlockError, GroupFileError
from mochi.flock.view import GroupView
from mochi.margo.errors import AddressError, AuthenticationError, ConnectionLost, Fault


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mofka.json"


@pytest.fixture
def server(file: Path) -> Iterator[Server]:
    config = {
        "libraries": ["libflock-bedrock-module.so"],
        "providers": [
            {
                "name": "group",
                "type": "flock",
                "provider_id": 4,
                "config": {"bootstrap": "self", "file": str(file), "group": {"type": "static"}},
            }
        ],
    }
    with Server("na+sm", config) as server:
        yield server


def test_a_group_is_found_by_its_file_and_asked(server: Server, file: Path) -> None:
    handle = Client("na+sm").make_group_handle_from_file(file)
    assert [(member.address, member.provider_id) for member in handle.view.members] == [(server.address, 4)]
    before = handle.view
    handle.update()
    assert handle.view == before
    assert handle.view is not before
    assert handle.view.digest == before.digest
    server.finalize()
    with pytest.raises((AddressError, ConnectionLost)):
        handle.update()


def test_clients_of_one_engine_share_the_token(server: Server, file: Path) -> None:
    from pymargo.core import Engine, client

    with pytest.raises(AuthenticationError):
        Client("na+sm").make_group_handle(server.address, 4)
    with Engine("na+sm", client) as engine:
        known = Client(engine).make_group_handle_from_file(file)
        for made in (Client(engine), Client(engine.mid)):
            assert made.make_group_handle(server.address, 4).view.members[0].address == server.address
            again = made.make_group_handle_from_serialized(str(known.view))
            again.update()
            assert len(again.view.members) == 1
        with pytest.raises(Fault, match="provider"):
            Client(engine).make_group_handle(server.address, 9)
    assert len(Client(server.margo.engine).make_group_handle(server.address, 4).view.members) == 1


def test_the_token_is_in_files_alone(server: Server, file: Path, tmp_path: Path) -> None:
    view = GroupView.from_file(file)
    token = group_file.read(file).token
    assert token is not None
    assert view.token == token
    assert token.hex() not in str(view) + repr(view.metadata)
    assert "__token__" not in view.metadata
    copy = tmp_path / "copy.json"
    view.serialize_to_file(copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert group_file.read(copy).token == token
    assert view.copy().token == token
    Client("na+sm").make_group_handle_from_file(copy).update()


def test_a_view_is_changed_by_its_holder() -> None:
    view = GroupView()
    view.members.add("na+sm://b", 1)
    view.members.add("na+sm://a", 7)
    view.members.add("na+sm://a", 2)
    view.members.add("sm://a", 2)
    assert [(member.address, member.provider_id) for member in view.members] == [
        ("na+sm://a", 2),
        ("na+sm://a", 7),
        ("na+sm://b", 1),
    ]
    assert view.members.count == len(view.members) == 3
    assert view.members[0].provider_id == 2
    assert view.members.exists("na+sm://b", 1)
    with pytest.raises(FlockError, match="no member"):
        view.members.add("na+sm://a", 70000)
    with pytest.raises(KeyError):
        view.members.remove("na+sm://c", 1)
    view.metadata.add("key", "value")
    assert "key" in view.metadata
    assert view.metadata["key"] == "value"
    assert list(view.metadata) == ["key"]
    with pytest.raises(TypeError):
        view.metadata.add("key", 3)  # type: ignore[arg-type]
    with view.locked() as locked, view.locked():
        assert locked is view
    other = view.copy()
    assert other == view
    assert other.digest == view.digest != 0
    other.members.remove("na+sm://b", 1)
    assert other != view
    assert other.digest != view.digest
    assert json.loads(str(view))["metadata"] == {"key": "value"}
    assert GroupView.from_string(str(view)).digest == view.digest
    view.metadata.remove("key")
    view.clear()
    assert (len(view.members), len(view.metadata), view.digest) == (0, 0, 0)
    with pytest.raises(GroupFileError):
        GroupView.from_string("{}")
