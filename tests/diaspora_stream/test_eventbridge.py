"""Event patterns: what matches, what does not, and what is no pattern."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.errors import ConfigError
from diaspora_stream.eventbridge import compile_pattern

EVENT = {
    "name": "Run-42.h5",
    "count": 7,
    "ratio": 0.5,
    "ok": True,
    "none": None,
    "host": {"ip": "10.0.0.17", "rack": {"id": 3}},
    "tags": ["a"],
    "a.b": "flat",
}


def matches(pattern: dict[str, Any], event: Any = EVENT) -> bool:
    return compile_pattern(pattern, "schema")(event)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({}, True),
        ({"count": 7}, True),
        ({"count": 7.0}, True),
        ({"count": 8}, False),
        ({"ok": True}, True),
        ({"ok": 1}, False),
        ({"count": 7, "ok": False}, False),
        ({"none": None}, True),
        ({"missing": None}, False),
        ({"host.rack.id": 3}, True),
        ({"host": {"rack": {"id": [1, 3]}}}, True),
        ({"host": {"missing": [{"exists": False}]}}, True),
        ({"missing": {"x": [{"exists": False}]}}, False),
        ({"a.b": "flat"}, False),
        ({"name.x": [{"exists": False}]}, True),
        ({"": {"count": 7}}, True),
        ({"count": []}, False),
        ({"count": [1, 7]}, True),
        ({"count": [1, "7", True]}, False),
        ({"tags": "a"}, False),
        ({"count": [{"exists": True}]}, True),
        ({"missing": [{"exists": False}]}, True),
        ({"missing": [{"exists": True}, {"exists": False}]}, True),
        ({"count": [{"anything-but": 8}]}, True),
        ({"count": [{"anything-but": [7, 8]}]}, False),
        ({"name": [{"anything-but": {"prefix": "Run"}}]}, False),
        ({"name": [{"anything-but": {"prefix": "run"}}]}, True),
        ({"missing": [{"anything-but": 8}]}, False),
        ({"ok": [{"anything-but": 1}]}, True),
        ({"name": [{"prefix": "Run-"}]}, True),
        ({"name": [{"prefix": ["x", "Run"]}]}, True),
        ({"name": [{"prefix": {"equals-ignore-case": "rUN"}}]}, True),
        ({"name": [{"suffix": ".h5"}]}, True),
        ({"name": [{"suffix": {"equals-ignore-case": ["x", ".H5"]}}]}, True),
        ({"count": [{"prefix": "7"}]}, False),
        ({"name": [{"equals-ignore-case": "RUN-42.H5"}]}, True),
        ({"name": [{"equals-ignore-case": ["x", "y"]}]}, False),
        ({"count": [{"numeric": [">", 5, "<=", 7]}]}, True),
        ({"ratio": [{"numeric": ["=", 0.5]}]}, True),
        ({"count": [{"numeric": ["<", 7]}]}, False),
        ({"ok": [{"numeric": [">=", 0]}]}, False),
        ({"name": [{"numeric": [">=", 0]}]}, False),
        ({"name": [{"wildcard": "Run-*.h5"}]}, True),
        ({"name": [{"wildcard": "*"}]}, True),
        ({"name": [{"wildcard": "Run-42xh5"}]}, False),
        ({"name": [{"wildcard": "Run-42.h5"}]}, True),
        ({"name": [{"wildcard": "Run(*"}]}, False),
        ({"name": [{"wildcard": "Run-42.h5*Run-42.h5"}]}, False),
        ({"count": [{"wildcard": "*"}]}, False),
        ({"host.ip": [{"cidr": "10.0.0.0/24"}]}, True),
        ({"host.ip": [{"cidr": "10.0.1.0/24"}]}, False),
        ({"host.ip": [{"cidr": "2001:db8::/32"}]}, False),
        ({"name": [{"cidr": "10.0.0.0/24"}]}, False),
        ({"count": [{"cidr": "0.0.0.0/0"}]}, False),
        ({"host": [{"$or": [{"rack.id": 4}, {"ip": [{"prefix": "10."}]}]}]}, True),
        ({"host": [{"$or": [{"rack.id": 4}]}]}, False),
        ({"missing": [{"$or": [{}]}]}, False),
        ({"$or": [{"count": 8}, {"ok": True}]}, True),
        ({"$or": [{"count": 8}, {"ok": False}]}, False),
        ({"$or": [{"count": 7}], "ok": False}, False),
        ({"host": {"$or": [{"ip": "x"}, {"rack.id": 3}]}}, True),
    ],
    ids=str,
)
def test_a_pattern_matches_what_it_should(pattern: dict[str, Any], *, expected: bool) -> None:
    assert matches(pattern) is expected


def test_a_backslash_makes_the_next_character_of_a_wildcard_literal() -> None:
    def wildcard(text: str, value: str) -> bool:
        return matches({"x": [{"wildcard": text}]}, {"x": value})

    assert wildcard(r"a\\b*", "a\\b...")
    assert wildcard(r"a\*b", "a*b")
    assert not wildcard(r"a\*b", "axb")
    assert wildcard("a*\n*z", "a1\n2z")


@given(st.lists(st.sampled_from(["a", "b", "ab", "*"]), max_size=6), st.text("ab", max_size=10))
def test_a_wildcard_matches_as_a_regular_expression_would(parts: list[str], value: str) -> None:
    expression = "".join(".*" if part == "*" else part for part in parts)
    assert matches({"x": [{"wildcard": "".join(parts)}]}, {"x": value}) is bool(
        re.fullmatch(expression, value)
    )


def test_a_wildcard_of_many_stars_is_not_slow() -> None:
    assert not matches({"x": [{"wildcard": "*a" * 30 + "*b"}]}, {"x": "a" * 20_000})


@pytest.mark.parametrize("event", [None, 3, "text", [], [EVENT]])
def test_a_document_that_is_no_object_has_no_fields(event: Any) -> None:
    assert not matches({"count": 7}, event)
    assert matches({"count": [{"exists": False}]}, event)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([], r"schema: must be an object, found \[\]"),
        ({"a": [1, {"exists": True}]}, r"schema\.a\[1\]: must be a primitive"),
        ({"a": [[1]]}, r"schema\.a\[0\]: must be a primitive"),
        ({"a": [{"exists": True, "prefix": "x"}]}, r"schema\.a\[0\]: a rule has one key"),
        ({"a": [{}]}, "a rule has one key"),
        ({"a": [{"prefx": "x"}]}, "unknown rule 'prefx'; did you mean 'prefix'"),
        ({"a": {"b": [{"exists": 1}]}}, r"schema\.a\.b\[0\]\.exists: must be true or false, found 1"),
        ({"a": [{"prefix": 1}]}, "must be a str or a list of str"),
        ({"a": [{"suffix": {"equals": "x"}}]}, "equals-ignore-case"),
        ({"a": [{"equals-ignore-case": [1]}]}, "must be a str or a list of str"),
        ({"a": [{"numeric": 5}]}, "must be a list such as"),
        ({"a": [{"numeric": []}]}, "must be a list such as"),
        ({"a": [{"numeric": [">", 1, "<"]}]}, "must be a list such as"),
        ({"a": [{"numeric": ["!", 1]}]}, "unknown comparison '!'"),
        ({"a": [{"numeric": [">", True]}]}, "needs a number, found True"),
        ({"a": [{"wildcard": 1}]}, "must be a str"),
        ({"a": [{"wildcard": "a\\"}]}, "lone backslash"),
        ({"a": [{"cidr": "10.0.0.0/99"}]}, "block of addresses"),
        ({"a": [{"anything-but": {"x": 1}}]}, "unknown rule 'x'"),
        ({"a": [{"anything-but": [[1]]}]}, "must be a primitive"),
        ({"$or": {}}, "must be a list of patterns"),
        ({"$or": [1]}, r"schema\.\$or\[0\]: must be an object"),
    ],
    ids=str,
)
def test_what_is_no_pattern_is_refused_with_the_place(pattern: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compile_pattern(pattern, "schema")
