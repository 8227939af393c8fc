"""Measure the service, and what the machine can do at most, in one run: ``python -m benchmarks.run``.

A case is a transport, a type of partition, a size of data and a size of batches. Each repetition of each case
gets a server of its own, a producer and two consumers, one after another, each in a process of its own.
Repetitions are interleaved, so that a slow minute of the machine touches all cases alike. Cases are named
``<transport>/<partition>/<size>/<batch>``, two further rows of each transport ``<transport>/idle`` and
``<transport>/growth``.
"""

import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import goals
from benchmarks.events import Events, size_name
from benchmarks.limits import Measures, measure, percentiles
from benchmarks.processes import Usage, Worker, back_memory, server, usage
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, Spread, environment, spreads, table
from benchmarks.workers import Load, consume, idle, produce
from diaspora_stream.api import Driver
from mochi.mofka.testing import Service

TRANSPORTS = ("na+sm", "tcp")
PARTITIONS = ("memory", "default", "default-sync")
DATA_SIZES = (0, 128, 1 << 10, 64 << 10, 1 << 20)
BATCH_SIZES = (128, 1000, None)

RUN_BYTES = 256 << 20
RUN_EVENTS = 200_000
LATENCY_BYTES = 64 << 20
LATENCY_EVENTS = 1000
IDLE_SECONDS = 10.0
SETTLING_SECONDS = 2.0
"""Time for threads that libraries start at import to go to sleep: OpenBLAS lets its own spin for some 40 ms."""

GROWTH_EVENTS = 1_000_000

