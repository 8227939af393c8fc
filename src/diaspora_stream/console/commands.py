"""Command lines: click with the exit statuses, the messages and the dotted options that our commands share.

A flag is written ``--name value`` or ``--name=value``; ``-h`` and ``--help`` explain a command at every level. What
fails is one line on standard error. Shells complete commands and flags, as docs/commands.md says.
"""

import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import click

from diaspora_stream.console.hints import hint
from diaspora_stream.console.logs import LEVELS

INTERRUPTED: Final = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""

_DOTTED: Final = re.compile(r"--([^.=]+)\.([^=]*)(?:=(.*))?", re.DOTALL)

_HELP: Final = {"help_option_names": ["-h", "--help"]}

_log = logging.getLogger(__name__)

version = click.version_option(package_name="mofka", message="%(version)s")
"""The flag ``--version`` of all commands."""


class Failure(click.ClickException):
    """A command that did not do what it was asked to.

    Parameters
    ----------
    problem : object
        What is wrong; it is shown in one line.
    """

    def __init__(self, problem: object) -> None:
        super().__init__(" ".join(str(problem).split()) or type(problem).__name__)


class Level(click.Choice[str]):
    """The name of a level of the log."""

    def __init__(self) -> None:
        super().__init__(list(LEVELS))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise a `click.UsageError` that tells the nearest."""
        if value not in LEVELS:
            flag = "" if param is None else f"{flag_of(param)}: "
            raise click.UsageError(f"{flag}unknown level {value!r}{hint(value, LEVELS)}", ctx)
        return str(value)


class Command(click.Command):
    """A command.

    Parameters
    ----------
    usage_status : int
        Exit status for a command line that is not understood.
    failure_status : int
        Exit status for whatever else fails.
    prefix : str
        What the line about a failure begins with.
    """

    def __init__(
        self,
        *arguments: Any,
        usage_status: int = 2,
        failure_status: int = 255,
        prefix: str = "Error",
        **options: Any,
    ) -> None:
        options["context_settings"] = _HELP | (options.get("context_settings") or {})
        super().__init__(*arguments, **options)
        self._usage_status = usage_status
        self._failure_status = failure_status
        self._prefix = prefix

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command, and exit with its status unless `standalone_mode` is False."""
        run: Callable[[], Any] = partial(
            super().main, args, prog_name, complete_var, standalone_mode=False, **extra
        )
        if not standalone_mode:
            return run()
        try:
            status = run()
        except click.exceptions.NoArgsIsHelpError as error:
            _show_missing_command(error)
            sys.exit(self._usage_status)
        except click.UsageError as error:
            error.show()
            sys.exit(self._usage_status)
        except click.ClickException as error:
            click.echo(f"{self._prefix}: {error.format_message()}", err=True)
            sys.exit(self._failure_status)
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; any error is a `Failure`, and Ctrl-C ends it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except OSError as error:
            if error.filename is None:
                self._fail(error, error)
            self._fail(error, f"{error.filename}: {error.strerror}")
        except Exception as error:
            self._fail(error, str(error) or type(error).__name__)

    def _fail(self, error: Exception, problem: object) -> NoReturn:
        _log.debug("the command failed", exc_info=error)
        raise Failure(problem) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; what is wrong is told in the words of all our commands."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_argument(ctx, error.option_name) from None
        except click.MissingParameter as error:
            if not isinstance(error.param, click.Option):
                raise
            raise click.UsageError(f"{flag_of(error.param)} must be given", ctx) from None


def _show_missing_command(error: click.exceptions.NoArgsIsHelpError) -> None:
    """Show the help of a group that was called alone, and say on standard error that something is missing."""
    context = error.ctx
    assert context is not None
    assert isinstance(context.command, click.Group)
    missing = "an action" if context.parent else "a command"
    click.echo(context.get_help())
    click.echo(
        f"{context.info_name} needs {missing}{hint('', context.command.list_commands(context))}", err=True
    )


def flag_of(option: click.Parameter) -> str:
    """Return the long form of an option, with its dashes."""
    return max(option.opts, key=len)


