"""A process with a limit of descriptors that opens many stores, and writes to a few of them in turn.

Usage: many_partitions.py DIRECTORY LIMIT IDLE WRITTEN ROUNDS; prints the number of descriptors that were open at most.
"""

import os
import resource
import sys

from mochi import shortage
from mochi.disk import Descriptors
from mochi.mofka.chunks import ChunkConfig, PartitionDirectory
from tests.chunks.chunk_events import batch_of, events_of


def main(directory: str, limit: int, idle: int, written: int, rounds: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    descriptors = Descriptors(shortage.storage_descriptors())
    config = ChunkConfig(max_events_per_chunk=4)
    most = 0
    stores = []
    for number in range(idle + written):
        store = PartitionDirectory.open(os.path.join(directory, str(number)), config, descriptors=descriptors)
        store.when_short(store.settle)
        store.append([batch_of([(b"first of %d" % number, b"data")])])
        stores.append(store)
        most = max(most, len(os.listdir("/proc/self/fd")))
    for turn in range(rounds):
        for store in stores[idle:]:
            store.append([batch_of([(b"%d" % turn, b"")] * 2)])
        most = max(most, len(os.listdir("/proc/self/fd")))
    for number, store in enumerate(stores):
        expected = [(b"first of %d" % number, b"data")]
        if number >= idle:
            expected += [(b"%d" % turn, b"") for turn in range(rounds) for _ in range(2)]
        assert events_of(store) == expected
        assert store.damaged == []
    for store in stores:
        store.close()
    print(most)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
