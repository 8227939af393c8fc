"""The names of the extension module that is under the original's ``mochi.mofka.client``."""

from typing import Any

from mochi.mofka import client as _client
from mochi.mofka.client import *  # noqa: F403
from mochi.mofka.client import __all__ as _names
from mofka_compat import check_alone

check_alone(__name__)

__all__ = _names


def __getattr__(name: str) -> Any:
    """Return what has an older name."""
    return getattr(_client, name)
