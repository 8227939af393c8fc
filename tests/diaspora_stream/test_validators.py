"""Validators, made from descriptions and used."""

import logging
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.errors import ConfigError, InvalidMetadata, InvalidSchema, UnknownName
from diaspora_stream.validator import (
    DefaultValidator,
    EventBridgeValidator,
    SchemaValidator,
    Validator,
    readable_part,
    validator_of,
)

SCHEMA = {
    "type": "object",
    "properties": {"id": {"const": 1}, "mail": {"format": "email"}, "a/b": {"items": {"type": "string"}}},
    "required": ["id"],
}


def test_the_default_validator_accepts_everything() -> None:
    validator = Validator.from_metadata()
    assert isinstance(validator, DefaultValidator)
    for metadata in (None, 1, {"a": [object()]}):
        validator.validate(metadata)
    assert validator.to_metadata() == {"type": "default"}
    assert isinstance(Validator.from_metadata(type="default", whatever=1), DefaultValidator)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Validator.from_metadata(type="schema", schema=SCHEMA, extra=1),
        lambda: Validator.from_metadata("schema", {"schema": SCHEMA}),
        lambda: Validator.from_metadata({"type": "schema", "schema": SCHEMA}),
        lambda: Validator.from_metadata({"__type__": "schema", "schema": SCHEMA}),
        lambda: Validator.from_metadata("schema", metadata={"schema": SCHEMA}),
        lambda: Validator.from_metadata(type="schema", metadata={"schema": SCHEMA}),
        lambda: Validator.from_metadata(metadata={"type": "schema", "schema": SCHEMA}),
        lambda: Validator.from_metadata(**SchemaValidator(schema=SCHEMA).to_metadata()),
    ],
)
def test_all_generations_of_descriptions_make_the_same_validator(make: Any) -> None:
    validator = make()
    assert isinstance(validator, SchemaValidator)
    assert validator.to_metadata() == {"type": "schema", "schema": SCHEMA}


@pytest.mark.parametrize(
    "metadata", [{"id": 1}, {"id": 1.0, 7: None}, {"id": 1, "a/b": ("x", b"y")}, {"id": 1, "mail": "a@b.org"}]
)
def test_a_schema_accepts_what_matches_as_json(metadata: Any) -> None:
    SchemaValidator(schema=SCHEMA).validate(metadata)


def test_a_schema_reports_pointer_instance_and_reason_of_every_violation() -> None:
    with pytest.raises(InvalidMetadata) as caught:
        SchemaValidator(schema=SCHEMA).validate({"id": True, "mail": "nobody", "a/b": ["x", 2, 3]})
    found = {(violation.pointer, violation.instance) for violation in caught.value.violations}
    assert found == {("/id", "true"), ("/mail", '"nobody"'), ("/a~1b/1", "2"), ("/a~1b/2", "3")}
    text = str(caught.value)
    assert all(pointer in text and instance in text for pointer, instance in found)
    assert 'not of type "string"' in text


def test_a_schema_with_formats_checks_them() -> None:
    validator = SchemaValidator(schema={"format": "date-time"})
    validator.validate("2026-03-30T12:00:00Z")
    with pytest.raises(InvalidMetadata, match="date-time"):
        validator.validate("yesterday")


@pytest.mark.parametrize(
    "schema",
    [
        "text",
        3,
        {"type": "strin"},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "#/definitions/missing"},
        {"$ref": "http://localhost:1/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"enum": {1, 2}},
    ],
    ids=str,
)
def test_what_is_no_schema_is_a_value_error_that_says_where(schema: Any) -> None:
    with pytest.raises(InvalidSchema, match=r"^validator\.schema") as caught:
        Validator.from_metadata(type="schema", schema=schema)
    assert isinstance(caught.value, ValueError)


def test_an_event_pattern_accepts_what_matches_and_shows_what_does_not() -> None:
    validator = Validator.from_metadata(type="eventbridge", schema={"kind": ["a", "b"], "1": 2})
    assert isinstance(validator, EventBridgeValidator)
    validator.validate({"kind": "a", 1: 2.0})
    with pytest.raises(InvalidMetadata, match='"kind":"c"'):
        validator.validate({"kind": "c"})
    assert validator.to_metadata() == {"type": "eventbridge", "schema": {"kind": ["a", "b"], "1": 2}}


