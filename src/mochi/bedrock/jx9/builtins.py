"""The functions that every script has. None touches a file, the environment or the network.

A function gets the meter and the values of its arguments, and pays for what it makes. Those of `CHANGING` get the
value of the place that is their first argument, and return what that becomes, and their result. Strings are counted
in characters.
"""

import functools
import inspect
import math
import random
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.limits import Meter
from mochi.bedrock.jx9.operators import BINARY
from mochi.bedrock.jx9.values import (
    MAX_INT,
    Value,
    as_json,
    as_object,
    compare,
    integer,
    is_same,
    is_true,
    kind,
    number,
    text,
)

__all__ = ["CHANGING", "CONSTANTS", "PURE", "Builtin"]

CONSTANTS: Final = {"JX9_EOL": "\n"}

_CONVERSION = re.compile(r"%(?:%|([-+0 ]*)([0-9]{0,4})(?:\.([0-9]{1,2}))?([a-zA-Z]))")
_DATE_FORMS = {
    "d": "%d",
    "D": "%a",
    "j": "%-d",
    "l": "%A",
    "N": "%u",
    "w": "%w",
    "m": "%m",
    "M": "%b",
    "F": "%B",
    "n": "%-m",
    "Y": "%Y",
    "y": "%y",
    "a": "%P",
    "A": "%p",
    "g": "%-I",
    "G": "%-H",
    "h": "%I",
    "H": "%H",
    "i": "%M",
    "s": "%S",
    "T": "%Z",
    "O": "%z",
    "U": "%s",
}
_LONGEST_DATE_PART = 16
_CONVERSION_STEPS = 8
_LARGEST_RANDOM = 2**31 - 1
_DECODED_BYTES = 32
"""Most bytes that decoded JSON takes for a character of its text."""


class Builtin(NamedTuple):
    """A function, and how many arguments it takes."""

    function: Callable[..., Any]
    fewest: int
    most: float


def _builtin(function: Callable[..., Any]) -> Builtin:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    is_open = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return Builtin(function, len(required), math.inf if is_open else len(parameters))


def _array(value: Value, function: str) -> "list[Value] | dict[str, Value]":
    if isinstance(value, list | dict):
        return value
    raise Jx9Error(f"{function}: expected an array or object; found {kind(value)}")


def _entries(value: Value, function: str) -> Iterable[Value]:
    array = _array(value, function)
    return array.values() if isinstance(array, dict) else array


def _list(value: Value, function: str) -> list[Value]:
    if isinstance(value, list):
        return value
    raise Jx9Error(f"{function}: expected an array; found {kind(value)}")


def count(meter: Meter, value: Value) -> Value:
    """Number of entries; 1 for what is no array or object, 0 for null."""
    if isinstance(value, list | dict):
        return len(value)
    return int(value is not None)


def in_array(meter: Meter, needle: Value, array: Value, strict: Value = False) -> Value:
    """Whether an entry equals `needle`; strictly, on demand."""
    meter.weigh(array)
    meter.step(len(_array(array, "in_array")))
    is_equal = is_same if is_true(strict) else lambda left, right: compare(left, right) == 0
    return any(is_equal(needle, item) for item in _entries(array, "in_array"))


def array_key_exists(meter: Meter, key: Value, array: Value) -> Value:
    """Whether an object has a key, or an array an index."""
    found = _array(array, "array_key_exists")
    if isinstance(found, dict):
        return meter.text(key) in found
    return 0 <= integer(key) < len(found)


def array_merge(meter: Meter, *arrays: Value) -> Value:
    """Arrays one after the other; with an object among them, one object, of equal keys the last."""
    for array in arrays:
        meter.copy(_array(array, "array_merge"))
    if all(isinstance(array, list) for array in arrays):
        return [item for array in arrays for item in array]
    merged: dict[str, Value] = {}
    for array in arrays:
        merged.update(as_object(array))
    return merged


def array_values(meter: Meter, array: Value) -> Value:
    """Entries without their keys."""
    meter.copy(_array(array, "array_values"))
    return list(_entries(array, "array_values"))


def array_sum(meter: Meter, array: Value) -> Value:
    """Sum of the entries."""
    meter.step(len(_array(array, "array_sum")))
    return functools.reduce(BINARY["+"], _entries(array, "array_sum"), 0)


def empty(meter: Meter, value: Value) -> Value:
    """Whether a value does not hold as a condition."""
    return not is_true(value)


def _extreme(meter: Meter, name: str, sign: int, values: tuple[Value, ...]) -> Value:
    choice = list(_entries(values[0], name)) if len(values) == 1 else list(values)
    meter.weigh(choice)
    meter.step(len(choice))
    if not choice:
        return None
    return max(choice, key=functools.cmp_to_key(lambda left, right: sign * compare(left, right)))


