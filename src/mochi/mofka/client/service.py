"""What producers and consumers of one driver share: the margo client, where partitions are, and the end.

Events that are pending when a process ends are flushed, for `EXIT_FLUSH` seconds at most, and a message tells of
those that could not be. That happens when the interpreter exits, and in children of `multiprocessing`, which end
without that, by a finalizer of theirs. No thread starts from then on. What is pushed later on (by ``__del__``, say)
is stored before `push` returns, or an error says that it is not; jobs are done by whoever waits. In a forked child,
producers and consumers begin anew.
"""

import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from diaspora_stream.errors import DiasporaError
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, ConnectionLost, MargoError
from mochi.mofka.client.ending import at_end, watch_child
from mochi.mofka.client.jobs import Jobs
from mochi.mofka.client.refusals import PartitionInfo

log = logging.getLogger(__name__)

EXIT_FLUSH = 10.0
"""Seconds that the interpreter's exit waits for pending events."""


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
        self.jobs = Jobs()
        self._begin()
        self._directory: Directory | None = None
        self._whereabouts: dict[str, PartitionInfo] = {}
        self._lanes: set[Pending] = set()
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._resettable: weakref.WeakSet[Resettable] = weakref.WeakSet()
        _services.add(self)
        watch_child()

    def _begin(self) -> None:
        self.ends_at = math.inf
        self._open = threading.Lock()
        self._open.acquire()

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
            self.jobs.put(partial(self._finish, lanes, self.timeout))
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
        self.jobs.reset()
        self._begin()
        if self._directory is not None:
            self._directory.reset()
        for member in list(self._resettable):
            member.reset()

    def end(self, deadline: float) -> None:
        """Start nothing more, keep nothing open, and look for nothing after `deadline`: the process ends."""
        self.jobs.end()
        self.ends_at = deadline
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
