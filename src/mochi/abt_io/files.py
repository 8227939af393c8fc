"""The files of a provider: those of this machine, traced where the configuration says so.

A line of the trace is much like one of the extended traces of Darshan: module, provider, operation, offset, length,
start, end and path. Offset and length are in bytes, start and end in seconds since the provider was made.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from mochi.abt_io.calls import NullCalls, SystemCalls
from mochi.abt_io.config import AbtIoConfig
from mochi.disk import Buffer, Calls, File, PosixFile, PosixFiles

F = TypeVar("F", bound=Callable[..., Any])


def open_files(
    name: str, config: AbtIoConfig, calls: Calls | None = None, *, by_umask: bool = False
) -> PosixFiles:
    """Return the files of a provider.

    Parameters
    ----------
    name : str
        Name of the provider, for the trace.
    config : AbtIoConfig
        Checked configuration.
    calls : Calls, optional
        How bytes move.
    by_umask : bool
        See `PosixFiles`.
    """
    calls = calls or SystemCalls()
    if config.null_io_read or config.null_io_write:
        calls = NullCalls(calls, read=config.null_io_read, write=config.null_io_write)
    if config.trace_io:
        return TracedFiles(Trace(name), calls, by_umask=by_umask)
    return PosixFiles(calls, by_umask=by_umask)


class Trace:
    """The trace of a provider, on standard error."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = time.monotonic()

    @contextmanager
    def line(self, operation: str, path: str, offset: int = 0, length: int = 0) -> Iterator[None]:
        """Write a line once the body is done, or has failed."""
        begin = time.monotonic() - self._start
        try:
            yield
        finally:
            end = time.monotonic() - self._start
            sys.stderr.write(
                f"X_ABT_IO {self._name} {operation} {offset} {length} {begin:.6f} {end:.6f} {path}\n"
            )


def _traced(operation: str, call: F) -> F:
    @wraps(call)
    def traced(self: "TracedFiles", path: str, *args: Any, **options: Any) -> Any:
        with self.trace.line(operation, path):
            return call(self, path, *args, **options)

    return cast(F, traced)


class TracedFiles(PosixFiles):
    """Files of which each operation has a line in a trace."""

    def __init__(self, trace: Trace, calls: Calls, *, by_umask: bool) -> None:
        super().__init__(calls, by_umask=by_umask)
        self.trace = trace

    def _file(self, path: str, fd: int) -> PosixFile:
        return TracedFile(path, fd, self._calls, self.trace)

    is_directory = _traced("stat", PosixFiles.is_directory)
    make_directory = _traced("mkdir", PosixFiles.make_directory)
    remove_directory = _traced("rmdir", PosixFiles.remove_directory)
    list_directory = _traced("listdir", PosixFiles.list_directory)
    sync_directory = _traced("fsync", PosixFiles.sync_directory)
    size = _traced("stat", PosixFiles.size)
    rename = _traced("rename", PosixFiles.rename)
    remove = _traced("unlink", PosixFiles.remove)
    open = _traced("open", PosixFiles.open)
    lock = _traced("lock", PosixFiles.lock)
    lock_shared = _traced("lock", PosixFiles.lock_shared)

    def sync_all(self, files: Sequence[File]) -> None:
        with ExitStack() as lines:
            for file in files:
                lines.enter_context(self.trace.line("fdatasync", file.path))
            super().sync_all(files)


class TracedFile(PosixFile):
    """A file of which each operation has a line in a trace."""

    def __init__(self, path: str, fd: int, calls: Calls, trace: Trace) -> None:
        super().__init__(path, fd, calls)
        self._trace = trace

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        length = sum(memoryview(buffer).nbytes for buffer in buffers)
        with self._trace.line("write", self.path, offset, length):
            super().write(buffers, offset)

    def read(self, target: memoryview, offset: int) -> None:
        with self._trace.line("read", self.path, offset, len(target)):
            super().read(target, offset)

    def sync(self) -> None:
        with self._trace.line("fdatasync", self.path):
            super().sync()

    def truncate(self, size: int) -> None:
        with self._trace.line("ftruncate", self.path, length=size):
            super().truncate(size)

    def close(self) -> None:
        with self._trace.line("close", self.path):
            super().close()
