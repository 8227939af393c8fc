"""Whatever a script says, it ends soon, takes little, and fails with a `Jx9Error` if at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.bedrock.jx9 import limits, parser
from mochi.bedrock.jx9.errors import Jx9Error, Jx9LimitError
from mochi.bedrock.jx9.interpreter import holds, run
from mochi.bedrock.jx9.limits import LOCAL, QUERY, Limits

SMALL = Limits(length=1000, steps=2000, depth=10, memory=20_000)

ENDLESS = [
    "while (1) {}",
    "while (true);",
    "for (;;);",
    "for (;;) { continue; }",
    "while (1) { $a[] = 1; }",
    "while (1) { $a['k' .. $i++] = 1; }",
    "while (1) { $a = [$a]; }",
    "while (1) { sort($l); }",
    "while (1) { in_array(0, $l); }",
    "while (1) { $l == $l; }",
    "while (1) { print 'a'; }",
    "while (1) { nobody(); }",
    "while (1) { array_merge($l, $l); }",
    "while (1) { array_sum($l); }",
]
GROWING = [
    "$s = 'x'; while (1) { $s = $s .. $s; }",
    "$s = 'x'; while (1) { $s = \"$s$s\"; }",
    "$s = 'xx'; while (1) { $s = str_replace('x', $s, $s); }",
    "$s = 'xx'; while (1) { $s = implode($s, [$s, $s, $s]); }",
    "$s = 'xx'; while (1) { $s = sprintf('%s%s', $s, $s); }",
    "while (1) { sprintf('%9999d', 1); }",
    "$s = ',,,,'; while (1) { $s = $s .. $s; $a = explode(',', $s); }",
    "$a = [1]; while (1) { $a = array_merge($a, $a); }",
    "$s = '[]'; while (1) { $s = '[' .. $s .. ',' .. $s .. ']'; json_decode($s); }",
    "$s = 'x'; while (1) { $s = trim(strtoupper($s .. $s), 'y'); }",
]
SHARING = "$a = [1, 'x']; for ($i = 0; $i < 64; $i++) { $a = [$a, $a]; }"
EXPONENTIAL = [
    f"{SHARING} return $a;",
    f"{SHARING} return $a == $a;",
    f"{SHARING} return [$a] === [$a];",
    f"{SHARING} return '' .. $a;",
    f"{SHARING} return json_encode($a);",
    f"{SHARING} return in_array($a, [$a, $a]);",
    f"{SHARING} return max([$a, $a]);",
    f"{SHARING} $b = [$a, $a]; sort($b);",
    f"{SHARING} return implode($a, [$a]);",
    f"{SHARING} switch ($a) {{ case $a: }}",
    f"{SHARING} return strlen($a);",
    f"{SHARING} $b[$a] = 1;",
    "$a = [1]; $a[0] = $a; return $a;",
    "$a = [1]; $a[] = $a; $a[] = $a; return $a == $a;",
    "$a = {}; $a['b'] = $a; return '' .. $a;",
    "$a = [1]; $a[0] = $a; $b = [1]; $b[0] = $b; return $a === $b;",
    "$a = [1]; $a[] = $a; sort($a);",
]


@pytest.mark.parametrize("script", ENDLESS)
def test_an_endless_script_ends_at_the_bound_on_steps(script: str) -> None:
    with pytest.raises(Jx9LimitError, match="did not end within 20000 steps"):
        run(script, {"l": list(range(50))}, Limits(length=1000, steps=20_000, depth=10, memory=1 << 30))


@pytest.mark.parametrize("script", GROWING)
def test_a_growing_script_ends_at_the_bound_on_memory(script: str) -> None:
    with pytest.raises(Jx9LimitError, match="more than 100000 bytes"):
        run(script, {}, Limits(length=1000, steps=1_000_000, depth=10, memory=100_000))


@pytest.mark.parametrize("script", EXPONENTIAL)
def test_a_value_that_shares_its_parts_is_paid_for_in_full(script: str) -> None:
    with pytest.raises((Jx9LimitError, Jx9Error)) as caught:
        run(script, {})
    assert isinstance(caught.value, Jx9LimitError) or "for a key" in caught.value.problem


def test_calls_inside_each_other_are_bounded() -> None:
    script = "function f($n) { if ($n > 0) { foreach ([1] as $x) { return 1 + f($n - 1); } } return 0; } return f($n);"
    assert run(script, {"n": QUERY.depth - 1}) == QUERY.depth - 1
    with pytest.raises(Jx9LimitError, match="line 1: more than 32 calls inside each other"):
        run(script, {"n": QUERY.depth})
    with pytest.raises(Jx9LimitError, match="more than 32 calls"):
        run("$f = function($f) { return $f($f); }; $f($f);", {})


@pytest.mark.parametrize(
    "script",
    [
        "return " + "!" * 3000 + "1",
        "return " + "1+" * 2000 + "1",
        "return " + "[" * 2000 + "]" * 2000,
        "return $a" + "[0]" * 2000,
        "$a" + "[0]" * 2000 + " = 1; return $a;",
        "return " + "0 ? 1 : " * 900 + "1",
        "{" * 2000 + "}" * 2000,
        "for ($i = 0; $i < 5000; $i++) { $a = [$a]; } return $a;",
        "for ($i = 0; $i < 5000; $i++) { $a = [$a]; } return $a == [$a];",
    ],
)
def test_what_is_nested_too_deeply_is_refused(script: str) -> None:
    with pytest.raises(Jx9LimitError, match="nested too deeply"):
        run(script, {})


def test_parentheses_may_be_as_deep_as_they_like() -> None:
    assert run("return " + "(" * 3000 + "1" + ")" * 3000, {}) == 1


def test_the_length_of_a_script_is_bounded() -> None:
    for refused in (run, holds):
        with pytest.raises(Jx9LimitError, match="at most 8192 characters; found 8193"):
            refused("1" + " " * QUERY.length, {})
    assert run("return 1" + " " * QUERY.length, {}, LOCAL) == 1


def test_a_local_script_may_do_much_more_than_a_query() -> None:
    script = "for ($i = 0; $i < 20000; $i++) { $n += $i; } return $n;"
    with pytest.raises(Jx9LimitError):
        run(script, {}, QUERY)
    assert run(script, {}, LOCAL) == sum(range(20_000))


def test_a_query_over_a_large_configuration_is_within_its_limits() -> None:
    providers = [
        {
            "name": f"p{index}",
            "type": "mofka",
            "tags": ["mofka:partition"],
            "provider_id": index,
            "config": {},
        }
        for index in range(1000)
    ]
    script = """
        $r = [];
        foreach ($c.providers as $p) { if (in_array("mofka:partition", $p.tags)) { array_push($r, $p); } }
        return $r;
    """
    assert run(script, {"c": {"providers": providers}}) == providers


def attempt(script: str) -> None:
    for function in (run, holds):
        try:
            function(script, {"c": {"a": [1, "b"]}}, SMALL)
        except Jx9Error as error:
            message = str(error)
        else:
            continue
        assert "\n" not in message


@given(st.text(st.characters() | st.characters(categories=["Cs"]), max_size=60))
def test_arbitrary_text_gives_a_value_or_an_error_of_jx9(script: str) -> None:
    attempt(script)


LANGUAGE = """
$a $b $c.a[0] $c 1 0 2.5 "x$a" 'y' word null true [ ] { } ( ) , ; : ? . .. = += -= *= /= %= == != === < <= > >=
<< >> + - * / % & | ^ ~ ! && || ++ -- (int) (string) (bool) (float) if else elseif while for foreach as switch
case default break continue return function f static const uplink exit print count( array_push( sort(
json_decode( sprintf( implode( [] ;
"""
OPERATORS = "+ - * / % & | ^ << >> .. == != === !== < <= > >= && ||"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LANGUAGE.split()), max_size=25))
def test_arbitrary_words_of_the_language_give_a_value_or_an_error_of_jx9(words: list[str]) -> None:
    attempt(" ".join(words))


operands = st.sampled_from(
    ["$a", "$c", "$c.a", "$n[0]", "1", "-1", "0", "2.5", "1e300", '"$a"', "'7x'", "null", "[]", "{a: 1}", "f"]
)
operators = st.sampled_from(OPERATORS.split())
expressions = st.recursive(
    operands,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds(
            "{}{}".format, st.sampled_from(["!", "- ", "~", "(int)", "(string)", "(bool)", "(float)"]), inner
        ),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("($a = {})".format, inner),
        st.builds("($a[{}] = {})".format, inner, inner),
        st.builds("count({})".format, inner),
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_any_expression_gives_a_value_or_an_error_of_jx9(expression: str) -> None:
    attempt(expression)
    attempt(f"return {expression};")


def test_a_script_pauses_while_it_is_read_and_while_it_runs() -> None:
    pauses: list[None] = []

    def pause() -> None:
        pauses.append(None)

    run("$a = 1;" * (10 * parser.SLICE), {}, pause=pause)
    read = len(pauses)
    assert read >= 40
    pauses.clear()
    with pytest.raises(Jx9LimitError):
        run("while (true) { $a = 1; }", {}, pause=pause)
    assert QUERY.steps // limits.SLICE - 2 <= len(pauses) <= QUERY.steps // limits.SLICE


def test_a_script_that_pauses_means_what_it_means_without() -> None:
    for script in ("$a = {x: [1, 2]}; return $a;", "return 1 +;", "$s = 'x", ""):
        outcomes = []
        for pause in (None, lambda: None):
            try:
                outcomes.append(run(script, {}, pause=pause))
            except Jx9Error as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
