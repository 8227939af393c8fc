"""Errors of mochi.yokan: what a database answers when it cannot do what it was asked.

Each class has one `kind`, the code under which it travels from a provider to its caller, where `revive` makes
the same class of it again. A configuration that cannot be used is a `mochi.margo.errors.ConfigError`.
"""

from mochi.margo.errors import ServiceFault

__all__ = [
    "InvalidArguments",
    "InvalidMode",
    "KeyExists",
    "KeyNotFound",
    "StorageError",
    "YokanError",
]


class YokanError(ServiceFault):
    """Root of the errors of a database; `code` is one of the kinds below."""

    kind = "yokan"


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