@pytest.mark.parametrize("kind", ["schema", "eventbridge"])
def test_a_missing_schema_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"validator\.schema: missing; did you mean 'shema'"):
        Validator.from_metadata(type=kind, shema={})


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"validator\.type: must be a str, found 3"):
        Validator.from_metadata(type=3)
    with pytest.raises(UnknownName, match="did you mean 'schema'"):
        Validator.from_metadata(type="shema")


def test_a_description_of_another_type_is_a_type_error() -> None:
    make: Any = Validator.from_metadata
    for wrong in (3, None, ["schema"], b"schema"):
        with pytest.raises(
            TypeError, match=r"Validator\.from_metadata takes keywords, such as type='default'"
        ):
            make(wrong)


@pytest.mark.parametrize("number", [1, 1.0, -0.0, 1e300])
def test_a_float_without_fraction_is_an_integer(number: float) -> None:
    SchemaValidator(schema={"type": "integer"}).validate(number)
    with pytest.raises(InvalidMetadata):
        SchemaValidator(schema={"type": "integer"}).validate(1.5)


@pytest.mark.parametrize(
    ("schema", "left", "where"),
    [
        ({"type": "integer", "title": 3}, {"type": "integer"}, ["/title"]),
        ({"type": "strin"}, {}, ["/type"]),
        ({"properties": {"a/b": {"required": True, "minimum": 1}}}, {"properties": {"a/b": {"minimum": 1}}},
         ["/properties/a~1b/required"]),
        ({"required": ["a", 1], "minimum": 0}, {"minimum": 0}, ["/required"]),
        ({"exclusiveMinimum": True, "minimum": 0}, {"minimum": 0}, ["/exclusiveMinimum"]),
        ({"items": [{"pattern": "a{,3}"}, {"type": "null"}]}, {"items": [{}, {"type": "null"}]}, ["/items/0/pattern"]),
        ({"pattern": "^[[:alpha:]_]+$"}, {"pattern": "^[A-Za-z_]+$"}, []),
        ({"patternProperties": {"^[[:digit:]]$": {}}}, {"patternProperties": {"^[0-9]$": {}}}, []),
        ({"items": {"minimum": 0, "items": {"pattern": "("}}}, {"items": {"minimum": 0, "items": {}}},
         ["/items/items/pattern"]),
        ({"patternProperties": {"(": {}}, "minimum": 0}, {"minimum": 0}, ["/patternProperties"]),
        ({"$ref": "#/definitions/missing"}, True, ["the schema"]),
        ({"$ref": "http://localhost:1/schema.json"}, True, ["the schema"]),
        ("text", True, ["the schema"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_of_a_schema_is_what_our_library_takes(schema: Any, left: Any, where: list[str]) -> None:
    before = repr(schema)
    found, problems = readable_part(schema)
    assert found == left
    assert [problem.partition(": ")[0] for problem in problems] == where
    assert repr(schema) == before


KEYWORDS = ["type", "properties", "required", "items", "pattern", "minimum", "allOf", "enum", "title", "a"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["string", "(", "a", "object", ""]),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=4)
    ),
    max_leaves=12,
)


@given(ANYTHING, ANYTHING)
def test_whatever_a_topic_has_as_a_schema_something_is_left_of_it(schema: Any, metadata: Any) -> None:
    found, problems = readable_part(schema)
    assert (repr(found) == repr(schema)) == (not problems)
    jsonschema_rs.Draft7Validator(found).is_valid(metadata)


def test_a_stored_schema_that_our_library_refuses_is_checked_as_far_as_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    description = {
        "type": "schema",
        "schema": {"type": "object", "required": "x", "properties": {"n": {"minimum": 1}}},
    }
    for _ in range(2):
        validator = validator_of("odd", description)
        validator.validate({"n": 1})
        with pytest.raises(InvalidMetadata, match="less than the minimum"):
            validator.validate({"n": 0})
        assert validator.to_metadata() == description
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.match("topic 'odd': not checked of the schema of its validator: /required: ", record.message)


@pytest.mark.parametrize("description", [{"type": "mine:libmine.so"}, {"type": 3}, {"type": "schema"}])
def test_a_stored_validator_that_cannot_be_made_refuses_what_is_pushed(description: dict[str, Any]) -> None:
    validator = validator_of("strange", description)
    with pytest.raises(
        InvalidMetadata, match="nobody can push here, since the topic's validator cannot be used"
    ):
        validator.validate({})
    assert validator.to_metadata() == description
