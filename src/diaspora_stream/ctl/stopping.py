"""The wish to stop, which signals make, and for which every wait of a daemon listens."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

GRACE: Final = 5.0
"""Seconds that a daemon takes at most to flush when it is told to stop."""


class Stop:
    """A flag that threads may wait for by its descriptor, beside others; once set, it stays so."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def request(self) -> None:
        """Set the flag; may be called by a signal handler."""
        os.eventfd_write(self.fd, 1)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait `timeout` seconds at most for the flag, for ever without one; tell whether it is set."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    @property
    def is_requested(self) -> bool:
        """Whether the flag is set."""
        return self.wait(0)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Set the flag at the first SIGINT or SIGTERM; a second one does what it did before."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.request()
            for each, before in previous.items():
                signal.signal(each, before)

        previous = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        for each in previous:
            signal.signal(each, handle)
        try:
            yield
        finally:
            for each, before in previous.items():
                signal.signal(each, before)
