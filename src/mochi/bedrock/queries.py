"""Queries of clients, one at a time, on a thread of their own, so that the event loop goes on meanwhile.

Connections take turns, and the one whose queries have taken the least time is next. So a connection that sends many
dear queries waits for them itself, and hardly anybody else does.

A query pauses again and again: the event loop needs the interpreter several times for one request.
"""

import threading
import time
from collections.abc import Callable

from mochi import shortage
from mochi.bedrock.turns import Turns
from mochi.margo.connection import Connection, Request
from mochi.margo.errors import Fault
from mochi.margo.wire import MAX_MESSAGE

PAUSE = 0.00005
"""Seconds that a query sleeps at a time. Without sleep it would have the interpreter again before another wakes up."""


def pause() -> None:
    """Let the event loop have the interpreter."""
    time.sleep(PAUSE)


class Queries:
    """Runs queries. Any thread.

    The thread is there while there is something to do. Where none can be started, the query is refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: Turns[Connection, Callable[[], None]] = Turns()
        self._running = False

    def put(self, request: Request, run: Callable[[], None]) -> None:
        """Have `run` called in its turn; it answers `request`, or what it raises does.

        Raises
        ------
        Fault
            ``unavailable``: there is no thread for it.
        """

        def reserve() -> None:
            request.reserve(MAX_MESSAGE, run, lambda work: self._put(request.connection, work))

        self._put(request.connection, reserve)

    def _put(self, connection: Connection, work: Callable[[], None]) -> None:
        with self._lock:
            self._turns.put(connection, work)
            if self._running:
                return
            try:
                shortage.start(threading.Thread(target=self._serve, name="bedrock-queries", daemon=True))
            except OSError as error:
                self._turns.drop(connection)
                raise Fault("unavailable", f"this server can run no queries now: {error.strerror}") from error
            self._running = True

    def _serve(self) -> None:
        while True:
            with self._lock:
                taken = self._turns.take()
                if taken is None:
                    self._running = False
                    return
            connection, work = taken
            begin = time.monotonic()
            if not connection.closed:
                work()
            with self._lock:
                self._turns.pay(connection, time.monotonic() - begin)
