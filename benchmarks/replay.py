"""Measure how fast a partition on disk is read from its start: ``python -m benchmarks.replay``.

A row is a size of data; one more is of events that were sent in batches of one. Each repetition writes a partition
through one server, ends that server, attaches the directory to another one, and reads it four times: cold and warm, by
the barest program that can (the limit), and by a consumer that looks at metadata and data of every event.

Cold means that the kernel has been told to drop the files' pages. What the host of a virtual machine, or the disk
itself, keeps is out of reach.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.events import Events, size_name
from benchmarks.limits import Measures
from benchmarks.processes import BrokenRun, Worker, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from benchmarks.workers import Load, consume, produce
from diaspora_stream.api import Driver
from mochi.mofka.testing import Service

DATA_SIZES = (128, 64 << 10, 1 << 20)
EVENTS = 1_000_000
EVENTS_ONE_BY_ONE = 100_000
BYTES = 1 << 30
"""Events in a partition at most, those sent one by one, and bytes of all: far more than what is on its way to a
consumer at a time."""

QUICK_BYTES = 128 << 20

WARM_UP = 0.01
PIECE = 1 << 20
TOPIC = "benchmark"

COLUMNS = (
    Column("events", "events"),
    Column("cold: events k/s", "cold_per_s", 1e3, 1),
    Column("MB/s", "cold_mb_per_s"),
    Column("plain reads, MB/s", "cold_plain_mb_per_s"),
    Column("ratio", "cold_ratio", decimals=2),
    Column("warm: events k/s", "warm_per_s", 1e3, 1),
    Column("MB/s", "warm_mb_per_s"),
    Column("plain reads, MB/s", "warm_plain_mb_per_s"),
    Column("ratio", "warm_ratio", decimals=2),
)


class Case(msgspec.Struct, frozen=True):
    """One row: events of one size, `most_bytes` of them at most, in batches that adapt or of `batch_size`."""

    data_size: int
    most_bytes: int
    batch_size: int | None = None

    @property
    def name(self) -> str:
        return f"replay/{size_name(self.data_size)}" + ("/one-by-one" if self.batch_size == 1 else "")

    def measure(self, directory: Path) -> Measures:
        """One repetition: rates of a consumer and of plain reads, cold and warm."""
        event = Events(self.data_size).size
        most = EVENTS_ONE_BY_ONE if self.batch_size == 1 else EVENTS
        count = min(most, self.most_bytes // event)
        warm_up = max(1, int(count * WARM_UP))
        self._write(directory, warm_up, count - warm_up)
        partition = next(directory.glob(f"{TOPIC}-*"))
        files = sorted(file for file in partition.iterdir() if file.name.startswith("chunk-"))
        measures: Measures = {"events": count}
        with server("na+sm", directory) as running:
            _create_topic(running, directory, partition.name.removeprefix(f"{TOPIC}-"))
            load = Load(str(running.group_file), TOPIC, self.data_size, None, warm_up, count - warm_up, 0)
            for name in ("cold", "warm"):
                with Worker(consume, load, name, False) as consumer:
                    if name == "cold":
                        _drop(files)
                    plain = _read(files)
                    if name == "cold":
                        _drop(files)
                    elapsed = consumer.advance()
                measures |= {
                    f"{name}_per_s": count / elapsed,
                    f"{name}_mb_per_s": count * event / elapsed / 1e6,
                    f"{name}_plain_mb_per_s": count * event / plain / 1e6,
                    f"{name}_ratio": plain / elapsed,
                }
        return measures

    def _write(self, directory: Path, warm_up: int, count: int) -> None:
        """Fill a partition through a server of its own."""
        with server("na+sm", directory) as running:
            _create_topic(running, directory)
            load = Load(str(running.group_file), TOPIC, self.data_size, self.batch_size, warm_up, count, 0)
            with Worker(produce, load) as producer:
                producer.advance()


def _create_topic(running: Service, directory: Path, uuid: str | None = None) -> None:
    """Make the topic, with the partition that has `uuid` and is there already, or a new one."""
    config = {"type": "default", "partition": {"path": str(directory), "sync": False}}
    driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
    attached = {} if uuid is None else {"uuid": uuid}
    driver.create_topic(TOPIC, options={"num_partitions": 1, "config": config | attached})


def _drop(files: list[Path]) -> None:
    """Have the kernel forget what it keeps of the files in memory."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(files: list[Path]) -> float:
    """Read files whole, one after another, into one warm buffer; seconds that it took."""
    buffer = bytearray(PIECE)
    size = 0
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while received := opened.readinto(buffer):
                size += received
    elapsed = time.perf_counter() - start
    if size != (expected := sum(file.stat().st_size for file in files)):
        raise BrokenRun(f"{size} bytes read instead of {expected}")
    return elapsed


NOTE = f"""\
A default partition, read from its start over na+sm by one consumer that looks at metadata and data of every event,
through a server that did not write it. Plain reads are reads of {PIECE >> 20} MiB of all its chunk files (index and
descriptors included), counted as the same bytes of events. Cold: the kernel has dropped the files' pages before; a
host's cache, below a virtual machine, remains. Events of "one-by-one" were sent in batches of one, of which a server
commits one or a few at a time, each commit with a seal of its own. The server and the consumer share the cores of the
machine.
"""


class ReplayOptions(Options):
    """What the command line says."""

    bytes: int


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("replay", __doc__.partition("\n")[0], f"{QUICK_BYTES >> 20} MiB of events at most")
    parser.add_argument(
        "--bytes", type=int, default=BYTES, help="of metadata and data in a partition at most"
    )
    options = parser.parse_args(namespace=ReplayOptions())
    most = QUICK_BYTES if options.quick else options.bytes
    cases = [*(Case(size, most) for size in DATA_SIZES), Case(DATA_SIZES[0], most, batch_size=1)]
    selected = matching(cases, options.only)
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("replay"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
