"""Conditions in a configuration: an object with a false ``__if__`` is not there.

A condition is a boolean, or an expression of Jx9 over `variables` that is taken loosely. Pure.
"""

from typing import Any

import msgspec

from mochi.bedrock.spec import World
from mochi.margo.errors import ConfigError

__all__ = ["CONDITION", "applied", "variables"]

CONDITION = "__if__"


def variables(world: World | None) -> dict[str, Any]:
    """Return what scripts and conditions see of the processes started together: null where there is no MPI."""
    return {"MPI_COMM_WORLD": msgspec.to_builtins(world)}


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
