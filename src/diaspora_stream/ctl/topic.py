"""The commands `diaspora-ctl topic create`, `attach`, `delete` and `list`."""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from diaspora_stream.console.commands import Group, version
from diaspora_stream.ctl.drivers import DRIVER, NAME, command, flag, naming_flags, open_driver, options_of
from diaspora_stream.ctl.options import Arguments, with_flags
from diaspora_stream.errors import ConfigError
from diaspora_stream.json_value import encode
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator

C = TypeVar("C")

_log = logging.getLogger("diaspora_stream.ctl")

topic = Group("topic", help="Topics.")
version(topic)


def _component(arguments: Arguments, prefix: str, make: Callable[..., C]) -> C | None:
    options = options_of(arguments, prefix)
    if prefix in arguments.flags:
        try:
            return make(**{**options, "type": arguments.flags[prefix]})
        except ConfigError as error:
            field = error.where.partition(".")[2]
            where = with_flags(f"options.{field}", prefix, arguments)
            raise ConfigError(f"--{prefix}" if field in ("", "type") else where, error.problem) from error
    if options:
        _log.warning("options of the %s are not used without --%s NAME", prefix, prefix)
    return None


@command(
    "create",
    *DRIVER,
    NAME,
    flag("topic-config", "JSON file with options of the topic", "FILE"),
    flag("validator", "type of the validator", "NAME"),
    flag("validator-config", "JSON file with options of the validator", "FILE"),
    flag("serializer", "type of the serializer", "NAME"),
    flag("serializer-config", "JSON file with options of the serializer", "FILE"),
    flag("partition-selector", "type of the partition selector", "NAME"),
    flag("partition-selector-config", "JSON file with options of the partition selector", "FILE"),
    prefixes=("driver", "topic", "validator", "serializer", "partition-selector"),
    is_preset=True,
)
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


@command("delete", *DRIVER, NAME, prefixes=("driver",), is_preset=True)
def delete(arguments: Arguments) -> None:
    """Delete a topic and all its events."""
    name = arguments.flags["name"]
    with open_driver(arguments) as driver:
        driver.delete_topic(name)
    _log.info("deleted topic %s", name)


@command(
    "attach",
    *DRIVER,
    NAME,
    flag("path", "where the directories <topic>-<uuid> are, or one of them", "DIR", required=True),
    flag("server", "index of the server in the group file that is to serve them", "N", default="0"),
    prefixes=("driver",),
    is_preset=True,
)
def attach(arguments: Arguments) -> None:
    """Serve what another service has left of a topic, from its directories."""
    name, server = arguments.flags["name"], arguments.flags["server"]
    path = os.path.abspath(os.path.expanduser(arguments.flags["path"]))
    if not server.isdecimal():
        raise ConfigError("--server", f"must be a number, found {server!r}")
    with open_driver(arguments) as driver:
        driver.attach_topic(name, path, server_rank=int(server))
    _log.info("attached topic %s", name)


@command(
    "list",
    *DRIVER,
    flag("verbose", "show what is known of each topic", short="v"),
    prefixes=("driver",),
    is_preset=True,
)
def list_topics(arguments: Arguments) -> None:
    """List the topics, sorted by name."""
    with open_driver(arguments) as driver:
        topics = driver.list_topics()
    for name in sorted(topics):
        print(f"{name} {encode(topics[name]).decode()}" if "verbose" in arguments.flags else name)


for _each in (create, attach, delete, list_topics):
    topic.add_command(_each)
