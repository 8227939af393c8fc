"""What commands with sub-commands share: what fails is one line on standard error, and never exit status 0."""

from typing import Any

import click

__all__ = ["CONTEXT", "FAILURE", "Failure", "Group"]

FAILURE = 255
"""Exit status of a command that did not do what it was asked to; of flags that are not understood, it is 2."""

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Failure(click.ClickException):
    """A command that did not do what it was asked to."""

    exit_code = FAILURE


class Group(click.Group):
    """Commands of which any error is a `Failure`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            raise Failure(" ".join(str(error).split()) or type(error).__name__) from error
