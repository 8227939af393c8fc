"""Reading, writing and syncing through io_urings, which the kernel works on side by side.

A call waits in the thread that makes it, in the kernel and without the interpreter, see `ring`; syncs of
several files go in with one submission. Invariant: an instance has its own rings, and a forked child has new
ones.
"""

import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import liburing

from mochi.abt_io.calls import SystemCalls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.kept_buffers import give_back
from mochi.abt_io.ring import Outcome, Prepare, Ring

_AGAIN = (errno.EINTR, errno.EAGAIN, errno.ECANCELED)
"""What a request is made again after; one is cancelled when the thread that submitted it for another ends."""

_PAUSE = 0.001

_log = logging.getLogger(__name__)


class UringCalls(SystemCalls):
    """Calls that go to the first of `num_urings` rings that nobody waits on, or to each in turn.

    A ring on which the kernel has given up is passed over; without any, there are plain system calls.
    The main thread, where Ctrl-C may strike between any two instructions, makes plain system calls. Without
    ``IOSQE_ASYNC`` a thread reads what is in the page cache itself, as the kernel would let the submitting thread
    do, but without the interpreter.

    Parameters
    ----------
    name : str
        Name of the provider, for warnings.
    config : AbtIoConfig
        Number of rings, and flags. Where the kernel refuses the ``IORING_SETUP_*`` flags, rings are made
        without them, and a warning says so.

    Raises
    ------
    OSError
        The kernel gives no ring.
    """

    def __init__(self, name: str, config: AbtIoConfig) -> None:
        super().__init__()
        self._name = name
        self._config = config
        self._turn = itertools.count()
        self._sqe_flags = liburing.IOSQE_ASYNC if "IOSQE_ASYNC" in config.liburing_flags else 0
        self._rings: tuple[Ring, ...] = ()
        self._open()

    @property
    def rings(self) -> int:
        """Number of rings in use."""
        return len(self._rings)

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        ring = self._ring()
        if ring is None:
            return super().write(fd, buffers, offset)
        return _transfer(ring, liburing.io_uring_prep_writev, fd, buffers, offset)

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        ring = self._ring()
        if ring is None:
            return super().read(fd, target, offset)
        if not self._sqe_flags:
            try:
                if count := os.preadv(fd, [target], offset, os.RWF_NOWAIT):
                    return count
            except OSError:
                pass  # not in the page cache; any other trouble shows below once more
        return _transfer(ring, liburing.io_uring_prep_readv, fd, [target], offset)

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        ring = self._ring()
        if ring is None:
            return super().sync(fds)
        outcomes = _all(ring, [_prepare_sync(fd) for fd in fds])
        return [outcome if isinstance(outcome, OSError) else None for outcome in outcomes]

    def close(self) -> None:
        rings, self._rings = self._rings, ()
        for ring in rings:
            ring.close()
        super().close()

    def restart_in_child(self) -> None:
        super().restart_in_child()
        rings, self._rings = self._rings, ()
        for ring in rings:
            ring.abandon()
        if rings:
            try:
                self._open()
            except OSError as error:
                _log.warning("abt_io provider %r: no io_uring after a fork: %s", self._name, error.strerror)

    def _open(self) -> None:
        names = [flag for flag in self._config.liburing_flags if flag.startswith("IORING_SETUP_")]
        setup_flags = 0
        for flag in names:
            setup_flags |= getattr(liburing, flag)
        try:
            first = Ring(setup_flags, self._sqe_flags)
        except OSError as error:
            if not setup_flags or error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            first = Ring(0, self._sqe_flags)
            _log.warning(
                "abt_io provider %r: the kernel refuses %s of config.liburing_flags (%s), alone or together: "
                "its io_urings are made without",
                self._name,
                ", ".join(names),
                error.strerror,
            )
            setup_flags = 0
        rings = [first]
        try:
            while len(rings) < self._config.num_urings:
                rings.append(Ring(setup_flags, self._sqe_flags))
        except BaseException:
            for ring in rings:
                ring.close()
            raise
        self._rings = tuple(rings)

    def _ring(self) -> Ring | None:
        rings = [ring for ring in self._rings if not ring.broken]
        if not rings or threading.current_thread() is threading.main_thread():
            return None
        for ring in rings:
            if not ring.driven:
                return ring
        return rings[next(self._turn) % len(rings)]


def _transfer(ring: Ring, prepare: Callable[..., None], fd: int, views: list[memoryview], offset: int) -> int:
    held = liburing.Iovec(views), views

    def request(entry: Any) -> None:
        prepare(entry, fd, held[0], offset)

    try:
        return _one(ring, request)
    finally:
        give_back(views)


def _prepare_sync(fd: int) -> Prepare:
    return lambda entry: liburing.io_uring_prep_fsync(entry, fd, liburing.IORING_FSYNC_DATASYNC)


def _one(ring: Ring, request: Prepare) -> int:
    outcome = _all(ring, [request])[0]
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _all(ring: Ring, requests: Sequence[Prepare]) -> list[Outcome]:
    """Run requests together, and those again that the kernel could not do for the moment."""
    outcomes = ring.run(requests)
    while again := [index for index, outcome in enumerate(outcomes) if _is_again(outcome)]:
        time.sleep(_PAUSE)
        for index, outcome in zip(again, ring.run([requests[index] for index in again]), strict=True):
            outcomes[index] = outcome
    return outcomes


def _is_again(outcome: Outcome) -> bool:
    return isinstance(outcome, OSError) and outcome.errno in _AGAIN
