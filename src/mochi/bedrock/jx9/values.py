"""What scripts compute with, and the loose rules by which values become others and are compared.

A value is None, a bool, an int of 64 bits, a finite float, a str, an `Array`, or a `Function`. An array is shared by
all that it was assigned or passed to, and may contain itself. The rules are those that the original's engine shows when
it is run; where they differ from PHP's, the docstrings say them in full.

Costs are those of one walk over the values. A walk over values that a script made has to be paid for first, at
`mochi.bedrock.jx9.limits.Meter.weigh`. For a small script makes large values out of many references to small ones,
and endless ones.
"""

import re
from typing import Any, TypeAlias

import msgspec

from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.syntax import FunctionNode

__all__ = [
    "MAX_INT",
    "Array",
    "Cell",
    "Function",
    "Value",
    "as_json",
    "compare",
    "integer",
    "is_same",
    "is_true",
    "kind",
    "number",
    "plain",
    "shared",
    "text",
]

Value: TypeAlias = Any

MAX_INT = 2**63 - 1

_KINDS = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "string",
}
_NUMBER = re.compile(r"\s*([+-]?[0-9]+)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 400
_LARGEST_WHOLE_FLOAT = 2.0**53


class Cell:
    """A variable."""

    __slots__ = ("value",)

    def __init__(self, value: Value = None) -> None:
        self.value = value


class Array:
    """An array or an object, which all that it was assigned or passed to share.

    Attributes
    ----------
    entries : list or dict
        What is in it; a list is an array, a dict with strings for keys an object.
    at : int
        Which entry ``current`` stands at.
    """

    __slots__ = ("at", "entries")

    def __init__(self, entries: "list[Value] | dict[str, Value]") -> None:
        self.entries = entries
        self.at = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def is_object(self) -> bool:
        """Whether it has names for keys."""
        return isinstance(self.entries, dict)

    def values(self) -> "list[Value]":
        """Return the entries without their keys, in a list of its own."""
        return [*(self.entries.values() if isinstance(self.entries, dict) else self.entries)]

    def items(self) -> "list[tuple[str | int, Value]]":
        """Return the entries with their keys or indices, in a list of its own."""
        return [*(self.entries.items() if isinstance(self.entries, dict) else enumerate(self.entries))]

    def has(self, key: str | int) -> bool:
        """Tell whether there is an entry of this key."""
        if isinstance(self.entries, dict):
            return str(key) in self.entries
        return self._position(key) not in (None, len(self.entries))

    def get(self, key: str | int) -> Value:
        """Return an entry; null where there is none."""
        if isinstance(self.entries, dict):
            return self.entries.get(str(key))
        position = self._position(key)
        return None if position is None or position == len(self.entries) else self.entries[position]

    def put(self, key: str | int | None, value: Value) -> None:
        """Set an entry, or add one at the end where the key is None; a key that is no index makes it an object."""
        if isinstance(self.entries, dict):
            self.entries[str(self._next()) if key is None else str(key)] = value
            return
        position = len(self.entries) if key is None else self._position(key)
        if position is None:
            self.entries = {**self.named(), str(key): value}
        elif position == len(self.entries):
            self.entries.append(value)
        else:
            self.entries[position] = value

    def named(self) -> "dict[str, Value]":
        """Return the entries by their keys, of an array by its indices as text."""
        if isinstance(self.entries, dict):
            return self.entries
        return {str(index): item for index, item in enumerate(self.entries)}

    def _position(self, key: str | int) -> int | None:
        """Return the index that a key stands for, up to the first that is free; None for any other key."""
        if isinstance(key, str):
            if not (key.isascii() and key.isdecimal() and len(key) < 19):
                return None
            key = int(key)
        return key if 0 <= key <= len(self.entries) else None

    def _next(self) -> int:
        return 1 + max((int(key) for key in self.entries if str(key).isdecimal()), default=-1)


class Function:
    """A function of a script, and its variables that outlive a call."""

    __slots__ = ("node", "statics")

    def __init__(self, node: FunctionNode) -> None:
        self.node = node
        self.statics: dict[str, Cell] = {}


def kind(value: Value) -> str:
    """Return the name of a value's type.

    >>> kind(Array([])), kind(1.0)
    ('array', 'float')
    """
    if isinstance(value, Array):
        return "object" if value.is_object else "array"
    return _KINDS.get(type(value), "function")


def shared(value: Any) -> Value:
    """Return a value of JSON as a script has it: nothing that the script does changes the original."""
    if isinstance(value, list):
        return Array([shared(item) for item in value])
    if isinstance(value, dict):
        return Array({key: shared(item) for key, item in value.items()})
    return value


def is_true(value: Value) -> bool:
    """Tell whether a condition holds: not for null, 0, what is empty, and the strings ``"0"`` and ``"false"``."""
    if isinstance(value, str):
        return value not in ("", "0", "false")
    return bool(value)


def number(value: Value) -> int | float:
    """Return the number that a value stands for; of a string, the one it begins with, or 0.

    Raises
    ------
    Jx9Error
        An array, an object or a function, or a number that floats cannot hold.
    """
    if isinstance(value, int | float):
        return bounded(int(value) if isinstance(value, bool) else value)
    if value is None:
        return 0
    if not isinstance(value, str):
        raise Jx9Error(f"expected a number; found {_a(value)}")
    match = _NUMBER.match(value[:_LONGEST_NUMBER])
    if match is None:
        return 0
    return bounded(int(match[1]) if match.lastindex == 1 else float(match[0]))


def bounded(value: int | float) -> int | float:
    """Turn an int that 64 bits cannot hold into a float.

    Raises
    ------
    Jx9Error
        Floats cannot hold it either.
    """
    if isinstance(value, int):
        if -MAX_INT - 1 <= value <= MAX_INT:
            return value
        try:
            return float(value)
        except OverflowError:
            pass
    elif abs(value) < float("inf"):
        return value
    raise Jx9Error("the result is not a finite number")


def integer(value: Value) -> int:
    """Return the number that a value stands for, its fraction cut off; raises as `number` does."""
    found = int(number(value))
    if not -MAX_INT - 1 <= found <= MAX_INT:
        raise Jx9Error(f"expected an integer of 64 bits; found {found:.6e}")
    return found


def text(value: Value) -> str:
    """Return a value as text: arrays and objects as JSON, floats with 15 digits and no needless zeros.

    >>> text(3.0), text(None), text(True), text(shared({"a": [1]}))
    ('3', '', 'true', '{"a":[1]}')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int):
        return str(value)
    return as_json(value)


def as_json(value: Value) -> str:
    """Return a value as compact JSON, in the order of insertion; raises as `plain` does."""
    return msgspec.json.encode(plain(value)).decode()


def plain(value: Value) -> Any:
    """Return a value as JSON has it: as `value`, with whole floats as integers.

    Raises
    ------
    Jx9Error
        There is a function in it.
    """
    if isinstance(value, Array):
        if isinstance(value.entries, dict):
            return {key: plain(item) for key, item in value.entries.items()}
        return [plain(item) for item in value.entries]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_WHOLE_FLOAT:
        return int(value)
    if isinstance(value, Function):
        raise Jx9Error("a function has no form in JSON")
    return value


def compare(left: Value, right: Value) -> int:
    """Compare loosely: negative if `left` comes first, 0 if both are equal.

    With null or a bool, both are taken as conditions; with a string, both as text. Arrays and objects are compared
    by their length, then entry by entry, and are greater than all else.

    >>> compare(None, 0), compare("1", 1), compare("1.0", 1) == 0, compare(2, "10") > 0
    (0, 0, False, True)
    """
    if left is None or right is None or isinstance(left, bool) or isinstance(right, bool):
        return is_true(left) - is_true(right)
    if isinstance(left, Array) and isinstance(right, Array):
        return _compare_entries(left, right)
    if isinstance(left, Array) or isinstance(right, Array):
        return 1 if isinstance(left, Array) else -1
    if isinstance(left, Function) or isinstance(right, Function):
        return int(left is not right)
    if isinstance(left, str) or isinstance(right, str):
        left, right = text(left), text(right)
    return int(left > right) - int(left < right)


def _compare_entries(left: Array, right: Array) -> int:
    if len(left) != len(right):
        return len(left) - len(right)
    others = right.named()
    for key, item in left.named().items():
        order = compare(item, others[key]) if key in others else 1
        if order:
            return order
    return 0


def is_same(left: Value, right: Value) -> bool:
    """Compare strictly: the same type, and equal in every entry; the order of an object's keys does not count."""
    if type(left) is not type(right):
        return False
    if not isinstance(left, Array):
        return bool(left == right)
    ours, others = left.entries, right.entries
    if isinstance(ours, dict) and isinstance(others, dict):
        return ours.keys() == others.keys() and all(is_same(item, others[key]) for key, item in ours.items())
    return left.is_object is right.is_object and len(left) == len(right) and all(map(is_same, ours, others))


def _a(value: Value) -> str:
    name = kind(value)
    return f"an {name}" if name[0] in "aio" else f"a {name}"
