"""Makes, extends and deletes topics of a few names in a process of its own, as chance has it; prints what came of each.

Arguments: the group file, a directory for partitions, a seed, how many changes.
"""

import random
import sys

from diaspora_stream.errors import DiasporaError, TopicExists, TopicNotFound
from mochi.mofka.client import MofkaDriver

NAMES = ("one", "two", "three")


def main(group_file: str, path: str, seed: str, count: str) -> None:
    chance = random.Random(int(seed))
    section = {"path": path}
    with MofkaDriver(group_file=group_file, timeout_ms=30000) as driver:
        print("ready", flush=True)
        for _ in range(int(count)):
            name, change = chance.choice(NAMES), chance.choice(["create", "create", "delete", "extend"])
            kind = chance.choice(["memory", "default"])
            config = {"type": kind, "partition": section if kind == "default" else {}}
            try:
                if change == "create":
                    driver.create_topic(
                        name, options={"num_partitions": chance.randint(1, 5), "config": config}
                    )
                elif change == "delete":
                    driver.delete_topic(name)
                elif kind == "memory":
                    driver.add_memory_partition(name, chance.randrange(driver.num_servers))
                else:
                    server = chance.randrange(driver.num_servers)
                    driver.add_default_partition(name, server, partition_config=section)
                print(change, "done", flush=True)
            except (TopicExists, TopicNotFound) as error:
                print(change, type(error).__name__, flush=True)
            except DiasporaError as error:
                print("failed", change, name, error, flush=True)


main(*sys.argv[1:])
