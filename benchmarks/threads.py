"""Whether threads for progress and RPCs relieve small RPCs while a disk is slow: ``python -m benchmarks.threads``.

One event is pushed and acknowledged at a time, to a topic in memory, by one process; another process pushes events
of 1 MiB to a topic on disk, with ``sync``, as fast as they are acknowledged, or rests. Each measurement has a server
of its own. Rows are named ``<configuration>/<load>``.
"""

import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.events import Events
from benchmarks.limits import Measures, percentiles
from benchmarks.processes import BEDROCK, CONFIG, BrokenRun, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment
from benchmarks.report import table as rows_table
from diaspora_stream.api import Driver

MIB = 1 << 20
SECONDS = 2.0
SETTLING_SECONDS = 0.5
SLOWER_MS = 20

IO_POOL = {
    "pools": [{"name": "__primary__"}, {"name": "io_pool"}],
    "xstreams": [
        {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}},
        {"name": "io_es_0", "scheduler": {"pools": ["io_pool"]}},
        {"name": "io_es_1", "scheduler": {"pools": ["io_pool"]}},
    ],
}
THREADS = {"use_progress_thread": True, "rpc_thread_count": 4}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "progress-thread": {"use_progress_thread": True},
    "4-rpc-threads": {"rpc_thread_count": 4},
    "both": THREADS,
    "io_pool": {"argobots": IO_POOL},
    "both+io_pool": THREADS | {"argobots": IO_POOL},
}
LOADS: dict[str, int | None] = {"none": None, "1MiB-sync": 0, f"1MiB-sync+{SLOWER_MS}ms": SLOWER_MS}
"""By how many milliseconds the disk is slowed while it is written to; None: nothing is written."""

COLUMNS = (
    Column("one event p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("longest ms", "longest_s", 1e-3, 1),
    Column("to disk MB/s", "written_mb_per_s"),
)
NOTE = f"""\
na+sm; one event of 128 bytes at a time to a partition in memory, while another process pushes events of 1 MiB to a
partition on disk with sync; +{SLOWER_MS}ms: with each fdatasync slower by that much. Medians (lowest - highest).
"""


class Case(msgspec.Struct, frozen=True):
    """One row."""

    configuration: str
    load: str

    @property
    def name(self) -> str:
        return f"{self.configuration}/{self.load}"

    def measure(self, directory: Path) -> Measures:
        """One repetition, with a server in `directory`."""
        margo, slower_ms = CONFIGURATIONS[self.configuration], LOADS[self.load]
        config = CONFIG | {"margo": margo}
        if "argobots" in margo:
            config = config | {"providers": [_with_io_pool(entry) for entry in CONFIG["providers"]]}
        slow = (sys.executable, Path(__file__).with_name("slow_disk.py"), str(slower_ms))
        with server("na+sm", directory, config, command=slow if slower_ms else BEDROCK) as running:
            driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
            disk = {"type": "default", "partition": {"path": str(directory / "partitions")}}
            driver.create_topic("disk", options={"num_partitions": 1, "config": disk})
            driver.create_topic("memory", options={"num_partitions": 1, "config": {"type": "memory"}})
            with writing(str(running.group_file), slower_ms is not None) as written:
                begin, time_begin = written.value, time.perf_counter()
                laps = _laps(driver)
                rate = (written.value - begin) / (time.perf_counter() - time_begin) / 1e6
        return percentiles(laps) | {"longest_s": max(laps), "written_mb_per_s": rate}


def _with_io_pool(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"dependencies": {"pool": "io_pool"}} if entry["type"] == "abt_io" else entry


def _laps(driver: Driver) -> list[float]:
    events = itertools.cycle(Events(128).pairs)
    with driver.open_topic("memory").producer("probe", batch_size=1) as producer:
        producer.push({}, b"").wait(timeout_ms=30_000)
        laps: list[float] = []
        end = time.perf_counter() + SECONDS
        while (start := time.perf_counter()) < end:
            producer.push(*next(events)).wait(timeout_ms=30_000)
            laps.append(time.perf_counter() - start)
    return laps


@contextmanager
def writing(group_file: str, is_on: bool) -> Iterator[Any]:
    """Have a process write to the topic on disk meanwhile; what is given counts the bytes acknowledged."""
    context = multiprocessing.get_context("spawn")
    stop, written = context.Event(), context.Value("Q", 0)
    process = context.Process(target=write, args=(group_file, stop, written), daemon=True)
    if is_on:
        process.start()
        while not written.value:
            time.sleep(0.01)
            if process.exitcode is not None:
                raise BrokenRun("the process that writes to disk has ended")
    time.sleep(SETTLING_SECONDS)
    try:
        yield written
    finally:
        stop.set()
        if is_on:
            process.join()


def write(group_file: str, stop: Signal, written: Any) -> None:
    """Push events of 1 MiB to the topic on disk until told to stop."""
    driver = Driver(backend="mofka", options={"group_file": group_file})
    metadata, data = Events(MIB).pairs[0]
    with driver.open_topic("disk").producer("load", batch_size=1) as producer:
        while not stop.is_set():
            futures = [producer.push(metadata, data) for _ in range(4)]
            for future in futures:
                future.wait(timeout_ms=30_000)
                written.value += MIB


def rows() -> list[Case]:
    """The whole matrix."""
    return [Case(configuration, load) for load in LOADS for configuration in CONFIGURATIONS]


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield rows_table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    quick = "the slowest disk only"
    options = command_line("threads", __doc__.partition("\n")[0], quick).parse_args(namespace=Options())
    selected = matching(rows(), [*options.only, *([f"*+{SLOWER_MS}ms"] if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("threads"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
