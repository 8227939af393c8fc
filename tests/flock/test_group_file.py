"""The group file: the original's format, written in one step, and errors that say what would be right."""

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.flock import group_file
from mochi.flock.errors import GroupFileError, GroupFileMissing
from mochi.flock.group_file import GroupView, Member

TOKEN = bytes(range(32))
VIEW = GroupView(
    (Member("ofi+tcp://10.0.0.1:41811", 1), Member("ofi+tcp://10.0.0.2:39021", 1)),
    {"__config__": "{}", "__token__": TOKEN.hex(), "__type__": "static"},
)
ORIGINAL = (
    b'{"members":[{"address":"ofi+tcp://10.0.0.1:41811","provider_id":1},'
    b'{"address":"ofi+tcp://10.0.0.2:39021","provider_id":1}],'
    b'"metadata":{"__config__":"{}","__type__":"static"}}'
)

views = st.builds(
    GroupView,
    st.lists(st.builds(Member, st.text(min_size=1), st.integers(0, 65535)), min_size=1, max_size=5).map(
        tuple
    ),
    st.dictionaries(st.text().filter(lambda key: key != group_file.TOKEN_KEY), st.text(), max_size=3),
)


def test_a_file_of_the_original_is_read() -> None:
    view = group_file.parse(ORIGINAL)
    assert view.members == VIEW.members
    assert group_file.parse(b"\xef\xbb\xbf" + ORIGINAL) == view
    assert view.metadata == {"__config__": "{}", "__type__": "static"}
    assert view.token is None


def test_a_view_without_token_is_serialized_as_the_original_does() -> None:
    assert group_file.serialize(VIEW.without_token()) == ORIGINAL


def test_members_are_sorted_by_address_and_then_provider_id() -> None:
    view = GroupView((Member("b", 1), Member("a", 10), Member("a", 9)), {"z": "1", "y": "2"})
    assert group_file.serialize(view) == (
        b'{"members":[{"address":"a","provider_id":9},{"address":"a","provider_id":10},'
        b'{"address":"b","provider_id":1}],"metadata":{"y":"2","z":"1"}}'
    )


@given(views)
def test_what_is_serialized_parses_to_the_same_members_in_order(view: GroupView) -> None:
    parsed = group_file.parse(group_file.serialize(view))
    assert parsed.members == tuple(
        sorted(view.members, key=lambda member: (member.address, member.provider_id))
    )
    assert parsed.metadata == view.metadata


def test_the_order_of_the_file_is_kept_by_the_reader() -> None:
    view = group_file.parse(b'{"members":[{"address":"b","provider_id":1},{"address":"a","provider_id":1}]}')
    assert [member.address for member in view.members] == ["b", "a"]


def test_a_rank_is_kept_and_shown_by_address_and_stands_for_the_place_where_there_is_none() -> None:
    members = (Member("ofi+tcp://b:1", 1, 0), Member("ofi+tcp://a:1", 1, 1), Member("ofi+tcp://a:1", 2, 1))
    content = group_file.serialize(GroupView(members))
    assert content.startswith(b'{"members":[{"address":"ofi+tcp://a:1","provider_id":1,"rank":1},')
    assert group_file.parse(content).ranks == {"ofi+tcp://a:1": 1, "ofi+tcp://b:1": 0}
    members = (Member("ofi+tcp://a:1", 1), Member("ofi+tcp://a:1", 2), Member("ofi+tcp://b:1", 1))
    assert group_file.parse(group_file.serialize(GroupView(members))).ranks == {
        "ofi+tcp://a:1": 0,
        "ofi+tcp://b:1": 1,
    }


