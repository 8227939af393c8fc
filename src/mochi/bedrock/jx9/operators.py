"""The operators that need the values of both their sides, and the casts. Pure; each raises `Jx9Error` for operands
that it has no result for."""

import operator
from collections.abc import Callable
from typing import Final

from mochi.bedrock.jx9.errors import Jx9Error
from mochi.bedrock.jx9.values import MAX_INT, Value, bounded, compare, integer, is_same, is_true, number

__all__ = ["BINARY", "UNARY"]


def _arithmetic(
    function: Callable[[int | float, int | float], int | float],
) -> Callable[[Value, Value], Value]:
    return lambda left, right: bounded(function(number(left), number(right)))


def _bitwise(function: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    return lambda left, right: function(integer(left), integer(right))


def _divide(left: int | float, right: int | float) -> int | float:
    if not right:
        raise Jx9Error("division by zero")
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return left / right


def _remainder(left: int, right: int) -> int:
    if not right:
        raise Jx9Error("division by zero")
    return abs(left) % abs(right) * (-1 if left < 0 else 1)


def _places(count: int) -> int:
    if not 0 <= count < 64:
        raise Jx9Error(f"expected to shift by 0 to 63 bits; found {count}")
    return count


def _shift_left(left: int, right: int) -> int:
    shifted = left << _places(right) & 2 * MAX_INT + 1
    return shifted if shifted <= MAX_INT else shifted - 2 * (MAX_INT + 1)


BINARY: Final[dict[str, Callable[[Value, Value], Value]]] = {
    "+": _arithmetic(operator.add),
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
    "/": _arithmetic(_divide),
    "%": _bitwise(_remainder),
    "&": _bitwise(operator.and_),
    "|": _bitwise(operator.or_),
    "^": _bitwise(operator.xor),
    "<<": _bitwise(_shift_left),
    ">>": _bitwise(lambda left, right: left >> _places(right)),
    "==": lambda left, right: compare(left, right) == 0,
    "!=": lambda left, right: compare(left, right) != 0,
    "===": is_same,
    "!==": lambda left, right: not is_same(left, right),
    "<": lambda left, right: compare(left, right) < 0,
    "<=": lambda left, right: compare(left, right) <= 0,
    ">": lambda left, right: compare(left, right) > 0,
    ">=": lambda left, right: compare(left, right) >= 0,
}

UNARY: Final[dict[str, Callable[[Value], Value]]] = {
    "+": number,
    "-": lambda value: bounded(-number(value)),
    "!": lambda value: not is_true(value),
    "~": lambda value: ~integer(value),
}
