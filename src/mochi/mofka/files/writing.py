"""The writing side of partitions in this process: who has which open, and the thread that writes.

All producers of a process share one `Writer` for each partition, which has its store open while any of them is. Events
are written by a thread of their own, for there Ctrl-C does not strike. At the end of the process, when no thread can be
started any more, whoever has something to be written writes it.
"""

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from mochi import shortage
from mochi.mofka.chunks import Batch, StorageError
from mochi.mofka.client.ending import at_end, watch_child
from mochi.mofka.files.storage import OwnFiles, Store

log = logging.getLogger(__name__)

EXIT_FLUSH = 10.0
"""Seconds that the end of a process waits for pending events."""


class Writer:
    """The writing side of a partition, for any threads of this process.

    Parameters
    ----------
    where : str
        Names the partition in errors.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child: the store is the parent's."""
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._users = 0
        self._ended: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether a producer of this process has it; waits for one that lets go of it."""
        with self._lock:
            return self._store is not None

    def open(self, make: Callable[[], Store]) -> None:
        """Have the store open for one producer more."""
        with self._lock:
            if self._store is None:
                self._store = make()
                self._ended = None
            self._users += 1

    def append(self, batch: Batch, *, is_durable: bool) -> int:
        """Store a batch; return the id of its first event."""
        with self._lock:
            store = self._there()
            first = store.append(batch)
            if is_durable and not store.is_durable:
                store.sync()
            return first

    def sync(self) -> None:
        """Put on disk what was stored."""
        with self._lock:
            self._there().sync()

    def release(self) -> None:
        """Take note that a producer is done; after the last of them, let another process write."""
        with self._lock:
            self._users -= 1
            if self._users <= 0:
                self._close()

    def end(self, error: BaseException) -> None:
        """Write no more, and let go of the partition; who goes on gets the error."""
        with self._lock:
            self._ended = error
            self._close()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _there(self) -> Store:
        if self._store is None:
            raise self._ended or StorageError(f"{self.where} is closed")
        return self._store


class Pending(Protocol):
    """A lane: has events that are to be written."""

    def finish(self, deadline: float) -> int:
        """Write what is pending; return the number of events that could not be."""

    def let_go(self) -> None:
        """Let go of the partition."""

    def reset(self) -> None:
        """Begin anew in a forked child."""


class Writing:
    """What this process writes.

    Attributes
    ----------
    files : OwnFiles
        The files, with the locks that this process has, where a file system without locks will do.
    strict_files : OwnFiles
        Likewise, where it will not.
    has_ended : bool
        Whether the process is at its end, so that there is no thread any more.
    """

    def __init__(self) -> None:
        self._writers: dict[str, Writer] = {}
        self._begin()
        self.lanes: weakref.WeakSet[Pending] = weakref.WeakSet()
        at_end(self._at_end)
        os.register_at_fork(after_in_child=self._after_fork)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.has_ended = False
        self.files = OwnFiles()
        self.strict_files = OwnFiles(insist=True)

    def writer(self, directory: str) -> Writer:
        """Return the writer of a partition's directory, however that is spelt."""
        path = os.path.realpath(directory)
        with self._lock:
            return self._writers.setdefault(path, Writer(directory))

    def of_topic(self, directory: str) -> list[Writer]:
        """Return the writers of the partitions below a directory, which have none here any more."""
        below = os.path.join(os.path.realpath(directory), "")
        with self._lock:
            return [self._writers.pop(path) for path in list(self._writers) if path.startswith(below)]

    def add(self, lane: Pending) -> None:
        """Have what is pending in a lane written, by the thread or at the end of the process."""
        self.lanes.add(lane)
        watch_child()
        self.start()

    def start(self) -> None:
        """Have the thread running."""
        with self._lock:
            if self._thread is None and not self.has_ended:
                self._thread = threading.Thread(
                    target=_work, args=(self._jobs,), name="mofka-files-writer", daemon=True
                )
                shortage.start(self._thread)

    def do(self, job: Callable[[], object]) -> None:
        """Have a job done by the thread, or at once where there is none any more. Takes no lock."""
        if self.has_ended:
            job()
        else:
            self._jobs.put(job)

    def is_writing(self) -> bool:
        """Tell whether the caller is the thread that writes."""
        return threading.current_thread() is self._thread

    def _at_end(self) -> None:
        self.has_ended = True
        deadline = time.monotonic() + EXIT_FLUSH
        lanes = list(self.lanes)
        lost = sum(lane.finish(deadline) for lane in lanes)
        if lost:
            print(
                f"mofka: {lost} events were still pending at exit and are not stored; "
                "call flush().wait() on their producers, or close them",
                file=sys.stderr,
            )
        for lane in lanes:
            lane.let_go()

    def _after_fork(self) -> None:
        self.files.forget()
        self.strict_files.forget()
        lanes = list(self.lanes)
        self._begin()
        for writer in self._writers.values():
            writer.reset()
        for lane in lanes:
            lane.reset()


def _work(jobs: "SimpleQueue[Callable[[], object]]") -> None:
    while True:
        job = jobs.get()
        try:
            job()
        except Exception:
            log.exception("writing events")
        del job


WRITING = Writing()
"""The one of this process."""
