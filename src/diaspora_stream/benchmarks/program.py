"""What both benchmarks are as programs: flags, lines of output, exit codes."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import numpy as np

from diaspora_stream.benchmarks.ranks import Ranks, meet
from diaspora_stream.ctl.drivers import COMMON_FLAGS, open_driver
from diaspora_stream.ctl.main import start_logging
from diaspora_stream.ctl.options import Arguments, Flag, Syntax, UsageError, check_required, parse, usage
from diaspora_stream.driver import Driver
from diaspora_stream.errors import DiasporaError

FLAGS: Final = (
    Flag("driver", "driver to use, such as mofka", "NAME", "d", required=True),
    Flag("driver-config", "JSON file with options of the driver", "FILE", "c"),
    Flag("topic", "name of the topic, which must exist", "NAME", "t", required=True),
    Flag("num-events", "events of each process; 1000 by default", "N", "n"),
    Flag("num-threads", "threads of the pool; 1 by default", "N", "p"),
)
"""Flags of both benchmarks."""

SYSTEM_ERROR: Final = 255
"""Exit code of errors beside those of the command line."""

MIB: Final = 1 << 20

Line = tuple[str, object]
"""A line of output: its label, and the value."""


class Benchmark(NamedTuple):
    """A benchmark: its command line, and what it does with that."""

    name: str
    syntax: Syntax
    options: Callable[[Arguments], Sequence[Line]]
    """Makes the lines that show the options; raises `UsageError` for bad ones."""
    run: Callable[[Arguments, Driver, Ranks], Sequence[Line]]
    """Returns the lines of the results at rank 0, and nothing at the others."""


def syntax(*flags: Flag) -> Syntax:
    """Return the command line of a benchmark which has these flags of its own."""
    return Syntax((*FLAGS, *flags, *COMMON_FLAGS), ("driver",))


def number(arguments: Arguments, name: str, default: int) -> int:
    """Return the whole number that a flag gives."""
    text = arguments.flags.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"--{name} must be a number from 0, found {text!r}")
    return int(text)


def fraction(arguments: Arguments, name: str) -> float:
    """Return the number from 0 to 1 that a flag gives; 1 by default."""
    text = arguments.flags.get(name, "1")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--{name} must be a number from 0 to 1, found {text!r}")
    return value


def common_lines(arguments: Arguments) -> list[Line]:
    """Return the lines of the first options."""
    flags = arguments.flags
    return [
        ("Driver", flags["driver"]),
        ("Driver config file", flags.get("driver-config", "")),
        ("Topic", flags["topic"]),
        ("Number of events", number(arguments, "num-events", 1000)),
    ]


def rates(seconds: float, events: int, unit: str = "") -> list[Line]:
    """Return the first lines of the results."""
    return [
        ("Total time", f"{seconds:g} s"),
        ("Total events", f"{events}{unit}"),
        ("Throughput", f"{events / seconds:g} events/s"),
    ]


def percentiles(what: str, seconds: Sequence[float]) -> list[Line]:
    """Return lines with percentiles of times, in milliseconds; none if there are no times."""
    if not seconds:
        return []
    points: Mapping[str, float] = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    values = np.percentile(np.asarray(seconds) * 1000, list(points.values()))
    return [(f"{what} {name}", f"{value:g} ms") for name, value in zip(points, values, strict=True)]


def _show(title: str, lines: Sequence[Line]) -> None:
    print(f"--- {title} ---")
    for label, value in lines:
        print(f"{label}: {value}")


def main(benchmark: Benchmark, given: Sequence[str] | None = None) -> int:
    """Run a benchmark; return the exit code."""
    try:
        arguments = parse(benchmark.syntax, sys.argv[1:] if given is None else given)
        if "help" in arguments.flags:
            print(usage(benchmark.name, benchmark.syntax))
            return 0
        if "version" in arguments.flags:
            print(version("mofka"))
            return 0
        check_required(benchmark.syntax, arguments)
        options = benchmark.options(arguments)
        start_logging(arguments.flags.get("logging", "info"))
    except UsageError as error:
        print(f"{benchmark.name}: {error}\nFor all flags: {benchmark.name} --help", file=sys.stderr)
        return 1
    ranks = Ranks()
    try:
        ranks = meet()
        if ranks.rank == 0:
            _show("Benchmark Options", options)
            print(flush=True)
        with open_driver(arguments) as driver:
            results = benchmark.run(arguments, driver, ranks)
        if ranks.rank == 0:
            _show("Benchmark Results", results)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        kind = "diaspora error" if isinstance(error, DiasporaError) else "error"
        print(f"{kind}: {error}", file=sys.stderr, flush=True)
        logging.getLogger(__name__).debug("the benchmark failed", exc_info=True)
        ranks.abort(SYSTEM_ERROR)
        return SYSTEM_ERROR
    return 0


def totals(results: Sequence[Any]) -> list[Any]:
    """Return the sums of what processes have gathered, field by field."""
    return [sum(column[1:], start=column[0]) for column in zip(*results, strict=True)]
