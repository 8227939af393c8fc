"""An I/O profiler's connector: records are pushed from within the calls it watches; prints what a push costs."""

import os
import sys
import time

from diaspora_stream.api import Driver

GROUP_FILE, CALLS = sys.argv[1], 20000

driver = Driver(backend="mofka", options={"group_file": GROUP_FILE})
driver.create_topic("posix", options={"num_partitions": 1})
producer = driver.open_topic("posix").producer("connector", batch_size=1024)
spent = 0
for call in range(CALLS):
    record = {
        "module": "POSIX",
        "op": "write",
        "rank": 0,
        "offset": 4096 * call,
        "len": 4096,
        "pid": os.getpid(),
    }
    before = time.perf_counter_ns()
    producer.push(record)
    spent += time.perf_counter_ns() - before
producer.flush().wait()
consumer = driver.open_topic("posix").consumer("reader")
assert sum(consumer.pull().wait().metadata["len"] for _ in range(CALLS)) == 4096 * CALLS
print(f"{CALLS} records, {spent / CALLS / 1000:.2f} us per push")
