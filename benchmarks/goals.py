"""What the service is meant to reach on a machine with two cores, and whether a run says that it does.

Goals compare medians of one run, with each other or with the limits of the same run. A goal whose rows were not
measured is passed over. Each program has goals of its own; here are those of `benchmarks.run`, of which only the first
three are rates, which depend on the machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from benchmarks.report import Report, Spread

SM = "na+sm/memory/128B/1000"
SM_FILES = "na+sm/default/128B/1000"
TCP = "tcp/memory/128B/1000"
SM_LARGE = "na+sm/memory/1MiB/1000"
TCP_MEDIUM = "tcp/memory/64KiB/1000"
TCP_MEDIUM_FILES = "tcp/default/64KiB/1000"
ROWS = (SM, SM_FILES, TCP, SM_LARGE, TCP_MEDIUM, TCP_MEDIUM_FILES, "*/idle", "*/growth")
"""Names, or patterns, of the rows that the goals are about."""

Measured: TypeAlias = Mapping[str, Mapping[str, Spread]]
Value: TypeAlias = Callable[[Measured], float]


class Goal(msgspec.Struct, frozen=True):
    """A value of a run, and the bound it should keep."""

    title: str
    value: Value
    bound: float
    at_least: bool = True

    def row(self, measured: Measured) -> tuple[str, str, str, str] | None:
        """Title, bound, value, verdict; None where the run has not what it takes."""
        try:
            value = self.value(measured)
        except KeyError:
            return None
        met = value >= self.bound if self.at_least else value <= self.bound
        sign = "at least" if self.at_least else "at most"
        return self.title, f"{sign} {self.bound:g}", f"{value:.3g}", "met" if met else "**missed**"


def of(row: str, measure: str, scale: float = 1.0) -> Value:
    """The median of a measure of a row."""
    return lambda measured: measured[row][measure].median / scale


def ratio(over: Value, under: Value) -> Value:
    """One value divided by another."""
    return lambda measured: over(measured) / under(measured)


GOALS = (
    Goal("na+sm, memory, 128 B, batches of 1000: produced, k/s", of(SM, "produced_per_s", 1e3), 700),
    Goal("the same, iterated, metadata and data looked at, k/s", of(SM, "iterated_per_s", 1e3), 500),
    Goal("the same, by `pull().wait()`, k/s", of(SM, "pulled_per_s", 1e3), 350),
    Goal(
        "produced, files without sync, to memory",
        ratio(of(SM_FILES, "produced_per_s"), of(SM, "produced_per_s")),
        0.8,
    ),
    Goal("produced, tcp to na+sm", ratio(of(TCP, "produced_per_s"), of(SM, "produced_per_s")), 0.8),
    Goal(
        "1 MiB events, na+sm, memory: produced, to one copy into never-touched pages",
        ratio(of(SM_LARGE, "produced_mb_per_s"), of("copy/new", "mb_per_s")),
        0.7,
    ),
    Goal(
        "the same, iterated",
        ratio(of(SM_LARGE, "iterated_mb_per_s"), of("copy/new", "mb_per_s")),
        0.7,
    ),
    Goal(
        "64 KiB events, tcp, memory: produced, to a bare socket transfer",
        ratio(of(TCP_MEDIUM, "produced_mb_per_s"), of("transfer/tcp/64KiB", "mb_per_s")),
        0.5,
    ),
    Goal(
        "the same, files without sync, to plain file writes",
        ratio(of(TCP_MEDIUM_FILES, "produced_mb_per_s"), of("append/64KiB", "mb_per_s")),
        0.5,
    ),
    Goal(
        "the same, memory, iterated",
        ratio(of(TCP_MEDIUM, "iterated_mb_per_s"), of("transfer/tcp/64KiB", "mb_per_s")),
        0.5,
    ),
    Goal(
        "one event pushed, flushed and acknowledged, na+sm: p50 to that of a bare echo",
        ratio(of(SM, "p50_us"), of("echo-event/unix/128B", "p50_us")),
        3,
        at_least=False,
    ),
    Goal("idle server, na+sm: CPU ms in 10 s", of("na+sm/idle", "server_cpu_s", 1e-4), 10, at_least=False),
    Goal("idle client, na+sm: CPU ms in 10 s", of("na+sm/idle", "client_cpu_s", 1e-4), 10, at_least=False),
    Goal(
        "idle server, na+sm: wake-ups in 10 s", of("na+sm/idle", "server_switches", 0.1), 50, at_least=False
    ),
    Goal(
        "idle client, na+sm: wake-ups in 10 s", of("na+sm/idle", "client_switches", 0.1), 50, at_least=False
    ),
    Goal(
        "default partition: bytes of server memory an event", of("na+sm/growth", "growth"), 8, at_least=False
    ),
)


def table(report: Report, goals: Sequence[Goal]) -> str:
    """Give a Markdown table of all goals that the run can tell of; empty text when there are none."""
    measured = {**report.limits, **report.rows}
    found = [row for goal in goals if (row := goal.row(measured)) is not None]
    if not found:
        return ""
    lines = [("goal", "bound", "measured", ""), ("---", "---", "---:", "---"), *found]
    return "Goals, by the medians:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
