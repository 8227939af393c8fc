"""A fabric beside sockets and shared memory, in one run: ``python -m benchmarks.fabrics``.

The fabric is libfabric's own tcp, the stand-in for network cards: on this it can gain nothing, and the rows say what
its way costs. Rows are named ``<transport>/memory/<size>/1000``, as those of `benchmarks.run`.
"""

import sys
from collections.abc import Iterator
from itertools import product

from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment
from benchmarks.report import table as rows_table
from benchmarks.run import Case

TRANSPORTS = ("na+sm", "tcp", "ofi+tcp;ofi_rxm")
DATA_SIZES = (128, 64 << 10, 1 << 20)

COLUMNS = (
    Column("produced MB/s", "produced_mb_per_s"),
    Column("one event p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("iterated MB/s", "iterated_mb_per_s"),
    Column("producing: server CPU s", "produced_server_cpu_s", decimals=2),
    Column("producer CPU s", "produced_client_cpu_s", decimals=2),
)
NOTE = """\
Partitions in memory, batches of 1000 events or 8 MiB. `ofi+tcp;ofi_rxm` is libfabric's own tcp on the loopback: a
stand-in for network cards, on which the bytes would cost no processor."""


def markdown(report: Report) -> Iterator[str]:
    """The tables of one run, in Markdown."""
    yield NOTE
    yield rows_table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    quick = "events of 64 KiB only"
    options = command_line("fabrics", __doc__.partition("\n")[0], quick).parse_args(namespace=Options())
    sizes = (64 << 10,) if options.quick else DATA_SIZES
    rows = [Case(transport, "memory", size, 1000) for size, transport in product(sizes, TRANSPORTS)]
    measured, failures = repeat(matching(rows, options.only), options.repetitions, options.directory)
    report = Report(environment("fabrics"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
