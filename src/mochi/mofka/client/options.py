"""Options of the ``mofka`` driver and of its topics, checked before anything is sent. No I/O.

Fields of a partition may stand in three places of a topic's options. These are: at the top level (as a
``topic-config.json`` has them), under ``partition``, or under ``config.partition``; the later of these wins.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec.structs import replace

from diaspora_stream.arguments import object_of, options_of, partition_count
from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError
from diaspora_stream.generations import TODAY, Generation, tell_once
from mochi.flock.group_file import START_PATIENCE
from mochi.margo.config import MargoConfig
from mochi.margo.errors import ConfigError as MargoConfigError
from mochi.margo.paths import expand_home
from mochi.mofka.partition.config import PARTITION_FIELDS

log = logging.getLogger(__name__)

MAX_TIMEOUT_MS = 1e15
"""Milliseconds of a time-out at most, a thousand times a lifetime."""

METADATA_VARIABLE = "MOFKA_METADATA"
"""Environment variable that says what ``event.metadata`` is where the driver's option does not."""

_METADATA = {"text": True, "value": False}
_BY_POSITION = ("group_file", "engine", "use_progress_thread")
_DRIVER = ("group_file", "group_file_timeout_ms", "margo", "metadata", "timeout_ms")
_TOPIC = ("config", "dependencies", "num_partitions", "partition", "partitions")
_CONFIG = ("partition", "type", "uuid")
_OF_OTHER_DRIVERS = ("flush_behavior", "root_path", "use_file_locking")


class DriverOptions(msgspec.Struct, frozen=True):
    """What a driver was told; the path of the group file is absolute, times are in seconds."""

    group_file: str
    timeout: float
    patience: float
    generation: Generation


class TopicOptions(msgspec.Struct, frozen=True):
    """What the partitions of a new topic are to be."""

    num_partitions: int
    type: str
    partition: dict[str, Any]
    uuids: list[str]
    dependencies: dict[str, list[str]]


