"""The journal: crashes with every outcome, damage that no crash leaves, and what the original does meanwhile."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.mofka.chunks import (
    ChunkConfig,
    CorruptPartition,
    DamagedEvents,
    Origin,
    PartitionDirectory,
    PartitionPoisoned,
    StorageError,
)
from mochi.mofka.chunks import journal as journal_module
from mochi.mofka.chunks.format.ledger import Remembered
from tests.chunks.chunk_events import PARTITIONS, Event, batch_of, chunk_files, events_of, numbered, readable
from tests.chunks.recording_files import RecordingFiles

BLOCK = 4096
FIVE = ChunkConfig(max_events_per_chunk=5)
UUID = "01234567-89ab-cdef-0123-456789abcdef"
VERSION_3 = ("full-9d0c7a52-6d1f-4f0e-8c55-3b1f1d5e7a01", "light-9d0c7a52-6d1f-4f0e-8c55-3b1f1d5e7a02")
COMMITS = [[2, 1], [3], [4, 4], [1], [6, 2, 2], [1], [1], [5]]
"""Events of the batches of each commit; with five a chunk, some of the commits begin one or two chunks."""


def commits() -> list[list[list[Event]]]:
    made = []
    first = 0
    for sizes in COMMITS:
        made.append([numbered(first + 10 * n, size) for n, size in enumerate(sizes)])
        first += 100
    return made


ATTEMPTED = [event for batches in commits() for batch in batches for event in batch]
WHOLE = {sum(map(sum, COMMITS[:n])) for n in range(len(COMMITS) + 1)}
"""Numbers of events after which a commit ends."""


@contextlib.contextmanager
def limits(limit: int, large_data: int) -> Iterator[None]:
    """Let the journal begin again after `limit` bytes, and data be large from `large_data` bytes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "_LIMIT", limit)
        patch.setattr(journal_module, "_LARGE_DATA", large_data)
        patch.setattr(journal_module, "_ZEROS", bytes(4 * BLOCK))
        yield


some_limits = st.builds(
    limits, st.sampled_from([3 * BLOCK, 5 * BLOCK, 1 << 26]), st.sampled_from([1, 100, 1 << 20])
)


def append_all(store: PartitionDirectory) -> list[Event]:
    """Append all commits up to the first that fails; give the events acknowledged."""
    acknowledged: list[Event] = []
    with contextlib.suppress(StorageError):
        for batches in commits():
            store.append([batch_of(batch) for batch in batches])
            acknowledged += [event for batch in batches for event in batch]
    return acknowledged


def crashed(directory: Path, target: Path, batches: int = 4, size: int = 10) -> Path:
    """Put into `target` what a killed process leaves that committed batches of two events."""
    with PartitionDirectory.open(directory, FIVE) as store:
        for first in range(0, 2 * batches, 2):
            store.append([batch_of(numbered(first, 2, size))])
        shutil.copytree(directory, target)
    return target


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def refuses(directory: Path, problem: str) -> None:
    """See that opening fails, and changes nothing."""
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "mofka.lock"}
    with pytest.raises(CorruptPartition, match=problem):
        PartitionDirectory.open(directory)
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "mofka.lock"}
    assert after == before


