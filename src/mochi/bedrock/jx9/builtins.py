"""The functions that every script has. None touches a file, the environment or the network.

A function gets the meter and the values of its arguments, and pays for what it makes. An array that it changes is
changed for all that share it. Strings are counted in characters.
"""

import functools
import inspect
import itertools
import math
import random
import re
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.limits import Meter
from mochi.bedrock.jx9.operators import BINARY
from mochi.bedrock.jx9.values import (
    MAX_INT,
    Array,
    Value,
    as_json,
    compare,
    integer,
    is_same,
    is_true,
    kind,
    number,
    shared,
    text,
)

__all__ = ["BUILTINS", "CONSTANTS", "Builtin"]

CONSTANTS: Final = {"JX9_EOL": "\n", "STR_PAD_LEFT": 0, "STR_PAD_RIGHT": 1, "STR_PAD_BOTH": 2}

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
_NUMERIC = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*")
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


def _array(value: Value, function: str) -> Array:
    if isinstance(value, Array):
        return value
    raise Jx9Error(f"{function}: expected an array or object; found {kind(value)}")


def _entries(value: Value, function: str) -> list[Value]:
    return _array(value, function).values()


def count(meter: Meter, value: Value) -> Value:
    """Number of entries; 1 for what is no array or object, 0 for null."""
    if isinstance(value, Array):
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
    return found.has(meter.text(key) if found.is_object else integer(key))


def array_merge(meter: Meter, *arrays: Value) -> Value:
    """Arrays one after the other; with an object among them, one object, of equal keys the last."""
    for array in arrays:
        meter.copy(_array(array, "array_merge"))
    if not any(array.is_object for array in arrays):
        return Array([item for array in arrays for item in array.entries])
    merged: dict[str, Value] = {}
    for array in arrays:
        merged.update(array.named())
    return Array(merged)


def array_values(meter: Meter, array: Value) -> Value:
    """Entries without their keys."""
    meter.copy(_array(array, "array_values"))
    return Array(_entries(array, "array_values"))


def array_copy(meter: Meter, value: Value) -> Value:
    """Array or object of its own with the same entries, which are shared; anything else as an array of it."""
    if not isinstance(value, Array):
        return Array([value])
    meter.copy(value)
    return Array(value.named() | {} if value.is_object else value.values())


def _chosen(meter: Meter, name: str, is_wanted: bool, first: Value, others: tuple[Value, ...]) -> Value:
    """Return entries of an array that are in all others, or in none of them."""
    rest = [_entries(other, name) for other in others]
    meter.weigh(first)
    for other in others:
        meter.weigh(other)
        meter.step(len(_array(first, name)) * len(other))

    def is_in(item: Value, entries: list[Value]) -> bool:
        return any(compare(item, other) == 0 for other in entries)

    return Array([item for item in _entries(first, name) if all(is_in(item, e) is is_wanted for e in rest)])


def array_diff(meter: Meter, array: Value, *others: Value) -> Value:
    """Entries of an array that equal none of the others', without their keys."""
    return _chosen(meter, "array_diff", False, array, others)


def array_intersect(meter: Meter, array: Value, *others: Value) -> Value:
    """Entries of an array that equal one of each of the others', without their keys."""
    return _chosen(meter, "array_intersect", True, array, others)


def array_sum(meter: Meter, array: Value) -> Value:
    """Sum of the entries."""
    meter.step(len(_array(array, "array_sum")))
    return functools.reduce(BINARY["+"], _entries(array, "array_sum"), 0)


def array_product(meter: Meter, array: Value) -> Value:
    """Product of the entries."""
    meter.step(len(_array(array, "array_product")))
    return functools.reduce(BINARY["*"], _entries(array, "array_product"), 1)


def empty(meter: Meter, value: Value) -> Value:
    """Whether a value does not hold as a condition."""
    return not is_true(value)


def _extreme(meter: Meter, name: str, sign: int, values: tuple[Value, ...]) -> Value:
    choice = _entries(values[0], name) if len(values) == 1 else list(values)
    meter.weigh(Array(choice))
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


