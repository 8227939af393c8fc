"""Arguments of diaspora-ctl: plain flags, and dotted options that add up to JSON objects.

``--topic.config.type memory`` sets ``{"config": {"type": "memory"}}`` under the prefix ``topic``. The next
argument is always the value, whatever it looks like. Everything here is a function of its arguments.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diaspora_stream.console.hints import hint
from diaspora_stream.errors import DiasporaError


class UsageError(DiasporaError):
    """Arguments that the command does not understand, or does without one that it needs."""


class Flag(NamedTuple):
    """A flag, without its dashes; it takes a value if it has a name for one."""

    name: str
    help: str
    value: str = ""
    short: str = ""
    required: bool = False


class Syntax(NamedTuple):
    """What a command takes."""

    flags: tuple[Flag, ...]
    prefixes: tuple[str, ...]


class Arguments(NamedTuple):
    """What a command was given."""

    flags: Mapping[str, str]
    """By name; a flag that takes no value has the empty one."""
    options: Mapping[str, dict[str, Any]]
    """The object made of the dotted options, by prefix."""


def typed(text: str) -> Any:
    """Return the JSON value that the text of a dotted option means.

    Digits are an int, digits with one point a float, ``true`` and ``false`` a bool, a text with commas a list
    of such values, anything else a str.

    Raises
    ------
    UsageError
        For an int beyond 64 bits, and for a lone point.
    """
    if "," in text:
        return [typed(item) for item in text.removesuffix(",").split(",")]
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise UsageError(f"{text} does not fit into 64 bits")
        return number
    if re.fullmatch(r"[+-]?[0-9]*\.[0-9]*", text):
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{text!r} is not a number") from None
    return text


def merge(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` merged over it, as RFC 7396 has it: objects merge, null removes."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _set(options: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value deep inside an object; what is no object on the way becomes one."""
    *way, last = keys
    for key in way:
        if not isinstance(options.get(key), dict):
            options[key] = {}
        options = options[key]
    options[last] = value


def parse(syntax: Syntax, arguments: Sequence[str]) -> Arguments:
    """Read the arguments of a command; what follows ``--`` is ignored.

    Raises
    ------
    UsageError
        For a flag that is unknown (says which is nearest), given twice, or lacks its value.
    """
    names = {f"--{flag.name}": flag for flag in syntax.flags}
    names |= {f"-{flag.short}": flag for flag in syntax.flags if flag.short}
    flags: dict[str, str] = {}
    options: dict[str, dict[str, Any]] = {prefix: {} for prefix in syntax.prefixes}
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            break
        prefix, *keys = argument.removeprefix("--").split(".")
        if argument in names:
            flag = names[argument]
            if flag.name in flags:
                raise UsageError(f"--{flag.name} is given twice")
            flags[flag.name] = _value(argument, left) if flag.value else ""
        elif argument.startswith("--") and keys and prefix in options:
            if not all(keys) or "=" in argument:
                raise UsageError(f"{argument}: must be written as '--{prefix}.some.field value'")
            text = _value(argument, left)
            try:
                _set(options[prefix], keys, typed(text))
            except UsageError as error:
                raise UsageError(f"{argument}: {error}") from None
        else:
            known = [*names, *(f"--{prefix}.<field>" for prefix in options)]
            raise UsageError(f"unknown argument {argument!r}{hint(argument, known)}")
    return Arguments(flags, options)


def _value(argument: str, left: Iterator[str]) -> str:
    value = next(left, None)
    if value is None:
        raise UsageError(f"{argument} lacks its value")
    return value


def with_flags(text: str, prefix: str, arguments: Arguments) -> str:
    """Return a message about a field of ``options`` with the flag that sets it; of a file's fields as it is."""

    def flag(match: re.Match[str]) -> str:
        path = match[1].split(".")
        found: Any = arguments.options[prefix]
        while path and isinstance(found, dict) and path[0] in found:
            found = found[path.pop(0)]
        is_of_file = f"{prefix}-config" in arguments.flags and found is arguments.options[prefix]
        return match[0] if is_of_file else f"--{prefix}.{match[1]}"

    return re.sub(r"\boptions\.(\w+(?:\.\w+)*)", flag, text)


def overlay(base: Arguments, top: Arguments) -> Arguments:
    """Return two sets of arguments as one, in which `top` wins."""
    options = {prefix: merge(value, top.options[prefix]) for prefix, value in base.options.items()}
    return Arguments({**base.flags, **top.flags}, options)


def check_required(syntax: Syntax, arguments: Arguments) -> None:
    """Raise `UsageError` unless all flags that the command needs are given."""
    missing = [
        f"--{flag.name}" for flag in syntax.flags if flag.required and flag.name not in arguments.flags
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given")


def usage(command: str, syntax: Syntax) -> str:
    """Return the help of a command."""
    rows = []
    for flag in syntax.flags:
        short = f"-{flag.short}, " if flag.short else ""
        rows.append(
            (f"{short}--{flag.name} {flag.value}".rstrip(), flag.help + " (required)" * flag.required)
        )
    rows += [(f"--{prefix}.<field> VALUE", f"a field of the {prefix} options") for prefix in syntax.prefixes]
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left:{width}}  {right}" for left, right in rows]
    return "\n".join([f"usage: {command} [flags]", "", *lines])
