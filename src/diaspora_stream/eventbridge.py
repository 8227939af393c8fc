"""Event patterns in the manner of Amazon EventBridge, compiled once into functions.

A pattern is an object, all of whose keys must match. A key is a dotted path through nested objects (``""`` is
the whole document), or ``$or``, whose value is a list of patterns of which one must match. The value of a
path is:

- a primitive, or a list of primitives: the field is there and equals it, or one of them;
- an object: the field is there and matches it as a pattern;
- a list of rules, objects with one key: one of them holds. Without any, nothing matches.

Invariants: a compiled pattern never raises, and takes time in proportion to what it looks at. A pattern that cannot
be compiled is a `ConfigError` that names the place in it.
"""

import ipaddress
import operator
import re
import string
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError

Matcher: TypeAlias = Callable[[Any], bool]
"""Tells whether a value matches; the value of a field that is not there is `MISSING`."""

MISSING: Final = object()

_FOLDED: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def compile_pattern(pattern: Any, where: str) -> Matcher:
    """Return the function that tells whether a JSON value matches an event pattern.

    Parameters
    ----------
    pattern
        The pattern, a JSON object.
    where : str
        What to call it in errors.

    Raises
    ------
    ConfigError
        It is no pattern.
    """
    if not isinstance(pattern, dict):
        raise ConfigError(where, f"must be an object, found {pattern!r}")
    parts = [_field(path, condition, f"{where}.{path}") for path, condition in pattern.items()]
    return lambda value: all(part(value) for part in parts)


def _field(path: str, condition: Any, where: str) -> Matcher:
    if path == "$or":
        return _any_pattern(condition, where)
    keys = path.split(".") if path else []
    matches = _condition(condition, where)

    def field(value: Any) -> bool:
        for key in keys:
            if not isinstance(value, dict):
                return matches(MISSING)
            value = value.get(key, MISSING)
        return matches(value)

    return field


def _condition(condition: Any, where: str) -> Matcher:
    if isinstance(condition, dict):
        nested = compile_pattern(condition, where)
        return lambda value: value is not MISSING and nested(value)
    if not isinstance(condition, list | tuple):
        return _equals(condition)
    if all(isinstance(item, dict) for item in condition):
        rules = [_rule(item, f"{where}[{index}]") for index, item in enumerate(condition)]
        return lambda value: any(rule(value) for rule in rules)
    return _equals_one(condition, where)


def _equals(wanted: Any) -> Matcher:
    is_bool = isinstance(wanted, bool)
    return lambda value: value == wanted and isinstance(value, bool) is is_bool


def _equals_one(wanted: Any, where: str) -> Matcher:
    for index, item in enumerate(wanted):
        if isinstance(item, dict | list | tuple):
            raise ConfigError(
                f"{where}[{index}]", f"must be a primitive, as others in this list are; found {item!r}"
            )
    choices = [_equals(item) for item in wanted]
    return lambda value: any(choice(value) for choice in choices)


def _any_pattern(patterns: Any, where: str) -> Matcher:
    if not isinstance(patterns, list | tuple):
        raise ConfigError(where, f"must be a list of patterns, found {patterns!r}")
    choices = [compile_pattern(pattern, f"{where}[{index}]") for index, pattern in enumerate(patterns)]
    return lambda value: value is not MISSING and any(choice(value) for choice in choices)


def _rule(rule: dict[str, Any], where: str) -> Matcher:
    if len(rule) != 1:
        raise ConfigError(where, f"a rule has one key, found {sorted(map(str, rule))}")
    ((name, parameter),) = rule.items()
    if name not in _RULES:
        raise ConfigError(where, f"unknown rule {name!r}{hint(name, _RULES)}")
    return _RULES[name](parameter, f"{where}.{name}")


def _exists(parameter: Any, where: str) -> Matcher:
    if not isinstance(parameter, bool):
        raise ConfigError(where, f"must be true or false, found {parameter!r}")
    return lambda value: (value is not MISSING) is parameter


