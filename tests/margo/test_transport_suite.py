"""The suite that every transport passes, for ours."""

import socket
from uuid import uuid4

import pytest

from mochi.mofka.testing.suites import TransportSuite


class TestSharedMemory(TransportSuite):
    nobody = f"na+sm://{uuid4()}"

    @pytest.fixture
    def address(self) -> str:
        return "na+sm"


class TestTcp(TransportSuite):
    @pytest.fixture
    def address(self) -> str:
        return "ofi+tcp://127.0.0.1"

    @pytest.fixture(autouse=True)
    def _nobody(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.nobody = f"ofi+tcp://127.0.0.1:{listener.getsockname()[1]}"
