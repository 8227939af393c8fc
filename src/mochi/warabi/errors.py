"""Errors of mochi.warabi: what a target answers when it cannot do what it was asked.

Each class has one `kind`, the code under which it travels from a provider to its caller, where `revive` makes the same
class of it again. A configuration that cannot be used is a `mochi.margo.errors.ConfigError`.
"""

from mochi.margo.errors import ServiceFault


class WarabiError(ServiceFault):
    """Root of the errors of a target; `code` is one of the kinds below."""

    kind = "warabi"


class InvalidRegion(WarabiError):
    """A region that the target does not have, or does not have any more."""

    kind = "invalid_region"


class InvalidArguments(WarabiError):
    """A size, or a part of a region, that cannot be."""

    kind = "invalid_args"


class StorageError(WarabiError):
    """The storage below the target failed: disk full, file damaged, target closed."""

    kind = "io"
