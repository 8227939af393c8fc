"""What an event costs the program that pushes it: ``python -m benchmarks.pushes``.

An instrumented program writes blocks of 4 KiB to a file, and pushes a record of each write, as small as those of a tool
that traces I/O; the same writes without records are measured in turn with them. Rows are named
``<transport>/<partition>``.
"""

import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.limits import Measures, percentiles
from benchmarks.processes import server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment
from benchmarks.report import table as rows_table
from diaspora_stream.api import AdaptiveBatchSize, Driver, Ordering

CALLS = 50_000
BLOCK = bytes(4096)

COLUMNS = (
    Column("write p50 µs", "plain_p50_us", 1, 2),
    Column("with a record p50 µs", "p50_us", 1, 2),
    Column("p99 µs", "p99_us", 1, 1),
    Column("a record costs µs, mean", "overhead_us", 1, 2),
    Column("flush at the end ms", "flush_ms", 1, 1),
)
NOTE = f"""\
{CALLS} writes of 4 KiB without a record, and as many with one: metadata of seven fields, no data, adaptive batches. The
cost is the difference of the sums, the sending of batches on the program's cores included. Medians (lowest - highest).
"""


class Case(msgspec.Struct, frozen=True):
    """One row."""

    transport: str
    partition: str

    @property
    def name(self) -> str:
        return f"{self.transport}/{self.partition}"

    def measure(self, directory: Path) -> Measures:
        """One repetition, with a server in `directory`."""
        address = "na+sm" if self.transport == "na+sm" else "tcp://127.0.0.1"
        with server(address, directory) as running:
            driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
            partition = {"path": str(directory / "partitions")} if self.partition == "default" else {}
            config = {"type": self.partition, "partition": partition}
            driver.create_topic("records", options={"num_partitions": 1, "config": config})
            producer = driver.open_topic("records").producer(
                "tracer", batch_size=AdaptiveBatchSize, ordering=Ordering.Loose
            )
            producer.push({}).wait(timeout_ms=30_000)
            with (directory / "output").open("w+b") as file:
                plain = _laps(file.fileno(), lambda record: None)
                told = _laps(file.fileno(), producer.push)
            begin = time.perf_counter()
            producer.flush().wait(timeout_ms=60_000)
            flush = time.perf_counter() - begin
            driver.close()
        return percentiles(told) | {
            "plain_p50_us": percentiles(plain)["p50_us"],
            "overhead_us": (sum(told) - sum(plain)) / CALLS * 1e6,
            "flush_ms": flush * 1e3,
        }


def _laps(fd: int, tell: Any) -> list[float]:
    gc.collect()
    laps = []
    for number in range(CALLS):
        offset = number % 64 * len(BLOCK)
        start = time.perf_counter()
        os.pwrite(fd, BLOCK, offset)
        tell(
            {
                "module": "POSIX",
                "op": "write",
                "file": "/scratch/run/output.dat",
                "rank": 0,
                "offset": offset,
                "length": len(BLOCK),
                "start": start,
            }
        )
        laps.append(time.perf_counter() - start)
    return laps


def rows() -> list[Case]:
    """All cases."""
    return [Case(*names) for names in itertools.product(("na+sm", "tcp"), ("memory", "default"))]


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield rows_table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    quick = "na+sm and memory only"
    options = command_line("pushes", __doc__.partition("\n")[0], quick).parse_args(namespace=Options())
    selected = matching(rows(), [*options.only, *(["na+sm/memory"] if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("pushes"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
