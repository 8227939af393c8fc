"""One io_uring, shared by threads: who waits for a request drives the ring for all.

Requests come in groups. The thread that brings the first one drives: it puts requests into the ring, submits
them, sleeps on the ring's eventfd, and takes completions out. A thread that comes meanwhile leaves its group
with the driver and sleeps; when the driver has all it waits for, it wakes one of those to drive on. So a
thread alone has no hand-over at all, and no event loop waits for a disk. A ring with
``IORING_SETUP_SINGLE_ISSUER`` is made and always driven by a thread of its own, as the kernel demands.

Invariants
----------
1. One thread at a time touches the ring: its driver.
2. The driver never waits in a call of the library, which would keep the interpreter from everybody.
3. No more requests are in flight than the completion queue holds.
4. A group ends when the kernel is done with all of its memory.
"""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from threading import Condition, Lock, Thread
from typing import Any

import liburing

from mochi import shortage

Prepare = Callable[[Any], None]
"""Fills a submission queue entry, and holds all memory that the request needs."""

Outcome = int | OSError

_ENTRIES = 64
_BUSY = (errno.EAGAIN, errno.EBUSY, errno.EINTR)
_PAUSE = 0.001


class Ring:
    """An io_uring.

    Parameters
    ----------
    setup_flags, sqe_flags : int
        ``IORING_SETUP_*`` of the ring, ``IOSQE_*`` of every request.

    Raises
    ------
    OSError
        The kernel refuses.
    """

    def __init__(self, setup_flags: int, sqe_flags: int) -> None:
        self._setup_flags = setup_flags
        self._sqe_flags = sqe_flags
        self._changed = Condition(Lock())
        self._driven = False
        self._closed = False
        self._broken: tuple[int, str] | None = None
        self._arrived: deque[tuple[_Group, int]] = deque()
        self._waiting: deque[_Group] = deque()
        self._in_flight: dict[int, tuple[_Group, int]] = {}
        self._number = 0
        self._thread: Thread | None = None
        if setup_flags & liburing.IORING_SETUP_SINGLE_ISSUER:
            opened: Future[None] = Future()
            self._thread = Thread(target=self._serve, args=(opened,), name="abt_io-uring", daemon=True)
            shortage.start(self._thread)
            opened.result()
        else:
            self._open()

    @property
    def driven(self) -> bool:
        """Whether a request that comes now is left with another thread."""
        return self._driven

    @property
    def broken(self) -> bool:
        """Whether every request fails from now on."""
        return self._broken is not None

    def run(self, requests: Sequence[Prepare]) -> list[Outcome]:
        """Submit requests together, and return when all are done, with what each gave.

        Any thread but the main one, where Ctrl-C could strike while the ring is touched. A ring that is closed,
        or on which the kernel has given up, answers every request with an error.
        """
        group = _Group(requests)
        with self._changed:
            if self._closed or self._broken or not requests:
                reason = self._broken or (errno.EBADF, "the io_uring is closed")
                return [OSError(*reason) for _ in requests]
            self._arrived.extend((group, index) for index in range(len(requests)))
            drives, self._driven = not self._driven, True  # invariant 1
            if not drives:
                self._waiting.append(group)
                os.eventfd_write(self._event, 1)
        if not drives:
            group.woken.acquire()
        if group.left:
            try:
                while group.left:
                    self._turn()
            finally:
                self._pass_on()
        return group.outcomes

    def close(self) -> None:
        """Refuse further requests, wait until those under way are done, and give the ring back. Idempotent."""
        with self._changed:
            closed, self._closed = self._closed, True
            if self._thread is None:
                self._changed.wait_for(lambda: not self._driven)
        if self._thread is not None:
            if not closed:
                os.eventfd_write(self._event, 1)
            self._thread.join()
        if not closed:
            self._opened.close()

    def abandon(self) -> None:
        """Let go of a parent's ring in its child, which has no mapping of it (`io_uring_ring_dontfork`)."""
        if not self._closed:
            os.close(self._ring.ring_fd)
            os.close(self._event)

    def _open(self) -> None:
        ring = liburing.Ring()
        with ExitStack() as opened:
            liburing.io_uring_queue_init(_ENTRIES, ring, self._setup_flags)
            opened.callback(liburing.io_uring_queue_exit, ring)
            event = os.eventfd(0)
            opened.callback(os.close, event)
            liburing.io_uring_ring_dontfork(ring)
            liburing.io_uring_register_eventfd(ring, event)
            self._opened = opened.pop_all()
        self._ring = ring
        self._event = event
        self._cqe = liburing.Cqe()

    def _serve(self, opened: "Future[None]") -> None:
        """Drive, in the thread of a ring that is to have one issuer, until it is closed and nothing is left."""
        try:
            self._open()
        except BaseException as error:
            opened.set_exception(error)
            return
        self._driven = True
        opened.set_result(None)
        while not self._closed or self._arrived or self._in_flight:
            self._turn()

    def _pass_on(self) -> None:
        """Wake the group that waits longest to drive on, if there is one."""
        with self._changed:
            if self._waiting:
                self._waiting.popleft().woken.release()
            else:
                self._driven = False
                self._changed.notify_all()

    def _turn(self) -> None:
        """Submit what has arrived, and take out what is done; sleep first where nothing is."""
        try:
            self._submit()
            if not self._reap():
                os.read(self._event, 8)  # invariant 2
        except OSError as error:
            self._break(error.errno or errno.EIO, error.strerror or str(error))
        except Exception as error:
            self._break(errno.EIO, f"the io_uring failed: {error!r}")

    def _submit(self) -> None:
        before = self._number
        while self._arrived and len(self._in_flight) < _ENTRIES:  # invariant 3
            group, index = self._arrived.popleft()
            self._number += 1
            self._in_flight[self._number] = group, index
            entry = liburing.io_uring_get_sqe(self._ring)
            group.requests[index](entry)
            entry.flags = self._sqe_flags
            entry.user_data = self._number
        polled = self._setup_flags & liburing.IORING_SETUP_SQPOLL  # the kernel takes them when it likes
        unsent = self._number > before
        while unsent:
            try:
                liburing.io_uring_submit(self._ring)
                unsent = not polled and liburing.io_uring_sq_ready(self._ring) > 0
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
                time.sleep(_PAUSE)

    def _reap(self) -> int:
        if self._setup_flags & liburing.IORING_SETUP_DEFER_TASKRUN:
            liburing.io_uring_get_events(self._ring)
        ready: int = liburing.io_uring_cq_ready(self._ring)
        for _ in range(ready):
            liburing.io_uring_peek_cqe(self._ring, self._cqe)
            entry = self._cqe[0]
            try:
                outcome: Outcome = entry.res
            except OSError as error:
                outcome = error
            group, index = self._in_flight.pop(entry.user_data)
            liburing.io_uring_cqe_seen(self._ring, entry)
            self._tell(group, index, outcome)
        return ready

    def _tell(self, group: "_Group", index: int, outcome: Outcome) -> None:
        group.outcomes[index] = outcome
        group.left -= 1
        if not group.left:
            with self._changed:
                if group in self._waiting:
                    self._waiting.remove(group)
                    group.woken.release()

    def _break(self, number: int, problem: str) -> None:
        """Fail what is under way, and whatever comes, with an error of the ring itself."""
        with self._changed:
            self._broken = number, problem
        self._kept = dict(self._in_flight)  # invariant 4
        for group, index in (*self._in_flight.values(), *self._arrived):
            self._tell(group, index, OSError(number, problem))
        self._in_flight.clear()
        self._arrived.clear()


class _Group:
    """Requests that one thread waits for."""

    __slots__ = ("left", "outcomes", "requests", "woken")

    def __init__(self, requests: Sequence[Prepare]) -> None:
        self.requests = requests
        self.outcomes: list[Outcome] = [0] * len(requests)
        self.left = len(requests)
        self.woken = Lock()
        self.woken.acquire()