@settings(max_examples=120, deadline=None)
@given(data=st.data(), call=st.integers(0, 160), limited=some_limits)
def test_after_a_power_cut_at_any_call_each_commit_is_whole_or_gone(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    call: int,
    limited: contextlib.AbstractContextManager[None],
) -> None:
    base = tmp_path_factory.mktemp("power")
    (base / "p").mkdir()
    with limited:
        files = RecordingFiles(fail_at=call)
        acknowledged: list[Event] = []
        with contextlib.suppress(StorageError):
            store = PartitionDirectory.open(base / "p", FIVE, files)
            acknowledged = append_all(store)
            store.close()
        files.end_process()
        files.power_cut(
            base / "p", base / "a", lambda: data.draw(st.booleans()), lambda n: data.draw(st.integers(0, n))
        )
        found: list[Event] = []
        again = RecordingFiles(fail_at=data.draw(st.integers(0, 40)))
        with contextlib.suppress(StorageError), PartitionDirectory.open(base / "a", FIVE, again) as store:
            found = events_of(store)
        again.end_process()
        again.power_cut(
            base / "a", base / "b", lambda: data.draw(st.booleans()), lambda n: data.draw(st.integers(0, n))
        )
        with PartitionDirectory.open(base / "b", FIVE) as recovered:
            assert not found or events_of(recovered) == found
            found = events_of(recovered)
            assert found[: len(acknowledged)] == acknowledged
            assert found == ATTEMPTED[: len(found)]
            assert len(found) in WHOLE
            assert recovered.append([batch_of(numbered(7, 3))]) == [len(found)]
        with PartitionDirectory.open(base / "b") as reopened:
            assert events_of(reopened) == found + numbered(7, 3)
            assert reopened.quarantined == []


@pytest.mark.parametrize("large_data", [1, 1 << 20])
def test_a_failing_call_anywhere_ends_writing_for_good(tmp_path: Path, large_data: int) -> None:
    with limits(3 * BLOCK, large_data):
        whole = RecordingFiles()
        with PartitionDirectory.open(tmp_path / "whole", FIVE, whole) as store:
            opening = len(whole.calls)
            assert append_all(store) == ATTEMPTED
            everything = len(whole.calls)
        heads = whole.calls.count(("sync", "mofka.journal")) - len(COMMITS)
        assert heads > 5
        for failing in range(opening, everything):
            directory = tmp_path / str(failing)
            files = RecordingFiles(fail_at=failing)
            store = PartitionDirectory.open(directory, FIVE, files)
            acknowledged = append_all(store)
            assert isinstance(store.error, StorageError)
            with pytest.raises(PartitionPoisoned):
                store.append([batch_of(numbered(0, 1))])
            store.close()
            assert len(files.calls) == failing + 1
            with PartitionDirectory.open(directory, files=RecordingFiles()) as reopened:
                assert events_of(reopened)[: len(acknowledged)] == acknowledged
                assert reopened.event_count in WHOLE


def test_a_killed_process_leaves_all_it_acknowledged(tmp_path: Path) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    expected = chunk_files(copy)
    for path in copy.glob("chunk-*"):
        os.truncate(path, 0)
    with PartitionDirectory.open(copy) as store:
        assert events_of(store) == numbered(0, 8)
        assert store.quarantined == []
    assert chunk_files(copy) == expected


def test_without_sync_the_chunk_files_decide_but_a_full_journal_that_is_there_counts(tmp_path: Path) -> None:
    without = ChunkConfig(sync=False)
    with PartitionDirectory.open(tmp_path / "q", without) as store:
        store.append([batch_of(numbered(0, 2))])
        store.append([batch_of(numbered(2, 2))])
        shutil.copytree(tmp_path / "q", tmp_path / "copy of q")
    os.truncate(tmp_path / "copy of q" / "chunk-000000.idx", 3 * 48)
    with PartitionDirectory.open(tmp_path / "copy of q") as store:
        assert events_of(store) == numbered(0, 2)
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    os.truncate(copy / "chunk-000001.idx", 0)
    with PartitionDirectory.open(copy, without) as store:
        assert events_of(store) == numbered(0, 8)
        store.append([batch_of(numbered(8, 2))])
        shutil.copytree(copy, tmp_path / "again")
    with PartitionDirectory.open(tmp_path / "again") as store:
        assert events_of(store) == numbered(0, 10)


def test_a_torn_last_record_is_the_end_and_what_is_left_of_its_events_goes_to_quarantine(
    tmp_path: Path,
) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    before = chunk_files(copy)
    os.truncate(copy / "chunk-000001.idx", 2 * 48)
    os.truncate(copy / "mofka-000001.seals", 128)
    overwrite(copy / "mofka.journal", 5 * BLOCK + 100, b"torn")
    with PartitionDirectory.open(copy) as store:
        assert events_of(store) == numbered(0, 6)
        assert len(store.quarantined) == 3
    assert (copy / "quarantine-000001-desc-0").read_bytes() == before["chunk-000001.desc"][112:]


