"""Measure what a data selector costs a consumer: ``python -m benchmarks.selectors``.

A row is a type of partition and a view of the data. Each repetition fills a topic and reads it by three consumers, each
with a pull for each event: one takes all data, one has a selector that takes all of it, one a selector that takes the
view. All look at every event's metadata, and at its data.
"""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.limits import Measures
from benchmarks.processes import BrokenRun, server
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from diaspora_stream.api import ByteArrayAllocator, DataDescriptor, Driver, FullDataSelector, TopicHandle

PARTITIONS = ("memory", "default")
EVENTS = 100_000
BATCH = 1000
DATA_SIZE = 200

VIEWS: dict[str, Callable[[Any, DataDescriptor], DataDescriptor | None]] = {
    "all": lambda _, whole: whole,
    "none": lambda _, whole: None,
    "sub": lambda _, whole: whole.make_sub_view(offset=7, size=20),
    "strided": lambda _, whole: whole.make_stride_view(offset=0, num_blocks=4, block_size=2, gap_size=30),
    "unstructured": lambda _, whole: whole.make_unstructured_view(segments=[(0, 1), (50, 10), (199, 1)]),
}

COLUMNS = (
    Column("plain pull k/s", "plain_per_s", 1e3, 1),
    Column("selector k/s", "selected_per_s", 1e3, 1),
    Column("ratio", "ratio", decimals=2),
)
QUICK = ("memory/all", "default/sub")
NOTE = f"""\
Events of {DATA_SIZE} B of data in batches of {BATCH}, over na+sm, a `pull().wait()` for each. Plain: all data comes
with the events. Selector: one in Python, and an allocator, are called for each event, and what they ask for comes by
one request for the events of a batch. Server and consumer share the cores of the machine. The goal is a ratio of 0.5.
"""


class Case(msgspec.Struct, frozen=True):
    """One row: a type of partition, and a view."""

    partition: str
    view: str

    @property
    def name(self) -> str:
        return f"{self.partition}/{self.view}"

    def measure(self, directory: Path) -> Measures:
        """One repetition: rates of a consumer without a selector, and of one with it."""
        with server("na+sm", directory) as running:
            driver = Driver(backend="mofka", options={"group_file": str(running.group_file)})
            config: dict[str, Any] = {"type": self.partition}
            if self.partition == "default":
                config["partition"] = {"path": str(directory), "sync": False}
            driver.create_topic("benchmark", options={"num_partitions": 1, "config": config})
            topic = driver.open_topic("benchmark")
            with topic.producer("p", batch_size=BATCH) as producer:
                for number in range(EVENTS):
                    producer.push({"number": number}, bytes(DATA_SIZE))
            plain = _rate(topic, "plain", FullDataSelector, ByteArrayAllocator)
            selected = _rate(topic, "selector", VIEWS[self.view], lambda _, chosen: [bytearray(chosen.size)])
        return {"plain_per_s": plain, "selected_per_s": selected, "ratio": selected / plain}


def _rate(topic: TopicHandle, name: str, selector: Any, allocator: Any) -> float:
    """Return how many events a second are pulled, looked at and dropped."""
    with topic.consumer(name, data_selector=selector, data_allocator=allocator) as consumer:
        consumer.pull().wait(60_000)
        start = time.perf_counter()
        for number in range(1, EVENTS):
            event = consumer.pull().wait(60_000)
            if event is None or event.metadata["number"] != number or event.data is None:
                raise BrokenRun(f"event {number} is {event!r}")
        return (EVENTS - 1) / (time.perf_counter() - start)


def markdown(report: Report) -> Iterator[str]:
    """The report for people, paragraph by paragraph."""
    yield NOTE
    yield table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("selectors", __doc__.partition("\n")[0], "two rows")
    options = parser.parse_args(namespace=Options())
    matrix = [Case(*values) for values in product(PARTITIONS, VIEWS)]
    selected = matching(matrix, [*options.only, *(QUICK if options.quick else ())])
    measured, failures = repeat(selected, options.repetitions, options.directory)
    report = Report(environment("selectors"), {}, measured, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
