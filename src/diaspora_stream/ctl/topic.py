"""The commands `diaspora-ctl topic create`, `attach`, `delete` and `list`."""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from diaspora_stream.ctl.drivers import COMMON_FLAGS, DRIVER_FLAGS, naming_flags, open_driver, options_of
from diaspora_stream.ctl.options import Arguments, Flag, Syntax, with_flags
from diaspora_stream.errors import ConfigError
from diaspora_stream.json_value import encode
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator

C = TypeVar("C")

_log = logging.getLogger("diaspora_stream.ctl")

CREATE = Syntax(
    (
        *DRIVER_FLAGS,
        Flag("name", "name of the topic", "NAME", required=True),
        Flag("topic-config", "JSON file with options of the topic", "FILE"),
        Flag("validator", "type of the validator", "NAME"),
        Flag("validator-config", "JSON file with options of the validator", "FILE"),
        Flag("serializer", "type of the serializer", "NAME"),
        Flag("serializer-config", "JSON file with options of the serializer", "FILE"),
        Flag("partition-selector", "type of the partition selector", "NAME"),
        Flag("partition-selector-config", "JSON file with options of the partition selector", "FILE"),
        *COMMON_FLAGS,
    ),
    ("driver", "topic", "validator", "serializer", "partition-selector"),
)

DELETE = Syntax(
    (*DRIVER_FLAGS, Flag("name", "name of the topic", "NAME", required=True), *COMMON_FLAGS),
    ("driver",),
)

ATTACH = Syntax(
    (
        *DRIVER_FLAGS,
        Flag("name", "name of the topic", "NAME", required=True),
        Flag("path", "where the directories <topic>-<uuid> are, or one of them", "DIR", required=True),
        Flag("server", "index of the server in the group file that is to serve them; 0 by default", "N"),
        *COMMON_FLAGS,
    ),
    ("driver",),
)

LIST = Syntax(
    (*DRIVER_FLAGS, Flag("verbose", "show what is known of each topic", short="v"), *COMMON_FLAGS),
    ("driver",),
)


def _component(arguments: Arguments, prefix: str, make: Callable[..., C]) -> C | None:
    options = options_of(arguments, prefix)
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
    options = options_of(arguments, "topic")
    validator = _component(arguments, "validator", Validator.from_metadata)
    serializer = _component(arguments, "serializer", Serializer.from_metadata)
    selector = _component(arguments, "partition-selector", PartitionSelector.from_metadata)
    name = arguments.flags["name"]
    _log.info("opening driver %s", arguments.flags["driver"])
    with open_driver(arguments) as driver, naming_flags(arguments, "topic"):
        _log.info("creating topic %s", name)
        driver.create_topic(
            name, options=options, validator=validator, partition_selector=selector, serializer=serializer
        )
    _log.info("created topic %s", name)


def delete(arguments: Arguments) -> None:
    """Delete a topic and all its events."""
    name = arguments.flags["name"]
    with open_driver(arguments) as driver:
        driver.delete_topic(name)
    _log.info("deleted topic %s", name)


def attach(arguments: Arguments) -> None:
    """Have partitions that nobody serves served from their directories."""
    name, server = arguments.flags["name"], arguments.flags.get("server", "0")
    path = os.path.abspath(os.path.expanduser(arguments.flags["path"]))
    if not server.isdecimal():
        raise ConfigError("--server", f"must be a number, found {server!r}")
    with open_driver(arguments) as driver:
        driver.attach_topic(name, path, server_rank=int(server))
    _log.info("attached topic %s", name)


def list_topics(arguments: Arguments) -> None:
    """Print the names of all topics, sorted; with what is known of each as JSON when verbose."""
    with open_driver(arguments) as driver:
        topics = driver.list_topics()
    for name in sorted(topics):
        print(f"{name} {encode(topics[name]).decode()}" if "verbose" in arguments.flags else name)
