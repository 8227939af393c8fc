"""The system calls behind reading, writing and syncing: by one thread each, or by an io_uring where there is one.

A call may do less than all of what was asked; `files` continues it. What the configuration asks for and this
machine lacks costs one warning, and the plain system calls take its place.
"""

import errno
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.threads import IoThreads

_log = logging.getLogger(__name__)


class Calls(Protocol):
    """What `files` needs of the system. Calls block, without the interpreter, from any number of threads."""

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        """Write the first bytes of at most ``IOV_MAX`` buffers, and return how many."""

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        """Fill the first bytes of `target`, and return how many; 0 at the end of the file."""

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        """Return when the bytes of all files are on disk, with what went wrong for each."""

    def close(self) -> None:
        """Give back what the calls hold, once the last one is done; later ones are plain system calls."""

    def restart_in_child(self) -> None:
        """Leave to the parent what is the parent's, after a fork."""


class SystemCalls:
    """One blocking system call for each; several files are synced at once, all but one in threads of their own."""

    def __init__(self) -> None:
        self._closed = False
        self._threads = IoThreads("abt_io-sync")

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        return os.preadv(fd, [target], offset)

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        if self._closed:
            return [_sync(fd) for fd in fds]
        try:
            others = [self._threads.submit(partial(_sync, fd)) for fd in fds[1:]]
        except OSError:  # at the first of them, for want of any thread
            return [_sync(fd) for fd in fds]
        return [*map(_sync, fds[:1]), *(other.result() for other in others)]

    def close(self) -> None:
        self._closed = True
        self._threads.close()

    def restart_in_child(self) -> None:
        self._threads = IoThreads("abt_io-sync")


def open_calls(name: str, config: AbtIoConfig) -> Calls:
    """Return the calls that a provider's configuration asks for, or plain ones and a warning that says why."""
    if not config.num_urings:
        return SystemCalls()
    try:
        from mochi.abt_io.uring import UringCalls

        return UringCalls(name, config)
    except ImportError as error:
        reason = f"liburing cannot be used ({error}); it comes with: pip install 'mofka[uring]'"
    except OSError as error:
        reason = f"the kernel refuses it ({error.strerror}{_HINTS.get(error.errno or 0, '')})"
    _log.warning(
        "abt_io provider %r: config.num_urings is %d, but there is no io_uring here: %s. "
        "Threads do the work instead",
        name,
        config.num_urings,
        reason,
    )
    return SystemCalls()


_HINTS = {
    errno.ENOSYS: "; Linux has it from 5.6 on",
    errno.EPERM: "; see the sysctl kernel.io_uring_disabled, and the seccomp profile of a container",
    errno.ENOMEM: "; see the limit of locked memory, ulimit -l",
    errno.EMFILE: "; see the limit of open files, ulimit -n",
}


def _sync(fd: int) -> OSError | None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        return error
    return None
