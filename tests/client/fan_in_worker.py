"""Many producers, each in a process of its own: ``fan_in_worker.py <group file> <topic> <processes> <events>``.

Every event has who made it, its number, and data that nobody else has; the processes are forked before they connect.
"""

import os
import sys

import mochi.mofka.client.driver  # noqa: F401, once for all that are forked
from diaspora_stream.api import Driver


def data_of(by: int, number: int) -> bytes:
    return b"%d/%d." % (by, number) * 20


def produce(group_file: str, topic: str, by: int, events: int) -> None:
    driver = Driver(backend="mofka", options={"group_file": group_file})
    with driver, driver.open_topic(topic).producer() as producer:
        for number in range(events):
            producer.push({"by": by, "number": number}, data_of(by, number))


def main(group_file: str, topic: str, processes: str, events: str) -> None:
    children = []
    for by in range(int(processes)):
        child = os.fork()
        if not child:
            status = 1
            try:
                produce(group_file, topic, by, int(events))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
    print("failed", failed, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
