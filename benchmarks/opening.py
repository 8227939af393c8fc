"""How long a partition's directory takes to open, and how much memory, by the number of its events.

``python -m benchmarks.opening [--directory DIR]`` makes directories of 10^6, 10^7 and 10^8 events in chunks of 10^6,
and one of 1500 chunks, and opens each in a process of its own. The files are sparse but for what opening may look
at: the seals, the last index record of each chunk, roster, ledger and journal.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mochi.mofka.chunks import PartitionDirectory, format

PART = 1000
METADATA = 30
DATA = 128


def make(directory: Path, chunks: int, events_per_chunk: int) -> None:
    """Make a directory as an orderly end leaves it, each commit of `PART` events, the files sparse."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = format.owner_of(str(directory))
    made: list[format.Chunk] = []
    for number in range(chunks):
        start = made[-1].next() if made else format.Chunk(0, 0)
        packed = b"".join(
            _seal(start, first, owner).pack(format.key_of(owner, number))
            for first in range(0, events_per_chunk, PART)
        )
        chunk = start.extended(
            events_per_chunk,
            METADATA * events_per_chunk,
            DATA * events_per_chunk,
            len(packed),
            time.time_ns(),
        )
        _write(directory, chunk, packed)
        made.append(chunk)
    ledger = format.Ledger()
    for producer in range(128):
        for sequence in range(64):
            ledger.note(format.Origin(producer.to_bytes(16, "little"), sequence), sequence)
    head = format.Head(1, 1, format.Mode.CLOSED, owner, made[-1])
    roster = b"".join(format.roster_record(chunk, owner) for chunk in made[:-1])
    (directory / format.ROSTER_NAME).write_bytes(roster)
    (directory / format.LEDGER_NAMES[1]).write_bytes(head.pack_ledger(made[-1].end_id, ledger))
    (directory / format.JOURNAL_NAME).write_bytes(bytes(format.RECORDS_START // 2) + head.pack())


def _seal(chunk: format.Chunk, first: int, owner: bytes) -> format.Seal:
    streams = [
        format.Stream(
            size * first, np.full(PART, size, np.uint32), np.zeros(-(-size * PART >> 16), np.uint64)
        )
        for size in (METADATA, DATA)
    ]
    return format.Seal(first, first * format.DESCRIPTOR_SIZE, 1, streams[0], streams[1])


def _write(directory: Path, chunk: format.Chunk, packed: bytes) -> None:
    for kind, end in chunk.ends.items():
        with (directory / format.file_name(chunk.number, kind)).open("wb") as file:
            if kind == format.SEALS:
                file.write(packed)
            file.truncate(end)
            if kind == format.IDX:
                last = format.index_records(
                    np.array([chunk.metadata_end - METADATA], np.uint64),
                    np.array([METADATA], np.uint32),
                    np.array([chunk.data_end - DATA], np.uint64),
                    np.array([DATA], np.uint32),
                    chunk.descriptor_end - format.DESCRIPTOR_SIZE,
                )
                file.seek(end - format.INDEX_SIZE)
                file.write(last.tobytes())


def measure(directory: str) -> None:
    """Open a directory, and say how long it took, and by how many KiB the process grew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    store = PartitionDirectory.open(directory)
    took = time.perf_counter() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{store.event_count:>11} events: opened in {1000 * took:7.1f} ms, {grown:>6} KiB of memory more",
        flush=True,
    )
    store.close()


def main() -> None:
    """Make, open and remove each directory in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", help="where to make them; a temporary directory if not given")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        measure(arguments.open)
        return
    for chunks, events_per_chunk in ((1, 10**6), (10, 10**6), (100, 10**6), (1500, 2000)):
        path = Path(tempfile.mkdtemp(dir=arguments.directory))
        try:
            make(path / "partition", chunks, events_per_chunk)
            print(f"{chunks:>5} chunks, ", end="", flush=True)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.opening", "--open", str(path / "partition")], check=True
            )
        finally:
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
