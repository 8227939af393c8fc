"""Arguments and options that all drivers take, checked where they are given."""

from collections.abc import Mapping
from typing import Any, Final

from diaspora_stream.errors import ConfigError
from diaspora_stream.integers import unsigned

MAX_NAME: Final = 256
"""Characters of a topic's name at most."""

MAX_PARTITIONS: Final = 1 << 20
"""Partitions of a topic at most, more than the servers of any machine can serve."""


def options_of(value: Any, where: str = "options") -> dict[str, Any]:
    """Return options that are an object, or None for none, as a dict; else raise `ConfigError`."""
    return {} if value is None else object_of(value, where)


def object_of(value: Any, where: str) -> dict[str, Any]:
    """Return a field that is an object as a dict; else raise `ConfigError`."""
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"must be an object, found {value!r}")
    return dict(value)


def check_text(what: str, text: Any) -> str:
    """Check that something is a str that can be encoded, which one with half of a surrogate pair cannot be.

    Raises
    ------
    TypeError
        It is no str.
    ConfigError
        It cannot be encoded; says `what` it is.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(what, f"{text!r} is not Unicode text: {error.reason}") from None
    return text


def check_object(what: str, value: Any) -> dict[str, Any]:
    """Return an argument that is an object as a dict; TypeError that names it for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a dict, not {value!r}")
    return dict(value)


def check_name(name: Any) -> str:
    """Check the name of a new topic; `ConfigError` if it cannot be one, TypeError if it is no str."""
    if not isinstance(name, str):
        raise TypeError(f"topic name must be a str, not {name!r}")
    if not name or len(name) > MAX_NAME or name in (".", ".."):
        raise ConfigError(
            "topic name", f"must have 1 to {MAX_NAME} characters and be neither . nor .., found {name!r}"
        )
    bad = sorted({character for character in name if character in "/:" or not character.isprintable()})
    if bad:
        raise ConfigError(
            "topic name", f"{name!r} contains {bad!r}; '/', ':' and unprintable characters are not allowed"
        )
    return name


def partition_count(options: Mapping[str, Any]) -> int | None:
    """Return how many partitions a new topic is to have, None if that is not given; `ConfigError` if it is bad."""
    given = [name for name in ("num_partitions", "partitions") if name in options]
    if not given:
        return None
    name, count = given[0], options[given[0]]
    try:
        number = int(count) if isinstance(count, float) else unsigned(name, count)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not 1 <= number <= MAX_PARTITIONS:
        raise ConfigError(f"options.{name}", f"must be a number from 1 to {MAX_PARTITIONS}, found {count!r}")
    if any(options[other] != count for other in given):
        raise ConfigError(
            "options.partitions",
            f"is what num_partitions was called; found {options['partitions']!r} beside {count!r}",
        )
    return number
