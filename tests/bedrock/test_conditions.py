"""Conditions in a configuration, at every depth and with every outcome."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.conditions import applied, unknown_names
from mochi.bedrock.config import parse
from mochi.bedrock.spec import World
from mochi.margo.errors import ConfigError

FIRST = World(0, 2, ["a", "b"])
SECOND = World(1, 2, ["a", "b"])
IF_FIRST = {"__if__": "$MPI_COMM_WORLD.rank == 0"}


def provider(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "yokan"} | fields


@pytest.mark.parametrize(
    ("condition", "outcome"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("false", False),
        ("1", True),
        ("0.0", False),
        ('"a"', True),
        ('"0"', False),
        ('"false"', False),
        ('""', False),
        ("[]", False),
        ("[0]", True),
        ("{a: 1}", True),
        ("$nobody", False),
        ("$nobody.rank == 0", True),
        ("in_array('b', $MPI_COMM_WORLD.addresses)", True),
        ("$MPI_COMM_WORLD.size == 2 && $MPI_COMM_WORLD.rank == 1", True),
        ("$MPI_COMM_WORLD.rank == 0", False),
    ],
)
def test_a_condition_decides_whether_its_object_is_there(condition: bool | str, outcome: bool) -> None:
    found = applied({"x": {"__if__": condition, "y": 1}}, SECOND)
    assert found == {"x": {"y": 1} if outcome else None}


def test_without_mpi_the_rank_is_that_of_the_first_and_there_is_no_size() -> None:
    assert applied([IF_FIRST | {"a": 1}], None) == [{"a": 1}]
    assert applied([{"__if__": "$MPI_COMM_WORLD.size > 0"}], None) == []


def test_what_is_always_null_in_a_condition_is_known_wherever_it_stands() -> None:
    document = {
        "a": [IF_FIRST, {"__if__": "$MPI_COMM_WORLD.rnk == 0", "b": {"__if__": "$x && $MPI_COMM_WORD.rank"}}],
        "c": {"__if__": "($n = 1) && $n", "d": {"__if__": "$MPI_COMM_WORLD.addresses[0] == 'x'"}},
        "e": {"__if__": "no expression ("},
        "f": {"__if__": 'in_array("$y", $MPI_COMM_WORLD.addresses)'},
    }
    assert list(unknown_names(document)) == [
        ("a[1].__if__", "$MPI_COMM_WORLD.rnk"),
        ("a[1].b.__if__", "$MPI_COMM_WORD"),
        ("a[1].b.__if__", "$x"),
        ("f.__if__", "$y"),
    ]


def test_conditions_work_at_every_depth_and_leave_their_value_alone() -> None:
    document = {
        "a": [1, IF_FIRST | {"b": [IF_FIRST | {"c": {"__if__": False}}]}, None, [IF_FIRST]],
        "d": IF_FIRST | {"e": {"f": IF_FIRST | {"g": 1}}},
    }
    before = copy.deepcopy(document)
    assert applied(document, FIRST) == {"a": [1, {"b": [{"c": None}]}, [{}]], "d": {"e": {"f": {"g": 1}}}}
    assert applied(document, SECOND) == {"a": [1, []], "d": None}
    assert document == before


@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        ({"__if__": 1}, "__if__", "expected a boolean or a Jx9 expression; found 1"),
        ({"a": [{}, {"b": {"__if__": None}}]}, "a[1].b.__if__", "found None"),
        ({"a": {"__if__": "$x ="}}, "a.__if__", "line 1 column 5: unexpected end, in '$x ='"),
        ({"a": {"__if__": "1; 2"}}, "a.__if__", 'unexpected ";"'),
        ({"a": {"__if__": "1 / 0"}}, "a.__if__", "division by zero, in '1 / 0'"),
        ({"a": {"__if__": "!" * 2000 + "1"}}, "a.__if__", "nested too deeply"),
    ],
)
def test_a_bad_condition_is_refused_at_its_place(document: Any, where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        applied(document, None)
    assert caught.value.where == where
    assert words in caught.value.problem
    assert "\n" not in str(caught.value)


def test_a_provider_with_a_false_condition_is_not_even_checked() -> None:
    document = {"providers": [{"__if__": False, "nonsense": 1}, IF_FIRST | provider("db"), provider("x")]}
    assert [spec.name for spec in parse(document, FIRST).providers] == ["db", "x"]
    assert [spec.name for spec in parse(document, SECOND).providers] == ["x"]
    assert [spec.name for spec in parse(document).providers] == ["db", "x"]


def test_sections_with_a_false_condition_have_their_defaults() -> None:
    absent = {"__if__": False, "rpc_thread_count": 4, "a": 1}
    assert parse({"margo": absent, "bedrock": absent, "libraries": absent, "providers": absent}) == parse({})


def test_a_false_condition_in_a_provider_leaves_null_at_its_field() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"providers": [provider(config={"__if__": False})]})
    assert caught.value.where == "providers[0].config"
    config = {"database": {"type": "map"}, "extra": {"__if__": "0"}, "other": {"__if__": "1", "x": 2}}
    spec = parse({"providers": [provider(config=config)]}).providers[0]
    assert spec.config == {"database": {"type": "map"}, "extra": None, "other": {"x": 2}}


def test_dotted_keys_come_before_conditions() -> None:
    document = {"margo.__if__": "$MPI_COMM_WORLD.rank == 0", "margo.rpc_thread_count": 2}
    assert parse(document, FIRST) == parse({"margo": {"rpc_thread_count": 2}})
    assert parse(document, SECOND) == parse({})


def test_the_whole_configuration_may_have_a_condition() -> None:
    assert parse(IF_FIRST | {"bedrock": {"provider_id": 3}}, FIRST).provider_id == 3
    with pytest.raises(ConfigError, match="__if__: false for this process"):
        parse(IF_FIRST | {"bedrock": {"provider_id": 3}}, SECOND)


def test_an_array_holds_one_configuration_for_each_process_or_one_that_is_left() -> None:
    pair: list[dict[str, Any]] = [{"bedrock.provider_id": 3}, {"bedrock": {"provider_id": 4}}]
    assert [parse(pair, world).provider_id for world in (FIRST, SECOND)] == [3, 4]
    chosen = [IF_FIRST | pair[0], {"__if__": "$MPI_COMM_WORLD.rank > 0"} | pair[1]]
    assert [parse(chosen, world).provider_id for world in (FIRST, SECOND, None)] == [3, 4, 3]
    for document, world in ((pair, None), (pair * 2, FIRST), ([], None)):
        with pytest.raises(ConfigError, match=f"configuration: expected .* an array with {len(document)}"):
            parse(document, world)
    with pytest.raises(ConfigError, match=r"\[1\]\.__if__: "):
        parse([{}, {"__if__": "("}])


plain = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_what_has_no_condition_stays_as_it_is(document: Any) -> None:
    assert applied(document, None) == document
    assert applied([{"__if__": True, "x": document}, {"__if__": False, "x": document}], None) == [
        {"x": document}
    ]