def _anything_but(parameter: Any, where: str) -> Matcher:
    if isinstance(parameter, dict):
        excluded = _rule(parameter, where)
    elif isinstance(parameter, list | tuple):
        excluded = _equals_one(parameter, where)
    else:
        excluded = _equals(parameter)
    return lambda value: value is not MISSING and not excluded(value)


def _texts(parameter: Any, where: str) -> tuple[str, ...]:
    texts = (parameter,) if isinstance(parameter, str) else parameter
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(where, f"must be a str or a list of str, found {parameter!r}")
    return tuple(texts)


def _fold(text: str) -> str:
    return text.translate(_FOLDED)


def _equals_ignore_case(parameter: Any, where: str) -> Matcher:
    texts = frozenset(map(_fold, _texts(parameter, where)))
    return lambda value: isinstance(value, str) and _fold(value) in texts


def _affix(method: Callable[[str, tuple[str, ...]], bool]) -> Callable[[Any, str], Matcher]:
    """Return the compiler of `prefix` or `suffix`."""

    def affix(parameter: Any, where: str) -> Matcher:
        if not isinstance(parameter, dict):
            texts = _texts(parameter, where)
            return lambda value: isinstance(value, str) and method(value, texts)
        if list(parameter) != ["equals-ignore-case"]:
            raise ConfigError(
                where, f"must be a str, a list of str, or {{'equals-ignore-case': ...}}; found {parameter!r}"
            )
        folded = tuple(map(_fold, _texts(parameter["equals-ignore-case"], where)))
        return lambda value: isinstance(value, str) and method(_fold(value), folded)

    return affix


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numeric(parameter: Any, where: str) -> Matcher:
    if not isinstance(parameter, list | tuple) or not parameter or len(parameter) % 2:
        raise ConfigError(where, f"must be a list such as ['>=', 0, '<', 10], found {parameter!r}")
    bounds = []
    for name, bound in zip(parameter[::2], parameter[1::2], strict=True):
        if not isinstance(name, str) or name not in _COMPARISONS:
            raise ConfigError(where, f"unknown comparison {name!r}; known are {', '.join(_COMPARISONS)}")
        if not _is_number(bound):
            raise ConfigError(where, f"{name!r} needs a number, found {bound!r}")
        bounds.append((_COMPARISONS[name], bound))
    return lambda value: _is_number(value) and all(compare(value, bound) for compare, bound in bounds)


def _wildcard(parameter: Any, where: str) -> Matcher:
    """Compile text in which ``*`` is anything; a backslash makes the next character stand for itself."""
    if not isinstance(parameter, str):
        raise ConfigError(where, f"must be a str, found {parameter!r}")
    literals = [""]
    for token in re.findall(r"\\?.|\\", parameter, re.DOTALL):
        if token == "\\":
            raise ConfigError(where, f"ends with a lone backslash: {parameter!r}")
        if token == "*":
            literals.append("")
        else:
            literals[-1] += token[-1]
    first, *middle = literals
    if not middle:
        return _equals(first)
    last = middle.pop()

    def wildcard(value: Any) -> bool:
        if not isinstance(value, str) or len(value) < len(first) + len(last):
            return False
        position, end = len(first), len(value) - len(last)
        for literal in middle:
            found = value.find(literal, position, end)
            if found < 0:
                return False
            position = found + len(literal)
        return value.startswith(first) and value.endswith(last)

    return wildcard


def _cidr(parameter: Any, where: str) -> Matcher:
    try:
        network = ipaddress.ip_network(str(parameter), strict=False)
    except ValueError:
        raise ConfigError(
            where, f"must be a block of addresses such as '10.0.0.0/24', found {parameter!r}"
        ) from None

    def cidr(value: Any) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return cidr


_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}

_RULES: Final[dict[str, Callable[[Any, str], Matcher]]] = {
    "exists": _exists,
    "anything-but": _anything_but,
    "prefix": _affix(str.startswith),
    "suffix": _affix(str.endswith),
    "equals-ignore-case": _equals_ignore_case,
    "numeric": _numeric,
    "wildcard": _wildcard,
    "cidr": _cidr,
    "$or": _any_pattern,
}
