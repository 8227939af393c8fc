"""Paths that people give, and the small files there: checked for what they are before they are read."""

import errno
import os
import stat
from typing import Final

from mochi.margo.errors import ConfigError

SMALL: Final = 16 << 20
"""Bytes that a group file, a configuration or a script has at most."""

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def expand_home(path: str, where: str) -> str:
    """Return `path` with the home directory in place of a ``~`` at its beginning.

    Raises
    ------
    ConfigError
        It begins with ``~`` and the name of no user; names `where`.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ConfigError(
            where, f"{path!r} begins with the home of no user that is known; a name with ~ is './~'"
        )
    return expanded


def check_regular(path: str, *, pipes: bool = False) -> None:
    """Raise OSError if something is at `path` that is no regular file, nor a pipe where that will do."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
        raise OSError(errno.EINVAL, f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, no file", path)


def read_small(path: str, *, pipes: bool = False) -> bytes:
    """Return what a regular file holds.

    Parameters
    ----------
    pipes : bool
        Whether a pipe will do, as ``<(...)`` of a shell is one; it is read to its end.

    Raises
    ------
    OSError
        It is not there or may not be read, is no regular file, or has more than `SMALL` bytes.
    """
    check_regular(path, pipes=pipes)
    # What is at the path may have been replaced by a pipe, which would have the opening wait.
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if pipes else os.O_NONBLOCK)
    with open(os.open(path, flags), "rb") as file:
        content = file.read(SMALL + 1)
    if len(content) > SMALL:
        raise OSError(errno.EFBIG, f"has more than {SMALL} bytes", path)
    return content
