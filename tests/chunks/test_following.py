"""Reading beside a writer: what a follower sees at any moment, and after a crash at any moment."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import ChunkConfig, ChunkFollower, PartitionDirectory, follow
from tests.chunks.chunk_events import Event, batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

BATCHES = [(0, 3), (3, 1), (4, 20), (24, 2), (26, 1), (27, 9)]
"""First event and number of events of each batch."""

ENDS = [0] + [first + count for first, count in BATCHES]


class Observed(RecordingFiles):
    """Calls `look` before each call that changes something."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look

    def called(self, operation: str, path: str) -> None:
        self._look()
        super().called(operation, path)


def seen(follower: ChunkFollower) -> Sequence[Event]:
    return events_of(follower)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("most", [1000, 5])
def test_whole_batches_alone_are_seen_and_none_that_a_crash_takes(
    tmp_path: Path, sync: bool, most: int
) -> None:
    directory = tmp_path / "partition"
    config = ChunkConfig(sync=sync, max_events_per_chunk=most)
    PartitionDirectory.open(directory, config, PosixFiles()).close()
    beside = follow(directory, PosixFiles())
    written = numbered(0, ENDS[-1])
    counts = []
    told = 0

    def look() -> None:
        count = beside.refresh()
        counts.append(count)
        assert count >= told
        assert count in ENDS
        assert seen(beside) == written[:count]
        with follow(directory, PosixFiles()) as fresh:
            assert fresh.event_count == count
        # The writer is killed just now.
        crashed = tmp_path / f"crashed-{len(counts)}"
        shutil.copytree(directory, crashed)
        with PartitionDirectory.open(crashed, config, PosixFiles()) as store:
            assert store.event_count >= count
            assert events_of(store)[:count] == written[:count]
        shutil.rmtree(crashed)

    files = Observed(look)
    with PartitionDirectory.open(directory, config, files) as store:
        for first, count in BATCHES:
            assert store.append([batch_of(written[first : first + count])]) == [first]
            told = first + count
            assert beside.refresh() == told
    look()
    assert sorted(set(counts)) == counts or counts == sorted(counts)
    assert set(ENDS) <= set(counts)
    beside.close()


def test_events_of_another_program_are_seen_when_their_chunk_is_left(tmp_path: Path) -> None:
    directory = tmp_path / "partition"
    config = ChunkConfig(sync=False, max_events_per_chunk=4)
    with PartitionDirectory.open(directory, config, PosixFiles()) as store:
        store.append([batch_of(numbered(0, 4))])
    for seals in directory.glob("mofka-*.seals"):
        seals.write_bytes(b"")
    with follow(directory, PosixFiles()) as beside:
        assert beside.refresh() == 4
        with PartitionDirectory.open(directory, config, PosixFiles()) as store:
            store.append([batch_of(numbered(4, 4))])
            assert beside.refresh() == 8
        assert seen(beside) == numbered(0, 8)


def test_many_chunks_are_caught_up_with_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "partition"
    config = ChunkConfig(sync=False, max_events_per_chunk=10)
    with PartitionDirectory.open(directory, config, PosixFiles()) as store:
        beside = follow(directory, PosixFiles())
        for first in range(0, 300, 3):
            store.append([batch_of(numbered(first, 3))])
        assert beside.refresh() == 300
        assert beside.event_count == 300
        assert seen(beside) == numbered(0, 300)
        beside.close()


def test_a_batch_of_which_the_index_is_torn_is_not_seen(tmp_path: Path) -> None:
    directory = tmp_path / "partition"
    config = ChunkConfig(sync=False)
    written = numbered(0, 30)
    left = tmp_path / "left"
    with PartitionDirectory.open(directory, config, PosixFiles()) as store:
        store.append([batch_of(written[:10])])
        store.append([batch_of(written[10:])])
        shutil.copytree(directory, left)  # as a process leaves it that is killed now
    index = left / "chunk-000000.idx"
    whole = index.read_bytes()
    index.write_bytes(whole[: 10 * 48])
    beside = follow(left, PosixFiles())
    for size in (len(whole) - 1, 20 * 48, 10 * 48 + 1):
        index.write_bytes(whole[:size])
        with follow(left, PosixFiles()) as fresh:
            assert fresh.event_count == beside.refresh() == 10
    index.write_bytes(whole)
    assert beside.refresh() == 30
    assert seen(beside) == written
    beside.close()
