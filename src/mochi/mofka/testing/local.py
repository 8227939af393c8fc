"""Servers in threads of this process."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from diaspora_stream.api import Driver
from mochi.bedrock.server import Server
from mochi.margo.engine import Engine
from mochi.mofka.testing.services import configuration

SECONDS = 20.0
"""After which a thread that ought to have ended has not."""


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Run an engine in a thread, and end it."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.finalize()
        thread.join(SECONDS)
        assert not thread.is_alive(), "the engine does not end"


class LocalService:
    """A service of one server in a thread of this process.

    Parameters
    ----------
    directory : Path
        Where its group file is.
    config : mapping, optional
        `configuration` by default; its group file is to be ``directory / "mofka.json"``.
    address : str
        Protocol or address.

    Attributes
    ----------
    group_file : Path
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any] | None = None, *, address: str = "na+sm"
    ) -> None:
        self.group_file = directory / "mofka.json"
        self._server = Server(address, config or configuration(group_file=self.group_file))
        self._drivers: list[Driver] = []

    @property
    def address(self) -> str:
        """Address of the server."""
        return self._server.address

    def driver(self, **options: Any) -> Driver:
        """Return a driver of this service, which is closed with it."""
        driver = Driver(backend="mofka", options={"group_file": str(self.group_file), **options})
        self._drivers.append(driver)
        return driver

    def close(self) -> None:
        """Close the drivers and end the server."""
        for driver in self._drivers:
            driver.close()
        self._server.finalize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
