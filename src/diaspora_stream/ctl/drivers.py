"""What the commands share: flags, options from files, a driver, and messages that name flags."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from diaspora_stream.api import Driver
from diaspora_stream.console import logs
from diaspora_stream.console.commands import Level, version
from diaspora_stream.console.logs import LEVELS
from diaspora_stream.ctl.options import Arguments, FlagsCommand, merge, with_flags
from diaspora_stream.errors import ConfigError, InvalidJson
from diaspora_stream.json_value import encode, from_text

_MAX_FILE = 16 << 20
"""Bytes that are read of a file of options."""


def flag(name: str, text: str, value: str = "", short: str = "", **options: Any) -> click.Option:
    """Return a flag with a help text; it takes a value if it has a name for one."""
    names = [f"--{name}", *([f"-{short}"] if short else [])]
    return click.Option(
        names, help=f"{text[0].upper()}{text[1:]}.", metavar=value or None, is_flag=not value, **options
    )


DRIVER = (
    flag("driver", "driver to use, such as mofka", "NAME", required=True),
    flag("driver-config", "JSON file with options of the driver", "FILE"),
)
"""The flags of commands that use a driver."""

LOGGING = click.Option(
    ["--logging"],
    type=Level(),
    default="info",
    show_default=True,
    metavar="LEVEL",
    help=f"{', '.join(list(LEVELS)[:-1])} or off.",
)

NAME = flag("name", "name of the topic", "NAME", required=True)


class CtlCommand(FlagsCommand):
    """A command that is called with its `Arguments`, and logs to standard error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Start the log, and run the command."""
        start_logging(ctx.params["logging"])
        return super().invoke(ctx)


def start_logging(level: str) -> None:
    """Have log lines of a level and above written to standard error."""
    logs.start(sys.stderr, level, colored=sys.stderr.isatty())


def command(
    name: str, *flags: click.Parameter, prefixes: Sequence[str] = (), is_preset: bool = False
) -> Callable[[Callable[[Arguments], None]], CtlCommand]:
    """Return a decorator that makes a command of a function; its docstring is the help."""

    def make(function: Callable[[Arguments], None]) -> CtlCommand:
        def call(**_: Any) -> None:
            context = click.get_current_context()
            function(made.arguments(context))

        made = CtlCommand(
            name,
            params=[*flags, LOGGING],
            callback=call,
            help=function.__doc__,
            prefixes=prefixes,
            is_preset=is_preset,
        )
        version(made)
        return made

    return make


def read_file(flag: str, path: str) -> bytes:
    """Return the content of a file that a flag names; `ConfigError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{flag} {path}", f"cannot be read: {error.strerror}") from None


def options_of(arguments: Arguments, prefix: str) -> dict[str, Any]:
    """Return the options of a prefix: those of its file, with the dotted ones merged over them."""
    path = arguments.flags.get(f"{prefix}-config")
    if not path:
        return arguments.options[prefix]
    try:
        base = from_text(read_file(f"--{prefix}-config", path))
    except InvalidJson as error:
        raise ConfigError(path, str(error)) from None
    if not isinstance(base, dict):
        raise ConfigError(path, f"must hold a JSON object, holds {encode(base).decode()}")
    merged: dict[str, Any] = merge(base, arguments.options[prefix])
    return merged


@contextmanager
def naming_flags(arguments: Arguments, prefix: str) -> Iterator[None]:
    """Let errors and log lines of the body name the flags of a prefix in place of fields of its ``options``."""

    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = with_flags(record.getMessage(), prefix, arguments), ()
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    except ConfigError as error:
        where, problem = (with_flags(text, prefix, arguments) for text in (error.where, error.problem))
        raise ConfigError(where, problem) from error
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


def open_driver(arguments: Arguments) -> Driver:
    """Return the driver that the flags name."""
    options = options_of(arguments, "driver")
    with naming_flags(arguments, "driver"):
        return Driver(backend=arguments.flags["driver"], options=options)
