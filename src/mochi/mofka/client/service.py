"""What producers and consumers of one driver share: the margo client, time-outs, and what happens at the end.

A server that does not answer is looked for, see `Search`: at its address, and where the master database says that the
partition is now. What looks for it, or else may block, runs in threads of its own, which jobs are handed to by one call
of a C function: Ctrl-C finds a job handed over, or not yet.

Events that are pending when a process ends are flushed, for `EXIT_FLUSH` seconds at most, and a message tells of those
that could not be: when the interpreter exits, and in children of `multiprocessing`, which end without that, by a
finalizer of theirs. No thread starts from then on. What is pushed later on (by ``__del__``, say) is stored before
`push` returns, or an error says that it is not; jobs are done by whoever waits. In a forked child, producers and
consumers begin anew.
"""

import _thread
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from diaspora_stream.errors import DiasporaError
from mochi.margo.client import PATIENCE, Client
from mochi.margo.errors import AddressError, ConnectionLost, Fault, MargoError
from mochi.margo.link import Link
from mochi.mofka.client.ending import at_end, watch_child
from mochi.mofka.client.refusals import PartitionInfo

log = logging.getLogger(__name__)

EXIT_FLUSH = 10.0
"""Seconds that the interpreter's exit waits for pending events."""

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
"""Seconds between two looks for a partition; twice as many each time."""

CONNECT_TIMEOUT = 5.0
"""Seconds after which a server that does not even greet is passed over, where there is something else to try."""


class Directory(Protocol):
    """Knows where partitions are.

    Attributes
    ----------
    problem : str or None
        Why it could not tell when it was asked last.
    """

    problem: str | None

    def locate(self, topic: str, partition: PartitionInfo) -> PartitionInfo:
        """Return where a partition is now; `DiasporaError` if there is no such partition any more."""

    def reset(self) -> None:
        """Begin anew in a forked child."""


class Member(Protocol):
    """A producer or a consumer: has to know when its driver is closed."""

    def stop(self) -> None:
        """Take no more events, or give none."""


class Resettable(Protocol):
    """A lane or a consumer: has to know of a fork."""

    def reset(self) -> None:
        """Begin anew in a forked child."""


class Pending(Resettable, Protocol):
    """A lane: has events on their way."""

    @property
    def has_pending(self) -> bool:
        """Whether any event is not settled."""

    def begin_flush(self) -> object:
        """Have what is open go as soon as it may."""

    def finish(self, deadline: float) -> int:
        """Flush; return how many events are not stored."""

    def fail(self, error: MargoError) -> None:
        """Fail all that is pending."""

    def end(self) -> None:
        """Keep nothing open from now on."""


def deadline_after(timeout: float | None) -> float:
    """Return the deadline of a wait of `timeout` seconds; None waits for ever."""
    return float("inf") if timeout is None else time.monotonic() + timeout


