"""Configuration of an abt_io provider: the table, the expanded form, errors with the field's path."""

import logging
from typing import Any

import pytest

from mochi.abt_io.config import LIBURING_FLAGS, parse
from mochi.abt_io.errors import ConfigError

EXPANDED: dict[str, Any] = {
    "internal_pool_flag": False,
    "liburing_flags": [],
    "null_io_read": False,
    "null_io_write": False,
    "num_urings": 0,
    "trace_io": False,
    "version": "0.9.0",
}


def test_an_empty_configuration_expands_to_the_original_s_seven_fields() -> None:
    assert parse({}, {}).expand() == EXPANDED


def test_the_seed_s_io_uring_is_echoed() -> None:
    config = parse({"num_urings": 1, "liburing_flags": ["IOSQE_ASYNC"]}, {})
    assert config.expand() == {**EXPANDED, "num_urings": 1, "liburing_flags": ["IOSQE_ASYNC"]}


def test_an_expanded_configuration_loads_again() -> None:
    config = parse({"null_io_write": True, "liburing_flags": list(LIBURING_FLAGS)}, {})
    assert parse(config.expand(), {}) == config


@pytest.mark.parametrize("field", ["backing_thread_count", "internal_pool"])
def test_settings_of_an_internal_pool_are_dropped_with_a_warning(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse({field: 4}, {}).expand() == EXPANDED
    assert f"config.{field} is ignored" in caplog.text


def test_flags_without_a_ring_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    parse({"liburing_flags": ["IOSQE_ASYNC"], "num_urings": 1}, {})
    assert not caplog.messages
    assert parse({"liburing_flags": ["IOSQE_ASYNC"]}, {}).liburing_flags == ["IOSQE_ASYNC"]
    assert caplog.messages == ["abt_io: config.liburing_flags has no effect, for config.num_urings is 0"]


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), ("false", False)]
)
def test_the_environment_turns_the_trace_on(value: str, expected: bool) -> None:
    assert parse({}, {"ABT_IO_TRACE_IO": value}).trace_io is expected


def test_the_configuration_wins_over_the_environment() -> None:
    assert parse({"trace_io": False}, {"ABT_IO_TRACE_IO": "1"}).trace_io is False


@pytest.mark.parametrize(
    ("config", "where", "problem"),
    [
        ({"num_uring": 1}, "config.num_uring", "did you mean 'num_urings'?"),
        ({"threads": 1}, "config.threads", "'num_urings'"),
        ({"num_urings": -1}, "config.num_urings", "expected int >= 0; found -1"),
        ({"num_urings": 100000}, "config.num_urings", "expected int <= 1024; found 100000"),
        ({"num_urings": "1"}, "config.num_urings", 'expected int; found "1"'),
        ({"null_io_read": 0}, "config.null_io_read", "expected bool; found 0"),
        ({"liburing_flags": "IOSQE_ASYNC"}, "config.liburing_flags", 'expected array; found "IOSQE_ASYNC"'),
        ({"liburing_flags": ["IOSQE_ASYNC", 1]}, "config.liburing_flags[1]", "expected str; found 1"),
        ({"liburing_flags": ["IOSQE_ASINC"]}, "config.liburing_flags[0]", "did you mean 'IOSQE_ASYNC'?"),
        ({"liburing_flags": ["FAST"]}, "config.liburing_flags[0]", "'IOSQE_ASYNC'"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    config: dict[str, Any], where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(config, {})
    assert caught.value.where == where
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)
