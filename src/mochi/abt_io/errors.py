"""Errors of mochi.abt_io. A failed call on a file is an `OSError` with the file's path, not one of these."""

from mochi.margo import errors as margo


class AbtIoError(margo.MargoError):
    """Root of all errors of mochi.abt_io."""


class ConfigError(AbtIoError, margo.ConfigError):
    """A provider configuration that cannot be used; ``where`` is a path such as ``config.num_urings``."""


class InstanceClosed(AbtIoError):
    """An operation was handed to an instance that has been closed."""
