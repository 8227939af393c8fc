"""Python values as JSON: what an application may pass as metadata or options, and how it is written.

Invariants: text is compact UTF-8, and keys are in byte order. NaN and the infinities are null, bytes are base64
text, a tuple is an array. A dict key that is no str is `str(key)`. What `encode` writes, `from_text` reads, however
deep the stack of the one who reads is already.

msgspec does the work. Where it refuses, `write_slowly` and `read_slowly` do it again in Python, without recursion:
they tell where and why, or succeed where only the stack was too small.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from diaspora_stream.errors import InvalidJson, InvalidMetadata

MAX_NESTING: Final = 1000
"""Levels of arrays and objects in each other that `encode` writes at least from any stack."""


def _to_builtin(value: Any) -> Any:
    """Reduce a value that msgspec does not know to one that it does; TypeError if there is none."""
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return memoryview(value)
    if getattr(value, "ndim", None) == 0:  # a scalar of NumPy and its kin
        if value.dtype.kind in "mM":
            return str(value)
        plain = value.item()
        return float(value) if type(plain) is type(value) else plain
    if callable(getattr(value, "isoformat", None)):
        return value.isoformat()
    raise TypeError


encode_fast: Final = msgspec.json.Encoder(enc_hook=_to_builtin, order="sorted").encode
"""The bare encoder: `encode` for values whose dict keys are all str, with errors that name no place."""

_decode: Final = msgspec.json.Decoder().decode

_MARK: Final = "\ufeff".encode()
"""A byte-order mark in UTF-8, as editors on other systems write it."""


class _Level(NamedTuple):
    """An array or object that is being written."""

    value: Any
    items: Iterator[tuple[str, Any]]
    end: bytes


def _level(value: Any) -> _Level:
    if isinstance(value, dict):
        named = {str(key): item for key, item in value.items()}
        return _Level(value, iter(sorted(named.items(), key=lambda pair: pair[0])), b"}")
    return _Level(value, ((str(index), item) for index, item in enumerate(value)), b"]")


def write_slowly(value: Any, *, is_finite: bool = False) -> bytes:
    """Return a value as JSON text, or tell what in it is refused, and where."""
    text = bytearray()
    levels = [_Level(None, iter([("", value)]), b"")]
    steps: list[str] = []
    inside: set[int] = set()

    def path() -> str:
        whole = "".join(f"/{step}" for step in steps[1:])
        return repr(whole if len(whole) <= 200 else f"{whole[:100]}...{whole[-97:]}")

    while levels:
        level = levels[-1]
        for step, item in level.items:
            steps[len(levels) - 1 :] = [step]
            try:
                if level.end == b"}":
                    text += encode_fast(step) + b":"
                if not isinstance(item, dict | list | tuple):
                    leaf = encode_fast(item)
                    if is_finite and leaf == b"null" and item is not None:
                        raise InvalidMetadata(f"{item} at {path()} is not finite, and has no JSON form")
                    text += leaf + b","
                    continue
            except TypeError:
                kind = f"{type(item).__module__}.{type(item).__qualname__}"
                raise TypeError(
                    f"{kind} at {path()} has no JSON form; use None, bool, int, float, str, bytes, list, tuple or "
                    "dict of these, a scalar of NumPy, or what has an isoformat()"
                ) from None
            except UnicodeEncodeError as error:
                raise InvalidMetadata(f"text that is not Unicode at {path()}: {error.reason}") from None
            except ValueError as error:
                raise InvalidMetadata(f"an integer that cannot be stored at {path()}: {error}") from None
            except RecursionError:
                raise InvalidMetadata(f"nested too deeply at {path()}") from None
            if id(item) in inside:
                raise InvalidMetadata(f"a value that contains itself at {path()}")
            if len(levels) > MAX_NESTING:
                raise InvalidMetadata(f"nested too deeply at {path()}: {MAX_NESTING} levels at most")
            text += b"{" if isinstance(item, dict) else b"["
            inside.add(id(item))
            levels.append(_level(item))
            break
        else:
            if text.endswith(b","):
                del text[-1:]
            text += level.end + b","
            inside.discard(id(level.value))
            levels.pop()
    return bytes(text[:-1])


def encode(value: Any, *, is_finite: bool = False) -> bytes:
    """Return a value as compact JSON text with sorted keys.

    Costs one Python call more than the bare encoder as long as every dict key is a str; otherwise the value
    is walked in Python.

    Parameters
    ----------
    value
        None, bool, int, float, str, bytes, or a list, tuple or dict of these, subclasses included. An int of
        any size is written exactly; a reader in another language may see a float beyond 64 bits. A scalar of
        NumPy is what its ``item()`` is; what has an ``isoformat()``, such as a datetime, is that text.
    is_finite : bool
        Whether NaN and the infinities are refused, rather than written as null.

    Raises
    ------
    TypeError
        For a value of another type, such as an array; says which, and where.
    InvalidMetadata
        For text that is not Unicode (a lone surrogate), an integer of thousands of digits, a value that contains
        itself, or is nested too deeply; says where.
    """
    try:
        text = encode_fast(value)
    except (TypeError, ValueError, RecursionError):
        return write_slowly(value, is_finite=is_finite)
    if len(text) > 2 * MAX_NESTING and _is_too_deep(
        text
    ):  # how deep the fast encoder goes depends on the interpreter
        return write_slowly(value)
    return write_slowly(value, is_finite=True) if is_finite and b"null" in text else text


def _is_too_deep(text: bytes) -> bool:
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return False
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match[0], 0)
        if depth > MAX_NESTING:
            return True
    return False


_BRACKET: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

_TOKEN: Final = re.compile(
    rb'[ \t\n\r]*([\[\]{},:]|"[^"\\]*(?:\\.[^"\\]*)*"|[^ \t\n\r\[\]{},:"]+)', re.DOTALL
)

_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY, _COLON, _NEXT = range(6)
"""What may come next in JSON text; `_FIRST_...`: or the end of the array or object, `_NEXT`: a comma, or that end."""


def read_slowly(text: bytes) -> Any:
    """Return the value of JSON text, or tell what is wrong with it, and where."""
    whole: list[Any] = []
    holders: list[Any] = [whole]
    keys: list[str] = []
    state, end = _VALUE, 0
    while state != _NEXT or len(holders) > 1:
        found = _TOKEN.match(text, end)
        if found is None:
            raise InvalidJson("Input data was truncated", len(text))
        token, start, end = found[1], found.start(1), found.end()
        holder = holders[-1]
        if state in (_VALUE, _FIRST_VALUE) and token not in b"]},:":
            value: Any = {} if token == b"{" else [] if token == b"[" else _scalar(token, start)
            if isinstance(holder, dict):
                holder[keys.pop()] = value
            else:
                holder.append(value)
            state = _NEXT
            if token in b"[{":
                holders.append(value)
                state = _FIRST_KEY if token == b"{" else _FIRST_VALUE
        elif state in (_KEY, _FIRST_KEY) and token.startswith(b'"'):
            keys.append(_scalar(token, start))
            state = _COLON
        elif state == _COLON and token == b":":
            state = _VALUE
        elif state == _NEXT and token == b",":
            state = _KEY if isinstance(holder, dict) else _VALUE
        elif state in (_NEXT, _FIRST_VALUE, _FIRST_KEY) and token == (
            b"}" if isinstance(holder, dict) else b"]"
        ):
            holders.pop()
            state = _NEXT
        else:
            raise InvalidJson("invalid character", start)
    if rest := text[end:].lstrip(b" \t\n\r"):
        raise InvalidJson("trailing characters", len(text) - len(rest) + 1)  # counted as the fast reader does
    return whole[0]


def _scalar(token: bytes, start: int) -> Any:
    try:
        return _decode(token)
    except msgspec.ValidationError:
        raise InvalidJson("a number out of range", start) from None
    except msgspec.DecodeError:
        problem = (
            "a lone surrogate in a text, or an invalid escape" if token.startswith(b'"') else "invalid value"
        )
        raise InvalidJson(problem, start) from None


def from_text(text: str | bytes | bytearray | memoryview) -> Any:
    """Return the value of JSON text; where a key is repeated, the last one counts. A byte-order mark is passed over.

    Raises
    ------
    InvalidJson
        For text that is not JSON, or not UTF-8; carries the position.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        mark = "\ufeff" if isinstance(text, str) else _MARK
        if text[: len(mark)] == mark:
            return from_text(text[len(mark) :])
        found = re.fullmatch(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", str(error))
        if found:
            raise InvalidJson(found[1], int(found[2])) from None
    except (UnicodeError, RecursionError):
        pass
    try:
        return read_slowly((text if isinstance(text, str) else str(text, "utf-8")).encode())
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InvalidJson(f"not Unicode: {error.reason}", error.start) from None


decode = from_text
