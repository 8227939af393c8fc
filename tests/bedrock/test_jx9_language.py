"""The Jx9 language, construct by construct, as the original's engine runs it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.jx9.errors import Jx9Error, Jx9SyntaxError
from mochi.bedrock.jx9.interpreter import holds, run


def value(expression: str, **variables: Any) -> Any:
    return run(f"return {expression};", variables)


def exactly(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("42", 42),
        ("0x1F", 31),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5),
        ("2e3", 2000),
        ("1.5e-3", 0.0015),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        (r'"a\n\t\"\\b"', 'a\n\t"\\b'),
        (r'"\u0041 \q"', r"\u0041 \q"),
        ('"$x and $y."', "1 and ."),
        (r'"\$x"', "$x"),
        ('"5$"', "5$"),
        (r"'$x\n'", r"$x\n"),
        (r"'it\'s \\'", "it's \\"),
        ('"two\nlines"', "two\nlines"),
        ("bare", "bare"),
        ("trueish", "trueish"),
        ("[1, 2,]", [1, 2]),
        ("[]", []),
        ("{}", {}),
        ("{a: 1, \"b\": 2, 'c': 3,}", {"a": 1, "b": 2, "c": 3}),
        ("{a: [$x + 1, {b: null}]}", {"a": [2, {"b": None}]}),
        ("{default: 1, if: 2, true: 3}", {"default": 1, "if": 2, "true": 3}),
    ],
)
def test_a_literal_has_its_value(literal: str, expected: Any) -> None:
    assert exactly(value(literal, x=1), expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("$nobody", None),
        ("$a.b.c", 5),
        ('$a["b"].c', 5),
        ('$a.b["c"]', 5),
        ("$l[1][0]", 7),
        ("$l[$a.i]", [7]),
        ('$l["1"]', [7]),
        ("$a.nobody", None),
        ("$a.nobody.c[3]", None),
        ("$nobody.rank", None),
        ("$l[-1]", None),
        ("$l[2]", None),
        ("$l.name", None),
        ("$a.default", 6),
        ("($a).i", 1),
    ],
)
def test_members_are_reached_and_missing_ones_are_null(expression: str, expected: Any) -> None:
    variables = {"a": {"b": {"c": 5}, "i": 1, "default": 6}, "l": [0, [7]]}
    assert value(expression, **variables) == expected


@pytest.mark.parametrize("literal", ["[1][0]", '"abc"[0]', "{a: 1}.a"])
def test_a_literal_cannot_be_indexed(literal: str) -> None:
    with pytest.raises(Jx9SyntaxError):
        value(literal)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("$x = 3; $y = $x = 4;", [4, 4]),
        ("$x = 7; $x += 2;", [9, None]),
        ("$x = 7; $x -= 2;", [5, None]),
        ("$x = 7; $x *= 2;", [14, None]),
        ("$x = 7; $x /= 2;", [3.5, None]),
        ("$x = 7; $x %= 4;", [3, None]),
        ("$x = [1]; $x[] = 2;", [[1, 2], None]),
        ("$x[] = 2;", [[2], None]),
        ('$x["k"] = 2;', [{"k": 2}, None]),
        ('$x = {}; $x["k"]["l"] = 2;', [{"k": {"l": 2}}, None]),
        ('$x = [1]; $x["k"] = 2;', [{"0": 1, "k": 2}, None]),
        ("$x = [1]; $x[0] = 2; $x[1] = 3;", [[2, 3], None]),
        ("$x = [1]; $x[5] = 2;", [{"0": 1, "5": 2}, None]),
        ("$x = {a: 1}; $x.a = 2;", [{"a": 2}, None]),
        ("$x = {a: 1}; $x.b = 2;", [{"a": 1}, None]),
        ("$x = {a: [1]}; $x.a[0] += 5; $x.a[] = 6;", [{"a": [6, 6]}, None]),
        ("$x = 1; $y = $x++;", [2, 1]),
        ("$x = 1; $y = ++$x;", [2, 2]),
        ("$x = 1; $y = $x--;", [0, 1]),
        ("$x = {n: 1}; $y = --$x.n;", [{"n": 0}, 0]),
        ("static $x = 1; const Y = 3; $y = Y;", [1, 3]),
        ("$x = [1]; $y = $x; $y[] = 2;", [[1, 2], [1, 2]]),
        ("$x = {a: {b: 1}}; $y = $x.a; $y.b = 2;", [{"a": {"b": 2}}, {"b": 2}]),
        ("$x = {}; $x[] = 1;", [{"0": 1}, None]),
        ('$x = {a: 1, "7": 2}; $x[] = 1;', [{"a": 1, "7": 2, "8": 1}, None]),
    ],
)
def test_assignment_changes_its_place_and_nothing_else(statements: str, expected: Any) -> None:
    assert run(f"{statements} return [$x, $y];", {}) == expected


def test_variables_that_are_handed_in_are_not_changed() -> None:
    config = {"a": [1]}
    assert run('array_push($c.a, 2); $c["b"] = 1; return $c;', {"c": config}) == {"a": [1, 2], "b": 1}
    assert config == {"a": [1]}


@pytest.mark.parametrize(
    "script", ["$x ..= 1", "1 = 2", "f() = 1", "[1] = 2", "$x.y() += 1", "f()--", '"a" = 1']
)
def test_what_is_no_place_cannot_be_assigned_to(script: str) -> None:
    with pytest.raises(Jx9SyntaxError):
        run(script, {})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 / 2", 3.5),
        ("6 / 2", 3),
        ("-7 % 4", -3),
        ("7 % -4", 3),
        ("2 + 3 * 4 - 1", 13),
        ("(2 + 3) * 4", 20),
        ("-2 - -3", 1),
        ("1 + 2.5", 3.5),
        ('"3" + "4.5x"', 7.5),
        ('null + true + "a"', 1),
        ("6 & 3 | 8", 10),
        ("6 ^ 3", 5),
        ("~0", -1),
        ("1 << 4 >> 2", 4),
        ("1 << 63", -(2**63)),
        ("1 + 1 << 2", 8),
        ("9223372036854775807 + 1", 2.0**63),
        ('"a" .. 1 .. 2.0 .. null .. true .. [1, {a: null}]', 'a12true[1,{"a":null}]'),
        ("0.1 + 0.2 .. ''", "0.3"),
        ("1..2", "12"),
        ('1 + 2 .. "x"', "3x"),
    ],
)
def test_operators_compute(expression: str, expected: Any) -> None:
    assert exactly(value(expression), expected)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("[] + 1", "expected a number; found an array"),
        ("-{}", "found an object"),
        ("1 << 64", "0 to 63 bits; found 64"),
        ("1e308 * 10", "not a finite number"),
        ("1e300 & 1", "integer of 64 bits"),
        ("$x[]", "to the left of ="),
        ("$x()", "expected a function to call; found null"),
        ("$x[[1]]", "string or integer for a key; found array"),
        ("function() {}", "a function has no form in JSON"),
    ],
)
def test_an_operation_without_a_result_is_an_error_at_its_line(expression: str, words: str) -> None:
    with pytest.raises(Jx9Error) as caught:
        run(f"$y = 1 + 1;\nreturn {expression};", {})
    assert words in caught.value.problem
    if expression[0] in "1[-":
        assert caught.value.line == 2


def test_no_entry_is_put_into_a_scalar() -> None:
    with pytest.raises(Jx9Error, match="to put an entry into; found string"):
        run('$x = "a"; $x["b"] = 1;', {})


TRUE = [
    "null == 0",
    '"" == false',
    '"0" == false',
    '"false" == false',
    "[] == false",
    "{} == false",
    "2 == true",
    '"a" == true',
    '"1" == 1',
    "1 == 1.0",
    "null == []",
    '2 > "10"',
    '"b" > "a"',
    '"B" < "a"',
    "[1, [2]] == [1, [2]]",
    "[1] == ['1']",
    "{a: 1, b: 2} == {b: 2, a: 1}",
    "{a: 1, b: 2} === {b: 2, a: 1}",
    "[1, 2] === [1, 2]",
    "[1, 2] < [1, 3]",
    "[9] < [1, 1]",
    "[] > 5",
    "1 <= 1",
    "1 >= 1",
    "1 != 2",
    "1 !== '1'",
    "null === null",
]
FALSE = [
    '"a" == 0',
    '"1.0" == 1',
    "1 === 1.0",
    "1 === '1'",
    "null === 0",
    "[1] === ['1']",
    "[1] == [2]",
    "[1] == 1",
    "{a: 1} == {b: 1}",
    "{a: 1} === {a: 1, b: 2}",
    "[] === {}",
    "1 < 1",
    "1 > 1",
    "null == 1",
]


@pytest.mark.parametrize(("expression", "expected"), [(e, True) for e in TRUE] + [(e, False) for e in FALSE])
def test_comparisons_are_loose_by_the_original_rules(expression: str, expected: bool) -> None:
    assert value(expression) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("true && 2", True),
        ("true && 0", False),
        ("0 || 'a'", True),
        ("0 || ''", False),
        ("!0", True),
        ("!!'x'", True),
        ("!$x.y", True),
        ("1 || 0 && 0", True),
        ("1 ? 2 : 3", 2),
        ("0 ? 2 : 0 ? 3 : 4", 4),
        ("1 > 0 ? 'a' .. 'b' : 'c'", "ab"),
        ("false && nobody(1 / 0)", False),
        ("true || 1 / 0", True),
    ],
)
def test_logic_looks_no_further_than_it_must(expression: str, expected: Any) -> None:
    assert exactly(value(expression), expected)


@pytest.mark.parametrize("expression", ["1 and 2", "1 or 2", "$a ?? 2"])
def test_operators_of_other_languages_do_not_parse(expression: str) -> None:
    with pytest.raises(Jx9SyntaxError):
        value(expression)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("if (0) { return 1; } elseif (0) { return 2; } else if (1) { return 3; } else { return 4; }", 3),
        ("if (0) return 1; else return 2;", 2),
        ("if (1) if (0) return 1; else return 2; return 3;", 2),
        ("if (1) {} else {} return 5;", 5),
        ("while ($i < 3) { $i++; } return $i;", 3),
        ("while (1) { if ($i++ == 4) break; } return $i;", 5),
        ("for ($i = 0; $i < 5; $i++) { if ($i % 2) continue; $r[] = $i; } return $r;", [0, 2, 4]),
        ("for ($i = 0, $j = 9; $i < $j; $i++, $j--); return $i;", 5),
        ("for (;;) { break; } return 1;", 1),
        ("foreach ([1, 2] as $v) { $s += $v; } return $s;", 3),
        ("foreach ({a: 1, b: 2} as $k, $v) { $r[] = $k .. $v; } return $r;", ["a1", "b2"]),
        ("foreach ([5, 6] as $k, $v) { $s += $k * $v; } return $s;", 6),
        ("foreach ($nobody as $v) { return 1; } return 2;", 2),
        ("foreach ($a as $v) { $a[] = $v; } return $a;", [1, 2, 1, 2]),
        ("foreach ([[1], [2]] as $l) { foreach ($l as $v) { if ($v == 2) return $v; } }", 2),
        ("switch (2) { case 1: return 1; case 2: $x = 2; case 3: return $x + 1; default: return 9; }", 3),
        ("switch (7) { case 1: return 1; default: $x = 4; break; case 2: return 2; } return $x;", 4),
        ("switch ('1') { case 1: return true; } return false;", True),
        ("foreach ([1, 2] as $v) { switch ($v) { case 1: continue; } $r[] = $v; } return $r;", [2]),
        ("{ $x = 1; } ; return $x;", 1),
        ("return;", None),
        ("$x = 1;", None),
        ("", None),
        ("return 1", 1),
        ("if (1) { return 1 }", 1),
        ("exit; return 1;", None),
        ("exit(); return 1;", None),
        ("die('over'); return 1;", None),
        ("function f() { exit; } f(); return 1;", None),
        ("// one\n# two\n/* three\n * four */ return /**/ 1; // five", 1),
        ("return 'a // b' .. \"# /* c */\";", "a // b# /* c */"),
    ],
)
def test_control_goes_where_the_statements_say(script: str, expected: Any) -> None:
    assert run(script, {"a": [1, 2]}) == expected


@pytest.mark.parametrize(
    "script", ["foreach ($a => $v) {}", "foreach ($a as $k => $v) {}", "do { } while (0);"]
)
def test_constructs_that_the_original_lacks_do_not_parse(script: str) -> None:
    with pytest.raises(Jx9SyntaxError):
        run(script, {})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "function f($a, $b = 2) { return [$a, $b, $c]; } return [f(1), f(1, 3), f()];",
            [[1, 2, None], [1, 3, None], [None, 2, None]],
        ),
        ("return f(); function f() { return 1; }", 1),
        ("$x = 1; function f() { return $x; } return f();", None),
        ("$x = 1; function f() { uplink $x; $x++; } f(); f(); return $x;", 3),
        ("function f() { uplink $new; $new = 4; } f(); return $new;", 4),
        ("function f() { static $n = 1; return $n++; } f(); f(); return f();", 3),
        ("function f($l) { $l[] = 1; return $l; } $a = []; f($a); return $a;", [1]),
        ("function f($n) { return $n < 2 ? 1 : $n * f($n - 1); } return f(10);", 3628800),
        ("$f = function($x) { return $x + 1; }; return $f(2);", 3),
        ("$o = {f: function() { return 5; }}; return $o.f();", 5),
        ("$f = 'strlen'; return $f('abc');", 3),
        ("function f() { return function() { return 6; }; } return f()();", 6),
        ("function f($a = [1] , $b = 1 + 1) { return $b; } return f();", 2),
        ("if (1) { function g() { return 8; } } return g();", 8),
        ("function count($a) { return 'mine'; } return count([]);", "mine"),
        ("function f() { } return f();", None),
    ],
)
def test_functions_see_their_parameters_and_what_they_uplink(script: str, expected: Any) -> None:
    assert run(script, {}) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('(int) "12abc"', 12),
        ("(int) 3.9", 3),
        ("(int) -3.9", -3),
        ("( int ) true", 1),
        ("(string) 1.50", "1.5"),
        ("(string) [1]", "[1]"),
        ('(bool) "0"', False),
        ("(bool) [0]", True),
        ('(float) "1.5e1" / 2', 7.5),
        ("(int) '7' + 1", 8),
        ("(float) '  -2.5x' + '1e1'", 7.5),
        ("strlen(string)", 6),
    ],
)
def test_casts_convert(expression: str, expected: Any) -> None:
    assert exactly(value(expression), expected)


def test_an_unknown_function_is_a_warning_and_null(caplog: pytest.LogCaptureFixture) -> None:
    assert value("cuont([1])") is None
    assert value("file_get_contents('/etc/passwd')") is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages[0] == "[jx9] unknown function \"cuont\" gives null; did you mean 'count'?"


def test_a_dotted_member_that_is_not_there_is_not_assigned_to_and_said_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("$a = {}; $a.b = 1;", {})
    assert caplog.messages == ['[jx9] no member "b" to assign to, ignored; ["b"] would add it']


def test_what_is_printed_goes_to_the_log_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run("print 'a', 1; print('b', JX9_EOL, \"c\\nd\"); print('e'); die('f'); print 'g';", {})
    assert caplog.messages == [f"[jx9] {text}" for text in ("a1", "b", "c", "d", "e", "f")]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("$a = 1;\n$b = ;", 'line 2 column 6: unexpected ";"'),
        ("foreach ($a\n  as 3) {}", 'line 2 column 6: unexpected "3"; expected a variable'),
        ("$a = [1", 'line 1 column 8: unexpected end; expected "," or "]"'),
        ("$a.;", 'line 1 column 4: unexpected ";"; expected a name'),
        ("if (1) {\n", "line 2 column 1: unexpected end"),
        ('\n $x = "abc', "line 2 column 7: string without an end"),
        ("$a = \x01;", 'line 1 column 6: unexpected character "\\u0001"'),
        ("$a = 99999999999999999999;", "line 1 column 6: integer beyond 64 bits"),
        ("$a = 1e999;", "line 1 column 6: number beyond the range of floats"),
        ("f() += 1;", 'line 1 column 5: "+=" needs a variable, or a part of one, to change'),
    ],
)
def test_a_syntax_error_says_where_and_what(script: str, message: str) -> None:
    with pytest.raises(Jx9SyntaxError) as caught:
        run(script, {})
    assert str(caught.value).startswith(message)


def test_a_condition_is_one_expression_taken_loosely() -> None:
    world = {"MPI_COMM_WORLD": {"rank": 1, "size": 4}}
    assert not holds("$MPI_COMM_WORLD.rank == 0", world)
    assert holds("$MPI_COMM_WORLD.rank % 2", world)
    assert holds(" 'yes' ", world)
    assert not holds("'false'", world)
    for text in ("1; 2", "return 1", "", "1;"):
        with pytest.raises(Jx9SyntaxError):
            holds(text, world)


def literal(value: Any) -> str:
    """Write a value of JSON as a script does."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return str(value).replace("None", "null").lower()
    return repr(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_a_value_survives_as_a_literal_as_a_variable_and_as_json(given_value: Any) -> None:
    assert run(f"return {literal(given_value)};", {}) == given_value
    assert run("return $v;", {"v": given_value}) == given_value
    assert run("return json_decode(json_encode($v));", {"v": given_value}) == given_value
    assert value("$v === $v && $v == $v && $v <= $v", v=given_value) is True


@given(json_values, json_values)
def test_loose_equality_is_symmetric_and_follows_strict_equality(left: Any, right: Any) -> None:
    variables = {"a": left, "b": right}
    assert value("($a == $b) === ($b == $a)", **variables)
    assert value("$a !== $b || $a == $b", **variables)
