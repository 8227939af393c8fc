"""What Python values become as JSON, and which ones are refused."""

import datetime
import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.errors import InvalidJson, InvalidMetadata
from diaspora_stream.json_value import MAX_NESTING, encode, encode_fast, from_text, read_slowly, write_slowly


class Stamp(datetime.datetime):
    """As the time stamps of other packages: of a type that msgspec does not know, with an `isoformat`."""


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
        ({"x": np.float32(0.5), "y": np.int64(-3), "z": np.bool_(True)}, '{"x":0.5,"y":-3,"z":true}'),
        ({"x": np.array(7), "y": np.longdouble(0.5), "z": np.bytes_(b"abc")}, '{"x":7,"y":0.5,"z":"YWJj"}'),
        ([np.datetime64("2026-01-02"), np.float32("nan")], '["2026-01-02",null]'),
        (
            [Stamp(2026, 1, 2, 3, 4, 5), datetime.date(2026, 1, 2)],
            '["2026-01-02T03:04:05","2026-01-02"]',
        ),
        ("é/\u2028", '"é/\u2028"'),
        ([-(2**63), 2**64 - 1], "[-9223372036854775808,18446744073709551615]"),
    ],
)
def test_text_of_each_kind_of_value(value: Any, text: str) -> None:
    assert encode(value) == text.encode()


@pytest.mark.parametrize("leaf", [np.arange(3), np.complex64(1), object(), 1j])
def test_an_unconvertible_value_is_a_type_error_that_says_where(leaf: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(leaf).__name__} at '/a/1/7'"):
        encode({"a": [0, {7: leaf}]})
    with pytest.raises(TypeError, match="at ''"):
        encode(leaf)


def test_a_value_that_contains_itself_is_refused() -> None:
    plain: dict[Any, Any] = {}
    plain["again"] = plain
    odd: dict[Any, Any] = {}
    odd[1] = [odd]
    for value, path in ((plain, "/again"), (odd, "/1/0")):
        with pytest.raises(InvalidMetadata, match=f"contains itself at '{path}'"):
            encode(value)


def test_a_value_that_stands_in_two_places_does_not_contain_itself() -> None:
    shared = [1]
    assert encode({1: shared, 2: [shared, shared]}) == b'{"1":[1],"2":[[1],[1]]}'


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("\ud800", "not Unicode at ''"),
        ({"a": [0, "\udcff"]}, "not Unicode at '/a/1'"),
        ({1: "\ud800"}, "not Unicode at '/1'"),
        ({"a": {"\ud800": 1}}, r"not Unicode at '/a/\\ud800'"),
        ({"a": [10**5000]}, "an integer that cannot be stored at '/a/0'"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, where: str) -> None:
    with pytest.raises(InvalidMetadata, match=where):
        encode(value)


def test_numbers_that_are_not_finite_are_refused_on_demand() -> None:
    for number in (math.nan, math.inf, np.float32("-inf")):
        with pytest.raises(InvalidMetadata, match="at '/a/1' is not finite"):
            encode({"a": [None, number]}, is_finite=True)
    assert encode({"a": None, "b": 1.5}, is_finite=True) == b'{"a":null,"b":1.5}'


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"d": value} if level % 2 else [value]
    return value


def from_below(frames: int, call: Callable[[], Any]) -> Any:
    return from_below(frames - 1, call) if frames else call()


@pytest.mark.parametrize("frames", [0, 300, 600])
def test_how_deep_a_value_may_be_does_not_depend_on_the_stack(frames: int) -> None:
    deepest = nested(MAX_NESTING)
    text = from_below(frames, lambda: encode(deepest))
    assert text.count(b"[") + text.count(b"{") == MAX_NESTING
    value = from_below(frames, lambda: from_text(text))
    for level in reversed(range(MAX_NESTING)):
        value = value["d"] if level % 2 else value[0]
    assert value == 1
    with pytest.raises(InvalidMetadata, match=f"nested too deeply at '/d/0/.*{MAX_NESTING} levels"):
        from_below(frames, lambda: encode(nested(MAX_NESTING + 2)))


@given(VALUES)
def test_the_slow_writer_and_the_slow_reader_agree_with_the_fast_ones(value: Any) -> None:
    assert write_slowly(value) == encode_fast(value)
    assert read_slowly(json.dumps(value, indent=1).encode()) == value


@given(VALUES, st.integers(0, 200), st.sampled_from(list(b'[]{},:"\\1e- x\n')) | st.none())
def test_the_slow_reader_refuses_what_the_fast_one_does(value: Any, place: int, put: int | None) -> None:
    text = bytearray(encode(value))
    text[place % len(text) : place % len(text) + 1] = b"" if put is None else bytes([put])
    try:
        expected = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        with pytest.raises((InvalidJson, UnicodeError)):
            read_slowly(bytes(text))
    else:
        assert read_slowly(bytes(text)) == expected


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
        ("1e400", 0),
        ('{"a":[0,1e400]}', 8),
        ('{"a":"\\ud800"}', 5),
        ('["\\ud800", "', 1),
        ("1" * 5001, 0),
        ("[" * 100_000, 100_000),
        ("[" * 2_000 + "}", 2_000),
        ("[" * 2_000 + "]" * 1_999, 3_999),
        ("[" * 2_000 + "]" * 2_001, 4_001),
        ("[1]   x  y", 7),
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


@pytest.mark.parametrize(
    "kind", [str, str.encode, lambda text: bytearray(text.encode()), lambda text: memoryview(text.encode())]
)
def test_a_byte_order_mark_is_passed_over(kind: Any) -> None:
    assert from_text(kind('\ufeff{"a":1}')) == {"a": 1}
    with pytest.raises(InvalidJson):
        from_text(kind("\ufeff"))
    assert from_text(kind('"\ufeff"')) == "\ufeff"
