"""Results as data: repetitions to medians and spreads, spreads to Markdown, and the machine they are of."""

import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.limits import Measures

PACKAGES = ("mofka", "msgspec", "numpy", "uvloop")


class Spread(msgspec.Struct, frozen=True):
    """What several repetitions of one measurement gave."""

    median: float
    low: float
    high: float


class Column(msgspec.Struct, frozen=True):
    """A column of a table: its title, the measure it shows, divided by `scale`, and the decimals."""

    title: str
    measure: str
    scale: float = 1.0
    decimals: int = 0


class Report(msgspec.Struct, frozen=True):
    """All of a run; what the JSON file holds.

    Attributes
    ----------
    environment : dict
        Command, date, and versions of everything that matters.
    limits, rows : dict
        Name of a limit or case to its measures, each a `Spread` over the repetitions.
    failures : dict
        Name of a case to what went wrong, in one line.
    """

    environment: dict[str, str]
    limits: dict[str, dict[str, Spread]]
    rows: dict[str, dict[str, Spread]]
    failures: dict[str, str]


def environment(program: str) -> dict[str, str]:
    """What the figures of ``python -m benchmarks.<program>`` depend on, as this machine reports it."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{program}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": versions,
        "kernel": platform.release(),
        "machine": f"{os.cpu_count()} x {model}, {memory / 2**30:.0f} GiB",
    }


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()


def spreads(repetitions: Iterable[Measures]) -> dict[str, Spread]:
    """Median, lowest and highest of each measure over the repetitions."""
    values: dict[str, list[float]] = {}
    for measures in repetitions:
        for name, value in measures.items():
            values.setdefault(name, []).append(value)
    return {name: Spread(statistics.median(v), min(v), max(v)) for name, v in values.items()}


def table(rows: Mapping[str, Mapping[str, Spread]], columns: Sequence[Column]) -> str:
    """A Markdown table of the rows that have any of the columns; empty text when there are none."""
    shown = {name: row for name, row in rows.items() if any(column.measure in row for column in columns)}
    if not shown:
        return ""
    lines = [
        ["", *(column.title for column in columns)],
        ["---", *("---:" for _ in columns)],
        *([name, *(_cell(row, column) for column in columns)] for name, row in shown.items()),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Mapping[str, Spread], column: Column) -> str:
    if column.measure not in row:
        return ""
    spread = row[column.measure]
    median, low, high = (
        f"{value / column.scale:,.{column.decimals}f}" for value in (spread.median, spread.low, spread.high)
    )
    return median if low == high else f"{median} ({low} - {high})"
