"""The commands `diaspora-ctl topic create`, `attach`, `delete` and `list`."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from diaspora_stream.api import Driver
from diaspora_stream.ctl.options import Arguments, Flag, Syntax, merge, with_flags
from diaspora_stream.errors import ConfigError, InvalidJson
from diaspora_stream.json_value import encode, from_text
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator

C = TypeVar("C")

_log = logging.getLogger("diaspora_stream.ctl")

_MAX_FILE = 16 << 20
"""Bytes that are read of a file of options."""

_DRIVER = (
    Flag("driver", "driver to use, such as mofka", "NAME", required=True),
    Flag("driver-config", "JSON file with options of the driver", "FILE"),
)

_COMMON = (
    Flag("logging", "trace, debug, info, warn, error, critical or off", "LEVEL"),
    Flag("help", "show this text", short="h"),
    Flag("version", "show the version"),
)

CREATE = Syntax(
    (
        *_DRIVER,
        Flag("name", "name of the topic", "NAME", required=True),
        Flag("topic-config", "JSON file with options of the topic", "FILE"),
        Flag("validator", "type of the validator", "NAME"),
        Flag("validator-config", "JSON file with options of the validator", "FILE"),
        Flag("serializer", "type of the serializer", "NAME"),
        Flag("serializer-config", "JSON file with options of the serializer", "FILE"),
        Flag("partition-selector", "type of the partition selector", "NAME"),
        Flag("partition-selector-config", "JSON file with options of the partition selector", "FILE"),
        *_COMMON,
    ),
    ("driver", "topic", "validator", "serializer", "partition-selector"),
)

DELETE = Syntax(
    (*_DRIVER, Flag("name", "name of the topic", "NAME", required=True), *_COMMON),
    ("driver",),
)

ATTACH = Syntax(
    (
        *_DRIVER,
        Flag("name", "name of the topic", "NAME", required=True),
        Flag("path", "where the directories <topic>-<uuid> are, or one of them", "DIR", required=True),
        Flag("server", "index of the server in the group file that is to serve them; 0 by default", "N"),
        *_COMMON,
    ),
    ("driver",),
)

LIST = Syntax(
    (*_DRIVER, Flag("verbose", "show what is known of each topic", short="v"), *_COMMON),
    ("driver",),
)


def _options(arguments: Arguments, prefix: str) -> dict[str, Any]:
    """Return the options of a prefix: those of its file, with the dotted ones merged over them."""
    path = arguments.flags.get(f"{prefix}-config")
    if path is None:
        return arguments.options[prefix]
    try:
        with open(path, "rb") as file:
            base = from_text(file.read(_MAX_FILE))
    except InvalidJson as error:
        raise ConfigError(path, str(error)) from None
    except OSError as error:
        raise ConfigError(f"--{prefix}-config {path}", f"cannot be read: {error.strerror}") from None
    if not isinstance(base, dict):
        raise ConfigError(path, f"must hold a JSON object, holds {encode(base).decode()}")
    merged: dict[str, Any] = merge(base, arguments.options[prefix])
    return merged


@contextmanager
def _naming_flags(arguments: Arguments, prefix: str) -> Iterator[None]:
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


def _driver(arguments: Arguments) -> Driver:
    options = _options(arguments, "driver")
    with _naming_flags(arguments, "driver"):
        return Driver(backend=arguments.flags["driver"], options=options)


def _component(arguments: Arguments, prefix: str, make: Callable[..., C]) -> C | None:
    options = _options(arguments, prefix)
    if prefix in arguments.flags:
        try:
            return make(**{**options, "type": arguments.flags[prefix]})
        except ConfigError as error:
            field = error.where.partition(".")[2]
            flag = with_flags(f"options.{field}", prefix, arguments)
            raise ConfigError(f"--{prefix}" if field in ("", "type") else flag, error.problem) from error
    if options:
        _log.warning("options of the %s are not used without --%s NAME", prefix, prefix)
    return None


def create(arguments: Arguments) -> None:
    """Create a topic."""
    options = _options(arguments, "topic")
    validator = _component(arguments, "validator", Validator.from_metadata)
    serializer = _component(arguments, "serializer", Serializer.from_metadata)
    selector = _component(arguments, "partition-selector", PartitionSelector.from_metadata)
    name = arguments.flags["name"]
    _log.info("opening driver %s", arguments.flags["driver"])
    with _driver(arguments) as driver, _naming_flags(arguments, "topic"):
        _log.info("creating topic %s", name)
        driver.create_topic(
            name, options=options, validator=validator, partition_selector=selector, serializer=serializer
        )
    _log.info("created topic %s", name)


def delete(arguments: Arguments) -> None:
    """Delete a topic and all its events."""
    name = arguments.flags["name"]
    with _driver(arguments) as driver:
        driver.delete_topic(name)
    _log.info("deleted topic %s", name)


def attach(arguments: Arguments) -> None:
    """Have partitions that nobody serves served from their directories."""
    name, server = arguments.flags["name"], arguments.flags.get("server", "0")
    path = os.path.abspath(os.path.expanduser(arguments.flags["path"]))
    if not server.isdecimal():
        raise ConfigError("--server", f"must be a number, found {server!r}")
    with _driver(arguments) as driver:
        driver.attach_topic(name, path, server_rank=int(server))
    _log.info("attached topic %s", name)


def list_topics(arguments: Arguments) -> None:
    """Print the names of all topics, sorted; with what is known of each as JSON when verbose."""
    with _driver(arguments) as driver:
        topics = driver.list_topics()
    for name in sorted(topics):
        print(f"{name} {encode(topics[name]).decode()}" if "verbose" in arguments.flags else name)
