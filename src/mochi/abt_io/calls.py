"""How the bytes of files move: by system calls of one thread each, or by an io_uring where there is one.

What the configuration asks for and this machine lacks costs one warning, and the plain system calls take its place.
"""

import errno
import logging
from collections.abc import Sequence
from functools import partial

from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.threads import IoThreads
from mochi.disk import Calls, PlainCalls, sync_one

_log = logging.getLogger(__name__)


class SystemCalls(PlainCalls):
    """One blocking system call for each; several files are synced at once, all but one in threads of their own."""

    def __init__(self) -> None:
        self._closed = False
        self._threads = IoThreads("abt_io-sync")

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        if self._closed or len(fds) == 1:
            return super().sync(fds)
        try:
            others = [self._threads.submit(partial(sync_one, fd)) for fd in fds[1:]]
        except OSError:  # at the first of them, for want of any thread
            return super().sync(fds)
        return [*map(sync_one, fds[:1]), *(other.result() for other in others)]

    def close(self) -> None:
        """Let go of threads or rings once the last call is done; later ones are plain system calls."""
        self._closed = True
        self._threads.close()

    def restart_in_child(self) -> None:
        """Leave to the parent what is the parent's, after a fork."""
        self._threads = IoThreads("abt_io-sync")


class NullCalls:
    """Calls of which some return at once, as if they had done all of what was asked.

    Parameters
    ----------
    calls : Calls
        Those that do the rest.
    read, write : bool
        Which return at once; with `write` also syncs.
    """

    def __init__(self, calls: Calls, *, read: bool, write: bool) -> None:
        self._read = read
        self._write = write
        self._calls = calls

    def write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        return sum(map(len, buffers)) if self._write else self._calls.write(fd, buffers, offset)

    def read(self, fd: int, target: memoryview, offset: int) -> int:
        return len(target) if self._read else self._calls.read(fd, target, offset)

    def sync(self, fds: Sequence[int]) -> list[OSError | None]:
        return [None] * len(fds) if self._write else self._calls.sync(fds)


def open_calls(name: str, config: AbtIoConfig) -> SystemCalls:
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
