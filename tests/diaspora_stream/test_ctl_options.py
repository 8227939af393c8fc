"""Arguments of diaspora-ctl, as plain functions."""

import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.ctl.options import Arguments, FlagsCommand, merge, typed

COMMAND = FlagsCommand(
    "x",
    params=[click.Option(["--driver"], required=True), click.Option(["-v", "--verbose"], is_flag=True)],
    prefixes=("driver", "topic"),
)


def parse(*arguments: str) -> Arguments:
    return COMMAND.arguments(COMMAND.make_context("x", list(arguments)))


def topic(*arguments: str) -> Any:
    return parse("--driver", "any", *arguments).options["topic"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("5.", 5.0),
        (".5", 0.5),
        ("-1.25", -1.25),
        ("true", True),
        ("false", False),
        ("null", "null"),
        ("True", "True"),
        ("1e5", "1e5"),
        ("1.2.3", "1.2.3"),
        ("", ""),
        ("-", "-"),
        ("/tmp/mofka", "/tmp/mofka"),
        ("٣", "٣"),
        ("a,", ["a"]),
        (",a", ["", "a"]),
        (",", [""]),
        ("1,2.5,true,x", [1, 2.5, True, "x"]),
        ("1,,2", [1, "", 2]),
    ],
)
def test_text_of_a_dotted_option_has_a_type(text: str, value: Any) -> None:
    assert json.dumps(typed(text)) == json.dumps(value)


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "-9223372036854775809", ".", "+.", "1,99999999999999999999"]
)
def test_text_that_looks_like_a_number_but_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"^--topic\.x: "):
        topic("--topic.x", text)


def test_dotted_options_add_up_to_an_object() -> None:
    assert topic(
        "--topic.config.type", "memory", "--topic.n", "1", "--topic.config.partition.path", "/x"
    ) == {
        "config": {"type": "memory", "partition": {"path": "/x"}},
        "n": 1,
    }


def test_later_values_replace_earlier_ones_and_what_is_no_object_becomes_one() -> None:
    assert topic("--topic.a", "1", "--topic.a", "2") == {"a": 2}
    assert topic("--topic.a", "1", "--topic.a.b", "2") == {"a": {"b": 2}}
    assert topic("--topic.a.b", "1", "--topic.a", "2") == {"a": 2}


def test_the_next_argument_is_the_value_whatever_it_looks_like() -> None:
    assert topic("--topic.a", "--driver", "--topic.b", "--", "--topic.c", "-5") == {
        "a": "--driver",
        "b": "--",
        "c": -5,
    }


def test_a_value_may_follow_an_equals_sign() -> None:
    given = parse("--driver=mofka", "--topic.a=5", "--topic.b.c=x=y", "--topic.d=")
    assert given.flags == {"driver": "mofka"}
    assert given.options["topic"] == {"a": 5, "b": {"c": "x=y"}, "d": ""}


def test_flags_have_names_short_names_and_values() -> None:
    given = parse("-v", "--driver", "mofka", "--driver.group_file", "m.json", "--", "--driver", "x")
    assert given.flags == {"verbose": True, "driver": "mofka"}
    assert given.options == {"driver": {"group_file": "m.json"}, "topic": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drvier", "x"], "unknown argument '--drvier'; did you mean '--driver'"),
        (["--topics.a", "x"], "unknown argument '--topics.a'; did you mean '--topic.<field>'"),
        (["stray"], "unknown argument 'stray'"),
        (["--driver"], "--driver lacks its value"),
        (["--topic.a"], "--topic.a lacks its value"),
        (["--topic.=5"], "--topic.=5: must be written as '--topic.some.field value'"),
        (["--topic.", "5"], "must be written as"),
        (["--topic.a..b", "5"], "must be written as"),
        (["-v", "--verbose"], "--verbose is given twice"),
        (["--driver", "a", "--driver", "b"], "--driver is given twice"),
    ],
)
def test_arguments_that_are_not_understood_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    assert message in caught.value.message


def test_a_required_flag_must_be_there() -> None:
    with pytest.raises(click.UsageError, match="--driver must be given"):
        parse("-v")


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_follows_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps(target)
    assert merge(target, patch) == result
    assert json.dumps(target) == before


@given(
    st.recursive(
        st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
    )
)
def test_merging_a_value_twice_is_merging_it_once(patch: Any) -> None:
    assert merge(merge({"a": 1}, patch), patch) == merge({"a": 1}, patch)


def test_help_names_every_flag_and_prefix() -> None:
    text = COMMAND.get_help(click.Context(COMMAND))
    assert all(
        part in text for part in ("--driver TEXT", "[required]", "-v, --verbose", "--topic.<field> VALUE")
    )
