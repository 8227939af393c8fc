"""What programs of the original make before they make a driver: an engine, see `pymargo.core`."""

from mofka_compat import check_alone
from pymargo.core import Address, Engine, MargoException, client, server

check_alone(__name__)

__all__ = ["Address", "Engine", "MargoException", "client", "server"]
