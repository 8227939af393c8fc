"""The names of the extension module that is under the original's ``diaspora_stream.api``."""

from diaspora_stream.api import *  # noqa: F403
from diaspora_stream.api import __all__ as _names
from mofka_compat import check_alone

check_alone(__name__)

__all__ = [name for name in _names if name != "ClientException"]
