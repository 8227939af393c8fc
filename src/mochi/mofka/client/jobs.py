"""Jobs: what blocks is done by threads of its own, until the process ends; then by whoever waits.

A job is handed over by one call of a C function: Ctrl-C finds it handed over, or not yet. It does not strike in the
threads.
"""

import _thread
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

Job = Callable[[], object]


class Jobs:
    """The jobs of one driver.

    Attributes
    ----------
    is_exiting : bool
        Whether the process ends; no thread starts then.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, which has no such threads."""
        self.is_exiting = False
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._is_served = False
        weakref.finalize(self, self._queue.put, None).atexit = False

    def put(self, job: Job) -> None:
        """Hand over a job."""
        self._queue.put(job)
        self.begin()

    def begin(self) -> None:
        """See to it that jobs are begun; whoever waits for what a job does calls this, or `work`."""
        if not self._is_served and not self.is_exiting:
            self._is_served = True
            _thread.start_new_thread(_serve, (self._queue,))  # `Thread.start` is not proof against Ctrl-C

    def work(self) -> None:
        """See to it that jobs are begun, or do them, once the process ends; not from within a lock."""
        if not self.is_exiting:
            if not self._is_served:
                self.begin()
            return
        with suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    job()

    @property
    def are_left(self) -> bool:
        """Whether there are jobs, and nobody else does them."""
        return self.is_exiting and not self._queue.empty()

    def end(self) -> None:
        """Start no thread any more: the process ends."""
        self.is_exiting = True
        if self._is_served:
            self._queue.put(None)


def _serve(queue: "SimpleQueue[Job | None]") -> None:
    while (job := queue.get()) is not None:
        try:
            threading.Thread(target=job, name="mofka-recovery", daemon=True).start()
        except RuntimeError:  # the interpreter exits: whoever waits does it
            queue.put(job)
            return
        del job
