"""A `bedrock` whose disk is slow: ``python slow_disk.py <ms> <arguments of bedrock>``.

Every fdatasync takes so many milliseconds more, in which the thread that called it waits without the interpreter, as it
does for a disk.
"""

import os
import sys
import time
from typing import Any

from mochi.bedrock.cli import bedrock


def slow_down(seconds: float) -> None:
    """Make each fdatasync of this process take so much longer."""
    fdatasync = os.fdatasync

    def slowed(fd: Any) -> None:
        time.sleep(seconds)
        fdatasync(fd)

    os.fdatasync = slowed


if __name__ == "__main__":
    slow_down(int(sys.argv.pop(1)) / 1e3)
    bedrock()
