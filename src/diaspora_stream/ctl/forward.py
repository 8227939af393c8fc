"""The command `diaspora-ctl forward`: copies the events of topics into others, with their data.

An event is acknowledged at its source once the destination has stored it. The next start goes on there, so each
event is stored at least once. One that was stored, and not acknowledged, when the process was killed is stored
again.
"""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from msgspec.structs import replace

from diaspora_stream.consumer import Consumer
from diaspora_stream.ctl.drivers import command, flag, read_file
from diaspora_stream.ctl.forward_config import ForwardConfig, Route, parse
from diaspora_stream.ctl.options import Arguments
from diaspora_stream.ctl.outbox import PAUSE, TRANSIENT, Outbox, Receipts, take
from diaspora_stream.ctl.stopping import GRACE, Stop
from diaspora_stream.driver import Driver
from diaspora_stream.errors import ConfigError, EventsLost
from diaspora_stream.event import Event
from diaspora_stream.json_value import encode
from diaspora_stream.topic import WHOLE

BATCH: Final = 1024
"""Events that are taken at a time at most."""

WAIT_MS: Final = 200
"""Milliseconds of a wait at most, between two looks at whether to stop."""

_log = logging.getLogger("diaspora_stream.ctl")


class Forwarder:
    """Copies one topic into another."""

    def __init__(self, route: Route, drivers: Mapping[str, Driver], stop: Stop) -> None:
        self.route = route
        self._stop = stop
        self._events = 0
        self._bytes = 0
        self._lost = 0
        self._receipts = Receipts()
        self._source = drivers[route.source.driver].open_topic(route.source.topic)
        target = drivers[route.target.driver].open_topic(route.target.topic)
        self._outbox: Outbox[Event] = Outbox(target.producer(), stop)
        self._consumer: Consumer | None = self._make_consumer()

    def _make_consumer(self) -> Consumer:
        route = self.route
        return self._source.consumer(
            str(route), data_selector=route.data_selector, data_allocator=route.data_allocator
        )

    def run(self) -> None:
        """Copy until the flag is set, or the source has ended; then flush for `GRACE` seconds at most."""
        while not self._stop.is_requested and self._take():
            self._settle(None)
            while self._outbox.is_full and not self._stop.is_requested:
                self._settle(WAIT_MS)
        self._outbox.flush()
        ends_at = time.monotonic() + GRACE
        while self._outbox and (left := ends_at - time.monotonic()) > 0:
            self._settle(1000 * left)
        self._receipts.send()
        if self._consumer is not None:
            self._consumer.close()

    def _take(self) -> bool:
        """Push what has come; waits for that, or for what is on its way to be stored. False at the end.

        A consumer that failed may have passed over an event. Another one takes its place, which starts at the cursor;
        before that, all that was taken is stored and acknowledged.
        """
        if self._consumer is None:
            self._settle(WAIT_MS)
            if not self._outbox and not self._stop.wait(PAUSE):
                self._restart()
            return True
        events, error = take(self._consumer, BATCH, None if self._outbox else WAIT_MS)
        for event in events:
            if event.event_id is None:
                return False
            data = event.data
            size = sum(memoryview(segment).nbytes for segment in data)
            metadata = event.metadata
            if isinstance(metadata, str) and not self._source.generation.metadata_text:
                metadata = encode(metadata)
            self._outbox.push(metadata, data, size, event)
            self._bytes += size
        if isinstance(error, EventsLost):
            self._lost += error.next - error.first
            _log.error("%s: %s", self.route, error)
        elif isinstance(error, TRANSIENT):
            _log.warning("%s: %s; trying again", self.route, error)
            self._consumer.close()
            self._consumer = None
        elif error is not None:
            raise error
        elif not events and self._outbox:
            self._settle(WAIT_MS)
        return True

    def _restart(self) -> None:
        try:
            self._consumer = self._make_consumer()
        except TRANSIENT as error:
            _log.warning("%s: %s; trying again", self.route, error)

    def _settle(self, timeout_ms: float | None) -> None:
        """Acknowledge what is stored."""
        events = self._outbox.stored(timeout_ms)
        for event in events:
            self._receipts.add(event)
        self._events += len(events)
        self._receipts.send()

    def __str__(self) -> str:
        outbox = self._outbox
        return (
            f"{self.route}: {self._events - outbox.refused} events and {self._bytes} bytes of data forwarded, "
            f"{outbox.refused} refused, {self._lost} lost at the source, {outbox.repeated} pushed again, "
            f"{len(outbox)} left for the next start"
        )


@command("forward", flag("config", "YAML file that says what goes where", "FILE", required=True))
def forward(arguments: Arguments) -> None:
    """Copy topics into others until it is told to stop.

    SIGINT and SIGTERM end it, and so does the end of all sources.
    """
    path = arguments.flags["config"]
    config = parse(read_file("--config", path))
    if not config.routes:
        _log.info("%s: nothing to forward", path)
        return
    stop = Stop()
    with ExitStack() as stack:
        drivers = _drivers(config, stack)
        with stop.on_signals():
            forwarders = [Forwarder(route, drivers, stop) for route in config.routes]
            _run(forwarders, stop)


def _drivers(config: ForwardConfig, stack: ExitStack) -> dict[str, Driver]:
    """Make the drivers that routes name; where no function wants values, metadata stays the text that it is."""
    names = {place.driver for route in config.routes for place in (route.source, route.target)}
    drivers: dict[str, Driver] = {}
    for name in sorted(names):
        spec = config.drivers[name]
        try:
            drivers[name] = stack.enter_context(Driver(backend=spec.type, options=spec.options))
        except ConfigError as error:
            raise ConfigError(f"drivers.{name}.{error.where}", error.problem) from error
        routes = [route for route in config.routes if route.source.driver == name]
        if all(route.data_selector is WHOLE for route in routes):
            drivers[name].generation = replace(drivers[name].generation, metadata_text=True)
    return drivers


def _run(forwarders: list[Forwarder], stop: Stop) -> None:
    failures: list[Exception] = []

    def work(forwarder: Forwarder) -> None:
        try:
            forwarder.run()
        except Exception as error:
            _log.error("%s: %s", forwarder.route, error)
            failures.append(error)
            stop.request()

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in forwarders]
    for forwarder, thread in zip(forwarders, threads, strict=True):
        thread.start()
        _log.info("forwarding %s", forwarder.route)
    for thread in threads:
        thread.join()
    for forwarder in forwarders:
        _log.info("%s", forwarder)
    if failures:
        raise failures[0]