def test_events_whose_last_record_was_damaged_since_are_kept(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        for number in range(3):
            store.append([batch_of(numbered(2 * number, 2), Origin(b"p" * 16, number))])
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    overwrite(tmp_path / "copy" / "mofka.journal", 4 * BLOCK + 100, b"rot")
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == numbered(0, 6)
        assert store.quarantined == store.damaged == []
        assert store.producers() == []
        assert [(adopted.first, adopted.count) for adopted in store.adopted] == [(4, 2)]


@pytest.mark.parametrize("large_data", [1, 1 << 20])
def test_commits_that_were_synced_at_once_are_cut_off_from_the_first_torn_one(
    tmp_path: Path, large_data: int
) -> None:
    with limits(1 << 20, large_data), PartitionDirectory.open(tmp_path / "p") as store:
        store.append([batch_of(numbered(0, 2))])
        under_way = [store.begin([batch_of(numbered(2 * number, 2))]) for number in range(1, 4)]
        synced = [file for commit in under_way if commit is not None for file in commit.unsynced]
        assert len({id(file) for file in synced}) == len(synced) == (6 if large_data == 1 else 3)
        shutil.copytree(tmp_path / "p", tmp_path / "killed")
        for torn in range(3):
            shutil.copytree(tmp_path / "p", tmp_path / f"torn-{torn}")
            overwrite(tmp_path / f"torn-{torn}" / "mofka.journal", (3 + torn) * BLOCK + 150, b"torn")
        shutil.copytree(tmp_path / "p", tmp_path / "lost")
        os.truncate(
            tmp_path / "lost" / "chunk-000000.data", len(b"".join(data for _, data in numbered(0, 3)))
        )
        for commit in reversed(under_way):
            assert commit is not None
            commit.sync()
        for number, commit in enumerate(under_way, 1):
            assert commit is not None
            assert store.finish(commit) == [2 * number]
        store.append([batch_of(numbered(8, 1))])
        shutil.copytree(tmp_path / "p", tmp_path / "settled")
    for torn in range(3):
        with PartitionDirectory.open(tmp_path / f"torn-{torn}") as store:
            assert events_of(store) == numbered(0, 2 + 2 * torn)
    with PartitionDirectory.open(tmp_path / "killed") as store:
        assert events_of(store) == numbered(0, 8)
    with PartitionDirectory.open(tmp_path / "lost") as store:
        assert events_of(store) == numbered(0, 2 if large_data == 1 else 8)
    overwrite(tmp_path / "settled" / "mofka.journal", 4 * BLOCK + 150, b"rot")
    with PartitionDirectory.open(tmp_path / "settled") as store:
        assert events_of(store) == numbered(0, 9)
        problem, _ = store.damaged
        assert "has a damaged record at byte 16384: events 4 to 5 are as the chunk files have them" in problem


@pytest.mark.parametrize("content", [b"torn", bytes(BLOCK)], ids=["torn", "zeros"])
@pytest.mark.parametrize("record", [0, 1, 2], ids=["first", "in the middle", "the first of a chunk"])
def test_a_damaged_record_before_good_ones_costs_what_the_chunk_files_lack(
    tmp_path: Path, content: bytes, record: int
) -> None:
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        for number in range(4):
            store.append([batch_of(numbered(2 * number, 2), Origin(b"p" * 16, number))], {"c": 2 * number})
        shutil.copytree(tmp_path / "p", tmp_path / "killed")
        shutil.copytree(tmp_path / "p", tmp_path / "cut")
    for path in (tmp_path / "cut").glob(f"*-00000{record // 2}.*"):
        os.truncate(path, 0)  # what was not synced
    for copy in ("killed", "cut"):
        overwrite(tmp_path / copy / "mofka.journal", (2 + record) * BLOCK, content)
    events = f"events {2 * record} to {2 * record + 1}"
    with PartitionDirectory.open(tmp_path / "killed", FIVE) as store:
        assert events_of(store) == numbered(0, 8)
        assert store.producers() == []
        assert store.cursors == {"c": 6}
        problem, producers = store.damaged
        assert f"damaged record at byte {(2 + record) * BLOCK}: {events} are as the chunk files" in problem
        assert f"the first at byte {(2 + record) * BLOCK}, and with them all producers" in producers
    lost = set(range(2 * record, 2 * record + 2))
    for _ in range(2):
        with PartitionDirectory.open(tmp_path / "cut", FIVE) as store:
            assert readable(store) == {
                number: event for number, event in enumerate(numbered(0, 8)) if number not in lost
            }
            with pytest.raises(DamagedEvents) as raised:
                store.read_range(2 * record, 9, 1 << 20, with_data=True)
            assert (raised.value.first, raised.value.count) == (2 * record, 2)
    with PartitionDirectory.open(tmp_path / "cut", FIVE) as store:
        assert store.append([batch_of(numbered(8, 1))]) == [8]


def test_the_last_record_of_several_damaged_ones_need_not_be_on_disk(tmp_path: Path) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy", batches=6)
    for record in (1, 2, 3):
        overwrite(copy / "mofka.journal", (2 + record) * BLOCK, b"rot")
    with PartitionDirectory.open(copy) as store:
        assert events_of(store) == numbered(0, 12)
        told = [line.split(": ")[1].split(" are")[0] for line in store.damaged[:2]]
        assert told == ["events 2 to 3", "events 4 to 7"]


def test_cursors_alone_that_are_lost_cost_no_events(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        store.append([batch_of(numbered(0, 3))], {"c": 1})
        store.append([], {"c": 2})
        store.append([], {"d": 3})
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    overwrite(tmp_path / "copy" / "mofka.journal", 3 * BLOCK, b"rot")
    with PartitionDirectory.open(tmp_path / "copy", FIVE) as store:
        assert events_of(store) == numbered(0, 3)
        assert store.cursors == {"c": 1, "d": 3}
        (problem,) = store.damaged
        assert "has lost records, the first at byte 12288, and with them all producers" in problem


def test_a_damaged_record_of_a_chunk_whose_end_nothing_tells_is_refused(tmp_path: Path) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    overwrite(copy / "mofka.journal", 3 * BLOCK, b"rot")
    overwrite(copy / "mofka.journal", 4 * BLOCK, b"rot")
    (copy / "mofka.chunks").unlink()
    refuses(copy, "has a damaged record at byte 12288, and the end of chunk 0, which that was of, is not in")


@pytest.mark.parametrize(
    "name", ["full-9d0c7a52-6d1f-4f0e-8c55-3b1f1d5e7a01", "light-9d0c7a52-6d1f-4f0e-8c55-3b1f1d5e7a02"]
)
def test_an_open_journal_of_the_version_before_is_replayed(tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    shutil.copytree(PARTITIONS.parent / "journal-3" / name, copy)
    expected = [*numbered(0, 6), *numbered(6, 2, 300), *numbered(8, 5)]
    for _ in range(2):
        with PartitionDirectory.open(copy, FIVE) as store:
            assert events_of(store) == expected
            assert store.damaged == store.quarantined == []
            assert store.cursors == {"c": 5}
            assert store.producers() == [
                Remembered(b"q" * 16, 2, (4, 6)),
                Remembered(b"p" * 16, 4, (0, 3, 8, 10)),
            ]
    with PartitionDirectory.open(copy, FIVE) as store:
        store.append([batch_of(numbered(13, 1))])
        shutil.copytree(copy, tmp_path / "again" / name)
    with PartitionDirectory.open(tmp_path / "again" / name) as store:
        assert events_of(store) == [*expected, *numbered(13, 1)]


def test_a_damaged_record_of_the_version_before_tells_too_little(tmp_path: Path) -> None:
    name = VERSION_3[0]
    shutil.copytree(PARTITIONS.parent / "journal-3" / name, tmp_path / name)
    overwrite(tmp_path / name / "mofka.journal", 3 * BLOCK, b"rot")
    refuses(tmp_path / name, "has a damaged record at byte 12288, and a good one of event 6 at byte 16384")


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    overwrite(copy / "mofka.journal", BLOCK + 8, b"\x09")
    refuses(copy, "mofka.journal is of version 9, but versions 3 and 4 are what can be read here")


def test_a_journal_that_lost_its_heads_is_refused(tmp_path: Path) -> None:
    copy = crashed(tmp_path / "p", tmp_path / "copy")
    overwrite(copy / "mofka.journal", 0, bytes(2 * BLOCK))
    refuses(copy, "mofka.journal has lost its head")


def test_a_journal_that_lost_its_last_head_is_refused(tmp_path: Path) -> None:
    PartitionDirectory.open(tmp_path / "p").close()
    with PartitionDirectory.open(tmp_path / "p") as store:
        store.append([batch_of(numbered(0, 1))])
    copy = tmp_path / "copy"
    with PartitionDirectory.open(tmp_path / "p") as store:
        store.append([batch_of(numbered(1, 1))])
        shutil.copytree(tmp_path / "p", copy)
    overwrite(copy / "mofka.journal", 40, b"rot")
    refuses(copy, "mofka.journal has lost its head")


def test_a_journal_of_another_partition_is_refused(tmp_path: Path) -> None:
    copy = crashed(tmp_path / f"topic-{UUID}", tmp_path / f"topic-{UUID[::-1][:8]}{UUID[8:]}")
    refuses(copy, f"mofka.journal is of the partition {UUID}, but the directory is of")
    moved = tmp_path / "elsewhere" / f"renamed-{UUID}"
    shutil.copytree(copy, moved)
    with PartitionDirectory.open(moved) as store:
        assert events_of(store) == numbered(0, 8)


def test_a_journal_that_does_not_follow_its_chunk_files_is_refused(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        store.append([batch_of(numbered(0, 3))])
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        store.append([batch_of(numbered(3, 4))])
        shutil.copytree(tmp_path / "p", tmp_path / "short")
        shutil.copytree(tmp_path / "p", tmp_path / "other")
    os.truncate(tmp_path / "short" / "chunk-000000.data", 20)
    refuses(tmp_path / "short", "mofka.journal begins after event 2 in chunk 0, whose files have no such end")
    overwrite(tmp_path / "other" / "chunk-000000.idx", 2 * 48 + 8, b"\x01")
    with PartitionDirectory.open(tmp_path / "other") as store:
        assert len(store.damaged) == 1
        assert events_of(store) == numbered(0, 7)


def test_large_data_is_in_its_own_file_alone_and_checked(tmp_path: Path) -> None:
    files = RecordingFiles()
    large = (b"m", os.urandom(1 << 20))
    with PartitionDirectory.open(tmp_path / "p", files=files) as store:
        store.append([batch_of(numbered(0, 1))])
        before = len(files.calls)
        store.append([batch_of([large])])
        data, journal = "chunk-000000.data", "mofka.journal"
        assert files.calls[before : before + 4] == [
            ("write", data),
            ("write", journal),
            ("sync", data),
            ("sync", journal),
        ]
        assert {operation for operation, _ in files.calls[before + 4 :]} == {"write"}
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
        store.append([batch_of(numbered(2, 1))])
        shutil.copytree(tmp_path / "p", tmp_path / "rotten")
    assert large[1] not in (tmp_path / "copy" / journal).read_bytes()
    for kind in ("meta", "desc", "idx"):
        os.truncate(tmp_path / "copy" / f"chunk-000000.{kind}", 0)
    shutil.copytree(tmp_path / "copy", tmp_path / "torn")
    shutil.copytree(tmp_path / "copy", tmp_path / "spoilt")
    os.truncate(tmp_path / "torn" / "mofka-000000.seals", 0)
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == [*numbered(0, 1), large]
    overwrite(tmp_path / "torn" / data, 99999, b"torn")
    with PartitionDirectory.open(tmp_path / "torn") as store:
        assert events_of(store) == numbered(0, 1)
        assert store.quarantined == ["quarantine-000000-data-0"]
    overwrite(tmp_path / "spoilt" / data, 99999, b"rot")
    with PartitionDirectory.open(tmp_path / "spoilt") as store:  # its seal is there, so it was on disk once
        assert readable(store) == {0: numbered(0, 1)[0]}
        assert len(store.damaged) == 1
    overwrite(tmp_path / "rotten" / data, 99999, b"rot")
    with PartitionDirectory.open(tmp_path / "rotten") as store:
        assert readable(store) == {0: numbered(0, 1)[0], 2: numbered(2, 1)[0]}
        (problem,) = store.damaged
        assert "chunk-000000.data does not have all data of events 1 to 1 as it was to be written" in problem


def test_what_the_original_appends_after_an_orderly_end_is_adopted(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        store.append([batch_of(numbered(0, 4))])
    os.rename(tmp_path / "p" / "mofka.journal", tmp_path / "aside")
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(max_events_per_chunk=5, sync=False)) as store:
        store.append([batch_of(numbered(first, 1)) for first in range(4, 13)])
    os.rename(tmp_path / "aside", tmp_path / "p" / "mofka.journal")
    with PartitionDirectory.open(tmp_path / "p", FIVE) as store:
        assert events_of(store) == numbered(0, 13)
        assert store.quarantined == []
        store.append([batch_of(numbered(13, 4))])
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == numbered(0, 17)


def test_a_full_journal_begins_again_in_the_same_space(tmp_path: Path) -> None:
    with limits(4 * BLOCK, 1 << 20):
        copy = crashed(tmp_path / "p", tmp_path / "copy", batches=21)
    assert (copy / "mofka.journal").stat().st_size <= 8 * BLOCK
    for path in copy.glob("chunk-00001[0-9].*"):
        assert path.stat().st_size or path.name.startswith("chunk-000010")
    with PartitionDirectory.open(copy) as store:
        assert events_of(store) == numbered(0, 42)
        assert store.quarantined == []


def test_a_commit_larger_than_the_journal_is_stored_whole(tmp_path: Path) -> None:
    events = [(os.urandom(3 * BLOCK), b"data")] * 4
    with limits(4 * BLOCK, 1 << 20), PartitionDirectory.open(tmp_path / "p") as store:
        for event in events:
            store.append([batch_of([event])])
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    os.truncate(tmp_path / "copy" / "chunk-000000.meta", 9 * BLOCK)
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == events


def test_events_that_hold_a_journal_are_not_mistaken_for_it(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p") as store:
        store.append([batch_of(numbered(0, 1))])
        stored = (tmp_path / "p" / "mofka.journal").read_bytes()[: 4 * BLOCK]
        for shift in (0, 4, 8):
            store.append([batch_of([(b"", stored[shift:])])])
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    with (tmp_path / "copy" / "mofka.journal").open("r+b") as file:
        file.seek(3 * BLOCK + 200)
        file.write(bytes(9 * BLOCK))
    shutil.copytree(tmp_path / "copy", tmp_path / "short")
    with PartitionDirectory.open(tmp_path / "short") as store:
        assert "a damaged record at byte 12288: events 1 to 2 are as" in store.damaged[0]
    overwrite(tmp_path / "copy" / "mofka.journal", 12 * BLOCK, bytes(8 * BLOCK))
    for kind in ("idx", "desc"):
        os.truncate(tmp_path / "copy" / f"chunk-000000.{kind}", 0)
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == numbered(0, 1)


def test_a_journal_that_was_never_begun_is_none(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(sync=False)) as store:
        store.append([batch_of(numbered(0, 2))])
    (tmp_path / "p" / "mofka.journal").write_bytes(b"mofkaj")
    with PartitionDirectory.open(tmp_path / "p") as store:
        assert store.append([batch_of(numbered(2, 2))]) == [2]
        shutil.copytree(tmp_path / "p", tmp_path / "copy")
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == numbered(0, 4)