def stripos(meter: Meter, value: Value, part: Value, offset: Value = 0) -> Value:
    """Index of the first occurrence in any case, or false."""
    return strpos(meter, _changed(meter, value, str.lower), _changed(meter, part, str.lower), offset)


def strrpos(meter: Meter, value: Value, part: Value) -> Value:
    """Index of the last occurrence, or false."""
    whole, sought = meter.text(value), meter.text(part)
    meter.take(len(whole))
    index = whole.rfind(sought)
    return False if index < 0 else index


def strstr(meter: Meter, value: Value, part: Value) -> Value:
    """Rest of a string from the first occurrence on, or false."""
    whole, index = meter.text(value), strpos(meter, value, part)
    return False if index is False else whole[index:]


def substr_count(meter: Meter, value: Value, part: Value) -> Value:
    """Number of occurrences; those that overlap count too."""
    whole, sought = meter.text(value), meter.text(part)
    if not sought:
        raise Jx9Error("substr_count: expected a string to look for; found an empty one")
    meter.take(len(whole) * len(sought))
    return sum(whole.startswith(sought, index) for index in range(len(whole)))


def _order(left: bytes, right: bytes) -> int:
    """Compare as the engine does: by the first bytes that differ, then by the length."""
    # The end of a string counts as a byte of 0.
    for ours, others in itertools.zip_longest(left, right, fillvalue=0):
        if ours != others:
            return ours - others
    return 0


def strcmp(meter: Meter, left: Value, right: Value) -> Value:
    """Negative if the first string comes first, 0 if both are equal."""
    one, other = meter.text(left).encode(), meter.text(right).encode()
    meter.take(len(one) + len(other))
    return _order(one, other)


def strcasecmp(meter: Meter, left: Value, right: Value) -> Value:
    """The same in any case."""
    return strcmp(meter, _changed(meter, left, str.lower), _changed(meter, right, str.lower))


def strncmp(meter: Meter, left: Value, right: Value, length: Value) -> Value:
    """The same of so many characters at the beginning."""
    most = max(integer(length), 0)
    return strcmp(meter, meter.text(left)[:most], meter.text(right)[:most])


