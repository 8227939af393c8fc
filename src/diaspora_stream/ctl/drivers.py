"""What commands share that use a driver: its flags, options from files, and messages that name flags."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diaspora_stream.api import Driver
from diaspora_stream.ctl.options import Arguments, Flag, merge, with_flags
from diaspora_stream.errors import ConfigError, InvalidJson
from diaspora_stream.json_value import encode, from_text

_MAX_FILE = 16 << 20
"""Bytes that are read of a file of options."""

DRIVER_FLAGS = (
    Flag("driver", "driver to use, such as mofka", "NAME", required=True),
    Flag("driver-config", "JSON file with options of the driver", "FILE"),
)

COMMON_FLAGS = (
    Flag("logging", "trace, debug, info, warn, error, critical or off", "LEVEL"),
    Flag("help", "show this text", short="h"),
    Flag("version", "show the version"),
)


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
    options = options_of(arguments, "driver")
    with naming_flags(arguments, "driver"):
        return Driver(backend=arguments.flags["driver"], options=options)
