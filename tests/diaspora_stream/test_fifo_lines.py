"""Commands and lines of FIFOs, as functions of what was written."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.ctl import fifo_lines
from diaspora_stream.ctl.fifo_lines import BadCommand, Command, Lines, as_line, as_metadata, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("in -> t", Command("in", True, "t", "raw", 128)),
        ("  /a b/in ->  t  ", Command("/a b/in", True, "t", "raw", 128)),
        ("out <- t (format=json)", Command("out", False, "t", "json", 128)),
        ("out <- t(format = json , batch_size=5)", Command("out", False, "t", "json", 5)),
        ("in -> t ()", Command("in", True, "t", "raw", 128)),
        ("a <- b -> c", Command("a <- b", True, "c", "raw", 128)),
    ],
)
def test_commands_are_understood(line: str, expected: Command) -> None:
    assert parse(line) == (expected, [])


@pytest.mark.parametrize("line", ["", "word", "in->t", " -> t", "in -> ", "in -> t (", "in -> (format=raw)"])
def test_other_lines_are_no_commands(line: str) -> None:
    with pytest.raises(BadCommand):
        parse(line)


@pytest.mark.parametrize(
    "inside", ["format=xml", "batch_size=x", "batch_size=0", "batch_size=-1", "word", "odd=1", "Format=json"]
)
def test_keys_that_have_no_effect_are_named(inside: str) -> None:
    command, warnings = parse(f"in -> t ({inside})")
    assert command == Command("in", True, "t", "raw", 128)
    assert len(warnings) == 1


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_the_bytes_come(text: bytes, cuts: list[int]) -> None:
    lines = Lines()
    bounds = [0, *sorted(cuts), len(text)]
    found = [line for a, b in pairwise(bounds) for line in lines.feed(text[a:b])]
    assert found + lines.end() == [line for line in text.split(b"\n") if line]
    assert lines.end() == []


def test_a_line_that_is_too_long_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifo_lines, "MAX_LINE", 10)
    lines = Lines()
    found = [
        line for part in (b"short\n", b"x" * 8, b"y" * 8, b"z\nlast", b"\n") for line in lines.feed(part)
    ]
    assert found == [b"short", b"last"]
    assert lines.too_long == 1


@given(st.text())
def test_text_goes_in_and_comes_out_as_it_is(text: str) -> None:
    metadata = json.loads(as_metadata(text.encode(), "raw"))
    assert metadata == text
    assert as_line(metadata, "raw") == text.encode() + b"\n"
    assert json.loads(as_line(metadata, "json")) == text


def test_json_goes_in_verbatim_and_comes_out_compact() -> None:
    assert as_metadata(b'{"b": 1}', "json") == b'{"b": 1}'
    assert as_line({"b": 1, "a": "x"}, "raw") == b'{"a":"x","b":1}\n'