def str_split(meter: Meter, value: Value, length: Value = 1) -> Value:
    """Parts of so many characters; false of an empty string."""
    whole, size = meter.text(value), integer(length)
    if size < 1:
        raise Jx9Error(f"str_split: expected a length of 1 or more; found {size}")
    meter.take(64 * (len(whole) // size + 1) + len(whole))
    return Array([whole[at : at + size] for at in range(0, len(whole), size)]) if whole else False


def str_repeat(meter: Meter, value: Value, times: Value) -> Value:
    """String so many times in a row."""
    whole, number_of_times = meter.text(value), max(integer(times), 0)
    meter.take(len(whole) * number_of_times)
    return whole * number_of_times


def str_pad(meter: Meter, value: Value, length: Value, padding: Value = " ", side: Value = 1) -> Value:
    """String filled up to a length: to the left (0), to the right (1), or on both sides (2)."""
    whole, size, filler = meter.text(value), integer(length), meter.text(padding)
    missing = size - len(whole)
    if missing <= 0 or not filler:
        return whole
    meter.take(size)
    where = integer(side)
    before = {0: missing, 2: missing // 2}.get(where, 0)
    after = missing - before
    return (
        (filler * (before // len(filler) + 1))[:before]
        + whole
        + (filler * (after // len(filler) + 1))[:after]
    )


def ordinal(meter: Meter, value: Value) -> Value:
    """Code of the first byte of a string; -1 of an empty one."""
    whole = meter.text(value)[:1].encode()
    return whole[0] if whole else -1


def character(meter: Meter, code: Value) -> Value:
    """Character of a code, of which the lowest 8 bits count."""
    found = integer(code) & 0xFF
    if found > 127:
        raise Jx9Error(f"chr: expected a code of ASCII, 0 to 127; found {found}")
    return chr(found)


_BLANKS = " \t\n\r\0\v"


def _stripped(meter: Meter, value: Value, characters: Value, strip: Callable[[str, str], str]) -> str:
    whole, unwanted = meter.text(value), meter.text(characters)
    meter.take(len(whole) * len(unwanted))
    return strip(whole, unwanted)


def trim(meter: Meter, value: Value, characters: Value = _BLANKS) -> Value:
    """String without these characters at its ends."""
    return _stripped(meter, value, characters, str.strip)


def ltrim(meter: Meter, value: Value, characters: Value = _BLANKS) -> Value:
    """String without these characters at its beginning."""
    return _stripped(meter, value, characters, str.lstrip)


def rtrim(meter: Meter, value: Value, characters: Value = _BLANKS) -> Value:
    """String without these characters at its end."""
    return _stripped(meter, value, characters, str.rstrip)


def is_numeric(meter: Meter, value: Value) -> Value:
    """Whether a value is a number, or text that is one."""
    if isinstance(value, str):
        meter.take(len(value))
        return _NUMERIC.fullmatch(value) is not None
    return not isinstance(value, Array) and kind(value) != "function"


def explode(meter: Meter, separator: Value, value: Value, most: Value = None) -> Value:
    """Parts of a string between separators; the last of `most` holds the rest."""
    mark, whole = meter.text(separator), meter.text(value)
    if not mark:
        raise Jx9Error("explode: expected a separator; found an empty string")
    meter.take(len(whole))
    meter.take(64 * (whole.count(mark) + 1))
    return Array(whole.split(mark, -1 if most is None else max(integer(most), 1) - 1))


def implode(meter: Meter, separator: Value, array: Value = None) -> Value:
    """Entries as text, with a separator between them, if one is given."""
    if array is None and isinstance(separator, Array):
        separator, array = "", separator
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
    return shared(decoded) if _fits(decoded) else None


def _fits(value: Value) -> bool:
    if isinstance(value, list | dict):  # of JSON, not of a script yet
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


def array_push(meter: Meter, array: Value, *values: Value) -> Value:
    """Append; the result is the new length."""
    changed = _array(array, "array_push")
    for value in values:
        meter.put(changed, None, value)
    return len(changed)


def array_pop(meter: Meter, array: Value) -> Value:
    """Take away the last entry, which is the result; null if there is none."""
    entries = _array(array, "array_pop").entries
    if not entries:
        return None
    return entries.popitem()[1] if isinstance(entries, dict) else entries.pop()


def array_shift(meter: Meter, array: Value) -> Value:
    """Take away the first entry, which is the result; null if there is none."""
    changed = _array(array, "array_shift")
    meter.copy(changed)
    if not changed.entries:
        return None
    changed.at = 0
    if isinstance(changed.entries, dict):
        return changed.entries.pop(next(iter(changed.entries)))
    return changed.entries.pop(0)


def _sort(meter: Meter, name: str, array: Value, sign: int) -> Value:
    items = _entries(array, name)
    rounds = len(items).bit_length()
    meter.step(rounds * len(items))
    meter.take(rounds * meter.weigh(array))
    array.entries = sorted(items, key=functools.cmp_to_key(lambda left, right: sign * compare(left, right)))
    array.at = 0
    return True


def sort(meter: Meter, array: Value) -> Value:
    """Sort the entries, without their keys."""
    return _sort(meter, "sort", array, 1)


def rsort(meter: Meter, array: Value) -> Value:
    """Sort the entries, without their keys, the greatest first."""
    return _sort(meter, "rsort", array, -1)


def _moved(meter: Meter, name: str, array: Value, to: Callable[[Array], int]) -> Value:
    """Stand at another entry, and return it; false beyond the ends."""
    moved = _array(array, name)
    meter.copy(moved)
    moved.at = to(moved)
    return moved.values()[moved.at] if 0 <= moved.at < len(moved) else False


def current(meter: Meter, array: Value) -> Value:
    """Entry that the array stands at; false behind the last."""
    return _moved(meter, "current", array, lambda moved: moved.at)


def end(meter: Meter, array: Value) -> Value:
    """Go to the last entry, which is the result; false if there is none."""
    return _moved(meter, "end", array, lambda moved: max(len(moved) - 1, 0))


def reset(meter: Meter, array: Value) -> Value:
    """Go to the first entry, which is the result; false if there is none."""
    return _moved(meter, "reset", array, lambda moved: 0)


def following(meter: Meter, array: Value) -> Value:
    """Go to the next entry, which is the result; false behind the last."""
    return _moved(meter, "next", array, lambda moved: min(moved.at + 1, len(moved)))


def previous(meter: Meter, array: Value) -> Value:
    """Go to the entry before, which is the result; false before the first."""
    return _moved(meter, "prev", array, lambda moved: moved.at - 1 if moved.at > 0 else len(moved))


def key(meter: Meter, array: Value) -> Value:
    """Key of the entry that the array stands at; null behind the last."""
    found = _array(array, "key")
    meter.copy(found)
    return found.items()[found.at][0] if 0 <= found.at < len(found) else None


_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "array_copy": array_copy,
    "array_diff": array_diff,
    "array_intersect": array_intersect,
    "array_key_exists": array_key_exists,
    "array_merge": array_merge,
    "array_pop": array_pop,
    "array_product": array_product,
    "array_push": array_push,
    "array_shift": array_shift,
    "array_sum": array_sum,
    "array_values": array_values,
    "chop": rtrim,
    "chr": character,
    "count": count,
    "current": current,
    "date": date,
    "empty": empty,
    "end": end,
    "explode": explode,
    "floatval": lambda meter, value: float(number(value)),
    "gettype": lambda meter, value: kind(value),
    "implode": implode,
    "in_array": in_array,
    "intval": lambda meter, value: integer(value),
    "is_array": lambda meter, value: isinstance(value, Array),
    "is_bool": lambda meter, value: isinstance(value, bool),
    "is_double": lambda meter, value: isinstance(value, float),
    "is_float": lambda meter, value: isinstance(value, float),
    "is_int": lambda meter, value: kind(value) == "int",
    "is_integer": lambda meter, value: kind(value) == "int",
    "is_long": lambda meter, value: kind(value) == "int",
    "is_null": lambda meter, value: value is None,
    "is_numeric": is_numeric,
    "is_object": lambda meter, value: kind(value) == "object",
    "is_scalar": lambda meter, value: not isinstance(value, Array) and kind(value) != "function",
    "is_string": lambda meter, value: isinstance(value, str),
    "join": implode,
    "json_decode": json_decode,
    "json_encode": json_encode,
    "key": key,
    "ltrim": ltrim,
    "max": maximum,
    "min": minimum,
    "next": following,
    "ord": ordinal,
    "pos": current,
    "prev": previous,
    "rand": rand,
    "reset": reset,
    "round": round_half_up,
    "rsort": rsort,
    "rtrim": rtrim,
    "sizeof": count,
    "sort": sort,
    "sprintf": sprintf,
    "str_pad": str_pad,
    "str_repeat": str_repeat,
    "str_replace": str_replace,
    "str_split": str_split,
    "strcasecmp": strcasecmp,
    "strcmp": strcmp,
    "stripos": stripos,
    "strlen": lambda meter, value: len(meter.text(value)),
    "strncmp": strncmp,
    "strpos": strpos,
    "strrev": lambda meter, value: _changed(meter, value, lambda whole: whole[::-1]),
    "strrpos": strrpos,
    "strstr": strstr,
    "strtolower": lambda meter, value: _changed(meter, value, str.lower),
    "strtoupper": lambda meter, value: _changed(meter, value, str.upper),
    "strval": lambda meter, value: meter.text(value),
    "substr": substr,
    "substr_count": substr_count,
    "time": lambda meter: int(time.time()),
    "trim": trim,
}
BUILTINS: Final = {name: _builtin(function) for name, function in _FUNCTIONS.items()}
