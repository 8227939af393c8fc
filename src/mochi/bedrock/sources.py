"""From the text of a configuration, in one of its languages, to what JSON would decode to. Pure.

`source` names the text in errors, all of which are a `ConfigError` of one line.
"""

import datetime
import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn

from mochi.bedrock.conditions import variables
from mochi.bedrock.spec import World
from mochi.margo import deployment
from mochi.margo.errors import ConfigError

__all__ = ["from_json", "from_jx9", "from_toml"]


def from_json(text: bytes, source: str) -> Any:
    """Decode JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        is_remark = error.doc[error.pos :].startswith(("//", "/*", "#"))
        problem = "remarks are for scripts (--jx9) and TOML (--toml)" if is_remark else error.msg
        raise ConfigError(source, f"not JSON, line {error.lineno} column {error.colno}: {problem}") from None
    except ValueError as error:
        raise ConfigError(source, f"not JSON: {error}") from None
    except RecursionError:
        raise ConfigError(source, "nested too deeply") from None


def from_toml(text: bytes, source: str) -> Any:
    """Decode TOML; a date is an error, and so are infinity and what is not a number."""
    try:
        document = tomllib.loads(_decoded(text, source))
        _refuse_beyond_json(document, source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, f"not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(source, "nested too deeply") from None
    return document


def from_jx9(text: bytes, source: str, context: Mapping[str, Any], world: World | None = None) -> Any:
    """Run a Jx9 script, with the variables of `context`, and return what it returns."""
    # Loaded here: the parser is not for those who have no script.
    from mochi.bedrock.jx9.errors import Jx9Error
    from mochi.bedrock.jx9.interpreter import run
    from mochi.bedrock.jx9.limits import LOCAL

    try:
        return run(
            _decoded(text, source),
            variables(world) | dict(context),
            LOCAL,
            warn=lambda problem: deployment.log.warning("%s: %s", source, problem),
        )
    except Jx9Error as error:
        raise ConfigError(source, str(error)) from None


def _decoded(text: bytes, source: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(source, f"not UTF-8, at byte {error.start}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _refuse_beyond_json(value: Any, source: str, path: str = "") -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_beyond_json(item, source, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_beyond_json(item, source, f"{path}[{index}]")
    elif isinstance(value, datetime.date | datetime.time):
        raise ConfigError(source, f"{path}: expected no date; found {value}, which needs quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(source, f"{path}: expected a finite number; found {value}")