def minimum(meter: Meter, *values: Value) -> Value:
    """Smallest of several values, or of the entries of one array; null of none."""
    return _extreme(meter, "min", -1, values)


def maximum(meter: Meter, *values: Value) -> Value:
    """Largest of several values, or of the entries of one array; null of none."""
    return _extreme(meter, "max", 1, values)


def round_half_up(meter: Meter, value: Value, digits: Value = 0) -> Value:
    """Nearest number with so many decimals, halves away from zero; an int where there are none."""
    places = integer(digits)
    if not 0 <= places <= 15:
        raise Jx9Error(f"round: expected 0 to 15 digits; found {places}")
    found = number(value)
    if isinstance(found, int):
        return found
    scaled = abs(found) * 10**places
    if scaled >= 2**53:
        return found
    rounded = math.copysign(math.floor(scaled + 0.5) / 10**places, found)
    return rounded if places else int(rounded)


def substr(meter: Meter, value: Value, start: Value, length: Value = None) -> Value:
    """Part of a string; negative numbers count from its end."""
    whole = meter.text(value)
    first = integer(start)
    begin = max(len(whole) + first, 0) if first < 0 else first
    size = len(whole) if length is None else integer(length)
    end = len(whole) + size if size < 0 else begin + size
    part = whole[begin : max(end, begin)]
    meter.take(len(part))
    return part


def strpos(meter: Meter, value: Value, part: Value, offset: Value = 0) -> Value:
    """Index of the first occurrence, or false."""
    whole, sought = meter.text(value), meter.text(part)
    meter.take(len(whole))
    index = whole.find(sought, max(integer(offset), 0))
    return False if index < 0 else index


def str_replace(meter: Meter, old: Value, new: Value, value: Value) -> Value:
    """String with each occurrence of `old` replaced."""
    sought, other, whole = meter.text(old), meter.text(new), meter.text(value)
    meter.take(len(whole))
    if not sought:
        return whole
    meter.take(whole.count(sought) * len(other))
    return whole.replace(sought, other)


def _changed(meter: Meter, value: Value, change: Callable[[str], str]) -> str:
    whole = meter.text(value)
    meter.take(2 * len(whole))
    return change(whole)


def trim(meter: Meter, value: Value, characters: Value = " \t\n\r\0\v") -> Value:
    """String without these characters at its ends."""
    whole, unwanted = meter.text(value), meter.text(characters)
    meter.take(len(whole) * len(unwanted))
    return whole.strip(unwanted)


def explode(meter: Meter, separator: Value, value: Value, most: Value = None) -> Value:
    """Parts of a string between separators; the last of `most` holds the rest."""
    mark, whole = meter.text(separator), meter.text(value)
    if not mark:
        raise Jx9Error("explode: expected a separator; found an empty string")
    meter.take(len(whole))
    meter.take(64 * (whole.count(mark) + 1))
    return whole.split(mark, -1 if most is None else max(integer(most), 1) - 1)


def implode(meter: Meter, separator: Value, array: Value) -> Value:
    """Entries as text, with a separator between them."""
    mark = meter.text(separator)
    meter.step(len(_array(array, "implode")))
    parts = []
    for item in _entries(array, "implode"):
        parts.append(meter.text(item))
        meter.take(len(parts[-1]) + len(mark))
    return mark.join(parts)


def sprintf(meter: Meter, form: Value, *values: Value) -> Value:
    """Text with values in the places of ``%s %d %u %f %e %g %x %X %o %b %c``, and ``%%``."""
    waiting = iter(values)

    def convert(match: re.Match[str]) -> str:
        flags, width, precision, letter = match.groups()
        if letter is None:
            return "%"
        try:
            value = next(waiting)
        except StopIteration:
            raise Jx9Error(f"sprintf: expected a value for {match[0]}; found none") from None
        meter.take(int(width or 0))
        shown = _converted(meter, letter, precision, value)
        if "+" in flags and letter in "dfeg" and not shown.startswith("-"):
            shown = "+" + shown
        if "-" in flags:
            return shown.ljust(int(width or 0))
        return shown.zfill(int(width or 0)) if "0" in flags else shown.rjust(int(width or 0))

    whole = meter.text(form)
    meter.take(len(whole))
    meter.step(_CONVERSION_STEPS * whole.count("%"))
    return _CONVERSION.sub(convert, whole)


