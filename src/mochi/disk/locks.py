"""The lock of a directory: one process at a time has it, and who comes too late is told who that is.

A lock lasts until its descriptor is closed, and forked children share it. The kernel is asked who holds one, where it
tells. A dead process leaves its name in the file, so a name there is believed of another machine only.
"""

import errno
import fcntl
import os
import socket
from contextlib import suppress


def take(fd: int, *, sign: bool = True) -> None:
    """Lock an open file for this process alone.

    Parameters
    ----------
    fd : int
        Open to read and write.
    sign : bool
        Whether the process's name is written into the file, which then has nothing else.

    Raises
    ------
    BlockingIOError
        Somebody else has the lock, or the file was removed by who had it; says which, and who.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, f"locked by {_holder(fd, signed=sign)}") from None
    if not os.fstat(fd).st_nlink:
        raise BlockingIOError(errno.EAGAIN, "removed meanwhile by who had it locked")
    if not sign:
        return
    with suppress(OSError):  # a full disk has no room for the name, and the lock holds without
        name = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
        os.pwrite(fd, name, 0)
        os.ftruncate(fd, len(name))


def share(fd: int) -> None:
    """Keep out whoever wants the lock of an open file; others may share it. Changes nothing in the file.

    Raises
    ------
    BlockingIOError
        Somebody has the lock; says who.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, f"locked by {_holder(fd, signed=True)}") from None


def _holder(fd: int, *, signed: bool) -> str:
    """Name who holds the lock of a file; a process that is known to live, or nobody in particular."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return "whoever checks it just now"
    host = socket.gethostname()
    for pid in _lockers(os.fstat(fd).st_ino):
        if os.path.exists(f"/proc/{pid}"):
            return f"process {pid} on {host}"
    written = os.pread(fd, 256, 0).decode(errors="replace").strip() if signed else ""
    if written and not written.endswith(f" on {host}"):
        return written
    return "a process that is not known"


def _lockers(inode: int) -> list[int]:
    """Return the processes that have locked a file of this inode, as far as the kernel tells."""
    try:
        with open("/proc/locks") as file:
            entries = [line.split() for line in file]
    except OSError:
        return []
    # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:2146336 0 EOF; one that waits has "->" behind its number.
    return [int(e[4]) for e in entries if e[1] == "FLOCK" and e[5].rpartition(":")[2] == str(inode)]
