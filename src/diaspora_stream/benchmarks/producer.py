"""The program `diaspora-producer-benchmark`: pushes events as fast as it can, and tells how fast that was."""

import os
import random
import string
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from diaspora_stream.benchmarks.program import (
    MIB,
    Benchmark,
    Line,
    common_lines,
    main,
    number,
    percentiles,
    rates,
    syntax,
    totals,
)
from diaspora_stream.benchmarks.ranks import Ranks
from diaspora_stream.ctl.options import Arguments, Flag
from diaspora_stream.driver import Driver
from diaspora_stream.future import FutureUint

_SYNTAX: Final = syntax(
    Flag(
        "metadata-size",
        "bytes of the JSON text of an event's metadata, its two quotes included",
        "BYTES",
        "m",
    ),
    Flag("data-size", "bytes of data of an event; 0 by default", "BYTES", "s"),
    Flag("batch-size", "events a batch, 0 for adaptive; 1 by default", "N", "b"),
    Flag("flush-interval", "events between two flushes, 0 for one at the end; 1000 by default", "N", "f"),
)

ADAPTIVE_SAMPLE: Final = 128
"""Events between two whose latency is measured where the size of batches is adaptive."""

LOOK: Final = 16
"""Pushes between two looks at whether the events that are measured are stored."""


class Latencies:
    """Times from the push of the first event of a batch until it is known to be stored, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._waiting: deque[tuple[float, FutureUint]] = deque()

    def measure(self, pushed: float, future: FutureUint) -> None:
        """Measure an event that was pushed at a time."""
        self._waiting.append((pushed, future))

    def look(self) -> None:
        """Take note of what is stored by now."""
        while self._waiting and self._waiting[0][1].completed:
            self.settle(1)

    def settle(self, count: int | None = None) -> None:
        """Wait for the first `count` events, for all by default.

        Raises
        ------
        Exception
            One could not be stored.
        """
        for _ in range(len(self._waiting) if count is None else count):
            pushed, future = self._waiting[0]
            future.wait()
            self.seconds.append(time.perf_counter() - pushed)
            self._waiting.popleft()


def _metadata(size: int) -> str:
    letters = random.choices(string.ascii_letters + string.digits, k=max(size - 2, 0))
    return f'"{"".join(letters)}"'


def _options(arguments: Arguments) -> Sequence[Line]:
    return [
        *common_lines(arguments),
        ("Data size", number(arguments, "data-size", 0)),
        ("Metadata size", number(arguments, "metadata-size", 0)),
        ("Batch size", number(arguments, "batch-size", 1)),
        ("Number of threads", number(arguments, "num-threads", 1)),
        ("Flush interval", number(arguments, "flush-interval", 1000)),
    ]


def _run(arguments: Arguments, driver: Driver, ranks: Ranks) -> Sequence[Line]:
    count = number(arguments, "num-events", 1000)
    batch_size = number(arguments, "batch-size", 1)
    interval = number(arguments, "flush-interval", 1000)
    metadata = _metadata(number(arguments, "metadata-size", 0))
    data = os.urandom(number(arguments, "data-size", 0))
    pool = driver.make_thread_pool(number(arguments, "num-threads", 1))
    sample = batch_size or ADAPTIVE_SAMPLE
    latencies = Latencies()
    with driver.open_topic(arguments.flags["topic"]).producer(
        batch_size=batch_size, thread_pool=pool
    ) as producer:
        push = producer.push

        def flush() -> None:
            flushed = producer.flush()
            latencies.settle()
            flushed.wait()

        ranks.barrier()
        start = time.perf_counter()
        for index in range(count):
            if index % sample == 0:
                latencies.measure(time.perf_counter(), push(metadata, data))
            else:
                push(metadata, data)
            if index % LOOK == 0:
                latencies.look()
            if interval and (index + 1) % interval == 0:
                flush()
        flush()
        ranks.barrier()
        seconds = time.perf_counter() - start
    results = ranks.gather((count, latencies.seconds))
    if not results:
        return []
    events, times = totals(results)
    size = events * (len(metadata) + len(data))
    return [
        *rates(seconds, events),
        ("Bandwidth", f"{size / MIB / seconds:g} MB/s"),
        *percentiles("Batch latency", times),
    ]


BENCHMARK: Final = Benchmark("diaspora-producer-benchmark", _SYNTAX, _options, _run)


def run() -> None:
    """Run the program."""
    sys.exit(main(BENCHMARK))
