"""Integers that applications give: whatever stands for one is one, as those of NumPy do."""

from operator import index
from typing import Any, Final

MAX_UNSIGNED: Final = 2**64 - 1


def unsigned(name: str, value: Any, least: int = 0) -> int:
    """Return an integer from `least` to 2**64 - 1; TypeError that names it for anything else, a bool included."""
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if not least <= number <= MAX_UNSIGNED:
        raise TypeError(f"{name} must be an int from {least} to 2**64-1, not {value!r}")
    return number
