"""What Python values become as JSON, and which ones are refused."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.errors import InvalidJson, InvalidMetadata
from diaspora_stream.json_value import encode, encode_fast, from_text

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_a_value_comes_back_from_its_text(value: Any) -> None:
    assert from_text(encode(value)) == value


@given(VALUES)
def test_python_s_own_reader_agrees(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9)))
def test_keys_are_in_byte_order(value: dict[str, int]) -> None:
    keys = [key.encode() for key in from_text(encode(value))]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 2.0, "a": 1}, '{"a":1,"b":2.0}'),
        ({"b": (1, 2)}, '{"b":[1,2]}'),
        ({1: "x", "a": None, 2.5: True}, '{"1":"x","2.5":true,"a":null}'),
        ({None: 1, True: [{2: (3,)}]}, '{"None":1,"True":[{"2":[3]}]}'),
        ([math.nan, math.inf, -math.inf], "[null,null,null]"),
        ({1: math.nan}, '{"1":null}'),
        ({"b": b"abc"}, '{"b":"YWJj"}'),
        ({"x": np.float64(1.5)}, '{"x":1.5}'),
        (np.str_("word"), '"word"'),
        ("é/\u2028", '"é/\u2028"'),
        ([-(2**63), 2**64 - 1], "[-9223372036854775808,18446744073709551615]"),
    ],
)
def test_text_of_each_kind_of_value(value: Any, text: str) -> None:
    assert encode(value) == text.encode()


@pytest.mark.parametrize("leaf", [np.int64(1), np.float32(1), np.arange(3), object(), 1j])
def test_an_unconvertible_value_is_a_type_error_that_says_where(leaf: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(leaf).__name__} at '/a/1/7'"):
        encode({"a": [0, {7: leaf}]})
    with pytest.raises(TypeError, match="at ''"):
        encode(leaf)


def test_a_value_that_contains_itself_is_refused() -> None:
    plain: dict[Any, Any] = {}
    plain["again"] = plain
    odd: dict[Any, Any] = {}
    odd[1] = odd
    for value in (plain, odd):
        with pytest.raises(InvalidMetadata, match="contains itself"):
            encode(value)


def test_a_lone_surrogate_is_refused() -> None:
    for value in ("\ud800", {"a": ["\ud800"]}, {1: "\ud800"}):
        with pytest.raises(InvalidMetadata, match="not Unicode"):
            encode(value)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("word", 0),
        ("", 0),
        ('{"a":1', 6),
        ("[1,]", 3),
        ("[1] x", 5),
        ('{"é":zero}', 6),
        (b'["ok","a\xff"]', 8),
        ('"a\ud800"', 2),
        ("1e400", 5),
        ("[" * 100_000, 0),
    ],
)
def test_text_that_is_no_json_is_refused_with_the_position(text: str | bytes, position: int) -> None:
    with pytest.raises(InvalidJson) as caught:
        from_text(text)
    assert caught.value.position == position
    assert f"byte {caught.value.position}" in str(caught.value)


def test_text_may_be_in_any_buffer_and_the_last_of_equal_keys_counts() -> None:
    for text in (
        '{"a":1,"a":2}',
        b'{"a":1,"a":2}',
        bytearray(b'{"a":1,"a":2}'),
        memoryview(b'{"a":1,"a":2}'),
    ):
        assert from_text(text) == {"a": 2}


def test_the_fast_encoder_writes_the_same() -> None:
    value = {"b": [1, 2.5, "x"], "a": np.float64(2)}
    assert encode_fast(value) == encode(value)
    assert msgspec.json.decode(encode_fast(value)) == value
