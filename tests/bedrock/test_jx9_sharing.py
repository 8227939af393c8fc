"""Arrays and objects are shared, and what is given is seen everywhere: as in the engine of the original."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.jx9.interpreter import MOST_WARNINGS, run

SCRIPTS = [
    ("$o = {a: {b: 1}}; $p = $o.a; $p.b = 2; $r = $o;", {"a": {"b": 2}}),
    ("$o = {a: [1]}; $p = $o.a; array_push($p, 2); $r = $o;", {"a": [1, 2]}),
    ("$a = [3, 1, 2]; $b = $a; sort($b); $r = $a;", [1, 2, 3]),
    ("function f($a) { $a.x = 9; } $o = {x: 1}; f($o); $r = $o;", {"x": 9}),
    ("function f($a) { $a = 5; } $o = {x: 1}; f($o); $r = $o;", {"x": 1}),
    ("function f() { static $l = [1]; return $l; } $x = f(); $x[] = 2; $r = f();", [1, 2]),
    ("$o = [{a: 1}]; foreach ($o as $v) { $v.a = 5; } $r = $o;", [{"a": 5}]),
    ("$a = {x: {y: 1}}; $l = [$a.x, $a.x]; $l[0].y = 7; $r = $l;", [{"y": 7}, {"y": 7}]),
    ("$a = [{x: 1}]; $b = array_merge($a, [3]); $b[0].x = 9; $b[] = 4; $r = $a;", [{"x": 9}]),
    ("$a = {x: {y: 1}, z: 1}; $b = array_copy($a); $b.x.y = 2; $b.z = 2; $r = $a;", {"x": {"y": 2}, "z": 1}),
    ("$a = 1; $b = $a; $b = 2; $r = $a;", 1),
    ("$o = {l: [1]}; foreach ($o.l as $v) { $v = 5; } $r = $o;", {"l": [1]}),
    ("const C = [1]; $a = C; $a[] = 2; $r = C;", [1]),
    ("function f($a = [1]) { $a[] = 2; return $a; } f(); $r = f();", [1, 2]),
    ("$a = [1, 2, 3]; foreach ($a as $v) { array_pop($a); } $r = $a;", []),
    ("$a = [1, 2, 3, 4]; $r = [array_diff($a, [2, 3]), array_intersect($a, [2, 3])];", [[1, 4], [2, 3]]),
    ("$r = [join(',', [1, 'x']), implode([1, 2]), str_repeat('ab', 3)];", ["1,x", "12", "ababab"]),
    ("$r = [strcmp('a', 'b'), strcmp('a', 'abc'), strcmp('abcd', 'a'), strcmp('a', 'a')];", [-1, -98, 98, 0]),
    ("$r = [str_split('abcdef', 4), str_split('ab'), str_split('')];", [["abcd", "ef"], ["a", "b"], False]),
    ("$r = [stripos('aBc', 'bC'), stripos('abc', 'x'), strrpos('abab', 'b')];", [1, False, 3]),
    ("$r = [ltrim('  a '), rtrim('  a '), chop('a '), ltrim('xxa', 'x')];", ["a ", "  a", "a", "a"]),
    ("$r = [ord('A'), ord(''), chr(65), chr(321)];", [65, -1, "A", "A"]),
    (
        "$r = [str_pad('5', 3, '0', 0), str_pad('5', 3), str_pad('5', 4, '0', STR_PAD_BOTH)];",
        ["005", "5  ", "0500"],
    ),
    (
        "$r = [strrev('abc'), substr_count('aaa', 'a'), strstr('abcb', 'b'), strcasecmp('A', 'a')];",
        ["cba", 3, "bcb", 0],
    ),
    (
        "$r = [is_bool(1), is_bool(false), is_float(1.5), is_double(1.0), is_long(1)];",
        [False, True, True, True, True],
    ),
    (
        "$r = [is_numeric('1.5'), is_numeric('x'), is_numeric(''), is_numeric(2), is_numeric([])];",
        [True, False, False, True, False],
    ),
    ("$r = [is_scalar(1), is_scalar(null), is_scalar('a'), is_scalar({})];", [True, True, True, False]),
    (
        "$a = [1, 2, 3]; $r = [end($a), current($a), reset($a), next($a), key($a), prev($a)];",
        [3, 3, 1, 2, 1, 1],
    ),
    ("$a = []; $r = [end($a), current($a), key($a)];", [False, False, None]),
    ("$r = [017, 0b11, 0x1F, 1 <> 2, array_product([2, 3])];", [15, 3, 31, True, 6]),
]

GIVEN = [
    ("function f() { return $given; } $r = f();", {"a": [1]}),
    ("$f = function() { return $given.a; }; $r = $f();", [1]),
    ("$f = function($x) { $given.a = $x; }; $f(9); $r = $given;", {"a": 9}),
    ("function f() { $given = 7; } f(); $r = $given;", 7),
    ("function f() { return $own; } $own = 5; $r = f();", None),
    ("function f($given) { return $given; } $r = f(1);", 1),
]


@pytest.mark.parametrize(("script", "expected"), SCRIPTS)
def test_arrays_and_objects_are_shared(script: str, expected: Any) -> None:
    assert run(f"{script} return $r;", {}) == expected


@pytest.mark.parametrize(("script", "expected"), GIVEN)
def test_what_is_given_is_seen_in_functions_and_never_changed_for_its_giver(
    script: str, expected: Any
) -> None:
    given_values = {"given": {"a": [1]}}
    assert run(f"{script} return $r;", given_values) == expected
    assert given_values == {"given": {"a": [1]}}


def engine(script: str, **variables: Any) -> Any:
    """Return what the original's engine has in ``$r`` after a script."""
    vm = pytest.importorskip("unqlite").UnQLite().vm(f"{script} $told = json_encode([$r]);")
    vm.compile()
    try:
        for name, value in variables.items():
            vm.set_value(name, value)
        vm.execute()
        return json.loads(vm.get_value("told"))[0]
    finally:
        vm.close()


