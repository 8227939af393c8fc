"""A flock provider on a real engine: its view over RPC, the token it brings, the life of the group file."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mochi.flock import group_file
from mochi.flock.client import FlockClient, talking_to
from mochi.flock.errors import ConfigError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.flock.module import FlockModule
from mochi.flock.provider import FlockProvider
from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.margo.errors import AddressError, AuthenticationError
from mochi.mofka.testing import running

PROVIDER_ID = 7


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running(Engine("na+sm")) as engine:
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
    assert engine.gate.token is None
    start(engine, None)


def test_the_group_file_appears_when_the_server_is_ready(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    provider = start(engine, path)
    assert not path.exists()
    provider.ready(engine)
    view = group_file.read(path)
    assert view.members == (Member(engine.address, PROVIDER_ID, 0),)
    assert view.token == engine.gate.token
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
    assert engine.gate.token is not None
    assert len(engine.gate.token) == 32


def test_the_member_is_let_in_to_under_its_rank_alone(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    founder = start(engine, path)
    founder.form({0: founder.offer})
    founder.ready(engine)
    with running(Engine("na+sm")) as second, closing(Client(timeout=20)) as client:
        newcomer = start(second, path, bootstrap="join")
        newcomer.form({0: newcomer.offer})
        token = engine.gate.token
        assert token is not None
        for rank, address, is_meant in ((0, second.address, False), (1, second.address, True)):
            client.set_token(address, token, rank)
            if is_meant:
                assert client.link(address).instance == second.instance
            else:
                with pytest.raises(AddressError, match="rank 0 of the service is meant, this is 1"):
                    client.link(address)
        newcomer.close()


def test_two_services_have_different_tokens(engine: Engine) -> None:
    with running(Engine("na+sm")) as other:
        start(engine, None)
        start(other, None)
        assert engine.gate.token != other.gate.token


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
    assert group_file.read(tmp_path / "mofka.json").token == engine.gate.token
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


def members_of(path: Path, *members: Member, **metadata: str) -> GroupView:
    view = GroupView(members, metadata)
    group_file.write(path, view)
    return view


def test_a_server_finds_itself_by_its_address_in_a_file_that_it_adds_a_token_to_and_leaves(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "mofka.json"
    other = "na+sm://z-first"
    by_hand = [
        {"address": address, "provider_id": number} for address, number in ((other, 1), (engine.address, 7))
    ]
    path.write_text(json.dumps({"members": by_hand}))
    provider = start(engine, path, bootstrap="file")
    assert provider.form({0: provider.offer}) == (1, {0: other, 1: engine.address})
    provider.ready(engine)
    assert group_file.read(path).token == engine.gate.token
    assert set(group_file.read(path).members) == {Member(other, 1, 0), Member(engine.address, 7, 1)}
    with running(Engine("na+sm")) as second:
        members_of(path, Member(engine.address, 1, 1), Member(second.address, 1, 0), __token__="abcd")
        late = start(second, path, bootstrap="file")
        assert late.form({0: late.offer}) == (0, {0: second.address, 1: engine.address})
        assert second.gate.token == b"\xab\xcd"
        late.close()
    provider.close()
    assert len(group_file.read(path).members) == 2


def test_a_server_that_is_not_in_the_group_of_the_file_says_who_is(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    members_of(path, Member("na+sm://other", 1))
    with pytest.raises(ConfigError, match=r"is not a member .*which has na\+sm://other"):
        start(engine, path, bootstrap="file")


def test_a_group_may_stand_in_the_configuration(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    listed = [{"address": address, "provider_id": PROVIDER_ID} for address in ("na+sm://x", engine.address)]
    with pytest.raises(ConfigError, match=r"metadata\.__token__: missing"):
        start(engine, path, bootstrap="view", view={"members": listed})
    view = {"members": listed, "metadata": {"__token__": "00ff"}}
    provider = start(engine, path, bootstrap=["join", "view"], view=view)
    assert provider.form({0: provider.offer}) == (1, {0: "na+sm://x", 1: engine.address})
    provider.ready(engine)
    assert engine.gate.token == b"\x00\xff"
    assert group_file.read(path).ranks == {"na+sm://x": 0, engine.address: 1}
    assert json.loads(json.dumps(provider.config))["view"] == view


def test_the_last_member_that_lives_removes_the_group_file(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    founder = start(engine, path)
    founder.form({0: founder.offer})
    founder.ready(engine)
    with running(Engine("na+sm")) as second:
        newcomer = start(second, path, bootstrap="join")
        assert second.gate.token == engine.gate.token
        assert newcomer.form({0: newcomer.offer}) == (1, {0: engine.address, 1: second.address})
        newcomer.ready(second)
        assert founder.view.members == newcomer.view.members
        founder.close()
        assert {m.rank: m.ended for m in group_file.read(path).members} == {0: True, 1: False}
        newcomer.close()
    assert not path.exists()


def test_a_member_that_was_killed_does_not_keep_the_file_from_being_removed(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "mofka.json"
    founder = start(engine, path)
    founder.form({0: founder.offer})
    founder.ready(engine)
    group_file.update(path, lambda view: view.with_member(Member("na+sm://killed", 1, 1)))
    founder.close()
    assert not path.exists()


def meeting(rank: int, secret: bytes | None, engine: Engine, path: Path, **fields: Any) -> FlockProvider:
    module = FlockModule()
    module.meet(rank, 3, secret)
    config = {"bootstrap": "mpi", "group": {"type": "static"}, "file": str(path), **fields}
    return module.create(engine, "group_manager", PROVIDER_ID, config, [], {})


def test_a_group_of_some_ranks_has_these_alone(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    provider = meeting(2, b"secret", engine, path, mpi_ranks=[1, 2])
    offers = {
        rank: {"member": {"address": f"na+sm://{rank}", "provider_id": 1, "rank": rank}, "file": None}
        for rank in range(2)
    }
    with pytest.raises(ConfigError, match="no process of rank 1 has this provider"):
        provider.form({0: offers[0], 2: provider.offer})
    assert provider.form({**offers, 2: provider.offer}) == (2, {1: "na+sm://1", 2: engine.address})
    assert engine.gate.token == b"secret"
    provider.ready(engine)
    assert not path.exists()  # rank 1 writes it
    with (
        running(Engine("na+sm")) as other,
        pytest.raises(ConfigError, match=r"rank 0, which is not in \[1, 2\]"),
    ):
        meeting(0, b"secret", other, path, mpi_ranks=[1, 2])


def test_one_that_comes_back_takes_its_place_also_where_the_file_has_gone_meanwhile(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "mofka.json"
    before = members_of(path, *(Member(f"na+sm://gone-{rank}", 1, rank) for rank in range(3)), __token__="aa")
    provider = meeting(1, None, engine, path)
    assert engine.gate.token == before.token
    assert provider.form({1: provider.offer})[1] == {
        0: "na+sm://gone-0",
        1: engine.address,
        2: "na+sm://gone-2",
    }
    other = members_of(path, Member("na+sm://x", 1), __token__="bb")
    with pytest.raises(GroupFileError, match="of another service by now"):
        provider.ready(engine)
    assert group_file.read(path) == other
    path.unlink()
    provider.ready(engine)
    view = group_file.read(path)
    assert view.token == before.token
    assert view.ranks == {"na+sm://gone-0": 0, engine.address: 1, "na+sm://gone-2": 2}


def test_old_news_of_another_address_do_not_end_a_member_which_then_tells_where_it_is(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "mofka.json"
    members_of(path, *(Member(f"na+sm://gone-{rank}", 1, rank) for rank in range(3)), __token__="aa")
    with running(Engine("na+sm")) as second:
        other = meeting(2, None, second, path)
        other.form({2: other.offer})
        other.ready(second)
        provider = meeting(1, None, engine, path)
        provider.form({1: provider.offer})
        provider.ready(engine)
        news = Member("na+sm://gone-1", 1, 1)
        with talking_to(group_file.read(path), 10) as client:
            for to in sorted(other.view.members, key=lambda member: member.address == engine.address):
                if to.rank:
                    client.announce(to, news)
            deadline = time.monotonic() + 10
            while other.view.ranks.get(engine.address) != 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert client.view(engine.address, PROVIDER_ID).ranks[engine.address] == 1


SWIM = {"type": "swim", "config": {"protocol_period_ms": 20, "ping_timeout_ms": 2000}}


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_member_that_another_does_not_know_tells_it(engine: Engine, tmp_path: Path) -> None:
    path, copy = tmp_path / "mofka.json", tmp_path / "copy.json"
    founder = start(engine, path, group=SWIM)
    founder.form({0: founder.offer})
    founder.ready(engine)
    view = group_file.read(path)
    group_file.write(
        copy,
        GroupView(
            (*view.members, *(Member(f"na+sm://gone-{rank}", 1, rank) for rank in (1, 2))), view.metadata
        ),
    )
    with running(Engine("na+sm")) as second:
        newcomer = meeting(1, None, second, copy, group=SWIM)  # on a host that does not share the file
        newcomer.form({1: newcomer.offer})
        newcomer._is_complete = True
        assert second.address not in founder.view.ranks
        assert newcomer._watcher is not None
        newcomer._watcher.start()
        eventually(lambda: founder.view.ranks.get(second.address) == 1)
        newcomer.close()


def test_a_group_that_is_watched_wakes_up_and_one_that_is_static_does_not(
    engine: Engine, tmp_path: Path
) -> None:
    before = set(threading.enumerate())

    def begun() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before}

    provider = start(engine, tmp_path / "static.json")
    provider.form({0: provider.offer})
    provider.ready(engine)
    assert begun() == {"flock-watch"}
    provider.close()
    with running(Engine("na+sm")) as second:
        provider = start(second, tmp_path / "swim.json", group=SWIM)
        provider.form({0: provider.offer})
        provider.ready(second)
        assert "flock-pings" in begun()
        provider.close()
        eventually(lambda: "flock-pings" not in begun())


def test_the_configuration_of_the_group_wins_over_that_of_who_joins(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    central = {"type": "centralized", "config": {"ping_timeout_ms": 7000}}
    founder = start(engine, path, group=central)
    founder.form({0: founder.offer})
    founder.ready(engine)
    assert json.loads(group_file.read(path).metadata["__config__"]) == {
        "ping_timeout_ms": 7000.0,
        "ping_interval_ms": 1000.0,
        "ping_max_num_timeouts": 3,
        "primary_address": engine.address,
        "primary_provider_id": PROVIDER_ID,
    }
    with running(Engine("na+sm")) as second:
        newcomer = start(second, path, bootstrap="join", group={"type": "centralized"})
        newcomer.form({0: newcomer.offer})
        newcomer.ready(second)
        assert newcomer.config["group"]["config"] == {
            "ping_timeout_ms": 7000.0,
            "ping_interval_ms": 1000.0,
            "ping_max_num_timeouts": 3,
        }
        assert newcomer.config["state"] == {"members": {"0": "alive"}}
        newcomer.close()
    with running(Engine("na+sm")) as third:
        stranger = start(third, path, bootstrap="join")
        with pytest.raises(ConfigError, match="this is a group of type 'centralized', not 'static'"):
            stranger.form({0: stranger.offer})


def test_a_primary_that_is_no_member_is_named_with_those_who_are(engine: Engine) -> None:
    central = {"type": "centralized", "config": {"primary_address": "tcp://10.0.0.9:1"}}
    provider = start(engine, None, group=central)
    with pytest.raises(
        ConfigError, match=r"no member of the group is at tcp://10\.0\.0\.9:1; there are na\+sm"
    ):
        provider.form({0: provider.offer})


def test_the_metadata_follow_a_primary_that_moves() -> None:
    text = json.dumps({"ping_timeout_ms": 1.0, "primary_address": "na+sm://a"})
    view = GroupView((Member("na+sm://a", 1, 0), Member("na+sm://b", 1, 1)), {"__config__": text})
    assert json.loads(view.with_member(Member("na+sm://c", 1, 0)).metadata["__config__"]) == {
        "ping_timeout_ms": 1.0,
        "primary_address": "na+sm://c",
    }
    assert view.with_member(Member("na+sm://c", 1, 1)).metadata == view.metadata


def test_a_member_learns_from_another_that_it_was_replaced_where_there_is_no_file(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mochi.flock.provider.WATCH_INTERVAL", 0.05)
    path = tmp_path / "mofka.json"
    members_of(path, *(Member(f"na+sm://gone-{rank}", 1, rank) for rank in range(3)), __token__="aa")
    ended: list[int] = []
    provider = meeting(1, None, engine, path)
    provider.form({1: provider.offer})
    provider.ready(engine)
    monkeypatch.setattr(engine, "finalize", ended.append)
    with running(Engine("na+sm")) as second, running(Engine("na+sm")) as third:
        other = meeting(2, None, second, path)
        other.form({2: other.offer})
        other.ready(second)
        copy = tmp_path / "copy.json"
        members_of(
            copy, *group_file.read(path).with_member(Member("na+sm://gone-1", 1, 1)).members, __token__="aa"
        )
        successor = meeting(1, None, third, copy)
        successor.form({1: successor.offer})
        path.unlink()
        successor.ready(third)
        deadline = time.monotonic() + 10
        while not ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    monkeypatch.undo()
    assert ended == [255]
