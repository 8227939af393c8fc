"""The program `diaspora-consumer-benchmark`: pulls events as fast as it can, and tells how fast that was."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from diaspora_stream.benchmarks.program import (
    MIB,
    Benchmark,
    Line,
    common_lines,
    fraction,
    percentiles,
    rates,
    totals,
)
from diaspora_stream.benchmarks.ranks import Ranks
from diaspora_stream.consumer import Consumer, byte_array_allocator
from diaspora_stream.ctl.options import Arguments
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.driver import Driver
from diaspora_stream.topic import WHOLE

_FLAGS: Final = (
    fraction("data-selectivity", "s", "part of an event's data that is loaded, from 0 to 1"),
    fraction("data-interest", "i", "part of the events whose data is loaded, from 0 to 1"),
)

PATIENCE_MS: Final = 5000
"""Milliseconds that a pull waits before the log says how many events have come."""

_log = logging.getLogger("diaspora_stream.benchmarks")


class Selector:
    """Selects the first part of the data, of events that are spread evenly; for one thread."""

    def __init__(self, interest: float, selectivity: float) -> None:
        self._interest = interest
        self._selectivity = selectivity
        self._seen = 0

    def __call__(self, metadata: Any, descriptor: DataDescriptor) -> DataDescriptor | None:
        before = int(self._seen * self._interest)
        self._seen += 1
        if int(self._seen * self._interest) == before:
            return None
        return descriptor.make_sub_view(offset=0, size=round(descriptor.size * self._selectivity))


def callables(interest: float, selectivity: float) -> tuple[Any, Any]:
    """Return the data selector and the data allocator of a consumer."""
    if interest == selectivity == 1:
        return WHOLE, WHOLE
    if not interest * selectivity:
        return None, None
    return Selector(interest, selectivity), byte_array_allocator


def _options(arguments: Arguments) -> Sequence[Line]:
    return [
        *common_lines(arguments),
        ("Number of threads", arguments.flags["num-threads"]),
        ("Data interest", f"{arguments.flags['data-interest']:g}"),
        ("Data selectivity", f"{arguments.flags['data-selectivity']:g}"),
    ]


def _pull(consumer: Consumer, count: int) -> tuple[int, int, list[float]]:
    """Return how many events came, the bytes of their data, and how long each was waited for."""
    events = size = 0
    waits: list[float] = []
    while events < count:
        pull = consumer.pull()
        if pull.completed:
            event = pull.wait()
            waits.append(0.0)
        else:
            start = time.perf_counter()
            while (event := pull.wait(PATIENCE_MS)) is None:
                _log.warning("%d of %d events have come; waiting for more", events, count)
            waits.append(time.perf_counter() - start)
        if event is None or event.event_id is None:
            _log.warning("the topic ended after %d of %d events", events, count)
            break
        events += 1
        size += sum(map(len, event.data))
    return events, size, waits


def _run(arguments: Arguments, driver: Driver, ranks: Ranks) -> Sequence[Line]:
    count = arguments.flags["num-events"]
    pool = driver.make_thread_pool(arguments.flags["num-threads"])
    interest, selectivity = arguments.flags["data-interest"], arguments.flags["data-selectivity"]
    selector, allocator = callables(interest, selectivity)
    topic = driver.open_topic(arguments.flags["topic"])
    targets = range(ranks.rank, len(topic.partitions), ranks.size)
    result: tuple[int, int, list[float]] = 0, 0, []
    ranks.barrier()
    start = time.perf_counter()
    if targets:
        with topic.consumer(
            "consumer-benchmark",
            data_selector=selector,
            data_allocator=allocator,
            thread_pool=pool,
            targets=targets,
        ) as consumer:
            result = _pull(consumer, count)
    else:
        _log.warning("rank %d has no partition: there are %d", ranks.rank, len(topic.partitions))
    ranks.barrier()
    seconds = time.perf_counter() - start
    results = ranks.gather(result)
    if not results:
        return []
    events, size, waits = totals(results)
    return [
        *rates(seconds, events, " s"),
        ("Data bandwidth", f"{size / MIB / seconds:g} MB/s"),
        *percentiles("Pull wait", waits),
    ]


run: Final = Benchmark(
    "diaspora-consumer-benchmark",
    "Pull events as fast as possible, and tell how fast that was.",
    _FLAGS,
    _options,
    _run,
)
