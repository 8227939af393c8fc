"""What producers and consumers of one driver share: the margo client, time-outs, and what happens at the end.

Events that are pending when the interpreter exits are flushed, for `EXIT_FLUSH` seconds at most, and a message tells
of those that could not be. In a forked child, producers and consumers begin anew.
"""

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import msgspec

from diaspora_stream.errors import ConnectionFailed, DiasporaError, TimeoutExpired
from mochi.margo.client import Client
from mochi.margo.errors import AuthenticationError, ConnectionLost, DeadlineExceeded, Fault, MargoError
from mochi.margo.link import Link

RECONNECT_GRACE = 1.0
"""Seconds during which a lost connection is tried again, before what is pending on it fails."""

EXIT_FLUSH = 10.0
"""Seconds that the interpreter's exit waits for pending events."""

_RETRY_PAUSE = 0.1


class PartitionInfo(msgspec.Struct, frozen=True):
    """Where a partition is served; `as_dict` is the entry of ``topic.partitions``."""

    index: int
    address: str
    provider_id: int
    uuid: str

    @property
    def key(self) -> bytes:
        """The uuid as 16 bytes."""
        return UUID(self.uuid).bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the public form."""
        return {"address": self.address, "provider_id": self.provider_id, "uuid": self.uuid}

    def __str__(self) -> str:
        return f"partition {self.index} ({self.uuid}, provider {self.provider_id} at {self.address})"


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


def as_diaspora_error(error: Exception, what: str) -> DiasporaError:
    """Return the error of the public tree that tells an application of `error`."""
    if isinstance(error, DiasporaError):
        return error
    if isinstance(error, DeadlineExceeded):
        return TimeoutExpired(f"{what}: {error}")
    if isinstance(error, Fault | AuthenticationError):
        return DiasporaError(f"{what}: {error}")
    return ConnectionFailed(f"{what}: {error}")


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
        self._exiting = False
        self._lanes: set[Pending] = set()
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._resettable: weakref.WeakSet[Resettable] = weakref.WeakSet()
        _services.add(self)

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
        for member in list(self._resettable):
            member.reset()

    def reconnect(self, address: str) -> Link:
        """Connect to `address` again, trying for `RECONNECT_GRACE` seconds; `MargoError` if it does not work."""
        deadline = time.monotonic() + RECONNECT_GRACE
        while True:
            try:
                return self.client.link(address, RECONNECT_GRACE)
            except MargoError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_PAUSE)

    def in_background(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread of its own: it may block, which no receiver of frames may.

        Does nothing once the interpreter exits: no thread starts then, and what there would be to do is moot.
        """
        if self._exiting:
            return
        threading.Thread(target=work, name="mofka-recovery", daemon=True).start()

    def end(self) -> None:
        """Start nothing more: the interpreter exits."""
        self._exiting = True

    def close(self) -> int:
        """Stop producers and consumers, flush in time, close the client; return how many events are lost."""
        for member in list(self._members):
            member.stop()
        lanes = list(self._lanes)
        lost = self._finish(lanes, self.timeout)
        for lane in lanes:
            lane.fail(ConnectionLost("the driver was closed"))
        self.client.close()
        return lost


_services: "weakref.WeakSet[Service]" = weakref.WeakSet()


def _after_fork() -> None:
    for service in list(_services):
        service.after_fork_in_child()


def _at_exit() -> None:
    lost = 0
    for service in list(_services):
        lost += service.finish(EXIT_FLUSH)
        service.end()
    if lost:
        print(
            f"mofka: {lost} events were still pending at exit and are not stored; "
            f"call flush().wait() on their producers, or close them",
            file=sys.stderr,
        )


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
