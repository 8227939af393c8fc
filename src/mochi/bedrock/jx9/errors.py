"""Errors of scripts. All that a script can do wrong, whatever its text, ends in one of these."""

from mochi.bedrock.errors import BedrockError


class Jx9Error(BedrockError):
    """Root of the errors of scripts; by itself, one that failed while it ran.

    Attributes
    ----------
    problem : str
        What went wrong, and what would be right.
    line, column : int, optional
        Where in the script, counted from 1.
    """

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        places = [f"{word} {number}" for word, number in (("line", line), ("column", column)) if number]
        super().__init__(": ".join([" ".join(places), problem]) if places else problem)
        self.problem = problem
        self.line = line
        self.column = column


class Jx9SyntaxError(Jx9Error):
    """Text that is not a script."""


class Jx9LimitError(Jx9Error):
    """A script that wants more than the `mochi.bedrock.jx9.limits.Limits` that it runs under."""
