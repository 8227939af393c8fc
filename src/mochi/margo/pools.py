"""Pools and xstreams at run time: where a handler runs.

The thread that drives the event loop plays the xstream that serves the progress pool. A pool that only this xstream
serves is *inline*: its work runs on the loop, with no hand-over. Any other pool is a queue, and each other xstream a
thread that takes work from its pools, in their order. Work that comes once the pools are closed runs in the thread
that brings it. Handlers that compute share the interpreter whatever their pool; handlers that wait for a disk or a
peer do not hold each other up if their pool has threads.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from mochi.margo.config import MargoConfig, XstreamSpec

T = TypeVar("T")
Work = Callable[[], None]

log = logging.getLogger(__name__)

CLOSING = 5.0
"""Seconds that xstreams are given to finish when an engine ends; a handler that hangs is left behind."""


def _run(work: Work) -> None:
    try:
        work()
    except Exception:
        log.exception("unhandled error in a pool")


class Pool:
    """A named queue of work.

    Attributes
    ----------
    inline : bool
        True when its work runs on the event loop.
    """

    def __init__(self, name: str, post: Callable[[Work], None] | None, wake: threading.Condition) -> None:
        self.name = name
        self.inline = post is not None
        self._post = post
        self._wake = wake
        self._work: deque[Work] = deque()
        self._closed = False

    def spawn(self, work: Work) -> None:
        """Run `work` soon, on an xstream of this pool. Any thread; never blocks; errors are logged."""
        with self._wake:
            if not self._closed:
                self._work.append(work)
                if self._post is None:
                    self._wake.notify_all()
                else:
                    self._post(self.run_next)
                return
        _run(work)

    def run_next(self) -> None:
        """Run the oldest work, if there is any, here and now."""
        with self._wake:
            work = self.take()
        if work is not None:
            _run(work)

    def close(self) -> None:
        """Let work that comes from now on run in the thread that brings it; the caller holds the condition."""
        self._closed = True

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Run `function` soon, on an xstream of this pool, and hand out its result. Any thread."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.spawn(work)
        return future

    @property
    def has_work(self) -> bool:
        """Whether any work waits."""
        return bool(self._work)

    def take(self) -> Work | None:
        """Take the oldest work; the caller holds the condition the pool was made with."""
        return self._work.popleft() if self._work else None


class Strand:
    """Runs work one after another, in the order given, on the xstreams of a pool.

    On an inline pool, work given from the loop runs at once. After `TURN` pieces a strand lets other work of its pool
    have its turn.
    """

    TURN = 64

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._lock = threading.Lock()
        self._work: deque[Work] = deque()
        self._active = False

    def spawn(self, work: Work) -> None:
        """Run `work` after all that was given before."""
        if self.pool.inline:
            _run(work)
            return
        with self._lock:
            self._work.append(work)
            if self._active:
                return
            self._active = True
        self.pool.spawn(self._drain)

    def _drain(self) -> None:
        for _ in range(self.TURN):
            with self._lock:
                if not self._work:
                    self._active = False
                    return
                work = self._work.popleft()
            _run(work)
        self.pool.spawn(self._drain)


class Pools:
    """All pools and xstreams of an engine.

    Parameters
    ----------
    post : callable
        Runs work on the event loop; called from any thread.
    """

    def __init__(self, config: MargoConfig, post: Callable[[Work], None]) -> None:
        served_elsewhere: set[str] = set()
        threads: list[XstreamSpec] = []
        for xstream in config.xstreams:
            if config.progress_pool not in xstream.pools:
                threads.append(xstream)
                served_elsewhere.update(xstream.pools)
        self._wake = threading.Condition()
        self._closed = False
        self._by_name = {
            spec.name: Pool(spec.name, None if spec.name in served_elsewhere else post, self._wake)
            for spec in config.pools
        }
        self._threads = [
            threading.Thread(
                target=self._serve,
                args=([self._by_name[name] for name in xstream.pools],),
                name=xstream.name,
                daemon=True,
            )
            for xstream in threads
        ]
        for thread in self._threads:
            thread.start()

    def __getitem__(self, name: str) -> Pool:
        return self._by_name[name]

    def close(self) -> None:
        """Finish what there is to do, and end the xstreams, within `CLOSING` seconds. Belongs to the loop's thread."""
        with self._wake:
            self._closed = True
            for pool in self._by_name.values():
                pool.close()
            self._wake.notify_all()
        deadline = time.monotonic() + CLOSING
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for pool in self._by_name.values():
            while pool.inline and pool.has_work:
                pool.run_next()

    def _next(self, pools: Iterable[Pool]) -> Work | None:
        for pool in pools:
            work = pool.take()
            if work is not None:
                return work
        return None

    def _serve(self, pools: list[Pool]) -> None:
        while True:
            with self._wake:
                while (work := self._next(pools)) is None:
                    if self._closed:
                        return
                    self._wake.wait()
            _run(work)
