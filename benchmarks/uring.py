"""Compare abt_io on threads with abt_io on io_uring, for what storage does: ``python -m benchmarks.uring``.

Rows are named ``<pattern>/<calls>``. An operation is what a partition hands to abt_io at once, and each one goes to
a thread of the provider, as in a server: the calls differ, the way to them does not. All repetitions of all rows are
interleaved; "to threads" compares operations per second within a repetition. What was written is read back.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.limits import Measures, percentiles
from benchmarks.report import Column, environment, spreads, table
from mochi.abt_io.calls import SystemCalls, open_calls
from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.files import File, Files
from mochi.abt_io.threads import IoThreads

THREADS = "threads"
CALLS = {
    THREADS: AbtIoConfig(),
    "uring": AbtIoConfig(num_urings=1),
    "uring+async": AbtIoConfig(num_urings=1, liburing_flags=["IOSQE_ASYNC"]),
    "uring+single-issuer": AbtIoConfig(
        num_urings=1, liburing_flags=["IOSQE_ASYNC", "IORING_SETUP_SINGLE_ISSUER"]
    ),
}
COLUMNS = (
    Column("operations/s", "per_s"),
    Column("MB/s", "mb_per_s"),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("to threads", "ratio", decimals=2),
)
KIB, MIB = 1 << 10, 1 << 20
WARM_UP = 8

Operation = Callable[[int], None]


@contextmanager
def journal(files: Files, place: str, size: int) -> Iterator[Operation]:
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
def data(files: Files, place: str, size: int) -> Iterator[Operation]:
    """Append to a file that grows, and sync, as a commit with large data does."""
    file = files.open(f"{place}/data", writable=True)
    record = os.urandom(size)

    def operation(number: int) -> None:
        file.write([record], number * size)
        file.sync()

    yield operation
    check(file, record, size)


@contextmanager
def checkpoint(files: Files, place: str, size: int) -> Iterator[Operation]:
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
def reads(files: Files, place: str, size: int, *, cold: bool) -> Iterator[Operation]:
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
            raise AssertionError("something else was read than was written")

    yield operation
    file.close()


PATTERNS: dict[str, tuple[Callable[..., object], int, int, int]] = {
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


def check(file: File, record: bytes, offset: int) -> None:
    """See that a record is where it was written, by a call of its own, and close the file."""
    if os.pread(file.fd, len(record), offset) != record:
        raise AssertionError(f"{file.path} does not have at byte {offset} what was written there")
    file.close()


def measure(pattern: str, config: AbtIoConfig, directory: Path) -> Measures:
    """One repetition of a row."""
    work, size, count, together = PATTERNS[pattern]
    calls = open_calls("benchmark", config)
    if config.num_urings and type(calls) is SystemCalls:
        sys.exit("io_uring cannot be used here")
    threads = IoThreads("benchmark")
    files = Files("benchmark", config, calls)
    laps: list[float] = []

    def timed(operation: Operation, number: int) -> None:
        operation(number)
        laps.append(time.perf_counter() - started[number])

    started: dict[int, float] = {}
    with tempfile.TemporaryDirectory(dir=directory) as place, work(files, place, size) as operation:  # type: ignore[attr-defined]
        for number in range(WARM_UP):
            threads.submit(partial(operation, number)).result()
        pending = []
        start = time.perf_counter()
        for number in range(WARM_UP, WARM_UP + count):
            if len(pending) == together:
                pending.pop(0).result()
            started[number] = time.perf_counter()
            pending.append(threads.submit(partial(timed, operation, number)))
        for future in pending:
            future.result()
        elapsed = time.perf_counter() - start
        threads.close()
    calls.close()
    return {"per_s": count / elapsed, "mb_per_s": count * size / elapsed / 1e6, **percentiles(laps)}


def main() -> None:
    """Run, print, record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uring", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    samples: dict[str, list[Measures]] = {}
    for repetition in range(options.repetitions):
        for pattern in PATTERNS:
            order = list(CALLS)[repetition % len(CALLS) :] + list(CALLS)[: repetition % len(CALLS)]
            found = {name: measure(pattern, CALLS[name], options.directory) for name in order}
            for name in CALLS:
                ratio = found[name]["per_s"] / found[THREADS]["per_s"]
                samples.setdefault(f"{pattern}/{name}", []).append({**found[name], "ratio": ratio})
    facts = environment("uring")
    heading = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    rows = table({name: spreads(repetitions) for name, repetitions in samples.items()}, COLUMNS)
    note = "abt_io on threads and on io_uring, medians (lowest - highest), see `benchmarks/uring.py`:"
    text = f"{heading}\n{note}\n\n{rows}"
    print(text)
    if options.record:
        with Path(__file__).with_name("RESULTS.md").open("a") as results:
            results.write(f"\n## {facts['date']}\n\n{text}")


if __name__ == "__main__":
    main()
