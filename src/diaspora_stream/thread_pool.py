"""Thread pools for the callables of applications."""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from diaspora_stream.errors import DiasporaError
from diaspora_stream.handle import Handle
from diaspora_stream.integers import unsigned

T = TypeVar("T")


class ThreadPool(Handle):
    """A number of threads that run callables in the order in which they were submitted.

    Parameters
    ----------
    thread_count : int
        With 0, callables run in the thread that submits them.

    Notes
    -----
    Threads start with the first callable. A forked child starts its own: it does not run what its parent had
    pending, and neither does who unpickles a pool. At the interpreter's exit what was submitted is still run.
    """

    def __init__(self, thread_count: int = 0) -> None:
        self._thread_count = unsigned("thread_count", thread_count)
        self._closed = False
        self._forget_threads()
        _pools.add(self)

    def _forget_threads(self) -> None:
        self._lock = threading.RLock()  # a signal handler may submit
        self._executor: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return ThreadPool, (self._thread_count,)

    @property
    def thread_count(self) -> int:
        """Number of threads; 0 when callables run in the caller."""
        return self._thread_count

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` and return the future of its result; done already when there are no threads.

        Raises
        ------
        Exception
            The pool is closed. What `work` raises is raised by the future only.
        """
        with self._lock:
            if self._closed:
                raise DiasporaError("the thread pool is closed")
            if self._thread_count and self._executor is None:
                made = ThreadPoolExecutor(self._thread_count, thread_name_prefix="diaspora")
                self._executor = self._executor or made
            executor = self._executor
        if executor is not None:
            return executor.submit(work)
        future: Future[T] = Future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Refuse further work, and return when all submitted is done; not from the pool's own threads."""
        with self._lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown()


_pools: Final[weakref.WeakSet[ThreadPool]] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _pools:
        pool._forget_threads()


os.register_at_fork(after_in_child=_after_fork)