def test_a_written_file_is_read_back_with_its_token(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    group_file.write(path, VIEW)
    view = group_file.read(path)
    assert view == VIEW
    assert view.token == TOKEN
    assert view.without_token().token is None


def test_the_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    path.write_text("{}")
    path.chmod(0o644)
    umask = os.umask(0)
    try:
        group_file.write(path, VIEW)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reader_of_the_old_file_keeps_the_old_view(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    group_file.write(path, VIEW)
    with path.open("rb") as old:
        group_file.write(path, GroupView((Member("na+sm://1-0", 1),)))
        assert group_file.parse(old.read()) == VIEW
    assert group_file.read(path).members == (Member("na+sm://1-0", 1),)
    assert os.listdir(tmp_path) == ["mofka.json"]


def test_a_relative_path_is_written_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    group_file.write("mofka.json", VIEW)
    assert group_file.read(tmp_path / "mofka.json") == VIEW


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    (path / "kept").mkdir(parents=True)
    with pytest.raises(GroupFileError, match="cannot be written: is a directory, no file") as caught:
        group_file.write(path, VIEW)
    assert caught.value.path == str(path)
    assert os.listdir(tmp_path) == ["mofka.json"]


@pytest.mark.parametrize("members", [1, 3])
def test_without_space_for_another_file_the_group_file_is_replaced_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: int
) -> None:
    path = tmp_path / "group.json"
    group_file.write(path, VIEW)
    inode = path.stat().st_ino
    after = GroupView(
        tuple(Member(f"ofi+tcp://10.0.0.1:{port}", 1, port) for port in range(members)), VIEW.metadata
    )

    def refuse(**arguments: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    group_file.write(path, after)
    assert path.read_bytes() == group_file.serialize(after)
    assert path.stat().st_ino == inode
    with pytest.raises(GroupFileError, match="No space left"):
        group_file.write(tmp_path / "other.json", after)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory_is_named_when_writing(tmp_path: Path) -> None:
    with pytest.raises(GroupFileError, match=r"nowhere/mofka\.json: .*No such file or directory"):
        group_file.write(tmp_path / "nowhere" / "mofka.json", VIEW)


def test_a_missing_file_is_named_when_reading(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    with pytest.raises(GroupFileError, match="no such group file") as caught:
        group_file.read(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_waited_for_but_not_without_its_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mofka.json"
    with pytest.raises(GroupFileMissing, match="no such group file"):
        group_file.read_within(path, 0.1)
    assert [str(path) in message for message in caplog.messages if "group file" in message] == [True]
    with pytest.raises(GroupFileError, match=r"there is no directory .*nowhere"):
        group_file.read_within(tmp_path / "nowhere" / "mofka.json", 3600)
    monkeypatch.setattr("mochi.flock.group_file.time.sleep", lambda _: group_file.write(path, VIEW))
    assert group_file.read_within(path, 3600) == VIEW


def test_a_pipe_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    os.mkfifo(path)
    for refuse in (
        lambda: group_file.read(path),
        lambda: group_file.read_within(path, 3600),
        lambda: group_file.write(path, VIEW),
        lambda: group_file.update(path, lambda view: None),
    ):
        with pytest.raises(GroupFileError, match="is a pipe, no file"):
            refuse()
    assert path.is_fifo()


def test_a_directory_is_not_a_group_file(tmp_path: Path) -> None:
    with pytest.raises(GroupFileError, match="cannot be read: is a directory, no file"):
        group_file.read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_of_somebody_else_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mofka.json"
    path.write_bytes(ORIGINAL)
    path.chmod(0)
    with pytest.raises(GroupFileError, match="user who started the service"):
        group_file.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"not json", ORIGINAL[:-1], ORIGINAL + b"}", b'{"members": [{"address": "\xff']
)
def test_what_is_not_json_is_told_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mofka.json"
    path.write_bytes(content)
    with pytest.raises(GroupFileError, match="not JSON") as caught:
        group_file.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[]", "got `array`"),
        (b"{}", "`members`"),
        (b'{"members": []}', "length >= 1"),
        (b'{"members": {}}', r"`\$\.members`"),
        (b'{"members": ["na+sm://1-0"]}', r"`\$\.members\[0\]`"),
        (b'{"members": [{"address": 1, "provider_id": 1}]}', r"\.address`"),
        (b'{"members": [{"address": "", "provider_id": 1}]}', r"\.address`"),
        (b'{"members": [{"address": "a"}]}', "`provider_id`"),
        (b'{"members": [{"address": "a", "provider_id": "1"}]}', r"\.provider_id`"),
        (b'{"members": [{"address": "a", "provider_id": 65536}]}', r"\.provider_id`"),
        (b'{"members": [{"address": "a", "provider_id": 1}], "metadata": {"k": 1}}', r"\.metadata\["),
        (b'{"members": [{"address": "a", "provider_id": 1}], "metadata": []}', r"\.metadata`"),
    ],
)
def test_what_is_no_group_is_told_so(content: bytes, found: str) -> None:
    with pytest.raises(GroupFileError, match=found) as caught:
        group_file.parse(content, "mofka.json")
    assert str(caught.value).startswith("mofka.json: not a group file")
    assert '"provider_id": <0 to 65535>' in str(caught.value)


@pytest.mark.parametrize("token", ["", "abc", "zz", "ab cd", "ab\n"])
def test_a_token_that_is_not_hexadecimal_is_refused_without_showing_it(token: str) -> None:
    content = group_file.serialize(GroupView((Member("a", 1),), {"__token__": token}))
    with pytest.raises(GroupFileError, match="hexadecimal") as caught:
        group_file.parse(content)
    assert not token or token not in str(caught.value)


def test_updates_of_many_processes_do_not_cut_each_other_in_two(tmp_path: Path) -> None:
    path = tmp_path / "group.json"
    group_file.write(path, GroupView((Member("na+sm://0", 1, 0),)))

    def enter(rank: int) -> None:
        group_file.update(path, lambda view: view.with_member(Member(f"na+sm://{rank}", 1, rank)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(1, 25)))
    assert sorted(group_file.read(path).ranks.values()) == list(range(25))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_file, "LOCK_PATIENCE", 0.1)
    path = tmp_path / "group.json"
    group_file.write(path, GroupView((Member("na+sm://0", 1),)))
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(GroupFileError, match="keeps the group file locked"):
            group_file.update(path, lambda view: view)
    group_file.update(path, lambda view: None)
    assert not path.exists()
    with pytest.raises(GroupFileError, match="no such group file"):
        group_file.update(path, lambda view: view)