class Service:
    """One service as a driver sees it.

    Attributes
    ----------
    client : Client
    timeout : float
        Seconds that blocking calls take at most where they name no time-out.
    """

    def __init__(self, timeout: float) -> None:
        self.client = Client(timeout=timeout)
        self.timeout = timeout
        self.is_closed = False
        self._begin()
        self._directory: Directory | None = None
        self._whereabouts: dict[str, PartitionInfo] = {}
        self._lanes: set[Pending] = set()
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._resettable: weakref.WeakSet[Resettable] = weakref.WeakSet()
        _services.add(self)
        watch_child()

    def _begin(self) -> None:
        self.is_exiting = False
        self.ends_at = math.inf
        self.jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_dispatching = False
        self._open = threading.Lock()
        self._open.acquire()
        weakref.finalize(self, self.jobs.put, None).atexit = False

    def follow(self, directory: Directory) -> None:
        """Ask `directory` for partitions that are not where they were."""
        self._directory = directory

    def current(self, partition: PartitionInfo) -> PartitionInfo:
        """Return where a partition was seen last."""
        return self._whereabouts.get(partition.uuid, partition)

    def locate(self, topic: str, partition: PartitionInfo) -> PartitionInfo:
        """Return where a partition is now, see `Directory.locate`."""
        if self._directory is None:
            return partition
        found = self._directory.locate(topic, partition)
        self._whereabouts[partition.uuid] = found
        return found

    def explained(self, error: MargoError) -> MargoError:
        """Return the error of a server that is not there, with why nobody tells where it is now."""
        problem = None if self._directory is None else self._directory.problem
        if problem is None or not isinstance(error, AddressError | ConnectionLost):
            return error
        return type(error)(f"{error}; and nobody tells where it is now: {problem}")

    def deadline(self, timeout: float | None) -> float:
        """Return the deadline of a wait for a server; None stands for the time-out of the driver."""
        return deadline_after(self.timeout if timeout is None else timeout)

    def check_open(self) -> None:
        """Raise `DiasporaError` if the driver is closed."""
        if self.is_closed:
            raise DiasporaError("the driver is closed")

    def rest(self, pause: float) -> None:
        """Sleep for `pause` seconds; `ConnectionLost` if the driver is closed meanwhile."""
        if self._open.acquire(timeout=pause):
            self._open.release()
            raise ConnectionLost("the driver was closed")

    def adopt(self, lanes: Iterable[Pending]) -> None:
        """Look after `lanes`: what they have pending is not lost when their producer is, or the interpreter exits."""
        self._lanes.update(lanes)
        self._resettable.update(lanes)

    def let_go(self, lanes: Sequence[Pending]) -> None:
        """Flush the lanes of a producer that is gone, in a thread of its own, and forget them. Never blocks."""
        if any(lane.has_pending for lane in lanes):
            self.in_background(partial(self._finish, lanes, self.timeout))
        else:
            self._lanes.difference_update(lanes)

    def watch(self, member: Member) -> None:
        """Tell a producer or a consumer when the driver is closed."""
        self._members.add(member)

    def watch_fork(self, member: Resettable) -> None:
        """Tell `member` of a fork."""
        self._resettable.add(member)

    def finish(self, timeout: float) -> int:
        """Flush all lanes within `timeout` seconds; return how many events are not stored."""
        return self._finish([lane for lane in list(self._lanes) if lane.has_pending], timeout)

    def _finish(self, lanes: Sequence[Pending], timeout: float) -> int:
        deadline = time.monotonic() + timeout
        for lane in lanes:
            lane.begin_flush()
        lost = sum(lane.finish(deadline) for lane in lanes)
        self._lanes.difference_update(lanes)
        return lost

    def after_fork_in_child(self) -> None:
        """Have every lane and consumer begin anew."""
        self._begin()
        if self._directory is not None:
            self._directory.reset()
        for member in list(self._resettable):
            member.reset()

    def in_background(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread of its own: it may block, which no receiver of frames may.

        Once the process ends it is left to whoever waits: no thread starts then.
        """
        self.jobs.put(work)
        self.dispatch()

    def dispatch(self) -> None:
        """See to it that jobs are begun; whoever waits for what a job does calls this, or `work`."""
        if not self._is_dispatching and not self.is_exiting:
            self._is_dispatching = True
            _thread.start_new_thread(_dispatch, (self.jobs,))  # `Thread.start` is not proof against Ctrl-C

    def work(self) -> None:
        """See to it that jobs are begun, or do them, once the process ends; not from within a lock."""
        self.dispatch()
        with suppress(Empty):
            while self.is_exiting:
                job = self.jobs.get_nowait()
                if job is not None:
                    job()

    @property
    def has_work(self) -> bool:
        """Whether there are jobs, and nobody else does them."""
        return self.is_exiting and not self.jobs.empty()

    def end(self, deadline: float) -> None:
        """Start nothing more, keep nothing open, and look for nothing after `deadline`: the process ends."""
        self.is_exiting = True
        self.ends_at = deadline
        if self._is_dispatching:
            self.jobs.put(None)
        for lane in list(self._lanes):
            lane.end()

    def close(self) -> int:
        """Stop producers and consumers, flush in time, close the client; return how many events are lost."""
        for member in list(self._members):
            member.stop()
        lanes = list(self._lanes)
        lost = self._finish(lanes, self.timeout)
        for lane in lanes:
            lane.fail(ConnectionLost("the driver was closed"))
        if not self.is_closed:
            self.is_closed = True
            self._open.release()
        self.client.close()
        return lost


class Search:
    """Looks for one partition, from the first failure to the first success; belongs to one thread at a time.

    One that lasts longer than `PATIENCE` is told to the log, and again when it is over.

    Attributes
    ----------
    failures : int
        How often nobody was found.
    reason : MargoError or None
        Why nobody was found last.
    """

    def __init__(self, service: Service, topic: str) -> None:
        self.failures = 0
        self.reason: MargoError | None = None
        self._service = service
        self._topic = topic
        self._began = time.monotonic()
        self._deadline = min(self._began + service.timeout, service.ends_at)
        self._told: PartitionInfo | None = None
        self._pause = FIRST_PAUSE
        self._has_begun = False

    @property
    def is_over(self) -> bool:
        """Whether the time-out of the service has passed since the search began."""
        return time.monotonic() >= self._deadline

    @property
    def seconds_left(self) -> float:
        """Seconds until the search is over, a millisecond at least."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def connect(self, partition: PartitionInfo, cause: MargoError | None) -> tuple[PartitionInfo, Link]:
        """Return where the partition is, and a link to there; blocks until somebody answers.

        Parameters
        ----------
        cause : MargoError or None
            Why it is looked for: a connection that is lost or was never there is tried at once, a partition that is
            not there, and whatever failed before, after a pause that grows.

        Raises
        ------
        MargoError
            Nobody answered within the service's time-out.
        DiasporaError
            The service does not know the partition any more.
        """
        again, self._has_begun = self._has_begun, True
        error = cause if again or isinstance(cause, Fault) else None
        while True:
            if error is not None:
                if self._service.is_closed:
                    raise error
                self.failures += 1
                self.reason = error.with_traceback(None)
                self._service.client.notify()
                found = self._service.locate(self._topic, partition)
                error = self._service.explained(error)
                self.reason = error.with_traceback(None)
                self._tell(partition, error)
                if found == partition:
                    self._rest(error)
                partition = found
            try:
                timeout = min(self.seconds_left, CONNECT_TIMEOUT)
                return partition, self._service.client.link(partition.address, timeout)
            except MargoError as failure:
                error = failure

    def _tell(self, partition: PartitionInfo, error: MargoError) -> None:
        if self._told is None and time.monotonic() - self._began >= PATIENCE:
            self._told = partition
            log.warning("topic %r, %s: looked for since %g s: %s", self._topic, partition, PATIENCE, error)

    def end(self, outcome: str) -> None:
        """Take note that the search is over, found or given up."""
        partition, self._told = self._told, None
        if partition is not None:
            seconds = time.monotonic() - self._began
            log.warning("topic %r, %s: %s after %.1f s", self._topic, partition, outcome, seconds)

    def _rest(self, error: MargoError) -> None:
        if self.is_over:
            raise error
        pause, self._pause = min(self._pause, self.seconds_left), min(2 * self._pause, LONGEST_PAUSE)
        self._service.rest(pause)


def _dispatch(jobs: "SimpleQueue[Callable[[], object] | None]") -> None:
    while (job := jobs.get()) is not None:
        try:
            threading.Thread(target=job, name="mofka-recovery", daemon=True).start()
        except RuntimeError:  # the interpreter exits: whoever waits does it
            jobs.put(job)
            return
        del job


_services: "weakref.WeakSet[Service]" = weakref.WeakSet()


def _after_fork() -> None:
    for service in list(_services):
        service.after_fork_in_child()


def _at_exit() -> None:
    lost = 0
    deadline = time.monotonic() + EXIT_FLUSH
    services = list(_services)
    for service in services:
        service.end(deadline)
    for service in services:
        lost += service.finish(max(deadline - time.monotonic(), 0))
    if lost:
        print(
            f"mofka: {lost} events were still pending at exit and are not stored; "
            f"call flush().wait() on their producers, or close them",
            file=sys.stderr,
        )


os.register_at_fork(after_in_child=_after_fork)
at_end(_at_exit)