@pytest.mark.parametrize(("script", "expected"), SCRIPTS)
def test_the_engine_of_the_original_agrees(script: str, expected: Any) -> None:
    assert engine(script) == expected


@pytest.mark.parametrize(("script", "expected"), GIVEN)
def test_the_engine_of_the_original_agrees_on_what_is_given(script: str, expected: Any) -> None:
    assert engine(script, given={"a": [1]}) == expected


# The engine does not count on from the end of an array that lost entries, nor of a copy, so none does here.
arrays = st.sampled_from(["$a", "$b", "$o.l", "$l[0]"])
objects = st.sampled_from(["$o", "$p", "$l[1]"])
values = st.sampled_from(["1", "'x'", "2.5", "[7]", "{k: 8}", "null"])
statements = st.one_of(
    st.builds("{} = {};".format, st.sampled_from(["$a", "$b"]), arrays),
    st.builds("$p = {};".format, objects),
    st.builds("{}[] = {};".format, arrays, values),
    st.builds("array_push({}, {});".format, arrays, values),
    st.builds("{}[0] = {};".format, arrays, values),
    st.builds("{}.k = {};".format, objects, values),
    st.builds("{}['n'] = {};".format, objects, values),
    st.builds("foreach ({} as $v) {{ $v.k = {}; }}".format, arrays, values),
    st.builds("f({}, {});".format, objects, values),
    st.builds("g({});".format, arrays),
)
BEGIN = (
    "function f($x, $y) { $x['f'] = $y; } function g($x) { $x[] = 'g'; } "
    "$a = [1, {k: 2}]; $b = $a; $p = {k: 3}; $o = {l: [4], k: $p}; $l = [[5], {k: 6}]; "
)


@given(st.lists(statements, max_size=12))
def test_whatever_is_shared_and_changed_the_engine_agrees(several: list[str]) -> None:
    script = f"{BEGIN}{' '.join(several)} $r = [$a, $b, $o, $p, $l];"
    assert run(f"{script} return $r;", {}) == engine(script)


def test_who_asked_is_told_of_what_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    script = "$a = {b: 1};\nfor ($i = 0; $i < 50; $i++) { cout($a); $a.c = 2; }\nreturn strlenn('a');"
    assert run(script, {}, warn=told.append) is None
    assert told == [
        "line 2: unknown function \"cout\" gives null; did you mean 'count'?",
        'line 2: no member "c" to assign to, ignored; ["c"] would add it',
        "line 3: unknown function \"strlenn\" gives null; did you mean 'strlen'?",
    ]
    assert caplog.messages == []
    run("f0();", {})
    assert caplog.messages == ['[jx9] unknown function "f0" gives null']
    many = [f"nobody{index}();" for index in range(1000)]
    told.clear()
    run(" ".join(many)[:8000], {}, warn=told.append)
    assert len(told) == MOST_WARNINGS
