"""Arguments of diaspora-ctl and of the benchmarks: flags given once, and dotted options that add up to JSON objects.

``--topic.config.type memory`` sets ``{"config": {"type": "memory"}}`` under the prefix ``topic``. The next argument is
always the value, whatever it looks like; what follows ``--`` is ignored.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

from diaspora_stream.console.commands import DottedCommand, flag_of, unknown_argument

DRIVER_OPTIONS: Final = "DIASPORA_CTL_DRIVER_OPTIONS"
"""Environment variable with arguments to put before those of the command line; quoted as in a shell."""


class Arguments(NamedTuple):
    """What a command was given."""

    flags: Mapping[str, Any]
    """By name, without dashes; those that were not given, and have no default, are not there."""
    options: Mapping[str, dict[str, Any]]
    """The object made of the dotted options, by prefix."""


def typed(text: str) -> Any:
    """Return the JSON value that the text of a dotted option means.

    Digits are an int, digits with one point a float, ``true`` and ``false`` a bool, a text with commas a list
    of such values, anything else a str.

    Raises
    ------
    ValueError
        For an int beyond 64 bits, and for a lone point.
    """
    if "," in text:
        return [typed(item) for item in text.removesuffix(",").split(",")]
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{text} does not fit into 64 bits")
        return number
    if re.fullmatch(r"[+-]?[0-9]*\.[0-9]*", text):
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
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


class FlagsCommand(DottedCommand):
    """A command that takes flags, each once, and dotted options.

    Parameters
    ----------
    prefixes : sequence of str
        The names before the point.
    is_preset : bool
        Whether the variable `DRIVER_OPTIONS` holds arguments, over which those of the command line win.
    """

    def __init__(
        self, *arguments: Any, prefixes: Sequence[str] = (), is_preset: bool = False, **options: Any
    ) -> None:
        super().__init__(*arguments, objects={f"{prefix}.": (prefix,) for prefix in prefixes}, **options)
        self._is_preset = is_preset

    def put(self, parameter: str, target: dict[str, Any], keys: Sequence[str], text: str) -> None:
        """Set a value deep inside an object; what is no object on the way becomes one."""
        *way, last = keys
        value = typed(text)
        for key in way:
            if not isinstance(target.get(key), dict):
                target[key] = {}
            target = target[key]
        target[last] = value

    def split(
        self, ctx: click.Context, args: Sequence[str]
    ) -> tuple[list[tuple[click.Option | None, list[str]]], dict[str, dict[str, Any]]]:
        """Return what is given, over what is preset."""
        flags, objects = self._read(ctx, args)
        if self._is_preset and not ctx.resilient_parsing:
            try:
                preset, base = self._read(ctx, shlex.split(os.environ.get(DRIVER_OPTIONS, "")))
            except (ValueError, click.UsageError) as error:
                text = error.format_message() if isinstance(error, click.UsageError) else str(error)
                raise click.UsageError(f"{DRIVER_OPTIONS}: {text}", ctx) from None
            flags = preset | flags
            objects = {prefix: merge(value, objects[prefix]) for prefix, value in base.items()}
        return list(flags.items()), objects

    def _read(
        self, ctx: click.Context, args: Sequence[str]
    ) -> tuple[dict[click.Option | None, list[str]], dict[str, dict[str, Any]]]:
        """Return each option with its tokens, and the objects."""
        plain, objects = super().split(ctx, args)
        flags: dict[click.Option | None, list[str]] = {}
        for option, tokens in plain:
            if option is not None:
                if option in flags:
                    raise click.UsageError(f"{flag_of(option)} is given twice", ctx)
                flags[option] = tokens
            elif tokens[0] == "--":
                break
            else:
                raise unknown_argument(ctx, tokens[0])
        return flags, objects

    def arguments(self, ctx: click.Context) -> Arguments:
        """Return what a context holds, as the commands take it."""
        flags = {
            flag_of(option).removeprefix("--"): value
            for option in self.params
            if option.name is not None
            and (value := ctx.params.get(option.name)) is not None
            and value is not False
        }
        return Arguments(flags, {prefix: ctx.params[key] for key, (prefix,) in self.objects.items()})


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
