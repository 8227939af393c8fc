"""Entry point of diaspora-ctl: finds the command, prepares its arguments, and turns errors into exit codes.

Results go to standard output, logs and errors to standard error. The exit code is 0 when the command did what
it was asked to, 130 when Ctrl-C ended it, 1 otherwise.
"""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from importlib.metadata import version
from typing import Final, NamedTuple

from diaspora_stream.console.hints import hint
from diaspora_stream.ctl import fifo, forward, topic
from diaspora_stream.ctl.options import Arguments, Syntax, UsageError, check_required, overlay, parse, usage

PROGRAM: Final = "diaspora-ctl"

DRIVER_OPTIONS: Final = "DIASPORA_CTL_DRIVER_OPTIONS"
"""Environment variable with arguments to put before those of the command line; quoted as in a shell."""

INTERRUPTED: Final = 130

LEVELS: Final = {
    "trace": logging.DEBUG - 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL + 1,
}


_LEVEL_NAMES: Final = {number: name for name, number in LEVELS.items()}


class _LineFormatter(logging.Formatter):
    """Writes levels as the command line names them."""

    def format(self, record: logging.LogRecord) -> str:
        shown = copy(record)
        shown.levelname = _LEVEL_NAMES.get(record.levelno, record.levelname)
        return super().format(shown)


class _Command(NamedTuple):
    syntax: Syntax
    run: Callable[[Arguments], None]
    help: str


_COMMANDS: Final[Mapping[str, _Command | Mapping[str, _Command]]] = {
    "topic": {
        "create": _Command(topic.CREATE, topic.create, "create a topic"),
        "attach": _Command(topic.ATTACH, topic.attach, "serve what another service has left of a topic"),
        "delete": _Command(topic.DELETE, topic.delete, "delete a topic and all its events"),
        "list": _Command(topic.LIST, topic.list_topics, "list the topics"),
    },
    "fifo": _Command(fifo.FIFO, fifo.fifo, "connect named pipes with topics until it is told to stop"),
    "forward": _Command(forward.FORWARD, forward.forward, "copy topics into others until it is told to stop"),
}


def _usage() -> str:
    commands = {
        f"{group} {action}": command
        for group, found in _COMMANDS.items()
        for action, command in ({"": found} if isinstance(found, _Command) else found).items()
    }
    lines = [f"  {name:14} {command.help}" for name, command in commands.items()]
    return "\n".join([f"usage: {PROGRAM} <command> [<action>] [flags]", "", *lines])


def start_logging(level: str) -> None:
    """Have log lines of a level and above written to standard error; `UsageError` for a level that is none."""
    if level not in LEVELS:
        raise UsageError(f"--logging: unknown level {level!r}{hint(level, LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _LineFormatter("[%(asctime)s.%(msecs)03d] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def _arguments(syntax: Syntax, given: Sequence[str]) -> Arguments:
    if "driver" not in syntax.prefixes:
        return parse(syntax, given)
    try:
        preset = parse(syntax, shlex.split(os.environ.get(DRIVER_OPTIONS, "")))
    except (ValueError, UsageError) as error:
        raise UsageError(f"{DRIVER_OPTIONS}: {error}") from None
    return overlay(preset, parse(syntax, given))


def _run(name: str, command: _Command, given: Sequence[str]) -> int:
    try:
        arguments = _arguments(command.syntax, given)
        if "help" in arguments.flags:
            print(usage(name, command.syntax))
            return 0
        if "version" in arguments.flags:
            print(version("mofka"))
            return 0
        check_required(command.syntax, arguments)
        start_logging(arguments.flags.get("logging", "info"))
    except UsageError as error:
        print(f"{name}: {error}\nFor all flags: {name} --help", file=sys.stderr)
        return 1
    try:
        command.run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        Exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else 1
    if given[0] == "--version":
        print(version("mofka"))
        return 0
    group, *rest = given
    if group not in _COMMANDS:
        print(f"unknown command {group!r}{hint(group, _COMMANDS)}", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 1
    actions = _COMMANDS[group]
    if isinstance(actions, _Command):
        return _run(f"{PROGRAM} {group}", actions, rest)
    if not rest:
        print(f"{group} needs an action{hint('', actions)}", file=sys.stderr)
        print(_usage())
        return 1
    if rest[0] not in actions:
        print(f"unknown action {rest[0]!r} of {group}{hint(rest[0], actions)}", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 1
    return _run(f"{PROGRAM} {group} {rest[0]}", actions[rest[0]], rest[1:])