def unknown_argument(ctx: click.Context, argument: str) -> click.UsageError:
    """Return the error for an argument that a command does not know, with the flag that is most like it."""
    flags = [flag for param in ctx.command.get_params(ctx) for flag in param.opts if flag.startswith("-")]
    if isinstance(ctx.command, DottedCommand):
        flags += ctx.command.dotted
    return click.UsageError(f"unknown argument {argument!r}{hint(argument, flags)}", ctx)


class Group(Command, click.Group):
    """Commands under one name; its help lists all of them, also those of the groups in it.

    Parameters
    ----------
    later : mapping
        Commands whose modules are imported when they are needed: ``module:command`` by name.
    """

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, later: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._later = later or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted([*self.commands, *self._later])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none of this name."""
        if cmd_name not in self._later:
            return super().get_command(ctx, cmd_name)
        module, _, name = self._later[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            what = f"action {name!r} of {ctx.info_name}" if ctx.parent else f"command {name!r}"
            raise click.UsageError(f"unknown {what}{hint(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of all commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._all_commands(ctx)))

    def _all_commands(self, ctx: click.Context, before: str = "") -> Iterator[tuple[str, str]]:
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if isinstance(command, Group):
                yield from command._all_commands(ctx, f"{before}{name} ")
            elif command is not None:
                yield f"{before}{name}", command.get_short_help_str(limit=80)


class DottedCommand(Command):
    """A command that also takes dotted options, which add up to objects: ``--config.a.b VALUE``.

    The next argument is always the value of an option, whatever it looks like.

    Parameters
    ----------
    objects : mapping
        For each parameter that is an object, the names before the point.
    """

    def __init__(self, *arguments: Any, objects: Mapping[str, Sequence[str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.objects = objects
        self.dotted = [f"--{name}.<field>" for names in objects.values() for name in names]
        if objects:
            rows = "\n".join(
                f"{' or '.join(f'--{name}.<field> VALUE' for name in names)}" for names in objects.values()
            )
            self.epilog = f"\b\nDotted options, each a field of an object:\n{rows}"

    def put(self, parameter: str, target: dict[str, Any], keys: Sequence[str], text: str) -> None:
        """Put the value that a text means into an object.

        Raises
        ------
        ValueError
            It cannot be there.
        """
        raise NotImplementedError

    def split(
        self, ctx: click.Context, args: Sequence[str]
    ) -> tuple[list[tuple[click.Option | None, list[str]]], dict[str, dict[str, Any]]]:
        """Return the arguments without dotted options, each option with its value, and the objects."""
        flags = {
            flag: param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
            for flag in (*param.opts, *param.secondary_opts)
        }
        parameters = {name: key for key, names in self.objects.items() for name in names}
        objects: dict[str, dict[str, Any]] = {key: {} for key in self.objects}
        plain: list[tuple[click.Option | None, list[str]]] = []
        left = iter(args)

        def value(flag: str) -> str:
            text = next(left, None)
            if text is None:
                raise click.UsageError(f"{flag} lacks its value", ctx)
            return text

        for argument in left:
            if argument == "--":
                plain.append((None, [argument, *left]))
            elif (dotted := _DOTTED.fullmatch(argument)) and dotted[1] in parameters:
                key, keys = parameters[dotted[1]], dotted[2].split(".")
                if not all(keys):
                    raise click.UsageError(
                        f"{argument}: must be written as '--{dotted[1]}.some.field value'", ctx
                    )
                text = value(argument) if dotted[3] is None else dotted[3]
                try:
                    self.put(key, objects[key], keys, text)
                except ValueError as error:
                    raise click.UsageError(f"{argument}: {error}", ctx) from None
            else:
                name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
                option = flags.get(name)
                needs_value = option is not None and not option.is_flag and argument == name
                plain.append((option, [argument, value(argument)] if needs_value else [argument]))
        return plain, objects

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the dotted options out, and read the others."""
        plain, objects = self.split(ctx, args)
        rest = super().parse_args(ctx, [token for _, tokens in plain for token in tokens])
        ctx.params.update(objects)
        return rest
