"""Errors of mochi.flock: each names the file or the field at fault and says what would be right."""

from mochi.margo import errors as margo


class FlockError(margo.MargoError):
    """Root of all errors of mochi.flock."""


class GroupFileError(FlockError):
    """A group file that cannot be read or written, or does not hold a group.

    Attributes
    ----------
    path : str
        The file.
    problem : str
        What was found there, and what would be right.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class GroupFileMissing(GroupFileError):
    """There is no group file, or not yet."""


class ConfigError(FlockError, margo.ConfigError):
    """A provider configuration that cannot be used; ``where`` is a path such as ``config.group.type``."""
