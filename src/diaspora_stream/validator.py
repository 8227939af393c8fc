"""Validators: what metadata a topic takes.

Metadata is judged as the JSON value that it becomes (`diaspora_stream.json_value`): 1 equals 1.0, true is not
1.
"""

from abc import abstractmethod
from typing import Any

import jsonschema_rs

from diaspora_stream.errors import InvalidMetadata, InvalidSchema, Violation
from diaspora_stream.eventbridge import compile_pattern
from diaspora_stream.json_value import encode, from_text
from diaspora_stream.plugins import Component, required


class Validator(Component):
    """Judges the metadata of each event pushed; safe to share between threads when its `validate` is."""

    kind = "validator"

    @abstractmethod
    def validate(self, metadata: Any) -> None:
        """Return if the metadata is acceptable.

        Runs in the thread that pushes, for each event.

        Raises
        ------
        InvalidMetadata
            It is not; says why.
        """
        raise NotImplementedError


class DefaultValidator(Validator, name="default"):
    """Accepts everything."""

    def validate(self, metadata: Any) -> None:
        """Return."""

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "default"}


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside of the schema; put it under 'definitions'")


def _violation(error: jsonschema_rs.ValidationError) -> Violation:
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path]
    return Violation("".join(f"/{step}" for step in steps), encode(error.instance).decode(), error.message)


def compile_schema(schema: Any, where: str) -> jsonschema_rs.Draft7Validator:
    """Return a JSON Schema of draft 7 ready for use; `format` is checked.

    Parameters
    ----------
    schema : dict or bool
        The schema, complete in itself.
    where : str
        What to call it in errors.

    Raises
    ------
    InvalidSchema
        It is no JSON Schema, or refers to something that it does not contain; also a ValueError.
    """
    if not isinstance(schema, dict | bool):
        raise InvalidSchema(where, f"must be an object or a bool, found {schema!r}")
    try:
        return jsonschema_rs.Draft7Validator(
            schema, validate_formats=True, retriever=_no_retrieval, mask="the value"
        )
    except jsonschema_rs.ValidationError as error:
        violation = _violation(error)
        raise InvalidSchema(
            f"{where}{violation.pointer}", f"{violation.instance}: {violation.reason}"
        ) from None
    except ValueError as error:
        raise InvalidSchema(where, str(error)) from None


class SchemaValidator(Validator, name="schema"):
    """Accepts what matches a JSON Schema of draft 7; `format` is checked too.

    Parameters
    ----------
    schema : dict or bool
        The schema, complete in itself.

    Raises
    ------
    ConfigError
        `schema` is missing.
    InvalidSchema
        See `compile_schema`.
    """

    def __init__(self, **options: Any) -> None:
        self.schema = required("validator", options, "schema")
        self._schema = compile_schema(self.schema, "validator.schema")

    def validate(self, metadata: Any) -> None:
        """Return if the metadata matches the schema; the error lists every violation.

        Costs 0.2 µs for a small object, more with its size.
        """
        try:
            if self._schema.is_valid(metadata):
                return
        except ValueError:
            pass
        violations = tuple(map(_violation, self._schema.iter_errors(from_text(encode(metadata)))))
        if violations:
            raise InvalidMetadata("metadata does not match the topic's JSON Schema", violations)

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "schema", "schema": self.schema}


class EventBridgeValidator(Validator, name="eventbridge"):
    """Accepts what matches an event pattern; see `diaspora_stream.eventbridge`.

    Parameters
    ----------
    schema : dict
        The pattern.

    Raises
    ------
    ConfigError
        `schema` is missing, or is no pattern.
    """

    def __init__(self, **options: Any) -> None:
        self.schema = required("validator", options, "schema")
        self._matches = compile_pattern(self.schema, "validator.schema")

    def validate(self, metadata: Any) -> None:
        """Return if the metadata matches the pattern; costs about 1 µs for each of its keys."""
        if not self._matches(metadata) and not self._matches(from_text(encode(metadata))):
            raise InvalidMetadata(
                f"metadata does not match the topic's event pattern {encode(self.schema).decode()}: "
                f"{encode(metadata).decode()}"
            )

    def to_metadata(self) -> dict[str, Any]:
        return {"type": "eventbridge", "schema": self.schema}
