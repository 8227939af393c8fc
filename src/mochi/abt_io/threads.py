"""Threads for operations that wait for a disk, the first of them started in advance, and others as they are needed.

Invariants
----------
1. An operation that waits keeps no other one waiting while there are fewer than `limit` threads, and the system gives
   more.
2. An operation that no thread will take is not submitted.
3. Operations are taken in the order of submission.
4. A thread that hangs in the kernel does not keep the interpreter from exiting: threads are daemons.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, TypeVar

from mochi import shortage

T = TypeVar("T")


class IoThreads:
    """At most `limit` threads that take operations from one queue.

    Parameters
    ----------
    name : str
        Prefix of the threads' names.
    limit : int
        Largest number of threads.
    """

    def __init__(self, name: str, limit: int = 16) -> None:
        self._name = name
        self._limit = limit
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = Condition()
        self._threads: list[Thread] = []
        self._idle = 0
        self._closed = False

    def begin(self) -> None:
        """Start a thread in advance, so that operations can be submitted whatever the system gives later.

        Raises
        ------
        OSError
            There can be no more threads now (EAGAIN).
        """
        with self._changed:
            if not self._threads:
                self._start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` in a thread, for the future's result or exception. Thread-safe, does not block.

        Raises
        ------
        OSError
            There is no thread, and can be none now (EAGAIN); `function` will not run.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._idle > len(self._waiting):
                self._changed.notify()
            elif len(self._threads) < self._limit:  # invariant 1
                try:
                    self._start()
                except (OSError, MemoryError):
                    if not self._threads:
                        raise  # invariant 2
            self._waiting.append((future, function))
        return future

    def _start(self) -> None:
        thread = Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        shortage.start(thread)
        self._threads.append(thread)

    def close(self) -> None:
        """Wait until all that was submitted is done, and end the threads. Idempotent; it is the last call."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                self._idle -= 1
                future, function = self._waiting.popleft()  # invariant 3
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, function
