"""Fan-in of many producers, each in a process of its own, to memory partitions: ``python -m benchmarks.fan_in``.

Prints a table in Markdown. A row counts from the moment at which all producers are connected until the last one has
flushed; its memory is the largest that a server held at that time, beside the events it stores.
"""

import argparse
import contextlib
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mochi.mofka.client.driver  # noqa: F401, once for all that are forked
from benchmarks.processes import CONFIG
from diaspora_stream.api import Driver
from mochi.mofka.testing import Service

DATA = b"x" * 256
METADATA = {"instrument": "camera", "shot": 1234567}
STORED = len(json.dumps(METADATA)) + 16 + len(DATA)
"""Bytes that an event takes in a memory partition."""


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def servers(count: int, address: str, directory: Path) -> Iterator[tuple[Path, list[int]]]:
    """Start servers without a token; yield their group file and process ids."""
    providers = [each for each in CONFIG["providers"] if each["type"] != "flock"]
    with contextlib.ExitStack() as stack:
        services = []
        for number in range(count):
            mine = [each for each in providers if not number or each["type"] != "yokan"]
            config = {**CONFIG, "providers": mine}
            services.append(stack.enter_context(Service(directory / str(number), config, address=address)))
        group_file = directory / "group.json"
        members = [{"address": service.address, "provider_id": 1} for service in services]
        group_file.write_text(json.dumps({"members": members, "metadata": {}}))
        yield group_file, [service.pid for service in services]


def produce(group_file: Path, events: int, ready: int, go: int) -> None:
    """Connect, say so, wait, and push."""
    driver = Driver(backend="mofka", options={"group_file": str(group_file)})
    with driver, driver.open_topic("topic").producer() as producer:
        producer.push(METADATA, DATA)
        producer.flush().wait()
        os.write(ready, b".")
        os.read(go, 1)
        for _ in range(events):
            producer.push(METADATA, DATA)


def measure(count: int, producers: int, events: int, address: str) -> dict[str, Any]:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as name, servers(count, address, Path(name)) as (group_file, pids):
        with Driver(backend="mofka", options={"group_file": str(group_file)}) as driver:
            driver.create_topic("topic", options={"num_partitions": 2 * count})
        ready, has_connected = os.pipe()
        go, start = os.pipe()
        children = []
        for _ in range(producers):
            child = os.fork()
            if not child:
                status = 1
                try:
                    produce(group_file, events, has_connected, go)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        for _ in children:
            os.read(ready, 1)
        before = [resident(pid) for pid in pids]
        largest = list(before)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                largest[:] = map(max, largest, map(resident, pids))

        watching = threading.Thread(target=watch)
        watching.start()
        begin = time.monotonic()
        os.write(start, b"." * producers)
        failed = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
        seconds = time.monotonic() - begin
        done.set()
        watching.join()
        for descriptor in (ready, has_connected, go, start):
            os.close(descriptor)
        share = producers * events * STORED / count
        beside = max(most - first - share for most, first in zip(largest, before, strict=True))
        return {
            "address": address,
            "servers": count,
            "producers": producers,
            "failed": failed,
            "events/s": f"{producers * events / seconds:,.0f}",
            "MiB a server at first": f"{max(before) / 2**20:.0f}",
            "MiB beside its events at most": f"{beside / 2**20:.0f}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=256_000, help="events of all producers together")
    arguments = parser.parse_args()
    rows = [
        measure(count, producers, arguments.events // producers, address)
        for address in ("na+sm", "tcp://127.0.0.1")
        for count, producers in ((1, 16), (4, 16), (1, 128), (4, 128))
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
