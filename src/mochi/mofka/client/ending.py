"""The end of a process: what has to be done before, also in children of `multiprocessing`, which have no atexit."""

import atexit
import os
import sys
from collections.abc import Callable

_PRIORITY = 100
"""Before the finalizers of `multiprocessing` itself."""


class _Ending:
    """What is called at the end of this process."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._watched = 0
        """The child of `multiprocessing` whose end is watched, by its id."""

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def run(self) -> None:
        for call in self._calls:
            call()

    def after_fork(self) -> None:
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            # A child first forgets all finalizers, and then calls what is registered for that moment.
            util.register_after_fork(self, _Ending.watch_child)

    def watch_child(self) -> None:
        """Have the end of this process watched if it is a child of `multiprocessing`."""
        process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
        if (
            process is None
            or util is None
            or process.parent_process() is None
            or self._watched == os.getpid()
        ):
            return
        self._watched = os.getpid()
        util.Finalize(None, self.run, exitpriority=_PRIORITY)


_ending = _Ending()
atexit.register(_ending.run)
os.register_at_fork(after_in_child=_ending.after_fork)


def at_end(call: Callable[[], None]) -> None:
    """Have a function called at the end of this process, and of each that is forked from it."""
    _ending.add(call)


def watch_child() -> None:
    """Have the end of this process watched if it is a child of `multiprocessing`, which may not have been forked."""
    _ending.watch_child()
