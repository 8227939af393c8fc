"""Compare abt_io on io_uring with abt_io on threads, for what storage does: ``python -m benchmarks.uring``.

Rows are named ``<pattern>/<calls>``. An operation is what a partition hands to abt_io at once, and each goes to a
thread of the provider, as in a server: the calls differ, the way to them does not. Each repetition of a row measures
both, one right after the other, and takes turns in which comes first. What was written is read back.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count, product
from pathlib import Path

import msgspec

from benchmarks.limits import Measures, percentiles
from benchmarks.processes import BrokenRun
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from mochi.abt_io.calls import SystemCalls, open_calls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import open_files
from mochi.abt_io.threads import IoThreads
from mochi.disk import PosixFile, PosixFiles

FLAGS = {
    "uring": [],
    "uring+async": ["IOSQE_ASYNC"],
    "uring+async+single-issuer": ["IOSQE_ASYNC", "IORING_SETUP_SINGLE_ISSUER"],
}
COLUMNS = (
    Column("operations/s", "per_s"),
    Column("MB/s", "mb_per_s"),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("threads, operations/s", "threads_per_s"),
    Column("p50 µs", "threads_p50_us"),
    Column("p99 µs", "threads_p99_us"),
    Column("of threads", "ratio", decimals=2),
)
KIB, MIB = 1 << 10, 1 << 20
WARM_UP = 8

Operation = Callable[[int], None]


@contextmanager
def journal(files: PosixFiles, place: str, size: int) -> Iterator[Operation]:
    """Write a record where the file has zeros, and sync, as a commit does."""
    file = files.open(f"{place}/journal", writable=True)
    file.write([bytes(32 * MIB)], 0)
    file.sync()
    record = os.urandom(size)
    slots = 32 * MIB // size

    def operation(number: int) -> None:
        file.write([record], number % slots * size)
        file.sync()

    yield operation
    check(file, record, 0)


@contextmanager
def data(files: PosixFiles, place: str, size: int) -> Iterator[Operation]:
    """Append to a file that grows, and sync, as a commit with large data does."""
    file = files.open(f"{place}/data", writable=True)
    record = os.urandom(size)

    def operation(number: int) -> None:
        file.write([record], number * size)
        file.sync()

    yield operation
    check(file, record, size)


@contextmanager
def checkpoint(files: PosixFiles, place: str, size: int) -> Iterator[Operation]:
    """Append to four files that grow, and sync them all, as a checkpoint does."""
    several = [files.open(f"{place}/{name}", writable=True) for name in ("data", "meta", "desc", "idx")]
    record = os.urandom(size // 4)

    def operation(number: int) -> None:
        for file in several:
            file.write([record], number * len(record))
        files.sync_all(several)

    yield operation
    for file in several:
        check(file, record, len(record))


@contextmanager
def reads(files: PosixFiles, place: str, size: int, *, cold: bool) -> Iterator[Operation]:
    """Read pieces of a file of 64 MiB from end to end, from the page cache or the disk."""
    content = os.urandom(MIB) * 64
    file = files.open(f"{place}/read", writable=True)
    file.write([content], 0)
    file.sync()
    if cold:
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    target = [memoryview(bytearray(size)) for _ in range(16)]
    slots = len(content) // size

    def operation(number: int) -> None:
        view = target[number % len(target)]
        file.read(view, number % slots * size)
        if view[-1] != content[number % slots * size + size - 1]:
            raise BrokenRun("something else was read than was written")

    yield operation
    file.close()


PATTERNS: dict[str, tuple[Callable[..., AbstractContextManager[Operation]], int, int, int]] = {
    "journal 16KiB": (journal, 16 * KIB, 400, 1),
    "journal 150KiB": (journal, 150 * KIB, 200, 1),
    "data 1MiB": (data, MIB, 40, 1),
    "checkpoint 4x256KiB": (checkpoint, MIB, 40, 1),
    "read 1MiB": (partial(reads, cold=False), MIB, 200, 1),
    "read 1MiB cold": (partial(reads, cold=True), MIB, 56, 1),
    "read 64KiB, 8 at once": (partial(reads, cold=False), 64 * KIB, 800, 8),
    "read 64KiB cold, 8 at once": (partial(reads, cold=True), 64 * KIB, 800, 8),
}
"""Pattern, bytes of an operation, number of operations, and how many are under way."""


class Case(msgspec.Struct, frozen=True):
    """One row: a pattern of `PATTERNS`, and the calls of `FLAGS` that are compared with those of threads."""

    pattern: str
    calls: str

    @property
    def name(self) -> str:
        return f"{self.pattern}/{self.calls}"

    def measure(self, directory: Path) -> Measures:
        """One repetition: io_uring and threads."""
        configs = [AbtIoConfig(num_urings=1, liburing_flags=FLAGS[self.calls]), AbtIoConfig()]
        if next(_turns) % 2:
            configs.reverse()
        found = {config.num_urings: _measure(self.pattern, config, directory) for config in configs}
        ours, threads = found[1], found[0]
        return {
            **ours,
            **{f"threads_{name}": value for name, value in threads.items()},
            "ratio": ours["per_s"] / threads["per_s"],
        }


_turns = count()


def check(file: PosixFile, record: bytes, offset: int) -> None:
    """See that a record is where it was written, by a call of its own, and close the file."""
    if os.pread(file.fd, len(record), offset) != record:
        raise BrokenRun(f"{file.path} does not have at byte {offset} what was written there")
    file.close()


def _measure(pattern: str, config: AbtIoConfig, directory: Path) -> Measures:
    work, size, operations, together = PATTERNS[pattern]
    calls = open_calls("benchmark", config)
    if config.num_urings and type(calls) is SystemCalls:
        raise BrokenRun("io_uring cannot be used here")
    threads = IoThreads("benchmark")
    files = open_files("benchmark", config, calls)
    started: dict[int, float] = {}
    laps: list[float] = []

    def timed(operation: Operation, number: int) -> None:
        operation(number)
        laps.append(time.perf_counter() - started[number])

    with tempfile.TemporaryDirectory(dir=directory) as place, work(files, place, size) as operation:
        for number in range(WARM_UP):
            threads.submit(partial(operation, number)).result()
        pending: list[Future[None]] = []
        start = time.perf_counter()
        for number in range(WARM_UP, WARM_UP + operations):
            if len(pending) == together:
                pending.pop(0).result()
            started[number] = time.perf_counter()
            pending.append(threads.submit(partial(timed, operation, number)))
        for future in pending:
            future.result()
        elapsed = time.perf_counter() - start
        threads.close()
    calls.close()
    rates = {"per_s": operations / elapsed, "mb_per_s": operations * size / elapsed / 1e6}
    return rates | percentiles(laps)


QUICK = ("journal 16KiB/uring*",)
NOTE = """\
abt_io on io_uring, and on threads right before or after it, files on the same disk. Medians (lowest - highest); "of
threads" compares operations/s within each repetition.
"""


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("uring", __doc__.partition("\n")[0], "small records of the journal only")
    options = parser.parse_args(namespace=Options())
    rows = [Case(*values) for values in product(PATTERNS, FLAGS)]
    selected = matching(rows, [*options.only, *(QUICK if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("uring"), {}, measured, failures)
    return publish(report, [NOTE, table(report.rows, COLUMNS)], options)


if __name__ == "__main__":
    sys.exit(main())