def _converted(meter: Meter, letter: str, precision: str | None, value: Value) -> str:
    if letter == "s":
        shown = meter.text(value)
        meter.take(len(shown))
        return shown if precision is None else shown[: int(precision)]
    if letter in "feg":
        return format(float(number(value)), f".{precision or 6}{letter}")
    if letter in "du":
        return str(integer(value))
    if letter in "xXob":
        return format(integer(value) & 2**64 - 1, letter)
    if letter == "c" and 0 < (code := integer(value)) < 128:
        return chr(code)
    raise Jx9Error(f"sprintf: expected one of s d u f e g x X o b c; found {letter} for {text(value)[:40]}")


def json_encode(meter: Meter, value: Value) -> Value:
    """Compact JSON."""
    meter.take(meter.weigh(value))
    return as_json(value)


def json_decode(meter: Meter, value: Value) -> Value:
    """Value that JSON stands for, null for what is not JSON or holds numbers beyond 64 bits."""
    whole = meter.text(value)
    meter.take(_DECODED_BYTES * len(whole))
    try:
        decoded = msgspec.json.decode(whole)
    except msgspec.DecodeError:
        return None
    return decoded if _fits(decoded) else None


def _fits(value: Value) -> bool:
    if isinstance(value, list | dict):
        return all(map(_fits, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -MAX_INT - 1 <= value <= MAX_INT


def date(meter: Meter, form: Value, seconds: Value = None) -> Value:
    """Local time in a form such as ``"Y-m-d H:i:s"``; now, or so many seconds after 1970 began."""
    whole = meter.text(form)
    meter.take(_LONGEST_DATE_PART * len(whole))
    meter.step(_CONVERSION_STEPS * len(whole))
    try:
        moment = time.localtime(None if seconds is None else integer(seconds))
    except (OverflowError, OSError, ValueError):
        raise Jx9Error(f"date: expected seconds since 1970; found {text(seconds)}") from None
    return "".join(time.strftime(_DATE_FORMS[c], moment) if c in _DATE_FORMS else c for c in whole)


def rand(meter: Meter, least: Value = 0, most: Value = _LARGEST_RANDOM) -> Value:
    """Random integer, the bounds included."""
    low, high = integer(least), integer(most)
    if low > high:
        raise Jx9Error(f"rand: expected bounds in their order; found {low} and {high}")
    return random.randint(low, high)


def array_push(meter: Meter, array: Value, *values: Value) -> tuple[Value, Value]:
    """Append; the result is the new length."""
    items = _list(array, "array_push")
    meter.copy(items)
    return [*items, *values], len(items) + len(values)


def array_pop(meter: Meter, array: Value) -> tuple[Value, Value]:
    """Take away the last entry, which is the result; null if there is none."""
    items = _list(array, "array_pop")
    meter.copy(items)
    return items[:-1], items[-1] if items else None


def sort(meter: Meter, array: Value) -> tuple[Value, Value]:
    """Sort the entries, without their keys."""
    items = list(_entries(array, "sort"))
    rounds = len(items).bit_length()
    meter.step(rounds * len(items))
    meter.take(rounds * meter.weigh(items))
    return sorted(items, key=functools.cmp_to_key(compare)), True


_PURE: dict[str, Callable[..., Value]] = {
    "array_key_exists": array_key_exists,
    "array_merge": array_merge,
    "array_sum": array_sum,
    "array_values": array_values,
    "count": count,
    "date": date,
    "empty": empty,
    "explode": explode,
    "floatval": lambda meter, value: float(number(value)),
    "gettype": lambda meter, value: kind(value),
    "implode": implode,
    "in_array": in_array,
    "intval": lambda meter, value: integer(value),
    "is_array": lambda meter, value: isinstance(value, list | dict),
    "is_int": lambda meter, value: kind(value) == "int",
    "is_null": lambda meter, value: value is None,
    "is_object": lambda meter, value: isinstance(value, dict),
    "is_string": lambda meter, value: isinstance(value, str),
    "json_decode": json_decode,
    "json_encode": json_encode,
    "max": maximum,
    "min": minimum,
    "rand": rand,
    "round": round_half_up,
    "sizeof": count,
    "sprintf": sprintf,
    "str_replace": str_replace,
    "strlen": lambda meter, value: len(meter.text(value)),
    "strpos": strpos,
    "strtolower": lambda meter, value: _changed(meter, value, str.lower),
    "strtoupper": lambda meter, value: _changed(meter, value, str.upper),
    "strval": lambda meter, value: meter.text(value),
    "substr": substr,
    "time": lambda meter: int(time.time()),
    "trim": trim,
}
PURE: Final = {name: _builtin(function) for name, function in _PURE.items()}
CHANGING: Final = {function.__name__: _builtin(function) for function in (array_pop, array_push, sort)}
