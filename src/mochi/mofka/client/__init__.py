"""The ``mofka`` driver: ``from mochi.mofka.client import MofkaDriver``, and all names of diaspora_stream.api."""

from diaspora_stream.api import *  # noqa: F403
from diaspora_stream.api import __all__ as _api_names
from mochi.mofka.client.driver import MofkaDriver

__all__ = [*_api_names, "MofkaDriver"]