RATES = (
    Column("produced k/s", "produced_per_s", 1e3, 1),
    Column("MB/s", "produced_mb_per_s"),
    Column("of limit", "produced_ratio", decimals=2),
    Column("one event p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("p50 / limit", "latency_ratio", decimals=1),
    Column("iterated k/s", "iterated_per_s", 1e3, 1),
    Column("MB/s", "iterated_mb_per_s"),
    Column("of limit", "iterated_ratio", decimals=2),
    Column("pulled k/s", "pulled_per_s", 1e3, 1),
)
COSTS = (
    Column("producing: server CPU s", "produced_server_cpu_s", decimals=2),
    Column("producer CPU s", "produced_client_cpu_s", decimals=2),
    Column("producer peak MiB", "produced_client_peak", 2**20),
    Column("iterating: server CPU s", "iterated_server_cpu_s", decimals=2),
    Column("consumer CPU s", "iterated_client_cpu_s", decimals=2),
    Column("consumer peak MiB", "iterated_client_peak", 2**20),
    Column("server peak MiB", "pulled_server_peak", 2**20),
    Column("server now MiB", "pulled_server_memory", 2**20),
)
IDLE = (
    Column("server CPU ms/s", "server_cpu_s", 1e-3, 2),
    Column("wake-ups/s", "server_switches", decimals=1),
    Column("client CPU ms/s", "client_cpu_s", 1e-3, 2),
    Column("wake-ups/s", "client_switches", decimals=1),
)
GROWTH = (
    Column("bytes of server memory per event", "growth", decimals=2),
    Column("server peak MiB", "server_peak", 2**20),
)
LIMITS = (
    Column("events k/s", "events_per_s", 1e3, 1),
    Column("MB/s", "mb_per_s"),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
)


class Case(msgspec.Struct, frozen=True):
    """One row of the matrix; `batch_size` None is adaptive."""

    transport: str
    partition: str
    data_size: int
    batch_size: int | None

    @property
    def name(self) -> str:
        batch = "adaptive" if self.batch_size is None else str(self.batch_size)
        return f"{self.transport}/{self.partition}/{size_name(self.data_size)}/{batch}"

    def measure(self, directory: Path) -> Measures:
        """One repetition, with a server in `directory`: rates, latencies, CPU and memory."""
        event = Events(self.data_size).size
        count = min(RUN_EVENTS, RUN_BYTES // event)
        warm_up = max(1, count // 10)
        latencies = min(LATENCY_EVENTS, LATENCY_BYTES // event)
        with server(self.transport, directory) as running:
            create_topic(running, self.partition, directory)
            load = _load(running, self.data_size, self.batch_size, warm_up, count, latencies)
            with Worker(produce, load) as producer:
                produced = _step("produced", running, producer, count, event)
                laps = producer.advance()
            with Worker(consume, load, "iterating", False) as consumer:
                iterated = _step("iterated", running, consumer, warm_up + count, event)
            with Worker(consume, load, "pulling", True) as consumer:
                pulled = _step("pulled", running, consumer, warm_up + count, event)
        return produced | percentiles(laps) | iterated | pulled

    def ratios(self, row: dict[str, Spread], limits: dict[str, dict[str, Spread]]) -> Measures:
        """Medians of the case to the slowest limit on its path: JSON, a bare socket, new memory or files."""
        size = size_name(self.data_size)
        family = "unix" if self.transport == "na+sm" else "tcp"

        def rate(name: str) -> float:
            return limits[name]["events_per_s"].median

        transfer = rate(f"transfer/{family}/{size}")
        store = {
            "memory": limits["copy/new"]["mb_per_s"].median * 1e6 / Events(self.data_size).size,
            "default": rate(f"append/{size}"),
            "default-sync": rate(f"append-sync/{size}"),
        }
        round_trip = limits[f"echo-event/{family}/{size}"]["p50_us"].median
        if self.partition == "default-sync":
            round_trip += limits[f"append-sync-event/{size}"]["p50_us"].median
        return {
            "produced_ratio": row["produced_per_s"].median
            / min(rate("encode"), transfer, store[self.partition]),
            "iterated_ratio": row["iterated_per_s"].median / min(rate("decode"), transfer),
            "latency_ratio": row["p50_us"].median / round_trip,
        }


class Idle(msgspec.Struct, frozen=True):
    """What a server, and a client with a producer and a consumer, do per second of nothing to do."""

    transport: str

    @property
    def name(self) -> str:
        return f"{self.transport}/idle"

    def measure(self, directory: Path) -> Measures:
        with server(self.transport, directory) as running:
            create_topic(running, "memory", directory)
            with Worker(idle, _load(running, 0, None, 0, 0, 0)) as client:
                time.sleep(SETTLING_SECONDS)
                before = usage(running.pid), client.usage()
                time.sleep(IDLE_SECONDS)
                after = usage(running.pid), client.usage()
        return {
            f"{process}_{counter}": (getattr(now, counter) - getattr(then, counter)) / IDLE_SECONDS
            for process, then, now in zip(("server", "client"), before, after, strict=True)
            for counter in ("cpu_s", "switches")
        }


class Growth(msgspec.Struct, frozen=True):
    """Bytes of memory that a server of a `default` partition gains per event, once it is warm."""

    transport: str

    @property
    def name(self) -> str:
        return f"{self.transport}/growth"

    def measure(self, directory: Path) -> Measures:
        with server(self.transport, directory) as running:
            create_topic(running, "default", directory)
            load = _load(running, 128, 1000, GROWTH_EVENTS, GROWTH_EVENTS, 0)
            with Worker(produce, load) as producer:
                before = usage(running.pid)
                producer.advance()
                after = usage(running.pid)
        grown = after.memory_bytes - before.memory_bytes
        return {"growth": grown / GROWTH_EVENTS, "server_peak": after.peak_bytes}


Row = Case | Idle | Growth


def create_topic(running: Service, partition: str, directory: Path) -> None:
    """Make the topic of a run: one partition, of one of `PARTITIONS`."""
    config: dict[str, Any] = {"type": "memory"}
    if partition != "memory":
        path = directory / "partitions"
        config = {"type": "default", "partition": {"path": str(path), "sync": partition == "default-sync"}}
    driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
    driver.create_topic("benchmark", options={"num_partitions": 1, "config": config})


def _load(running: Service, data_size: int, batch_size: int | None, *counts: int) -> Load:
    return Load(str(running.group_file), "benchmark", data_size, batch_size, *counts)


def _step(name: str, running: Service, client: Worker, count: int, event_size: int) -> Measures:
    """Let a worker take its timed step; what it and the server spent on it."""
    before = usage(running.pid), client.usage()
    elapsed = client.advance()
    after = usage(running.pid), client.usage()
    measures = {
        f"{name}_per_s": count / elapsed,
        f"{name}_mb_per_s": count * event_size / elapsed / 1e6,
    }
    for process, then, now in zip(("server", "client"), before, after, strict=True):
        measures |= _spent(f"{name}_{process}", then, now)
    return measures


def _spent(name: str, then: Usage, now: Usage) -> Measures:
    return {
        f"{name}_cpu_s": now.cpu_s - then.cpu_s,
        f"{name}_memory": now.memory_bytes,
        f"{name}_peak": now.peak_bytes,
    }


def rows() -> list[Row]:
    """The whole matrix."""
    matrix: list[Row] = [Case(*values) for values in product(TRANSPORTS, PARTITIONS, DATA_SIZES, BATCH_SIZES)]
    return matrix + [kind(transport) for kind in (Idle, Growth) for transport in TRANSPORTS]


def run(selected: list[Row], repetitions: int, directory: Path) -> Report:
    """Measure limits and rows, interleaved."""
    limits: dict[str, list[Measures]] = {}
    sizes = sorted({row.data_size for row in selected if isinstance(row, Case)})

    def measure_limits() -> None:
        back_memory()
        for name, measures in measure(sizes, directory) if sizes else ():
            limits.setdefault(name, []).append(measures)

    measured, failures = repeat(selected, repetitions, directory, measure_limits)
    limit_spreads = {name: spreads(values) for name, values in limits.items()}
    for case in selected:
        if isinstance(case, Case) and case.name in measured:
            ratios = case.ratios(measured[case.name], limit_spreads)
            measured[case.name] |= spreads([ratios])
    return Report(environment("run"), limit_spreads, measured, failures)


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield goals.table(report, goals.GOALS)
    yield "Medians (lowest - highest). Ratios are to the slowest limit on the path, of the same run.\n"
    for columns in (RATES, COSTS, IDLE, GROWTH):
        yield table(report.rows, columns)
    if report.limits:
        yield "What the machine can do at most:\n"
        yield table(report.limits, LIMITS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("run", __doc__.partition("\n")[0], "the rows that the goals are about")
    options = parser.parse_args(namespace=Options())
    selected = matching(rows(), [*options.only, *(goals.ROWS if options.quick else ())])
    report = run(selected, options.repetitions, options.directory)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
