"""A server that is denied descriptors, threads and memory, one after the other under load, and given them again.

What was acknowledged is there, once and under its id; what was told failed is not; all goes on when there is enough.
"""

import os
import resource
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from diaspora_stream.api import Producer, TopicHandle
from diaspora_stream.errors import DiasporaError
from diaspora_stream.serializer import DefaultSerializer
from mochi.mofka.chunks import PartitionDirectory
from mochi.mofka.testing import Service
from tests.chunks.chunk_events import events_of
from tests.system.real_service import Machine

PARTITIONS = 2
SIZES = (0, 100, 100, 30_000, 300_000, 100, 100, 100, 6 << 20)
"""Bytes of data of events, of which the largest needs memory that a server without any cannot give."""

SMALL = SIZES[:4]
"""Of those that are kept in memory: they are many."""

GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))

deserialize = DefaultSerializer().deserialize


def data_of(number: int, sizes: Sequence[int]) -> bytes:
    return bytes([number % 251]) * sizes[number % len(sizes)]


class Stream:
    """A thread that pushes to one partition, one event after another, and notes what becomes of each."""

    def __init__(self, producer: Producer, partition: int, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.stored: dict[int, int] = {}
        self.refused: list[int] = []
        self.outcomes = 0
        self.in_a_row = 0
        self._producer = producer
        self._partition = partition
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._push)
        self._thread.start()

    def _push(self) -> None:
        number = 0
        while not self._ended:
            try:
                event_id = self._producer.push(
                    {"number": number}, data_of(number, self.sizes), partition=self._partition
                ).wait(60000)
            except TimeoutError:
                raise  # nothing may hang that long
            except DiasporaError:
                event_id = None
            with self._news:
                if event_id is None:
                    self.refused.append(number)
                    self.in_a_row = 0
                else:
                    self.stored[number] = event_id
                    self.in_a_row += 1
                self.outcomes += 1
                self._news.notify_all()
            number += 1

    def wait(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened, as looked at after each event."""
        with self._news:
            assert self._news.wait_for(happened, 90), (
                f"{self.outcomes} outcomes, {self.in_a_row} of them good"
            )

    def go_on(self, outcomes: int) -> None:
        """Wait until as many more events are stored or refused."""
        end = self.outcomes + outcomes
        self.wait(lambda: self.outcomes >= end)

    def recover(self) -> None:
        """Wait until events of every size are stored again."""
        self.wait(lambda: self.in_a_row >= len(self.sizes))

    def end(self) -> None:
        self._ended = True
        self._thread.join(90)
        assert not self._thread.is_alive()


@contextmanager
def limited(server: Service, limit: int, at: Callable[[Service], int]) -> Iterator[None]:
    before = resource.prlimit(server.pid, limit)
    resource.prlimit(server.pid, limit, (at(server), before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, limit, before)


def status_of(server: Service, field: str) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


@contextmanager
def without_descriptors(server: Service) -> Iterator[None]:
    """Let no more files be open than are open now."""
    with limited(server, resource.RLIMIT_NOFILE, lambda _: len(os.listdir(f"/proc/{server.pid}/fd"))):
        yield


@contextmanager
def without_memory(server: Service) -> Iterator[None]:
    """Let the address space be no larger than it is now, but for 2 MiB."""
    with limited(server, resource.RLIMIT_AS, lambda _: (status_of(server, "VmSize") << 10) + (2 << 20)):
        yield


@contextmanager
def without_threads(server: Service) -> Iterator[None]:
    """Let there be no more threads than there are; where this machine cannot do that, do nothing."""
    if os.getuid():
        with limited(server, resource.RLIMIT_NPROC, lambda _: 1):
            yield
        return
    root = next((root for root in GROUPS if os.access(root, os.W_OK)), None)
    group = None if root is None else root / f"mofka-test-{uuid.uuid4().hex[:8]}"
    try:
        if group is not None:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(server.pid))
            (group / "pids.max").write_text(str(status_of(server, "Threads")))
    except OSError:
        group = None
    try:
        yield
    finally:
        if root is not None and group is not None:
            with suppress(OSError):  # it has ended
                (root / "cgroup.procs").write_text(str(server.pid))
            group.rmdir()


Harm = Callable[[Service], Any]
HARMS: list[Harm] = [without_descriptors, without_threads, without_memory]


def check(stream: Stream, events: list[tuple[int, bytes]]) -> None:
    """Check events, numbers and data by their ids, against what their producer was told."""
    numbers = [number for number, _ in events]
    ids = {number: event_id for event_id, number in enumerate(numbers)}
    assert len(ids) == len(numbers)
    assert {number: ids[number] for number in stream.stored} == stream.stored
    assert not ids.keys() & set(stream.refused)
    assert all(data == data_of(number, stream.sizes) for number, data in events)


def starve(machine: Machine, harms: list[Harm], outcomes: int) -> None:
    server = machine.serve(address="tcp://127.0.0.1")
    driver = machine.driver(server)
    path = machine.directory / "data"
    section = {"path": str(path), "max_events_per_chunk": 20}
    driver.create_topic(
        "topic", options={"num_partitions": PARTITIONS, "config": {"type": "default", "partition": section}}
    )
    driver.create_topic("memory", options={"num_partitions": 1})
    topic, memory = driver.open_topic("topic"), driver.open_topic("memory")
    producers = [handle.producer("p", batch_size=1) for handle in (topic, memory)]
    streams = [Stream(producers[0], index, SIZES) for index in range(PARTITIONS)]
    in_memory = Stream(producers[1], 0, SMALL)
    everything = [*streams, in_memory]
    try:
        for harm in harms:
            with harm(server):
                for stream in everything:
                    stream.go_on(outcomes)
            for stream in everything:
                stream.recover()
    finally:
        for stream in everything:
            stream.end()
    check(in_memory, pulled(memory, 0, len(in_memory.stored)))
    for index, stream in enumerate(streams):
        check(stream, pulled(topic, index, max(stream.stored.values()) + 1))
    server.kill()
    for index, stream in enumerate(streams):
        with PartitionDirectory.open(path / f"topic-{topic.partitions[index]['uuid']}") as store:
            assert store.damaged == []
            check(stream, [(deserialize(metadata)["number"], data) for metadata, data in events_of(store)])


def pulled(topic: TopicHandle, partition: int, count: int) -> list[tuple[int, bytes]]:
    """Read the first events of a partition."""
    found = []
    with topic.consumer("check", targets=[partition]) as consumer:
        for event_id in range(count):
            event = consumer.pull().wait(20000)
            assert event is not None
            assert event.event_id == event_id
            found.append((event.metadata["number"], b"".join(event.data)))
    return found


@pytest.mark.timeout(300)
def test_what_is_denied_and_given_again_costs_what_was_told_failed_and_nothing_else(machine: Machine) -> None:
    starve(machine, HARMS, 30)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_again_and_again(machine: Machine, seed: int) -> None:
    random = Random(seed)
    starve(machine, [random.choice(HARMS) for _ in range(12)], 30)
