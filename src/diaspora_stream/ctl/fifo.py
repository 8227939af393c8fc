"""The command `diaspora-ctl fifo`: lines of named pipes become events, and events become lines.

The main thread reads the control file. Each FIFO has a thread of its own, which waits for its FIFO or its topic, and
for the flag that tells it to stop.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Final, Protocol

from diaspora_stream.ctl.drivers import DRIVER, command, flag, open_driver
from diaspora_stream.ctl.fifo_ends import FifoError, ReadEnd, WriteEnd
from diaspora_stream.ctl.fifo_lines import GRAMMAR, MAX_LINE, BadCommand, Command, as_line, as_metadata, parse
from diaspora_stream.ctl.options import Arguments
from diaspora_stream.ctl.outbox import PAUSE, Outbox, Receipts, take
from diaspora_stream.ctl.stopping import GRACE, Stop
from diaspora_stream.driver import Driver
from diaspora_stream.errors import DiasporaError
from diaspora_stream.event import Event

IDLE: Final = 0.1
"""Seconds without a line after which what was read is flushed."""

LOOK: Final = 0.5
"""Seconds between two looks at how much a reader has taken, and at whether to stop."""

_log = logging.getLogger("diaspora_stream.ctl")


class Worker(Protocol):
    """Does the work of one FIFO until it is told to stop."""

    command: Command
    lost: int
    """Lines that were not stored when it stopped."""

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to its FIFO."""

    def run(self) -> None:
        """Work; returns when the flag is set."""

    def end(self) -> None:
        """Let go of the FIFO."""


