"""The ``mofka`` driver: ``from mochi.mofka.client import MofkaDriver``, and all names of diaspora_stream.api."""

import logging
from typing import Any

from diaspora_stream.api import *  # noqa: F403
from diaspora_stream.api import __all__ as _api_names
from diaspora_stream.generations import compiled, tell_once
from mochi.mofka.client import older as _older
from mochi.mofka.client.driver import MofkaDriver

__all__ = [*_api_names, "MofkaDriver"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        return compiled("pymargo.core").Engine
    if name in ("pymargo", "pymofka_client"):
        return compiled(name)
    if name not in ("Client", "ServiceHandle"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    tell_once(name, logging.DEBUG, f"{__name__}.{name} is called MofkaDriver today")
    return getattr(_older, name)
