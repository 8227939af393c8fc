"""What scripts compute with, and the loose rules by which values become others and are compared.

A value is None, a bool, an int of 64 bits, a finite float, a str, a list or dict of values, or a `Function`. No list
or dict is ever changed once a script can see it, hence none contains itself. The rules are those that the original's
engine shows when it is run; where they differ from PHP's, the docstrings say them in full.

Costs are those of one walk over the values; a walk over values that a script made has to be paid for first, at
`mochi.bedrock.jx9.limits.Meter.weigh`, since a small script makes large values out of many references to small ones.
"""

import re
from typing import Any, TypeAlias

import msgspec

from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.syntax import FunctionNode

__all__ = [
    "MAX_INT",
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
    list: "array",
    dict: "object",
}
_NUMBER = re.compile(r"\s*([+-]?[0-9]+)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 400
_LARGEST_WHOLE_FLOAT = 2.0**53


class Cell:
    """A variable."""

    __slots__ = ("value",)

    def __init__(self, value: Value = None) -> None:
        self.value = value


class Function:
    """A function of a script, and its variables that outlive a call."""

    __slots__ = ("node", "statics")

    def __init__(self, node: FunctionNode) -> None:
        self.node = node
        self.statics: dict[str, Cell] = {}


def kind(value: Value) -> str:
    """Return the name of a value's type.

    >>> kind([]), kind(1.0)
    ('array', 'float')
    """
    return _KINDS.get(type(value), "function")


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

    >>> text(3.0), text(None), text(True), text({"a": [1]})
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
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_WHOLE_FLOAT:
        return int(value)
    if isinstance(value, Function):
        raise Jx9Error("a function has no form in JSON")
    return value


def compare(left: Value, right: Value) -> int:
    """Compare loosely: negative if `left` comes first, 0 if both are equal.

    With null or a bool, both are taken as conditions; with a string, both as text; arrays and objects by their
    length, then entry by entry, and are greater than all else.

    >>> compare(None, 0), compare("1", 1), compare("1.0", 1) == 0, compare(2, "10") > 0
    (0, 0, False, True)
    """
    if left is None or right is None or isinstance(left, bool) or isinstance(right, bool):
        return is_true(left) - is_true(right)
    is_array = isinstance(left, list | dict)
    if is_array and isinstance(right, list | dict):
        return _compare_entries(left, right)
    if is_array or isinstance(right, list | dict):
        return 1 if is_array else -1
    if isinstance(left, Function) or isinstance(right, Function):
        return int(left is not right)
    if isinstance(left, str) or isinstance(right, str):
        left, right = text(left), text(right)
    return int(left > right) - int(left < right)


def _compare_entries(left: "list[Value] | dict[str, Value]", right: "list[Value] | dict[str, Value]") -> int:
    if len(left) != len(right):
        return len(left) - len(right)
    others = as_object(right)
    for key, item in as_object(left).items():
        order = compare(item, others[key]) if key in others else 1
        if order:
            return order
    return 0


def as_object(value: "list[Value] | dict[str, Value]") -> dict[str, Value]:
    """Return an array as an object with its indices for keys."""
    return value if isinstance(value, dict) else {str(index): item for index, item in enumerate(value)}


def is_same(left: Value, right: Value) -> bool:
    """Compare strictly: the same type, and equal in every entry; the order of an object's keys does not count."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(item, right[key]) for key, item in left.items())
    return bool(left == right)


def _a(value: Value) -> str:
    name = kind(value)
    return f"an {name}" if name[0] in "aio" else f"a {name}"
