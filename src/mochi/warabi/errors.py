"""Errors of mochi.warabi: what a target answers when it cannot do what it was asked.

Each class has one `kind`, the code under which it travels from a provider to its caller, where `revive` makes the same
class of it again. A configuration that cannot be used is a `mochi.margo.errors.ConfigError`.
"""

from typing import ClassVar

from mochi.margo.errors import Fault


class WarabiError(Fault):
    """Root of the errors of a target; `code` is one of the kinds below."""

    kind: ClassVar[str] = "warabi"

    def __init__(self, message: str) -> None:
        super().__init__(self.kind, message)


class InvalidRegion(WarabiError):
    """A region that the target does not have, or does not have any more."""

    kind = "invalid_region"


class InvalidArguments(WarabiError):
    """A size, or a part of a region, that cannot be."""

    kind = "invalid_args"


class StorageError(WarabiError):
    """The storage below the target failed: disk full, file damaged, target closed."""

    kind = "io"


_KINDS = {error.kind: error for error in WarabiError.__subclasses__()}


def revive(fault: Fault) -> Fault:
    """Return the error that a provider raised, from the `fault` that arrived; a fault of another kind as it is."""
    error = _KINDS.get(fault.code)
    return fault if error is None else error(fault.message)
