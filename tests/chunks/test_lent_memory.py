"""Memory of others that changes while it is stored: it costs whoever changed it, and nobody else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import Batch, ChunkConfig, DamagedEvents, Origin, PartitionDirectory
from mochi.mofka.fsck.check import check
from mochi.mofka.fsck.findings import Effect
from tests.chunks.chunk_events import Event, batch_of, numbered, readable
from tests.chunks.recording_files import RecordingFiles

SMALL, LARGE = 3000, 200_000


def lent(files: RecordingFiles, metadata: bytes, size: int) -> Batch:
    """Make a batch of an event whose data changes with each write to a file."""
    memory = bytearray(size)
    files.lent.append(memory)
    return Batch(
        np.array([len(metadata)], np.uint32),
        [metadata],
        np.array([size], np.uint32),
        [memory],
        Origin(b"l" * 16, 0),
    )


def store_beside(directory: Path, size: int, *, sync: bool, later: bool) -> list[Event]:
    """Store a batch that changes between two of another, in one commit, and end as a process that is killed."""
    files = RecordingFiles()
    events = numbered(0, 6, 50)
    with PartitionDirectory.open(directory / "p", ChunkConfig(sync=sync), files) as store:
        batches = [batch_of(events[:2]), lent(files, b"lent", size), batch_of(events[2:4])]
        assert store.append(batches, {"c": 1}) == [0, 2, 3]
        if later:
            assert store.append([batch_of(events[4:])]) == [5]
        shutil.copytree(directory / "p", directory / "killed")
    return [*events[:2], (b"lent", b""), *events[2 : 6 if later else 4]]


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_memory_that_changes_while_it_is_stored_costs_no_other_events(
    tmp_path: Path, size: int, later: bool, sync: bool
) -> None:
    pushed = store_beside(tmp_path, size, sync=sync, later=later)
    report = check(PosixFiles(), str(tmp_path / "killed"))
    with PartitionDirectory.open(tmp_path / "killed") as store:
        found = readable(store)
        assert store.event_count == len(pushed)
        assert store.cursors == {"c": 1}
        assert len(store.producers()) == 1
        assert len(store.damaged) == (size == LARGE and sync)
        assert store.quarantined == []
    lost = {number for number in range(len(pushed)) if number not in found}
    assert lost == ({2} if size == LARGE else set())
    assert {number for number, event in enumerate(pushed) if found.get(number) != event} == {2}
    told = [(finding.first, finding.count) for finding in report.findings if finding.effect == Effect.LOST]
    assert told == [(2, 1) for _ in lost]
    assert (report.count, report.lost) == (len(pushed), len(lost))
    assert check(PosixFiles(), str(tmp_path / "killed")).lost == len(lost)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_a_power_cut_leaves_of_a_last_commit_whose_memory_changed(tmp_path: Path, size: int) -> None:
    """What was not synced tells that it was stored: without that the commit looks torn."""
    pushed = store_beside(tmp_path, size, sync=True, later=True)
    for kind in ("chunk-000000.meta", "chunk-000000.desc", "chunk-000000.idx", "mofka-000000.seals"):
        os.truncate(tmp_path / "killed" / kind, 0)
    shutil.copytree(tmp_path / "killed", tmp_path / "last")
    with PartitionDirectory.open(tmp_path / "killed") as store:
        found = readable(store)
    assert {number for number, event in enumerate(pushed) if found.get(number) != event} == {2}
    with (tmp_path / "last" / "mofka.journal").open("r+b") as file:
        file.seek(3 << 12)
        file.write(b"torn")
    with PartitionDirectory.open(tmp_path / "last") as store:
        assert len(readable(store)) == (0 if size == LARGE else 5)


def test_damaged_events_that_follow_each_other_are_told_at_once(tmp_path: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(tmp_path / "p", files=files) as store:
        store.append([batch_of(numbered(0, 2)), *(lent(files, b"lent", LARGE) for _ in range(5))])
        store.append([batch_of(numbered(2, 1))])
        for first in (2, 4):
            with pytest.raises(DamagedEvents, match="all up to event 6 are damaged") as raised:
                store.read_range(first, 9, 1 << 20, with_data=True)
            assert (raised.value.first, raised.value.count) == (first, 7 - first)
        assert store.read_range(2, 9, 1 << 20, with_data=False).count == 6
