"""Conditions in a configuration: an object with a false ``__if__`` is not there.

A condition is a boolean, or an expression of Jx9 over `variables` that is taken loosely: what is not among them is
null, of which `unknown_names` tells. Pure.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from mochi.bedrock.spec import World
from mochi.margo.errors import ConfigError

__all__ = ["CONDITION", "applied", "unknown_names", "variables"]

CONDITION = "__if__"


def variables(world: World | None) -> dict[str, Any]:
    """Return what scripts and conditions see of the processes started together: null where there is no MPI."""
    return {"MPI_COMM_WORLD": msgspec.to_builtins(world)}


def unknown_names(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Return the variables, and their fields, that are always null in the conditions of a decoded configuration.

    Yields
    ------
    tuple of str
        The path of the condition, and what nobody defines. Conditions that are no expressions are passed over.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_names(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            path = f"{where}.{name}".lstrip(".")
            if name != CONDITION:
                yield from unknown_names(item, path)
            elif isinstance(item, str):
                yield from ((path, unknown) for unknown in sorted(_unknown_in(item)))


def _unknown_in(condition: str) -> set[str]:
    # Loaded here: the parser is not for those who have no condition.
    from mochi.bedrock.jx9 import syntax
    from mochi.bedrock.jx9.errors import Jx9Error
    from mochi.bedrock.jx9.parser import parse_condition

    used: set[str] = set()
    defined = {*variables(None)}

    def walk(node: Any) -> None:
        match node:
            case syntax.Variable(name):
                used.add(name)
            case syntax.Assign(syntax.Variable(name)):
                defined.add(name)
            case syntax.Parameter(name):
                defined.add(name)
            case syntax.Index(syntax.Variable("MPI_COMM_WORLD" as name), syntax.Literal(str(field)), True):
                if field not in World.__struct_fields__:
                    used.add(f"{name}.{field}")
        if isinstance(node, msgspec.Struct):
            node = msgspec.structs.astuple(node)
        if isinstance(node, tuple):
            for part in node:
                walk(part)

    try:
        walk(parse_condition(condition))
    except (Jx9Error, RecursionError):
        return set()  # told when it is applied
    return {f"${name}" for name in used - defined}


def applied(value: Any, world: World | None, where: str = "") -> Any:
    """Return a decoded configuration with its conditions applied, at any depth.

    Of an object whose condition is false, null remains, and nothing in an array, which loses all its nulls. A
    condition that is true is taken out of its object.

    Raises
    ------
    ConfigError
        A condition is neither boolean nor string, or is an expression that fails.
    """
    if isinstance(value, list):
        items = [applied(item, world, f"{where}[{index}]") for index, item in enumerate(value)]
        return [item for item in items if item is not None]
    if not isinstance(value, dict):
        return value
    if CONDITION in value and not _holds(value[CONDITION], world, f"{where}.{CONDITION}".lstrip(".")):
        return None
    return {
        name: applied(item, world, f"{where}.{name}") for name, item in value.items() if name != CONDITION
    }


def _holds(condition: Any, world: World | None, where: str) -> bool:
    if isinstance(condition, bool):
        return condition
    if not isinstance(condition, str):
        raise ConfigError(where, f"expected a boolean or a Jx9 expression; found {condition!r:.80}")
    # Loaded here: the parser is not for those who have no condition.
    from mochi.bedrock.jx9.errors import Jx9Error
    from mochi.bedrock.jx9.interpreter import holds

    try:
        return holds(condition, variables(world))
    except Jx9Error as error:
        raise ConfigError(where, f"{error}, in {condition[:80]!r}") from None
