"""Measure how the number of servers and of producers tells on throughput: ``python -m benchmarks.servers``.

Rows are named ``<transport>/<servers>/<producers>``. The servers of a row are those of one ``bedrock -n <servers>``,
and producers are processes. The topic has one partition for each server, in memory, and producers use the partitions
in turn, as they do unless an application chooses.
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.events import Events
from benchmarks.limits import Measures
from benchmarks.processes import CONFIG, BrokenRun, Workers, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from benchmarks.workers import Flood, flood, together
from diaspora_stream.api import Driver
from mochi.mofka.testing import Service

TRANSPORTS = ("na+sm", "tcp")
SERVERS = (1, 2, 4)
PRODUCERS = (1, 2, 4, 8, 16)
BATCHES = {"small": (1000, 128), "large": (16, 64 << 10)}
"""Events in a batch, and bytes of data of each."""

SECONDS = 0.5
MAX_BYTES = 512 << 20
"""Bytes of data that all producers push at most, for each of the two sizes: the servers keep them in memory."""

COLUMNS = (
    Column("128 B: events k/s", "small_per_s", 1e3),
    Column("MB/s", "small_mb_per_s"),
    Column("64 KiB: events k/s", "large_per_s", 1e3, 1),
    Column("MB/s", "large_mb_per_s"),
)
QUICK = ("na+sm/1/1", "na+sm/1/4", "na+sm/2/4", "tcp/2/4")
NOTE = f"""\
Rows are transport/servers/producers. Partitions in memory, partition i on server i; events of 128 B in batches of
{BATCHES["small"][0]}, of 64 KiB in batches of {BATCHES["large"][0]}. Servers and producers are processes that share
the cores of this machine: beyond as many as there are cores, more of them cannot be faster, and the figures say what
they cost.
"""


class Case(msgspec.Struct, frozen=True):
    """One row: how many servers and producers."""

    transport: str
    servers: int
    producers: int

    @property
    def name(self) -> str:
        return f"{self.transport}/{self.servers}/{self.producers}"

    def measure(self, directory: Path) -> Measures:
        """One repetition: what all producers together had stored in a second, small events and large ones."""
        measures: Measures = {}
        with server(self.transport, directory, _config(self.servers), servers=self.servers) as running:
            driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
            for topic in BATCHES:
                driver.create_topic(topic, options={"num_partitions": self.servers})
                addresses = {partition["address"] for partition in driver.open_topic(topic).partitions}
                if len(addresses) != self.servers:
                    raise BrokenRun(f"partitions are at {sorted(addresses)}, not at {self.servers} servers")
            floods = [self._flood(running, topic) for topic in BATCHES]
            with Workers(flood, [(floods,)] * self.producers) as producers:
                for topic, (events, data_size) in BATCHES.items():
                    batches, elapsed = together(producers.advance())
                    measures[f"{topic}_per_s"] = rate = batches * events / elapsed
                    measures[f"{topic}_mb_per_s"] = rate * Events(data_size).size / 1e6
        return measures

    def _flood(self, running: Service, topic: str) -> Flood:
        events, data_size = BATCHES[topic]
        most = MAX_BYTES // (events * data_size * self.producers)
        return Flood(str(running.group_file), topic, data_size, events, SECONDS, most)


def _config(servers: int) -> dict[str, Any]:
    """The common configuration; for several servers, their group is formed by MPI's rules, and the first is master."""
    config = deepcopy(CONFIG)
    if servers > 1:
        for provider in config["providers"]:
            if provider["type"] == "flock":
                provider["config"]["bootstrap"] = "mpi"
            if provider["type"] == "yokan":
                provider["__if__"] = "$MPI_COMM_WORLD.rank == 0"
    return config


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("servers", __doc__.partition("\n")[0], "a few rows, one of each kind")
    options = parser.parse_args(namespace=Options())
    matrix = [Case(*values) for values in product(TRANSPORTS, SERVERS, PRODUCERS)]
    selected = matching(matrix, [*options.only, *(QUICK if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("servers"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
