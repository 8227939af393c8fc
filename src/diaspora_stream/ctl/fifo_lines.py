"""What is written into FIFOs, as plain functions: the commands of the control file, lines, and events as lines.

A command is ``<fifo> -> <topic> (key=value, ...)`` for a producer, ``<fifo> <- <topic> (key=value, ...)`` for a
consumer.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from diaspora_stream.errors import DiasporaError
from diaspora_stream.json_value import encode

GRAMMAR: Final = """\
lines of the control file:
  <fifo> -> <topic> (key=value, ...)   each line of the FIFO becomes an event of the topic
  <fifo> <- <topic> (key=value, ...)   each event of the topic becomes a line of the FIFO
keys, all optional:
  format=raw        a line is text (the default)
  format=json       a line is JSON
  batch_size=128    events a batch"""

MAX_LINE: Final = 16 << 20
"""Bytes of a line at most."""

_FORMATS: Final = ("raw", "json")
_BATCH_SIZE: Final = 128


class BadCommand(DiasporaError):
    """A line of the control file that is no command."""


class Command(NamedTuple):
    """What a line of the control file asks for."""

    fifo: str
    is_producer: bool
    topic: str
    format: str
    batch_size: int

    def __str__(self) -> str:
        arrow = "->" if self.is_producer else "<-"
        return f"{self.fifo} {arrow} {self.topic} (format={self.format}, batch_size={self.batch_size})"


def parse(line: str) -> tuple[Command, list[str]]:
    """Return the command of a line, and warnings about what of it has no effect.

    Raises
    ------
    BadCommand
        There is no arrow with a blank on both sides, a name is missing, or the parenthesis is not closed.
    """
    for arrow in (" -> ", " <- "):
        fifo, found, rest = f"{line} ".partition(arrow)
        if found:
            break
    else:
        raise BadCommand("no ' -> ' or ' <- ' between a FIFO and a topic")
    topic, parenthesis, inside = rest.strip().partition("(")
    if parenthesis and not inside.endswith(")"):
        raise BadCommand("the parenthesis is not closed")
    fifo, topic = fifo.strip(), topic.strip()
    if not fifo or not topic:
        raise BadCommand(f"the name of the {'topic' if fifo else 'FIFO'} is missing")
    values, warnings = _pairs(inside.removesuffix(")"))
    form, size = values.get("format", "raw"), values.get("batch_size", str(_BATCH_SIZE))
    if form not in _FORMATS:
        warnings.append(f"format {form!r} is unknown, known are raw and json; raw is used")
        form = "raw"
    if not size.isdecimal() or not 0 < int(size) < 2**63:
        warnings.append(f"batch_size {size!r} is no number from 1; {_BATCH_SIZE} is used")
        size = str(_BATCH_SIZE)
    return Command(fifo, arrow == " -> ", topic, form, int(size)), warnings


def _pairs(text: str) -> tuple[Mapping[str, str], list[str]]:
    values: dict[str, str] = {}
    warnings = []
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if equals and key in ("format", "batch_size"):
            values[key] = value
        elif equals:
            warnings.append(f"key {key!r} is unknown, known are format and batch_size")
        elif key:
            warnings.append(f"{key!r} has no '=', and is skipped")
    return values, warnings


class Lines:
    """Cuts bytes into lines as they come; empty lines are left out, and those beyond `MAX_LINE`, which are counted."""

    def __init__(self) -> None:
        self.too_long = 0
        self._rest = bytearray()
        self._skips = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        first, *others = chunk.split(b"\n")
        self._keep(first)
        lines = [self._whole(), *others[:-1]]
        self._keep(others[-1])
        return [line for line in lines if line]

    def end(self) -> list[bytes]:
        """Return the last line if no newline came after it."""
        line = self._whole()
        return [line] if line else []

    def _keep(self, part: bytes) -> None:
        if len(self._rest) + len(part) > MAX_LINE:
            self.too_long += not self._skips
            self._skips = True
        if self._skips:
            self._rest = bytearray()
        else:
            self._rest += part

    def _whole(self) -> bytes:
        line = bytes(self._rest)
        self._rest = bytearray()
        self._skips = False
        return line


def as_metadata(line: bytes, form: str) -> bytes:
    """Return a line as the JSON text that is to be pushed; bytes that are not UTF-8 are written as ``\\xff``."""
    return line if form == "json" else encode(line.decode(errors="backslashreplace"))


def as_line(metadata: Any, form: str) -> bytes:
    """Return an event's metadata as a line."""
    is_bare = form == "raw" and isinstance(metadata, str)
    return (metadata.encode() if is_bare else encode(metadata)) + b"\n"
