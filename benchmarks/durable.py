"""Measure what is stored on disk before it is acknowledged, next to bare writes: ``python -m benchmarks.durable``.

Rows are named ``<sync>/<bytes of a batch>/<producers>``; producers are processes, and all push to one partition. In
rows that end in ``alone`` one producer waits for each batch before it begins the next, so that each batch is a commit
of its own. In those that begin with ``memory`` the partition is in memory: what producers and server do without a disk.

Each repetition of a row has a server of its own, and measures in turn how much one commit holds, by the server's trace
of file operations (which takes time, so nothing else is taken from there); `raw`; the rate, without a trace; and `raw`
again. Raw is one file, and for as many bytes as the median commit had one write, with one fdatasync where the
partition has `sync`.
"""

import os
import statistics
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.events import Events
from benchmarks.goals import Goal, of, ratio, table
from benchmarks.limits import Measures, append
from benchmarks.processes import CONFIG, BrokenRun, Workers, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment
from benchmarks.report import table as rows_table
from benchmarks.workers import FLOOD_WARM_UP, Flood, flood, together
from diaspora_stream.api import Driver
from mochi.mofka.testing import Service

BATCHES = {
    "16KiB": (14, 1 << 10),
    "64KiB": (8, 8 << 10),
    "256KiB": (8, 32 << 10),
    "1MiB": (8, 128 << 10),
}
"""Events in a batch, and bytes of data of each: few events, so that neither pushing nor numpy is the limit."""

PRODUCERS = (1, 4, 16)
ALONE = 0
"""Number of producers that stands for one that waits for each batch."""

TIMED, TRACED = "timed", "traced"
SECONDS = 1.0
TRACED_SECONDS = 0.4
MAX_BYTES = 2 << 30
RAW_BYTES = 128 << 20
RAW_ROUNDS = 1000

COLUMNS = (
    Column("batches/s", "batches_per_s"),
    Column("MB/s", "mb_per_s"),
    Column("batches in a commit", "commit_batches", decimals=1),
    Column("KiB in a commit", "commit_bytes", 1024),
    Column("raw, commits/s", "raw_per_s"),
    Column("raw, MB/s", "raw_mb_per_s"),
    Column("of raw", "raw_ratio", decimals=2),
)


