"""What both benchmarks are as programs: flags, lines of output, exit codes."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from diaspora_stream.benchmarks.ranks import Ranks, meet
from diaspora_stream.console.commands import INTERRUPTED, version
from diaspora_stream.ctl.drivers import LOGGING, flag, open_driver, start_logging
from diaspora_stream.ctl.options import Arguments, FlagsCommand
from diaspora_stream.driver import Driver
from diaspora_stream.errors import DiasporaError

SYSTEM_ERROR: Final = 255
"""Exit code of errors beside those of the command line."""

MIB: Final = 1 << 20

Line = tuple[str, object]
"""A line of output: its label, and the value."""


def number(name: str, short: str, text: str, metavar: str, default: int) -> click.Option:
    """Return a flag that takes a whole number from 0."""
    return flag(name, text, metavar, short, type=click.IntRange(0), default=default, show_default=True)


def fraction(name: str, short: str, text: str) -> click.Option:
    """Return a flag that takes a number from 0 to 1; the default is 1."""
    return flag(name, text, "PART", short, type=click.FloatRange(0, 1), default=1.0, show_default="1")


class Benchmark(FlagsCommand):
    """A benchmark: its command line, and what it does with that.

    Parameters
    ----------
    name : str
        Name of the program.
    flags : sequence of click.Option
        Those that it has beside the flags of both benchmarks.
    options : callable
        Returns the lines that show the options.
    run : callable
        Returns the lines of the results at rank 0, and nothing at the others.
    """

    def __init__(
        self,
        name: str,
        text: str,
        flags: Sequence[click.Option],
        options: Callable[[Arguments], Sequence[Line]],
        run: Callable[[Arguments, Driver, Ranks], Sequence[Line]],
    ) -> None:
        common = [
            flag("driver", "driver to use, such as mofka", "NAME", "d", required=True),
            flag("driver-config", "JSON file with options of the driver", "FILE", "c"),
            flag("topic", "name of the topic, which must exist", "NAME", "t", required=True),
            number("num-events", "n", "events of each process", "N", 1000),
            number("num-threads", "p", "threads of the pool", "N", 1),
        ]
        super().__init__(
            name, params=[*common, *flags, LOGGING], help=text, prefixes=("driver",), usage_status=1
        )
        version(self)
        self._options = options
        self._run = run

    def invoke(self, ctx: click.Context) -> None:
        """Measure as one of the ranks; an error of one ends all."""
        start_logging(ctx.params["logging"])
        arguments = self.arguments(ctx)
        ranks = Ranks()
        try:
            ranks = meet()
            if ranks.rank == 0:
                _show("Benchmark Options", self._options(arguments))
                print(flush=True)
            with open_driver(arguments) as driver:
                results = self._run(arguments, driver, ranks)
            if ranks.rank == 0:
                _show("Benchmark Results", results)
                sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except Exception as error:
            kind = "diaspora error" if isinstance(error, DiasporaError) else "error"
            print(f"{kind}: {error}", file=sys.stderr, flush=True)
            logging.getLogger(__name__).debug("the benchmark failed", exc_info=True)
            ranks.abort(SYSTEM_ERROR)
            ctx.exit(SYSTEM_ERROR)


def common_lines(arguments: Arguments) -> list[Line]:
    """Return the lines of the first options."""
    flags = arguments.flags
    return [
        ("Driver", flags["driver"]),
        ("Driver config file", flags.get("driver-config", "")),
        ("Topic", flags["topic"]),
        ("Number of events", flags["num-events"]),
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
    import numpy as np

    points: Mapping[str, float] = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    values = np.percentile(np.asarray(seconds) * 1000, list(points.values()))
    return [(f"{what} {name}", f"{value:g} ms") for name, value in zip(points, values, strict=True)]


def _show(title: str, lines: Sequence[Line]) -> None:
    print(f"--- {title} ---")
    for label, value in lines:
        print(f"{label}: {value}")


def totals(results: Sequence[Any]) -> list[Any]:
    """Return the sums of what processes have gathered, field by field."""
    return [sum(column[1:], start=column[0]) for column in zip(*results, strict=True)]
