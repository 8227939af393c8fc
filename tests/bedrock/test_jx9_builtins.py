"""The functions that every Jx9 script has."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.jx9.builtins import BUILTINS
from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.interpreter import run


def value(expression: str, **variables: Any) -> Any:
    return run(f"return {expression};", variables)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("count([1, 2]) + sizeof({a: 1}) + count(null) + count('abc')", 4),
        ("in_array('b', ['a', 'b'])", True),
        ("in_array('1', [1])", True),
        ("in_array('1', [1], true)", False),
        ("in_array('x', {k: 'x'})", True),
        ("in_array([1], [[1]])", True),
        ("array_key_exists('a', {a: null})", True),
        ("array_key_exists(0, [5])", True),
        ("array_key_exists(1, [5])", False),
        ("array_merge([1], [2, 3], [])", [1, 2, 3]),
        ("array_merge({a: 1, b: 2}, {b: 3})", {"a": 1, "b": 3}),
        ("array_merge({a: 1}, [2])", {"a": 1, "0": 2}),
        ("array_merge()", []),
        ("array_values({a: 1, b: 2})", [1, 2]),
        ("array_sum([1, '2', 0.5])", 3.5),
        ("array_sum([])", 0),
        ("is_array([])", True),
        ("is_array({})", True),
        ("is_array('a')", False),
        ("is_object([])", False),
        ("is_object({})", True),
        ("is_null($nobody)", True),
        ("is_int(1) && !is_int(1.0) && !is_int('1') && !is_int(true)", True),
        ("is_string('') && !is_string(1)", True),
        ("empty([]) && empty('0') && empty($nobody) && !empty([0])", True),
        (
            "[gettype(null), gettype(true), gettype(1), gettype(1.5), gettype('a'), gettype([]), gettype({})]",
            ["null", "bool", "int", "float", "string", "array", "object"],
        ),
        ("gettype(function() {})", "function"),
        ("intval('42nd')", 42),
        ("floatval('2.5kg')", 2.5),
        ("strval(2.50) .. strval(true)", "2.5true"),
        ("min(3, 1, 2)", 1),
        ("max([3, 1, 2])", 3),
        ("max([])", None),
        ("max('a', 'b')", "b"),
        ("round(2.5)", 3),
        ("round(-2.5)", -3),
        ("round(3.14159, 2)", 3.14),
        ("round(7)", 7),
        ("round(1e300)", 1e300),
        ("strlen('h\u00e9')", 2),
        ("substr('abcdef', 2)", "cdef"),
        ("substr('abcdef', 1, 2)", "bc"),
        ("substr('abcdef', -2)", "ef"),
        ("substr('abcdef', 1, -1)", "bcde"),
        ("substr('abc', 5, 2)", ""),
        ("substr('abc', -9, 1)", "a"),
        ("substr('abc', 2, -2)", ""),
        ("strpos('hello', 'l')", 2),
        ("strpos('hello', 'l', 3)", 3),
        ("strpos('hello', 'z') === false", True),
        ("str_replace('l', 'L!', 'hello')", "heL!L!o"),
        ("str_replace('', 'x', 'abc')", "abc"),
        ("strtoupper('aB') .. strtolower('aB')", "ABab"),
        ('trim(" \t a b\\n")', "a b"),
        ("trim('xxaxx', 'x')", "a"),
        ("explode(',', 'a,b,,c')", ["a", "b", "", "c"]),
        ("explode(',', 'a,b,c', 2)", ["a", "b,c"]),
        ("implode('-', [1, 'b', null, true])", "1-b--true"),
        ("implode('', [])", ""),
        ("sprintf('%s=%d %05.1f|%5s|%-5s|%05d|%x|%X|%o|%b|%c|%%', 'a', '7', 2.25, 'r', 'l', 42, 255, 255, 8, 5, 65)",
         "a=7 002.2|    r|l    |00042|ff|FF|10|101|A|%"),
        ("sprintf('%+d %+d %.2s %e', 1, -1, 'abc', 1.5)", "+1 -1 ab 1.500000e+00"),
        ("sprintf('plain')", "plain"),
        ("json_encode({a: [1, 2.0, 'x'], b: {}, c: []})", '{"a":[1,2,"x"],"b":{},"c":[]}'),
        ("json_encode('a\"b')", '"a\\"b"'),
        ('json_decode("{\\"a\\": [1, null]}")', {"a": [1, None]}),
        ("json_decode('{')", None),
        ("json_decode('[9223372036854775807]')", [2**63 - 1]),
        ("json_decode('{\"a\": [9223372036854775808]}')", None),
        ("json_decode('1e400')", None),
        ("date('Y-m-d', 86400 * 365)", "1971-01-01"),
        ("date('[D j M y, H:i]', 43200)", "[Thu 1 Jan 70, 12:00]"),
        ("rand(4, 4)", 4),
        ("JX9_EOL", "\n"),
    ],
)  # fmt: skip
def test_a_function_returns(expression: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    found = value(expression)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("$r = array_push($a, 4, 5);", [[3, 1, 2, 4, 5], 5]),
        ("$r = array_pop($a);", [[3, 1], 2]),
        ("$a = []; $r = array_pop($a);", [[], None]),
        ("$r = sort($a);", [[1, 2, 3], True]),
        ("$a = {x: 2, y: 1}; sort($a);", [[1, 2], None]),
        ("$a = ['10', 9, 'b', 'B']; sort($a);", [["10", 9, "B", "b"], None]),
        ("$a = {x: {y: [1]}}; array_push($a.x['y'], 2);", [{"x": {"y": [1, 2]}}, None]),
        ("$b = $a; sort($b);", [[1, 2, 3], None]),
        ("$b = array_copy($a); sort($b);", [[3, 1, 2], None]),
        ("$r = array_shift($a);", [[1, 2], 3]),
        ("$a = {x: 2, y: 1}; $r = array_shift($a);", [{"y": 1}, 2]),
        ("$a = []; $r = array_shift($a);", [[], None]),
        ("$r = rsort($a);", [[3, 2, 1], True]),
        ("$a = {x: 1}; $r = array_push($a, 5);", [{"x": 1, "0": 5}, 2]),
        (
            "$r = [end($a), key($a), prev($a), next($a), next($a), current($a), reset($a)];",
            [[3, 1, 2], [2, 2, 1, 2, False, False, 3]],
        ),
        ("$r = array_pop([7, 8]);", [[3, 1, 2], 8]),
        ("$f = 'array_push'; $r = $f($a, 1);", [[3, 1, 2, 1], 4]),
    ],
)
def test_a_function_changes_the_place_it_is_given(statements: str, expected: Any) -> None:
    assert run(f"{statements} return [$a, $r];", {"a": [3, 1, 2]}) == expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("count()", "count: expected 1 arguments; found 0"),
        ("count(1, 2)", "count: expected 1 arguments; found 2"),
        ("substr('a')", "substr: expected 2 to 3 arguments; found 1"),
        ("array_push($nobody, 1)", "array_push: expected an array or object; found null"),
        ("array_push()", "array_push: expected 1 to inf arguments; found 0"),
        ("in_array(1, 'a')", "in_array: expected an array or object; found string"),
        ("explode('', 'a')", "expected a separator"),
        ("sprintf('%d')", "expected a value for %d"),
        ("sprintf('%q', 1)", "found q"),
        ("sprintf('%c', 1000)", "found c"),
        ("round(1.5, 99)", "0 to 15 digits; found 99"),
        ("rand(2, 1)", "in their order; found 2 and 1"),
        ("date('Y', 9223372036854775807)", "seconds since 1970"),
        ("intval(1e300)", "64 bits"),
        ("array_sum([[]])", "expected a number; found an array"),
        ("strval(function() {})", "no form in JSON"),
    ],
)
def test_a_function_that_cannot_says_why(expression: str, words: str) -> None:
    with pytest.raises(Jx9Error) as caught:
        value(expression)
    assert words in caught.value.problem
    assert caught.value.line == 1


def test_the_time_is_now() -> None:
    before = int(time.time())
    assert before <= value("time()") <= time.time()
    assert 0 <= value("rand()") < 2**31


@given(st.lists(st.integers(-5, 5) | st.sampled_from(["a", "b", "1"]) | st.none(), max_size=8))
def test_sorting_keeps_the_entries_and_sorts_numbers(items: list[Any]) -> None:
    found = run("sort($a); return $a;", {"a": items})
    assert sorted(map(repr, found)) == sorted(map(repr, items))
    numbers = [item for item in items if isinstance(item, int)]
    assert run("sort($a); return $a;", {"a": numbers}) == sorted(numbers)


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    1.5,
    1e308,
    "",
    "a",
    "-7",
    "%s%d%99x",
    "1e999",
    "\0",
    [],
]
odd_values = st.sampled_from([*ODD, [1, "b"], [[]], {}, {"a": [None]}])


@given(st.sampled_from([*BUILTINS]), st.lists(odd_values, max_size=4))
def test_odd_arguments_get_a_value_of_json_or_an_error(name: str, arguments: list[Any]) -> None:
    names = {f"v{index}": argument for index, argument in enumerate(arguments)}
    call = f"{name}({', '.join('$' + name for name in names)})"
    try:
        run(f"$r = {call}; return [$r, '' .. $r, {call} == $r];", names)
    except Jx9Error:
        return
