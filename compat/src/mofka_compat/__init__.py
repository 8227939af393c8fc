"""Keeps the modules of this distribution apart from the genuine ones of the same names."""

import os
import sys
from importlib.machinery import PathFinder

__all__ = ["check_alone"]


def check_alone(module: str) -> None:
    """Raise `ImportError` if the search path also leads to another module of the name of one of ours."""
    for entry in sys.path:
        if os.path.isdir(os.path.join(entry, __name__)):
            continue
        found = PathFinder.find_spec(module, [entry or os.curdir])
        if found is not None and found.origin is not None:
            ours = os.path.join(os.path.dirname(os.path.dirname(__file__)), module)
            raise ImportError(
                f"there are two modules named {module}: {ours}, of mofka-compat, and {os.path.abspath(found.origin)}, "
                "which does not speak to the servers of Mofka for Python; for ours, take the other one's directory out "
                "of the search path (PYTHONPATH), for the other one, run: pip uninstall mofka-compat"
            )