class Case(msgspec.Struct, frozen=True):
    """One row: whether commits are synced, the name of the batch, and how many producers there are."""

    sync: bool
    batch: str
    producers: int

    @property
    def name(self) -> str:
        return f"{'sync' if self.sync else 'nosync'}/{self.batch}/{self.producers or 'alone'}"

    def measure(self, directory: Path) -> Measures:
        """One repetition: rates of the service and of bare writes, and what a commit holds."""
        events, data_size = BATCHES[self.batch]
        size = events * Events(data_size).size
        trace = directory / "trace"
        with trace.open("w") as stderr, server("na+sm", directory, _config(), stderr=stderr) as running:
            for topic in (TRACED, TIMED):
                self._create_topic(running, topic, directory)
            floods = [self._flood(running, TRACED, TRACED_SECONDS), self._flood(running, TIMED, SECONDS)]
            processes = max(1, self.producers)
            with Workers(flood, [(floods,)] * processes) as producers:
                warm = trace.stat().st_size
                producers.advance()
                commit = _median_commit(trace.read_text()[warm:])
                before = self._raw(directory, commit)
                os.sync()
                batches, elapsed = together(producers.advance())
                raw = statistics.harmonic_mean([before, self._raw(directory, commit)])
        _check(directory, (batches + FLOOD_WARM_UP * processes) * events * data_size)
        return {
            "batches_per_s": batches / elapsed,
            "mb_per_s": batches * size / elapsed / 1e6,
            "commit_batches": commit / size,
            "commit_bytes": commit,
            "raw_per_s": raw / commit,
            "raw_mb_per_s": raw / 1e6,
            "raw_ratio": batches * size / elapsed / raw,
        }

    def _raw(self, directory: Path, commit: int) -> float:
        """Bytes that bare writes of `commit` bytes each store in a second."""
        os.sync()
        rounds = max(1, min(RAW_ROUNDS, RAW_BYTES // commit))
        return append(directory, os.urandom(commit), 1, rounds, sync=self.sync)["mb_per_s"] * 1e6

    def _flood(self, running: Service, topic: str, seconds: float) -> Flood:
        return _flood(running, topic, seconds, self.batch, self.producers)

    def _create_topic(self, running: Service, name: str, directory: Path) -> None:
        partition = {"path": str(directory), "sync": self.sync}
        options = {
            "num_partitions": 1,
            "config": {"type": "default", "partition": partition},
            "dependencies": {"io_controller": name},
        }
        driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
        driver.create_topic(name, options=options)


class InMemory(msgspec.Struct, frozen=True):
    """One row of a partition that stores nothing: the name of the batch, and how many producers there are."""

    batch: str
    producers: int

    @property
    def name(self) -> str:
        return f"memory/{self.batch}/{self.producers}"

    def measure(self, directory: Path) -> Measures:
        """One repetition: rates of the service."""
        with server("na+sm", directory, CONFIG) as running:
            driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
            driver.create_topic(TIMED, options={"num_partitions": 1, "config": {"type": "memory"}})
            floods = [_flood(running, TIMED, SECONDS, self.batch, self.producers)]
            with Workers(flood, [(floods,)] * self.producers) as producers:
                batches, elapsed = together(producers.advance())
        events, data_size = BATCHES[self.batch]
        return {
            "batches_per_s": batches / elapsed,
            "mb_per_s": batches * events * Events(data_size).size / elapsed / 1e6,
        }


def _flood(running: Service, topic: str, seconds: float, batch: str, producers: int) -> Flood:
    events, data_size = BATCHES[batch]
    most = MAX_BYTES // (events * data_size * max(1, producers))
    return Flood(str(running.group_file), topic, data_size, events, seconds, most, alone=producers == ALONE)


def _config() -> dict[str, Any]:
    """The common configuration, with an abt_io provider for each of the two topics."""
    config = deepcopy(CONFIG)
    timed = next(provider for provider in config["providers"] if provider["type"] == "abt_io")
    traced = {**timed, "name": TRACED, "provider_id": timed["provider_id"] + 1, "config": {"trace_io": True}}
    timed["name"] = TIMED
    config["providers"].append(traced)
    return config


def _median_commit(trace: str) -> int:
    """Bytes of metadata and data of the median commit: each commit is one write to each kind of file."""
    words = [line.split() for line in trace.splitlines() if line.startswith("X_ABT_IO")]
    sizes = {
        kind: [int(w[4]) for w in words if w[2] == "write" and w[-1].endswith(kind)]
        for kind in (".meta", ".data")
    }
    if not all(sizes.values()):
        raise BrokenRun("the trace of the server tells of no commit")
    return int(sum(statistics.median(lengths) for lengths in sizes.values()))


def _check(directory: Path, expected: int) -> None:
    """See that the partition has all data that was pushed."""
    stored = sum(file.stat().st_size for file in directory.glob(f"{TIMED}-*/*.data"))
    if stored != expected:
        raise BrokenRun(f"{stored} bytes of data in the partition's files instead of {expected}")


GOALS = (
    *(
        Goal(f"4 producers, sync, batches of {batch}: MB/s to raw", of(f"sync/{batch}/4", "raw_ratio"), 0.7)
        for batch in ("64KiB", "256KiB", "1MiB")
    ),
    Goal(
        "16 producers, sync, batches of 16KiB: batches/s to those of one commit per batch",
        ratio(of("sync/16KiB/16", "batches_per_s"), of("sync/16KiB/alone", "batches_per_s")),
        4,
    ),
)
QUICK = ("sync/64KiB/4", "sync/16KiB/16", "sync/16KiB/alone")
NOTE = """\
One partition, na+sm. Producers are processes, which share the cores of the machine with the server. Raw is one file,
with one write (and, with sync, one fdatasync) for as many bytes as the median commit had, measured before and after
each repetition on the same disk. Medians (lowest - highest); "of raw" compares MB/s within each repetition.
"""


def rows() -> list[Case | InMemory]:
    """The whole matrix."""
    return [
        *(Case(True, *values) for values in product(BATCHES, (ALONE, *PRODUCERS))),
        *(Case(False, batch, 4) for batch in BATCHES),
        *(InMemory(batch, 4) for batch in BATCHES),
    ]


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield table(report, GOALS)
    yield NOTE
    yield rows_table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("durable", __doc__.partition("\n")[0], "three rows, those of two goals")
    options = parser.parse_args(namespace=Options())
    selected = matching(rows(), [*options.only, *(QUICK if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("durable"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
