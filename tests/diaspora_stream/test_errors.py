"""The error tree: roots, fields, messages."""

import pickle

import pytest

from diaspora_stream.console.hints import hint
from diaspora_stream.errors import (
    ConfigError,
    ConnectionFailed,
    DiasporaError,
    EventsDamaged,
    EventsExpired,
    InvalidJson,
    InvalidMetadata,
    InvalidSchema,
    TimeoutExpired,
    TopicExists,
    TopicNotFound,
    UnknownName,
    Violation,
)

EXAMPLES = [
    ConfigError("options.num_partitions", "must be more than 0, found -1"),
    InvalidSchema("validator.schema", "is none"),
    UnknownName("driver", "nothing"),
    InvalidMetadata("does not match", (Violation("/a", "1", "is no str"),)),
    InvalidJson("trailing comma", 3),
    TopicExists("t"),
    TopicNotFound("topik", ("topic",)),
    EventsExpired("topic 't', partition 0", 5, 9),
    EventsDamaged("topic 't', partition 0", 5, 9, "chunk-000001.data: they are not in it"),
    TimeoutExpired("too late"),
    ConnectionFailed("gone"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_is_a_runtime_error_and_survives_pickling(error: DiasporaError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, DiasporaError)
    assert isinstance(again, RuntimeError)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InvalidSchema, ValueError)
    assert issubclass(TimeoutExpired, TimeoutError)
    assert issubclass(ConnectionFailed, ConnectionError)


def test_messages_say_where_and_what_would_be_right() -> None:
    assert str(EXAMPLES[0]) == "options.num_partitions: must be more than 0, found -1"
    assert (
        str(TopicNotFound("topik", ("topic", "x"))) == "topic 'topik' does not exist; did you mean 'topic'?"
    )
    assert str(EXAMPLES[3]) == "does not match\n  at '/a': 1: is no str"


def test_a_long_instance_is_shortened_in_the_message_only() -> None:
    error = InvalidMetadata("no", (Violation("", "x" * 1000, "too long"),))
    assert len(str(error)) < 300
    assert len(error.violations[0].instance) == 1000


def test_hint_names_the_nearest_else_all_else_nothing() -> None:
    assert hint("schem", ["default", "schema"]) == "; did you mean 'schema'?"
    assert hint("zzz", ["b", "a"]) == "; known are 'a', 'b'"
    assert hint(3, ["a"]) == "; known are 'a'"
    assert hint("a", []) == ""
