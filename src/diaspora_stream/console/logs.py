"""Log lines: one form for servers and commands, and the names of the levels."""

import logging
from typing import Final, TextIO

import click

TRACE: Final = 5
"""The level below `logging.DEBUG`."""

LEVELS: Final = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "err": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL + 1,
}
"""The levels that a command line may name."""

_COLORS = {"warning": "yellow", "error": "red", "critical": "red", "info": "green", "debug": "cyan"}


class LineFormatter(logging.Formatter):
    """``[YYYY-MM-DD HH:MM:SS.mmm] [level] text``, the level in colour on a terminal.

    Parameters
    ----------
    colored : bool
        Whether the lines go to a terminal.
    with_traceback : bool
        Whether an exception is shown with its traceback, rather than by its type and text alone.
    """

    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self, *, colored: bool, with_traceback: bool) -> None:
        super().__init__()
        self._colored = colored
        self._with_traceback = with_traceback

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        level = "trace" if record.levelno == TRACE else record.levelname.lower()
        shown = click.style(level, fg=_COLORS.get(level)) if self._colored else level
        line = f"[{self.formatTime(record)}] [{shown}] {record.getMessage()}"
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line += f": {type(error).__name__}: {error}"
            if self._with_traceback:
                line += "\n" + self.formatException(record.exc_info)
        return line


def handler(stream: TextIO, level: str, *, colored: bool) -> logging.Handler:
    """Return what writes lines to a stream; tracebacks are shown at the levels debug and trace only."""
    made = logging.StreamHandler(stream)
    made.setFormatter(LineFormatter(colored=colored, with_traceback=LEVELS[level] <= logging.DEBUG))
    return made


def start(stream: TextIO, level: str, *, colored: bool) -> None:
    """Have all log lines of a level and above written to a stream."""
    logging.basicConfig(level=LEVELS[level], handlers=[handler(stream, level, colored=colored)], force=True)
