"""The addresses over which what holds for every transport is tried."""

import pytest

from mochi.margo.fabric import NoFabric, load

FABRIC = "ofi+tcp;ofi_rxm://127.0.0.1"

try:
    load()
    _LACK = ""
except NoFabric as error:
    _LACK = str(error)

ADDRESSES = [
    "na+sm",
    "tcp://127.0.0.1",
    pytest.param(FABRIC, marks=pytest.mark.skipif(bool(_LACK), reason=_LACK or "-")),
]
