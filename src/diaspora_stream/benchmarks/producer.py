"""The program `diaspora-producer-benchmark`: pushes events as fast as it can, and tells how fast that was."""

import os
import random
import string
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from diaspora_stream.benchmarks.program import (
    MIB,
    Benchmark,
    Line,
    common_lines,
    number,
    percentiles,
    rates,
    totals,
)
from diaspora_stream.benchmarks.ranks import Ranks
from diaspora_stream.ctl.options import Arguments
from diaspora_stream.driver import Driver
from diaspora_stream.future import FutureUint

_FLAGS: Final = (
    number(
        "metadata-size",
        "m",
        "bytes of the JSON text of an event's metadata, its two quotes included",
        "BYTES",
        0,
    ),
    number("data-size", "s", "bytes of data of an event", "BYTES", 0),
    number("batch-size", "b", "events a batch, 0 for adaptive", "N", 1),
    number("flush-interval", "f", "events between two flushes, 0 for one at the end", "N", 1000),
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
        ("Data size", arguments.flags["data-size"]),
        ("Metadata size", arguments.flags["metadata-size"]),
        ("Batch size", arguments.flags["batch-size"]),
        ("Number of threads", arguments.flags["num-threads"]),
        ("Flush interval", arguments.flags["flush-interval"]),
    ]


def _run(arguments: Arguments, driver: Driver, ranks: Ranks) -> Sequence[Line]:
    count = arguments.flags["num-events"]
    batch_size = arguments.flags["batch-size"]
    interval = arguments.flags["flush-interval"]
    metadata = _metadata(arguments.flags["metadata-size"])
    data = os.urandom(arguments.flags["data-size"])
    pool = driver.make_thread_pool(arguments.flags["num-threads"])
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


run: Final = Benchmark(
    "diaspora-producer-benchmark",
    "Push events as fast as possible, and tell how fast that was.",
    _FLAGS,
    _options,
    _run,
)
