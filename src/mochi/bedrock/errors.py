"""Errors of mochi.bedrock. A field that is wrong in itself is a `mochi.margo.errors.ConfigError`."""

from mochi.margo.errors import MargoError


class BedrockError(MargoError):
    """Root of all errors of mochi.bedrock."""


class DeploymentError(BedrockError):
    """A well-formed configuration that cannot be brought to life.

    Attributes
    ----------
    where : str
        JSON path of what was being brought to life, such as ``providers[2]``.
    problem : str
        What went wrong, in the words of the component where it was one.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class ModuleError(BedrockError):
    """A library that is installed, and whose module cannot be loaded."""
