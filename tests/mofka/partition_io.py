"""What tests of partitions share: batches in and out of one, a gate before its disk, and files that break."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from mochi.abt_io.calls import SystemCalls
from mochi.abt_io.files import Trace, TracedFiles
from mochi.abt_io.threads import IoThreads
from mochi.disk import StorageError, SyncFailed
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
        self._begun: list[Future[Any]] = []

    def run(self, function: Callable[[], T]) -> "Future[T]":
        def gated() -> T:
            assert self.gate.wait(20)
            return function()

        future = self._threads.submit(gated)
        self._begun.append(future)
        return future

    def settle(self) -> None:
        """Wait until all that has begun is over, what it does after telling its outcome as well."""
        while self._begun:
            self._begun.pop().exception(20)

    def close(self) -> None:
        self.gate.set()
        self._threads.close()


class BreakableFiles(TracedFiles, Trace):
    """The files of abt_io, whose operations fail when told to.

    Attributes
    ----------
    broken : dict
        Error number by operation (``write``, ``fdatasync``, ``read``, ``mkdir``, ...).
    """

    def __init__(self) -> None:
        super().__init__(self, SystemCalls(), by_umask=False)
        self.broken: dict[str, int] = {}

    @contextmanager
    def line(self, operation: str, path: str, offset: int = 0, length: int = 0) -> Iterator[None]:
        self.operation(operation, path)
        yield

    def operation(self, kind: str, path: str) -> None:
        """Fail, if operations of this kind are broken."""
        if kind in self.broken:
            number = self.broken[kind]
            refusal = SyncFailed if kind in ("fsync", "fdatasync") else StorageError
            raise refusal.refused(kind, path, OSError(number, os.strerror(number)))
