"""The languages of configurations: JSON, TOML and Jx9, and the one line that says what is wrong with a text."""

from typing import Any

import pytest

from mochi.bedrock.config import parse
from mochi.bedrock.sources import from_json, from_jx9, from_toml
from mochi.bedrock.spec import World
from mochi.margo.errors import ConfigError

TOML = b"""
libraries = ["libyokan-bedrock-module.so"]
margo.rpc_thread_count = 2

[margo.mercury]
address = "na+sm"

[[providers]]
name = "db"
type = "yokan"
tags = ["mofka:master"]
__if__ = "$MPI_COMM_WORLD.rank == 0"
[providers.config.database]
type = "map"
"""
JX9 = b"return {libraries: [$lib], margo: {rpc_thread_count: 6 / 3}, rank: $MPI_COMM_WORLD.rank};"


def jx9(text: bytes, source: str) -> Any:
    return from_jx9(text, source, {})


def test_toml_is_the_same_configuration_as_json() -> None:
    config = parse(from_toml(TOML, "c.toml"))
    assert config.address == "na+sm"
    assert config.margo.rpc_pool == "__pool_1__"
    assert config.providers[0].config == {"database": {"type": "map"}}
    assert parse(from_toml(TOML, "c.toml"), World(1, 2, ["a", "b"])).providers == ()


def test_a_script_sees_its_context_and_the_processes() -> None:
    expected = {"libraries": ["x"], "margo": {"rpc_thread_count": 2}, "rank": None}
    assert from_jx9(JX9, "c.jx9", {"lib": "x"}) == expected
    assert from_jx9(JX9, "c.jx9", {"lib": "x"}, World(1, 2, ["a", "b"])) == expected | {"rank": 1}


@pytest.mark.parametrize(
    ("decode", "text", "words"),
    [
        (from_json, b'{"margo": {},\n]', "line 2 column 1"),
        (from_json, b"", "line 1 column 1"),
        (from_json, b'{"margo": NaN}', "NaN is not a JSON value"),
        (from_json, b"\xff", "not JSON"),
        (from_json, b"{ // one server\n}", "remarks are for scripts (--jx9) and TOML (--toml)"),
        (from_json, b'{"a":' * 100_000, "nested too deeply"),
        (from_toml, b"a = \n", "not TOML: "),
        (from_toml, b"a = \xff", "not UTF-8, at byte 4"),
        (
            from_toml,
            b"[a]\nb = [1, 2020-01-01]",
            "a.b[1]: expected no date; found 2020-01-01, which needs quotes",
        ),
        (from_toml, b"a = 12:00:00", "a: expected no date; found 12:00:00"),
        (from_toml, b"a.b = 1979-05-27T07:32:00Z", "a.b: expected no date"),
        (from_toml, b"a = [nan]", "a[0]: expected a finite number; found nan"),
        (from_toml, b"a = " + b"[" * 100_000, "nested too deeply"),
        (jx9, b"return {", "line 1 column 9: unexpected end"),
        (jx9, b"\n\nreturn 1 / 0;", "line 3: division by zero"),
        (jx9, b"\xff", "not UTF-8, at byte 0"),
        (jx9, b"return function() {};", "no form in JSON"),
    ],
)
def test_a_text_that_is_none_is_refused_with_its_place(decode: Any, text: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text, "the file")
    assert caught.value.where == "the file"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
