"""Engines that serve in a thread of the test, and clients; nothing of them may be left behind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine
from mochi.mofka.testing import running

SECONDS = 20.0
"""Time-out of what must not take long; reached by a failing test only."""


Serve = Callable[..., Engine]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start engines: ``serve(address, define, config)``, where `define` is given the engine before it runs."""
    with ExitStack() as stack:

        def start(
            address: str, define: Callable[[Engine], None], config: dict[str, Any] | None = None
        ) -> Engine:
            engine = Engine(address, MargoConfig.parse(config))
            define(engine)
            return stack.enter_context(running(engine))

        yield start


@pytest.fixture
def client() -> Iterator[Client]:
    """A client that is closed at the end."""
    client = Client(timeout=SECONDS)
    yield client
    client.close()
