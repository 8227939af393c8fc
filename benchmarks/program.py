"""What the benchmark programs have in common: rows measured in turn, their command line, and where results go.

Repetitions are interleaved: each row is measured once before any is measured again, so that a slow minute of the
machine touches all rows alike.
"""

import argparse
import fnmatch
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from benchmarks.limits import Measures
from benchmarks.processes import back_memory
from benchmarks.report import Report, Spread, spreads

RESULTS = Path(__file__).with_name("RESULTS.md")


class Row(Protocol):
    """One line of the tables."""

    @property
    def name(self) -> str:
        """What the row is called, in tables and on the command line."""

    def measure(self, directory: Path) -> Measures:
        """One repetition, with all its files in `directory`."""


R = TypeVar("R", bound=Row)


class Options(argparse.Namespace):
    """What the command line says."""

    quick: bool
    only: list[str]
    repetitions: int
    directory: Path
    output: Path
    record: bool


def command_line(program: str, description: str, quick: str) -> argparse.ArgumentParser:
    """The options of ``python -m benchmarks.<program>``, to be parsed into `Options`; `quick` says what that does."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="rows whose name matches; repeatable"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where servers keep partitions"
    )
    output = Path("build", "benchmark.json" if program == "run" else f"benchmark-{program}.json")
    parser.add_argument("--output", type=Path, default=output, help="JSON file")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    return parser


def matching(rows: Iterable[R], patterns: Sequence[str]) -> list[R]:
    """Rows whose name matches any of the patterns; all if there are none. Ends the program where none does."""
    rows = list(rows)
    found = [row for row in rows if not patterns or any(fnmatch.fnmatch(row.name, glob) for glob in patterns)]
    if not found:
        sys.exit(f"no row matches {', '.join(patterns)}; rows are named like {rows[0].name}")
    return found


def repeat(
    rows: Sequence[Row], repetitions: int, directory: Path, begin: Callable[[], None] = lambda: None
) -> tuple[dict[str, dict[str, Spread]], dict[str, str]]:
    """Measure rows, interleaved; a row that fails once is left out of all further repetitions.

    Parameters
    ----------
    begin : callable
        Called at the beginning of each repetition.

    Returns
    -------
    dict, dict
        Measures of each row, by name, as spreads over the repetitions; and why a row failed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    samples: dict[str, list[Measures]] = {}
    failures: dict[str, str] = {}
    for repetition in range(repetitions):
        begin()
        for row in rows:
            if row.name in failures:
                continue
            print(f"{repetition + 1}/{repetitions} {row.name}", file=sys.stderr, flush=True)
            back_memory()
            try:
                with tempfile.TemporaryDirectory(dir=directory, prefix="benchmark-") as place:
                    samples.setdefault(row.name, []).append(row.measure(Path(place)))
            except Exception as error:
                failures[row.name] = f"{type(error).__name__}: {error}"
                print(f"    {failures[row.name]}", file=sys.stderr, flush=True)
    return {row.name: spreads(samples[row.name]) for row in rows if row.name not in failures}, failures


def publish(report: Report, paragraphs: Iterable[str], options: Options) -> int:
    """Print the report as `paragraphs`, write it as JSON, record it; the exit status is 1 if any row failed."""
    text = "\n".join(
        [
            "".join(f"- {name}: {value}\n" for name, value in report.environment.items()),
            *(paragraph for paragraph in paragraphs if paragraph),
            *(f"- **failed**: {name}: {problem}\n" for name, problem in report.failures.items()),
        ]
    )
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    if options.record:
        with RESULTS.open("a") as results:
            results.write(f"## {report.environment['date']}\n\n{text}\n")
    return 1 if report.failures else 0
