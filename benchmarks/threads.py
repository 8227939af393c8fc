"""Whether threads for progress and RPCs relieve small RPCs while a disk is slow: ``python -m benchmarks.threads``.

One event is pushed and acknowledged at a time, to a topic in memory, by one process; another process pushes events
of 1 MiB to a topic on disk, with ``sync``, as fast as they are acknowledged, or rests. Each measurement has a server
of its own; repetitions are interleaved. Rows are named ``<configuration>/<load>``.
"""

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any

from benchmarks.events import Events
from benchmarks.limits import Measures, percentiles
from benchmarks.processes import BEDROCK, CONFIG, server
from benchmarks.report import Column, Spread, environment, spreads, table
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
    "progress thread": {"use_progress_thread": True},
    "4 RPC threads": {"rpc_thread_count": 4},
    "both": THREADS,
    "both, io_pool": THREADS | {"argobots": IO_POOL},
    "io_pool": {"argobots": IO_POOL},
}
LOADS: dict[str, int | None] = {"none": None, "1 MiB sync": 0, f"1 MiB sync, +{SLOWER_MS} ms": SLOWER_MS}
"""By how many milliseconds the disk is slowed while it is written to; None: it is not."""

COLUMNS = (
    Column("one event p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("longest ms", "longest_s", 1e-3, 1),
    Column("to disk MB/s", "written_mb_per_s"),
)


def measure(margo: dict[str, Any], slower_ms: int | None, directory: Path) -> Measures:
    """One repetition, with a server in `directory`."""
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
            elapsed = time.perf_counter() - time_begin
            rate = (written.value - begin) / elapsed / 1e6
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
                raise RuntimeError("the process that writes to disk has ended")
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


def main() -> None:
    """Run, print, and append the table to the results if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="the disk")
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    samples: dict[str, list[Measures]] = {}
    for repetition in range(options.repetitions):
        for (load, slower_ms), (name, margo) in itertools.product(LOADS.items(), CONFIGURATIONS.items()):
            print(f"{repetition + 1}/{options.repetitions} {name}/{load}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=options.directory, prefix="benchmark-") as place:
                samples.setdefault(f"{name}/{load}", []).append(measure(margo, slower_ms, Path(place)))
    rows: dict[str, dict[str, Spread]] = {name: spreads(values) for name, values in samples.items()}
    described = environment("threads")
    text = "".join(f"- {name}: {value}\n" for name, value in described.items())
    text += f"\nMedians (lowest - highest).\n\n{table(rows, COLUMNS)}"
    print(text)
    if options.record:
        with Path(__file__).with_name("RESULTS.md").open("a") as results:
            results.write(f"\n## {described['date']}: threads while a disk is slow\n\n{text}\n")


if __name__ == "__main__":
    main()
