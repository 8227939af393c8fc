"""Where a client believes the members of a service to be, by what it has read, was told, and has heard itself."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mochi.flock.group_file import GroupView, Member
from mochi.mofka.client.members import Choice, Members


def view(*places: str, ended: tuple[int, ...] = ()) -> GroupView:
    return GroupView(
        tuple(Member(f"ofi+tcp://{place}:1", 1, rank, rank in ended) for rank, place in enumerate(places))
    )


def places(members: list[Member]) -> list[str]:
    return [member.address.removeprefix("ofi+tcp://").removesuffix(":1") for member in members]


def at(members: Members, place: str) -> Member:
    (found,) = (member for member in members.addresses if member.address == f"ofi+tcp://{place}:1")
    return found


def test_what_members_tell_is_tried_beside_the_file_and_believed_rather() -> None:
    members = Members(view("a", "b"))
    assert places(members.addresses) == ["a", "b"]
    assert members.told([view("a", "c")]) is True
    assert places(members.present) == ["a", "c"]
    assert sorted(places(members.addresses)) == ["a", "b", "c"]
    assert members.told([view("a", "c")]) is False


def test_a_member_is_where_it_was_heard() -> None:
    members = Members(view("a", "b"))
    members.told([view("a", "c"), view("a", "d")])
    members.missed(at(members, "d"))
    members.heard(at(members, "c"))
    assert places(members.present) == ["a", "c"]
    assert members.silent == {"ofi+tcp://d:1"}
    members.missed(at(members, "c"))
    assert places(members.present) == ["a", "d"]
    members.heard(at(members, "d"))
    assert (places(members.present), members.silent) == (["a", "d"], {"ofi+tcp://c:1"})


def test_a_member_that_was_heard_has_moved_if_nobody_tells_of_that_place_any_more() -> None:
    members = Members(view("a", "b"))
    members.heard(at(members, "b"))
    members.told([view("a", "c"), view("a", "b")])
    assert places(members.present) == ["a", "b"]
    members.told([view("a", "c")])
    assert places(members.present) == ["a", "c"]


def test_members_that_are_suspect_or_dead_are_asked_last() -> None:
    dead = GroupView(
        tuple(
            msgspec.structs.replace(member, state="dead" if member.rank == 0 else None)
            for member in view("a", "b").members
        )
    )
    members = Members(dead)
    assert places(members.addresses) == ["b", "a"]
    assert places(members.present) == ["a", "b"]
    members.heard(at(members, "a"))
    assert places(members.addresses) == ["a", "b"]
    members = Members(view("a", "b"))
    members.told([dead])
    assert places(members.addresses) == ["b", "a"]


def test_an_address_that_another_member_has_now_is_asked_for_that_one() -> None:
    members = Members(view("a", "b"))
    members.told([view("c", "a")])
    assert [(at(members, place).rank, place) for place in "abc"] == [(1, "a"), (1, "b"), (0, "c")]


def test_who_has_joined_is_behind_the_others_and_who_has_ended_is_known() -> None:
    members = Members(view("a", "b"))
    members.told([view("a", "b", "c", ended=(0,))])
    assert places(members.present) == ["a", "b", "c"]
    assert [member.ended for member in members.present] == [True, False, False]
    members.heard(at(members, "a"))
    assert [member.ended for member in members.present] == [False, False, False]


VIEWS = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=4, unique=True).map(
    lambda names: view(*names)
)


@given(VIEWS, st.lists(VIEWS | st.tuples(st.booleans(), st.integers(0, 9)), max_size=12))
def test_whatever_is_told_and_heard_each_address_is_asked_once_and_nobody_is_forgotten(
    written: GroupView, events: list[GroupView | tuple[bool, int]]
) -> None:
    members = Members(written)
    told: list[GroupView] = []
    for event in events:
        if isinstance(event, GroupView):
            told = [event]
            members.told(told)
            continue
        is_heard, number = event
        member = members.addresses[number % len(members.addresses)]
        (members.heard if is_heard else members.missed)(member)
        assert (member.address in members.silent) is not is_heard
        if is_heard:
            assert member.address in {present.address for present in members.present}
    addresses = [member.address for member in members.addresses]
    assert len(addresses) == len(set(addresses))
    known = {member.address for each in (written, *told) for member in each.members}
    assert known <= set(addresses)
    assert {member.rank for member in written.members} <= {member.rank for member in members.present}


ORDER = view("a", "b", "c").members


def test_the_first_in_the_order_that_has_the_database_is_chosen_whoever_answers_first() -> None:
    choice = Choice(ORDER, ())
    choice.answered("ofi+tcp://b:1", 7)
    assert choice.master is None
    choice.answered("ofi+tcp://a:1", 5)
    assert choice.master == ("ofi+tcp://a:1", 5)
    choice = Choice(ORDER, ())
    choice.answered("ofi+tcp://b:1", 7)
    choice.answered("ofi+tcp://a:1", None)
    assert choice.master == ("ofi+tcp://b:1", 7)


def test_one_that_was_silent_before_is_not_waited_for() -> None:
    choice = Choice(ORDER, {"ofi+tcp://a:1"})
    choice.answered("ofi+tcp://b:1", 7)
    assert choice.master == ("ofi+tcp://b:1", 7)


def test_without_a_database_there_is_no_choice() -> None:
    choice = Choice(ORDER, ())
    for member in ORDER:
        choice.answered(member.address, None)
    assert choice.master is None