def _reject_unknown(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in found:
        if key not in known:
            raise ConfigError(f"{where}.{key}", f"unknown field{hint(key, known)}")


def options_by_position(given: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``MofkaDriver(group_file, engine, use_progress_thread)``, as the oldest programs say.

    Raises
    ------
    TypeError
        Something else was given; says what is right today.
    """
    today = "today's form is MofkaDriver(group_file='mofka.json')"
    if len(given) > len(_BY_POSITION):
        raise TypeError(f"MofkaDriver() takes {', '.join(_BY_POSITION)} by position; {today}")
    named = dict(zip(_BY_POSITION, given, strict=False))
    if twice := named.keys() & options.keys():
        raise TypeError(f"MofkaDriver() got {', '.join(sorted(twice))} twice; {today}")
    if not isinstance(named["group_file"], str | os.PathLike):
        raise TypeError(f"group_file must be a path, not {named['group_file']!r}; {today}")
    engine = named.pop("engine", None)
    if engine is not None:
        if not (isinstance(engine, str | int) or hasattr(engine, "mid")):
            raise TypeError(
                f"the engine must be a pymargo Engine, a protocol or a margo id, not {engine!r}, and is not needed; "
                f"{today}"
            )
        log.debug("MofkaDriver(): %r has no effect: the group file says how the servers are reached", engine)
    return {**named, **options}


def parse_driver(options: Any, generation: Generation) -> DriverOptions:
    """Check a driver's options.

    Parameters
    ----------
    generation : Generation
        That of the way in which the driver was made; the option ``metadata``, or else the environment, changes it.

    Raises
    ------
    ConfigError
        Names the field, what was found, and what would be right.
    """
    options = options_of(options)
    if options.pop("use_progress_thread", None) is not None:
        level = logging.DEBUG if generation.older_names else logging.WARNING
        tell_once("use_progress_thread", level, "options.use_progress_thread is obsolete and has no effect")
    _reject_unknown(options, _DRIVER, "options")
    try:
        MargoConfig.parse(object_of(options.get("margo", {}), "options.margo"), "options.margo")
    except MargoConfigError as error:
        raise ConfigError(error.where, error.problem) from error
    timeout = timeout_of(options)
    patience = milliseconds(
        "options.group_file_timeout_ms", options.get("group_file_timeout_ms", 1000 * START_PATIENCE)
    )
    if not 0 <= patience <= MAX_TIMEOUT_MS:
        raise ConfigError(
            "options.group_file_timeout_ms",
            f"must be a number of milliseconds, 0 or more, found {patience!r}",
        )
    return DriverOptions(
        os.path.abspath(path_of("options.group_file", options.get("group_file"))),
        timeout,
        patience / 1000,
        replace(generation, metadata_text=is_text(options, generation)),
    )


def is_text(options: Mapping[str, Any], generation: Generation) -> bool:
    """Tell whether metadata is to be JSON text; `ConfigError` if the option ``metadata`` is wrong."""
    for where, chosen in (
        ("options.metadata", options.get("metadata")),
        (METADATA_VARIABLE, os.environ.get(METADATA_VARIABLE) or None),
    ):
        if chosen is not None:
            if not isinstance(chosen, str) or chosen not in _METADATA:
                raise ConfigError(where, f"found {chosen!r}, allowed are 'text' and 'value'")
            return _METADATA[chosen]
    return generation.metadata_text


def milliseconds(where: str, value: Any) -> float:
    """Return an option that is a number of milliseconds; `ConfigError` if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ConfigError(where, f"must be a positive number of milliseconds, found {value!r}")
    return float(value)


def timeout_of(options: Mapping[str, Any]) -> float:
    """Return the seconds of a driver's ``timeout_ms``; `ConfigError` if that is none."""
    timeout = milliseconds("options.timeout_ms", options.get("timeout_ms", 30000))
    if not 0 < timeout <= MAX_TIMEOUT_MS:
        raise ConfigError(
            "options.timeout_ms", f"must be a positive number of milliseconds, found {timeout!r}"
        )
    return timeout / 1000


def path_of(where: str, path: Any) -> str:
    """Return a path that was given as a str or an ``os.PathLike``, the user's home in place of ``~``."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(where, f"must be a path, found {path!r}")
    try:
        return expand_home(path, where)
    except MargoConfigError as error:
        raise ConfigError(error.where, error.problem) from error


def parse_topic(options: Any, generation: Generation = TODAY) -> TopicOptions:
    """Check a topic's options, see the module.

    Raises
    ------
    ConfigError
        Names the field, what was found, and what would be right.
    """
    options = options_of(options)
    for key in _OF_OTHER_DRIVERS:
        if options.pop(key, None) is not None:
            log.warning("options.%s is for another driver and has no effect", key)
    _reject_unknown(options, (*_TOPIC, *PARTITION_FIELDS), "options")
    config = object_of(options.get("config", {}), "options.config")
    _reject_unknown(config, _CONFIG, "options.config")
    partition = {key: options[key] for key in options if key in PARTITION_FIELDS}
    partition.update(object_of(options.get("partition", {}), "options.partition"))
    partition.update(object_of(config.get("partition", {}), "options.config.partition"))
    if "path" in partition:
        partition["path"] = path_of("options.path", partition["path"])
    kind = config.get("type", "memory")
    if not isinstance(kind, str):
        raise ConfigError("options.config.type", f"must be a str, found {kind!r}")
    count = partition_count(options)
    if count is None:
        level = logging.DEBUG if generation.is_older else logging.WARNING
        log.log(level, "options.num_partitions is not given: the topic has no partition yet")
        count = 0
    if kind == "memory" and (unused := sorted(partition.keys() - {"retention"})):
        log.warning(
            "options.config.partition.%s: no effect on a partition in memory; options.config.type 'default' keeps "
            "events in files",
            ", ".join(unused),
        )
    parsed = TopicOptions(
        count,
        kind,
        partition,
        _uuids(config.get("uuid"), count),
        {
            name: _names(name, value)
            for name, value in object_of(options.get("dependencies", {}), "options.dependencies").items()
        },
    )
    check_sendable(parsed, "options")
    return parsed


def check_sendable(value: Any, where: str) -> None:
    """Raise `ConfigError` for what no message can carry, such as an integer beyond 64 bits or half a surrogate pair."""
    try:
        msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(where, f"cannot be sent to a server: {error}") from None


def _uuids(given: Any, count: int) -> list[str]:
    if given is None:
        return [str(uuid4()) for _ in range(count)]
    if count != 1:
        raise ConfigError(
            "options.config.uuid", f"can be given for exactly one partition, and there are {count}"
        )
    try:
        if not isinstance(given, str) or str(UUID(given)) != given.lower():
            raise ValueError
    except ValueError:
        raise ConfigError(
            "options.config.uuid", f"must be a UUID of 36 characters, found {given!r}"
        ) from None
    return [given.lower()]


def _names(name: str, value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(item, str) for item in names):
        raise ConfigError(
            f"options.dependencies.{name}", f"must be a name, or a list of names, found {value!r}"
        )
    return list(names)
