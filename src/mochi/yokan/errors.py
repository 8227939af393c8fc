"""Errors of mochi.yokan: what a database answers when it cannot do what it was asked.

Each class has one `kind`, the code under which it travels from a provider to its caller, where `revive` makes
the same class of it again. A configuration that cannot be used is a `mochi.margo.errors.ConfigError`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from mochi.margo.errors import Fault

__all__ = [
    "InvalidArguments",
    "InvalidMode",
    "KeyExists",
    "KeyNotFound",
    "StorageError",
    "YokanError",
    "revive",
]


class YokanError(Fault):
    """Root of the errors of a database; `code` is one of the kinds below."""

    kind: ClassVar[str] = "yokan"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(self.kind, message, details)


class KeyExists(YokanError):
    """A key (or collection) that must be new is there already; ``details["key"]`` names it."""

    kind = "key_exists"


class KeyNotFound(YokanError):
    """A key (or collection, or document) that must exist does not; ``details["key"]`` names it."""

    kind = "key_not_found"


class InvalidMode(YokanError):
    """A mode that this verb does not have."""

    kind = "mode"


class InvalidArguments(YokanError):
    """An empty key, a document id out of range, a name that cannot be a collection's."""

    kind = "invalid_args"


class StorageError(YokanError):
    """The storage below the database failed: disk full, file damaged, database closed."""

    kind = "io"


_KINDS = {error.kind: error for error in YokanError.__subclasses__()}


def revive(fault: Fault) -> Fault:
    """The error that a provider raised, from the `fault` that arrived; a fault of another kind as it is."""
    error = _KINDS.get(fault.code)
    return fault if error is None else error(fault.message, fault.details)
