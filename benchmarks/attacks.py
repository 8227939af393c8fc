"""How those fare who hold the token, while others misuse a server: ``python -m benchmarks.attacks``.

One process attacks. Another, which is let in, pushes one event at a time to a topic in memory, and now and then greets
the server anew. Each measurement has a server of its own. Rows are named ``<transport>/<attack>``.
"""

import itertools
import multiprocessing
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import product
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.events import Events
from benchmarks.limits import Measures, percentiles
from benchmarks.processes import BrokenRun, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from diaspora_stream.api import Driver
from mochi.flock import group_file
from mochi.margo import transport
from mochi.margo.client import Client

TRANSPORTS = ("na+sm", "tcp://127.0.0.1")
SECONDS = 3.0
SETTLING_SECONDS = 0.5
PUSHES = 20
"""Events between two greetings."""

HELD = 400
"""Connections that the attacker keeps, of those that it has opened last."""

COLUMNS = (
    Column("connections/s", "connections_per_s"),
    Column("one event p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("longest ms", "longest_s", 1e-3, 1),
    Column("greeting p50 µs", "greeting_p50_us"),
    Column("longest ms", "greeting_longest_s", 1e-3, 1),
)
NOTE = f"""\
One event of 128 bytes at a time to a partition in memory, and a greeting after each {PUSHES} of them, while a process
without the token opens connections as fast as it can, and keeps the last {HELD}: `silent` says nothing on them,
`nonsense` what is no frame. All share the cores of this machine. Medians (lowest - highest).
"""


def _say_nothing(peer: socket.socket) -> None:
    pass


def _talk_nonsense(peer: socket.socket) -> None:
    peer.sendall(b"nonsense" * 8)


ATTACKS: dict[str, Callable[[socket.socket], None] | None] = {
    "none": None,
    "silent": _say_nothing,
    "nonsense": _talk_nonsense,
}
"""What the attacker does with each connection; None: there is no attacker."""


class Case(msgspec.Struct, frozen=True):
    """One row."""

    address: str
    attack: str

    @property
    def name(self) -> str:
        return f"{self.address.partition(':')[0]}/{self.attack}"

    def measure(self, directory: Path) -> Measures:
        """One repetition, with a server in `directory`."""
        with server(self.address, directory) as running:
            with Driver(backend="mofka", options={"group_file": str(running.group_file)}) as driver:
                driver.create_topic("topic", options={"num_partitions": 1})
            (member,) = group_file.read(running.group_file).members
            with attacking(member.address, self.attack) as made:
                begin, time_begin = made.value, time.perf_counter()
                laps, greetings = _fare(running.group_file)
                rate = (made.value - begin) / (time.perf_counter() - time_begin)
        return percentiles(laps) | {
            "longest_s": max(laps),
            "connections_per_s": rate,
            "greeting_p50_us": percentiles(greetings)["p50_us"],
            "greeting_longest_s": max(greetings),
        }


def _fare(path: Path) -> tuple[list[float], list[float]]:
    """Push events, and greet; return how long each event and each greeting took."""
    events = itertools.cycle(Events(128).pairs)
    view = group_file.read(path)
    ((address, rank),) = view.ranks.items()
    assert view.token is not None
    laps: list[float] = []
    greetings: list[float] = []
    with (
        Driver(backend="mofka", options={"group_file": str(path)}) as driver,
        driver.open_topic("topic").producer("probe", batch_size=1) as producer,
    ):
        producer.push({}, b"").wait(timeout_ms=30_000)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(greetings) < 2:
            for _ in range(PUSHES):
                start = time.perf_counter()
                producer.push(*next(events)).wait(timeout_ms=30_000)
                laps.append(time.perf_counter() - start)
            with closing(Client(timeout=30)) as client:
                client.set_token(address, view.token, rank)
                start = time.perf_counter()
                client.link(address)
                greetings.append(time.perf_counter() - start)
    return laps, greetings


@contextmanager
def attacking(address: str, kind: str) -> Iterator[Any]:
    """Have a process attack the server meanwhile; what is given counts the connections that it has made."""
    context = multiprocessing.get_context("spawn")
    stop, made = context.Event(), context.Value("Q", 0)
    process = context.Process(target=attack, args=(address, kind, stop, made), daemon=True)
    is_on = ATTACKS[kind] is not None
    if is_on:
        process.start()
        while not made.value:
            time.sleep(0.01)
            if process.exitcode is not None:
                raise BrokenRun("the process that attacks has ended")
    time.sleep(SETTLING_SECONDS)
    try:
        yield made
    finally:
        stop.set()
        if is_on:
            process.join()


def attack(address: str, kind: str, stop: Signal, made: Any) -> None:
    """Open connections until told to stop."""
    misuse = ATTACKS[kind]
    assert misuse is not None
    held: deque[socket.socket] = deque()
    while not stop.is_set():
        with suppress(OSError):
            peer = transport.connect(address, 1.0)
            held.append(peer)
            misuse(peer)
            made.value += 1
        if len(held) > HELD:
            held.popleft().close()


def rows() -> list[Case]:
    """The whole matrix."""
    return [Case(*values) for values in product(TRANSPORTS, ATTACKS)]


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("attacks", __doc__.partition("\n")[0], "tcp only")
    options = parser.parse_args(namespace=Options())
    selected = matching(rows(), [*options.only, *(["tcp/*"] if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("attacks"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
