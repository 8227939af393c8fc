"""Print constraints that pin each library to the lowest version that it may have: ``python tests/lowest.py``."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = ("mpi", "uring", "lmdb")


def lowest(requirement: str) -> str:
    """Return the constraint for a requirement such as ``numpy>=1.26; sys_platform == 'linux'``."""
    match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(\s*;.*)?", requirement)
    if match is None:
        raise ValueError(f"{requirement!r} has no lowest version")
    name, version, marker = match.groups()
    return f"{name}=={version}{marker or ''}"


if __name__ == "__main__":
    requirements = [*PROJECT["dependencies"]]
    for extra in EXTRAS:
        requirements += PROJECT["optional-dependencies"][extra]
    print("\n".join(map(lowest, requirements)))
