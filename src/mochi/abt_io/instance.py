"""An abt_io provider: where storage runs its operations, so that a slow disk never blocks the event loop.

Operations run on the pool that the provider depends on. A pool whose xstream drives the loop must not wait
for a disk: there, private threads take its place. With io_urings an operation waits for them in the same
place; the loop has no part in it.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakSet

from mochi.abt_io.calls import open_calls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.errors import InstanceClosed
from mochi.abt_io.files import open_files
from mochi.abt_io.threads import IoThreads
from mochi.margo.pools import Pool

T = TypeVar("T")


class Instance:
    """Runs storage operations, and offers the calls on files that they are made of.

    In a forked child an instance starts afresh: what the parent had under way is the parent's.

    Parameters
    ----------
    name : str
        Name of the provider.
    pool : Pool
        Pool that the provider depends on.
    config : AbtIoConfig
        Checked configuration.
    by_umask : bool
        See `mochi.disk.PosixFiles`.

    Raises
    ------
    OSError
        There can be no more threads now (EAGAIN).

    Attributes
    ----------
    files : PosixFiles
        The calls on files; they block, and belong into operations given to `run`.
    """

    def __init__(self, name: str, pool: Pool, config: AbtIoConfig, *, by_umask: bool = False) -> None:
        self._name = name
        self._pool = pool
        self._config = config
        self._closed = False
        self._calls = open_calls(name, config)
        self.files = open_files(name, config, self._calls, by_umask=by_umask)
        self._start()
        if isinstance(self._executor, IoThreads):
            self._executor.begin()
        _instances.add(self)

    @property
    def config(self) -> dict[str, Any]:
        """Expanded configuration."""
        return self._config.expand()

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Run a whole storage operation, such as one commit.

        Costs one hand-over to a thread, so the larger the operation the better. Operations start in the order
        of the calls, and run side by side as far as threads reach. Thread-safe, does not block.

        Parameters
        ----------
        function : callable
            The operation; it may block.

        Returns
        -------
        Future
            The operation's result or exception.

        Raises
        ------
        InstanceClosed
            After `close`.
        OSError
            There is no thread, and can be none now (EAGAIN), as may be in a forked child; `function` will not run.
        """
        with self._lock:
            if self._closed:
                raise InstanceClosed(f"abt_io provider {self._name!r} is closed")
            future = self._executor.submit(function)
            self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def close(self) -> None:
        """Wait until every operation is done, and refuse further ones. Idempotent."""
        with self._lock:
            self._closed = True
            under_way = tuple(self._under_way)
        wait(under_way)
        if isinstance(self._executor, IoThreads):
            self._executor.close()
        self._calls.close()

    def _start(self) -> None:
        self._lock = RLock()
        self._under_way: set[Future[Any]] = set()
        self._executor: IoThreads | Pool = IoThreads(f"{self._name}-io") if self._pool.inline else self._pool


_instances: WeakSet[Instance] = WeakSet()


def _restart_in_child() -> None:
    for instance in _instances:
        instance._start()
        instance._calls.restart_in_child()


os.register_at_fork(after_in_child=_restart_in_child)
