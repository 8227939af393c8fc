"""Entry point of diaspora-ctl.

Results go to standard output, logs and errors to standard error. The exit code is 0 when the command did what
it was asked to, 130 when Ctrl-C ended it, 1 otherwise.
"""

import sys
from collections.abc import Sequence

from diaspora_stream.console.commands import Group, version

ctl = Group(
    "diaspora-ctl",
    help="Manage topics, connect them with pipes, and copy them.",
    later={
        "topic": "diaspora_stream.ctl.topic:topic",
        "fifo": "diaspora_stream.ctl.fifo:fifo",
        "forward": "diaspora_stream.ctl.forward:forward",
    },
    usage_status=1,
    failure_status=1,
)
version(ctl)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    try:
        ctl.main(arguments, prog_name="diaspora-ctl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
