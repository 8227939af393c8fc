"""What tests of partitions share: batches in and out of one, a gate before its disk, and files that break."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from mochi.abt_io import config as abt_io_config
from mochi.abt_io.files import Files
from mochi.abt_io.threads import IoThreads
from mochi.mofka.testing.suites import Event, acknowledge, append, batch_of, events_in, read, read_data

__all__ = [
    "BreakableFiles",
    "Event",
    "GatedIo",
    "acknowledge",
    "append",
    "batch_of",
    "events_in",
    "read",
    "read_data",
]

T = TypeVar("T")


class GatedIo:
    """Runs operations on threads of its own, while the gate is open."""

    def __init__(self, files: Any) -> None:
        self.files = files
        self.gate = threading.Event()
        self.gate.set()
        self._threads = IoThreads("gated")

    def run(self, function: Callable[[], T]) -> "Future[T]":
        def gated() -> T:
            assert self.gate.wait(20)
            return function()

        return self._threads.submit(gated)

    def close(self) -> None:
        self.gate.set()
        self._threads.close()


class BreakableFiles(Files):
    """The files of abt_io, whose operations fail when told to.

    Attributes
    ----------
    broken : dict
        Error number by operation (``write``, ``fdatasync``, ``read``, ``mkdir``, ...).
    """

    def __init__(self) -> None:
        super().__init__("io", abt_io_config.parse({}))
        self.broken: dict[str, int] = {}

    @contextmanager
    def operation(self, kind: str, path: str, offset: int = 0, length: int = 0) -> Iterator[None]:
        with super().operation(kind, path, offset, length):
            if kind in self.broken:
                raise OSError(self.broken[kind], os.strerror(self.broken[kind]))
            yield