class LinesIn:
    """Makes events of the lines of a FIFO; each writer's are flushed when the last one closes it, or is idle."""

    def __init__(self, driver: Driver, command: Command, stop: Stop) -> None:
        self.command = command
        self.lost = 0
        self._stop = stop
        topic = driver.open_topic(command.topic)
        self._fifo = ReadEnd(command.fifo, stop)
        try:
            self._outbox: Outbox[None] = Outbox(topic.producer(batch_size=command.batch_size), stop)
        except BaseException:
            self._fifo.close()
            raise

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to this FIFO."""
        return self._fifo.is_there

    def run(self) -> None:
        """Push lines until the flag is set; then those that are there, and flush for `GRACE` seconds at most."""
        while not self._stop.is_requested:
            if not self._fifo.wait(IDLE if self._outbox else None):
                self._flush()
            self._push()
        self._outbox.flush()
        ends_at = time.monotonic() + GRACE
        while self._outbox and (left := ends_at - time.monotonic()) > 0:
            self._outbox.stored(left * 1000)
        self.lost = len(self._outbox)

    def _push(self) -> None:
        before = self._fifo.lines.too_long
        for lines in self._fifo.read():
            for line in lines:
                metadata = as_metadata(line, self.command.format)
                self._outbox.push(metadata, b"", len(metadata), None)
            if not lines:
                self._flush()
            while self._outbox.is_full and not self._stop.is_requested:
                self._outbox.stored(1000 * LOOK)
        if self._fifo.lines.too_long > before:
            _log.error("%s: a line of more than %d bytes is left out", self.command.fifo, MAX_LINE)

    def _flush(self) -> None:
        self._outbox.flush()
        while self._outbox and not self._stop.is_requested:
            self._outbox.stored(1000 * LOOK)

    def end(self) -> None:
        """Remove the FIFO."""
        self._fifo.remove()


class LinesOut:
    """Writes the events of a topic into a FIFO; they are acknowledged once a reader has taken their lines."""

    def __init__(self, driver: Driver, command: Command, stop: Stop) -> None:
        self.command = command
        self.lost = 0
        self.is_there = True
        self._stop = stop
        self._written: deque[tuple[int, Event]] = deque()
        self._receipts = Receipts()
        self._fifo = WriteEnd(command.fifo)
        try:
            self._consumer = driver.open_topic(command.topic).consumer(
                command.fifo, data_selector=None, data_allocator=None, batch_size=command.batch_size
            )
        except BaseException:
            self._fifo.close()
            raise

    def run(self) -> None:
        """Write events until the flag is set, or there will be no more."""
        is_over = False
        while not self._stop.is_requested and not is_over:
            events, error = take(self._consumer, self.command.batch_size, 1000 * LOOK)
            if events and events[-1].event_id is None:
                events.pop()
                is_over = True
            self._write(events)
            self._acknowledge()
            if error is not None:
                _log.error("%s: %s", self.command.fifo, error)
                self._stop.wait(PAUSE)
        while self._written and not self._stop.wait(LOOK):
            self._acknowledge()
        self._acknowledge()

    def _write(self, events: list[Event]) -> None:
        lines = [as_line(event.metadata, self.command.format) for event in events]
        bounds = list(accumulate(map(len, lines), initial=self._fifo.written))
        self._written += zip(bounds[1:], events, strict=True)
        left = memoryview(b"".join(lines))
        while left and not self._stop.is_requested:
            left = left[self._fifo.write(left, LOOK, self._stop) :]
            self._acknowledge()
        # A line that was begun is finished, for a reader that stays.
        left = left[: next(bound for bound in bounds if bound >= self._fifo.written) - self._fifo.written]
        ends_at = time.monotonic() + GRACE
        while left and time.monotonic() < ends_at:
            left = left[self._fifo.write(left, LOOK) :]

    def _acknowledge(self) -> None:
        taken = self._fifo.read
        while self._written and self._written[0][0] <= taken:
            self._receipts.add(self._written.popleft()[1])
        self._receipts.send()

    def end(self) -> None:
        """Close the FIFO; the file stays."""
        self._consumer.close()
        self._fifo.close()


class Daemon:
    """The FIFOs that the control file has named, each with the thread that works for it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._workers: dict[str, tuple[Worker, threading.Thread, Stop]] = {}
        self._lost = 0

    def obey(self, line: str) -> None:
        """Do what a line of the control file asks for; what is wrong with it is logged."""
        try:
            command, warnings = parse(line)
            for warning in warnings:
                _log.warning("%s: %s", line, warning)
            self._register(command)
        except (DiasporaError, TypeError) as error:
            log = _log.warning if isinstance(error, BadCommand) else _log.error
            log("%s: %s", line, error)

    def _register(self, command: Command) -> None:
        if command.fifo in self._workers:
            before, thread, _ = self._workers[command.fifo]
            if thread.is_alive() and before.is_there:
                if before.command != command:
                    raise BadCommand(f"this FIFO is registered already, as {before.command}")
                _log.info("%s is registered already", command.fifo)
                return
            self._end([command.fifo])
        stop = Stop()
        worker: Worker = (LinesIn if command.is_producer else LinesOut)(self._driver, command, stop)
        thread = threading.Thread(target=self._work, args=(worker,), name=command.fifo, daemon=True)
        self._workers[command.fifo] = worker, thread, stop
        thread.start()
        arrow = "->" if command.is_producer else "<-"
        _log.info("registered %s %s %s", command.fifo, arrow, command.topic)

    def _work(self, worker: Worker) -> None:
        try:
            worker.run()
        except Exception as error:
            _log.error("%s is served no more: %s", worker.command.fifo, error, exc_info=True)

    def _end(self, fifos: Collection[str]) -> None:
        ends_at = time.monotonic() + 2 * GRACE
        for fifo in fifos:
            self._workers[fifo][2].request()
        for fifo in fifos:
            worker, thread, _ = self._workers.pop(fifo)
            thread.join(max(ends_at - time.monotonic(), 0))
            worker.end()
            self._lost += worker.lost

    def end(self) -> int:
        """Stop all work, and remove what was made; return how many lines were not stored."""
        self._end(list(self._workers))
        return self._lost


@command(
    "fifo",
    *DRIVER,
    flag("control-file", "named pipe to make, which takes commands", "PATH", required=True),
    prefixes=("driver",),
    is_preset=True,
)
def fifo(arguments: Arguments) -> None:
    """Connect named pipes with topics until it is told to stop.

    SIGINT and SIGTERM end it. The files that were made are removed then.
    """
    path = arguments.flags["control-file"]
    stop = Stop()
    with open_driver(arguments) as driver, stop.on_signals(), _control(path, stop) as control:
        daemon = Daemon(driver)
        try:
            for line in GRAMMAR.splitlines():
                _log.info("%s", line)
            _log.info("waiting for commands at %s", path)
            while not stop.is_requested:
                control.wait(None)
                for lines in control.read():
                    for command in lines:
                        daemon.obey(command.decode(errors="backslashreplace").strip())
        finally:
            lost = daemon.end()
    if lost:
        raise DiasporaError(f"{lost} lines were not stored")


@contextmanager
def _control(path: str, stop: Stop) -> Iterator[ReadEnd]:
    control = ReadEnd(path, stop)
    if not control.is_ours:
        control.close()
        raise FifoError(f"{path}: this FIFO is another user's")
    try:
        yield control
    finally:
        control.remove()
