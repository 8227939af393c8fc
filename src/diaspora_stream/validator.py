"""Validators: what metadata a topic takes.

Metadata is judged as the JSON value that it becomes (`diaspora_stream.json_value`): 1 equals 1.0, true is not
1.
"""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import jsonschema_rs

from diaspora_stream.errors import DiasporaError, InvalidMetadata, InvalidSchema, Violation
from diaspora_stream.eventbridge import compile_pattern
from diaspora_stream.generations import tell_once
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


def _pointer(path: Sequence[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _violation(error: jsonschema_rs.ValidationError) -> Violation:
    return Violation(_pointer(error.instance_path), encode(error.instance).decode(), error.message)


def _compiled(schema: Any) -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(
        schema, validate_formats=True, retriever=_no_retrieval, mask="the value"
    )


_CLASSES: Final = {
    "[:alnum:]": "0-9A-Za-z",
    "[:alpha:]": "A-Za-z",
    "[:blank:]": " \\t",
    "[:digit:]": "0-9",
    "[:lower:]": "a-z",
    "[:punct:]": "!-\\/:-@\\[-`{-~",
    "[:space:]": "\\s",
    "[:upper:]": "A-Z",
    "[:xdigit:]": "0-9A-Fa-f",
}
"""Names in the patterns of the original's library, within brackets, and what they stand for."""


def readable_part(schema: Any) -> tuple[Any, list[str]]:
    """Return what is left of a schema without what our library refuses, and what that is.

    The original's library reads draft 7 without a metaschema, and other regular expressions. Names of classes in
    patterns are written out; keywords that are refused all the same are left out, and so are not checked.

    Returns
    -------
    schema : dict or bool
        A copy, which `compile_schema` takes.
    problems : list of str
        A JSON pointer and a reason for each keyword that was left out.
    """
    left = deepcopy(schema)
    problems: list[str] = []
    while True:
        try:
            if not isinstance(left, dict | bool):
                raise ValueError(f"must be an object or a bool, found {left!r}")
            _compiled(left)
            return left, problems
        except jsonschema_rs.ValidationError as error:
            deepest = _deepest(error)
            path, reason = deepest.instance_path, deepest.message
        except ValueError as error:
            path, reason = [], str(error)
        holder, key, where = _holder(left, path)
        if holder is None:
            return True, [*problems, f"{_pointer(path) or 'the schema'}: {reason}"]
        plain = _without_names(holder[key])
        if plain != holder[key]:
            holder[key] = plain
        else:
            del holder[key]
            problems.append(f"{_pointer(where)}: {reason}")


def _deepest(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Return the error that is farthest inside, of one that says that no alternative matches."""
    branches = getattr(error.kind, "context", ())
    inner = [_deepest(cause) for branch in branches for cause in branch]
    return max([error, *inner], key=lambda found: len(found.instance_path))


def _holder(schema: Any, path: Sequence[str | int]) -> tuple[dict[str, Any] | None, str, Sequence[str | int]]:
    """Return the object of a schema with the keyword that a path leads to, or into, the keyword, and its path."""
    found: tuple[dict[str, Any] | None, str, Sequence[str | int]] = None, "", path
    for place, step in enumerate(path):
        if isinstance(schema, dict):
            found = schema, str(step), path[: place + 1]
        schema = schema[step]
    return found


def _without_names(value: Any) -> Any:
    """Return a pattern, or an object whose keys are patterns, as our library wants it; anything else as it is."""
    if isinstance(value, str):
        for name, characters in _CLASSES.items():
            value = value.replace(name, characters)
        return value
    if isinstance(value, dict):
        return {_without_names(key): item for key, item in value.items()}
    return value


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
        return _compiled(schema)
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


class ReadSchemaValidator(Validator):
    """The validator of a topic whose schema our library does not take as a whole: what is left of it is checked.

    Parameters
    ----------
    description : mapping
        Of the validator, as it is stored.
    schema : dict or bool
        What is left, see `readable_part`.
    """

    def __init__(self, description: Mapping[str, Any], schema: Any) -> None:
        self._description = dict(description)
        self._part = SchemaValidator(schema=schema)

    def validate(self, metadata: Any) -> None:
        """Return if the metadata matches what is left of the schema."""
        self._part.validate(metadata)

    def to_metadata(self) -> dict[str, Any]:
        return self._description


class UnusableValidator(Validator):
    """The validator of a topic that cannot be made here: events can be read, and not pushed.

    Parameters
    ----------
    description : mapping
        Of the validator, as it is stored.
    error : DiasporaError
        Why it cannot be made.
    """

    def __init__(self, description: Mapping[str, Any], error: DiasporaError) -> None:
        self._description = dict(description)
        self._error = error

    def validate(self, metadata: Any) -> None:
        """Refuse."""
        raise InvalidMetadata(
            f"nobody can push here, since the topic's validator cannot be used: {self._error}"
        )

    def to_metadata(self) -> dict[str, Any]:
        return self._description


def validator_of(topic: str, description: Mapping[str, Any]) -> Validator:
    """Return the validator of a topic that exists, whatever its description says.

    What our library does not take of a schema is told to the log, once.
    """
    try:
        return Validator.described(description)
    except InvalidSchema:
        schema, problems = readable_part(description.get("schema"))
        tell_once(
            f"schema of {topic}",
            logging.WARNING,
            f"topic {topic!r}: not checked of the schema of its validator: {'; '.join(problems)}",
        )
        return ReadSchemaValidator(description, schema)
    except DiasporaError as error:
        return UnusableValidator(description, error)
