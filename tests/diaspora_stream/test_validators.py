"""Validators, made from descriptions and used."""

from typing import Any

import pytest

from diaspora_stream.errors import ConfigError, InvalidMetadata, InvalidSchema, UnknownName
from diaspora_stream.validator import DefaultValidator, EventBridgeValidator, SchemaValidator, Validator

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
