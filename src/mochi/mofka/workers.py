"""Threads for work that blocks, all started before anything is promised that would need one.

They are daemons: one that waits keeps no process from ending.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from mochi import shortage

log = logging.getLogger(__name__)


class Workers:
    """Threads that work off jobs; all are there, or the constructor raises."""

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = 0
        try:
            for _ in range(count):
                shortage.start(threading.Thread(target=self._work, name=name, daemon=True))
                self._count += 1
        except BaseException:
            self.close()
            raise

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("unhandled error in a job")

    def put(self, job: Callable[[], None]) -> None:
        """Have `job` done soon."""
        self._jobs.put(job)

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Have `work` done soon, and hand out its result."""
        future: Future[Any] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def close(self) -> None:
        """Let the threads end, after what they are at."""
        for _ in range(self._count):
            self._jobs.put(None)
