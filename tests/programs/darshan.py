"""An instrumented program: each of its writes is an event, whose push must cost it next to nothing.

``darshan.py GROUP_FILE TOPIC CALLS`` prints what a call took with and without its event, in microseconds.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

from diaspora_stream.api import AdaptiveBatchSize, Driver, Ordering


def timed(calls: int, call: Callable[[int], None]) -> list[int]:
    """Return the nanoseconds of each call, sorted."""
    took = []
    for number in range(calls):
        begin = time.perf_counter_ns()
        call(number)
        took.append(time.perf_counter_ns() - begin)
    return sorted(took)


def main(group_file: str, topic_name: str, calls: int) -> None:
    driver = Driver(backend="mofka", options={"group_file": group_file})
    producer = driver.open_topic(topic_name).producer(
        "darshan", batch_size=AdaptiveBatchSize, ordering=Ordering.Loose
    )
    block = bytes(4096)
    with tempfile.TemporaryFile() as file:

        def write(number: int) -> None:
            os.pwrite(file.fileno(), block, number % 64 * len(block))

        def write_and_tell(number: int) -> None:
            start = time.time()
            write(number)
            producer.push(
                {
                    "module": "POSIX",
                    "op": "write",
                    "file": "/scratch/run/output.dat",
                    "rank": 0,
                    "segment": [number % 64 * len(block), len(block)],
                    "start": start,
                    "end": time.time(),
                }
            )

        plain, told = timed(calls, write), timed(calls, write_and_tell)
    begin = time.perf_counter_ns()
    producer.flush().wait(timeout_ms=60000)
    flush = time.perf_counter_ns() - begin
    report = {
        "plain_us": plain[calls // 2] / 1000,
        "told_us": told[calls // 2] / 1000,
        "overhead_us": (told[calls // 2] - plain[calls // 2]) / 1000,
        "overhead_mean_us": (sum(told) - sum(plain)) / calls / 1000,
        "told_p99_us": told[calls * 99 // 100] / 1000,
        "flush_us": flush / 1000,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
