"""The clock by which events age: it only moves forward, and as fast as time passes, whatever the machine's is set to.

A machine's clock is set by people, and by programs that find it wrong; a jump ahead would make all events old at once.
So it is read when the process starts, and what has passed since is counted by one that nobody sets, which runs on while
the machine sleeps.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

SECOND: Final = 1_000_000_000

NOTABLE: Final = 60 * SECOND
"""A jump of the machine's clock that is told, in nanoseconds."""

log = logging.getLogger(__name__)


def _since_boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """Time that only moves forward. Any thread.

    Parameters
    ----------
    wall : callable
        The machine's clock, in nanoseconds since 1970.
    steady : callable
        One that nobody sets, in nanoseconds.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = _since_boot,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._jump = 0

    def now(self) -> int:
        """Return the time, in nanoseconds since 1970; log once if the machine's clock has been set."""
        now = self._steady() + self._offset
        jump = self._wall() - now
        if abs(jump - self._jump) >= NOTABLE:
            self._jump = jump
            log.warning(
                "the clock of this machine was set, and is %s %s of where it would be; until this server starts "
                "again, events age by what has passed",
                shown(abs(jump)),
                "ahead" if jump > 0 else "short",
            )
        return now


def shown(nanoseconds: int) -> str:
    """Say how long something is, in the unit that suits it."""
    seconds = nanoseconds / SECOND
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


CLOCK: Final = Clock()
"""That of this process."""
