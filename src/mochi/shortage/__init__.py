"""What runs out and comes back: descriptors, memory, threads, and space on a disk. Stands on the ground.

One policy for all who meet a want. What needed it fails, with the reason, and takes back what it had begun; whoever
comes next tries again, and succeeds once there is enough. A want is no cause to end anything for good, unless it leaves
unknown what has been done.
"""

import errno
import resource
import sys
from threading import Thread

_ERRORS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
    }
)


def is_shortage(error: BaseException) -> bool:
    """Tell whether a call failed for want of something that comes back."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in _ERRORS


def start(thread: Thread) -> None:
    """Start a thread.

    Raises
    ------
    OSError
        With EAGAIN, as the system has it: there can be no more threads now. The thread object is of no use then.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        problem = f"no thread can be started now ({thread.name}): too many of them, or too little memory"
        raise OSError(errno.EAGAIN, problem) from error


def accepted_descriptors() -> int:
    """Return the number that a connection's descriptor is below, or it is refused: the rest is kept for storage.

    A process is always given the lowest number that is free, so a high one tells that all below are taken.
    """
    limit = _limit()
    return limit - max(16, limit // 16)


def storage_descriptors() -> int:
    """Return how many descriptors storage keeps open, as far as nothing has to be open; others need the rest."""
    limit = _limit()
    return limit - max(32, limit // 8)


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
