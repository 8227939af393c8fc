"""What the embedded drivers have in common."""

import os
import weakref

from diaspora_stream.driver import Driver
from diaspora_stream.errors import DiasporaError
from diaspora_stream.thread_pool import ThreadPool
from mochi.mofka.files.consumer import EmbeddedConsumer
from mochi.mofka.files.producer import EmbeddedProducer


class EmbeddedDriver(Driver):
    """A driver without a server."""

    def _start(self, timeout: float) -> None:
        """Begin, with nothing made yet."""
        self.timeout = timeout
        self._thread_pool = ThreadPool(0)
        self._closed = False
        self._members: weakref.WeakSet[EmbeddedProducer | EmbeddedConsumer] = weakref.WeakSet()

    def check_open(self) -> None:
        """Raise an error if the driver is closed."""
        if self._closed:
            raise DiasporaError(f"{self!r} is closed")

    def watch(self, member: EmbeddedProducer | EmbeddedConsumer) -> None:
        """Have a producer or consumer closed with the driver."""
        self._members.add(member)
        if isinstance(member, EmbeddedConsumer):
            _consumers.add(member)

    @property
    def default_thread_pool(self) -> ThreadPool:
        """The pool of producers and consumers that are given none."""
        return self._thread_pool

    def close(self) -> None:
        """Store what is pending, and close all that was made through this driver; idempotent."""
        self._closed = True
        failures = []
        for member in list(self._members):
            try:
                member.close()
            except DiasporaError as error:
                failures.append(error)
        if failures:
            raise failures[0]


_consumers: weakref.WeakSet[EmbeddedConsumer] = weakref.WeakSet()


def _after_fork() -> None:
    for consumer in list(_consumers):
        consumer.reset()


os.register_at_fork(after_in_child=_after_fork)
