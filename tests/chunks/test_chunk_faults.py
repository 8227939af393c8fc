"""Failing calls at every place, and power cuts with every outcome."""

import contextlib
import errno
import gc
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.mofka.chunks import ChunkConfig, PartitionDirectory, PartitionPoisoned, StorageError
from tests.chunks.chunk_events import Event, batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

SIZES = [(2, 1), (3,), (4, 4), (1,), (6, 2, 2), (1,)]
"""Batches of each commit; with five events a chunk, some of the commits begin one or two chunks."""

EVENTS_BEFORE_CHUNK = [0, 3, 6, 10, 15, 21]
"""How the commits fall into chunks."""


def commits() -> list[list[list[Event]]]:
    first = itertools.count()
    return [[numbered(next(first) * 100, size) for size in sizes] for sizes in SIZES]


def run(store: PartitionDirectory) -> tuple[list[Event], StorageError | None]:
    """Append all commits up to the first that fails; give the events acknowledged, and the failure."""
    acknowledged: list[Event] = []
    for batches in commits():
        try:
            firsts = store.append([batch_of(batch) for batch in batches])
        except StorageError as error:
            return acknowledged, error
        for first, batch in zip(firsts, batches, strict=True):
            assert first == len(acknowledged)
            acknowledged += batch
    return acknowledged, None


ATTEMPTED = [event for batches in commits() for batch in batches for event in batch]


def calls_of_a_run(directory: Path, sync: bool) -> tuple[int, int]:
    """Count the changing calls of opening, and of opening and all commits."""
    files = RecordingFiles()
    store = PartitionDirectory.open(directory, ChunkConfig(max_events_per_chunk=5, sync=sync), files)
    opening = len(files.calls)
    assert run(store) == (ATTEMPTED, None)
    everything = len(files.calls)
    store.close()
    return opening, everything


@pytest.mark.parametrize("sync", [True, False])
def test_a_failure_at_any_call_ends_writing_and_uses_no_id(tmp_path: Path, sync: bool) -> None:
    opening, everything = calls_of_a_run(tmp_path / "whole", sync)
    assert everything - opening > 40
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    for failing in range(opening, everything):
        directory = tmp_path / str(failing)
        files = RecordingFiles(fail_at=failing)
        with PartitionDirectory.open(
            directory, ChunkConfig(max_events_per_chunk=5, sync=sync), files
        ) as store:
            acknowledged, error = run(store)
            assert error is not None
            assert (error.operation, error.errno) == (files.calls[failing][0], errno.EIO)
            assert Path(error.path).name == files.calls[failing][1]
            assert store.error is error
            assert store.event_count == len(acknowledged)
            with pytest.raises(PartitionPoisoned, match=r"takes no more events: cannot .* made to fail"):
                store.append([batch_of(numbered(0, 1))])
            with pytest.raises(PartitionPoisoned):
                store.sync()
            assert len(files.calls) == failing + 1
            assert events_of(store) == acknowledged
        assert len(files.calls) == failing + 1
        with PartitionDirectory.open(directory, files=RecordingFiles()) as store:
            recovered = events_of(store)
        assert recovered[: len(acknowledged)] == acknowledged
        assert recovered == ATTEMPTED[: len(recovered)]
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_failure_while_opening_leaves_nothing_open_or_locked(tmp_path: Path) -> None:
    opening, _ = calls_of_a_run(tmp_path / "whole", sync=True)
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    for failing in range(opening):
        directory = tmp_path / str(failing)
        with pytest.raises(StorageError, match="made to fail"):
            PartitionDirectory.open(directory, files=RecordingFiles(fail_at=failing))
        assert len(os.listdir("/proc/self/fd")) == descriptors
        with PartitionDirectory.open(directory) as store:
            assert store.append([batch_of(numbered(0, 1))]) == [0]


def test_a_failing_sync_on_demand_or_at_the_end_is_not_hidden(tmp_path: Path) -> None:
    files = RecordingFiles()
    store = PartitionDirectory.open(tmp_path, ChunkConfig(sync=False), files)
    store.append([batch_of(numbered(0, 1))])
    files.fail_at = len(files.calls)
    with pytest.raises(StorageError, match=r"cannot sync .*chunk-000000.meta"):
        store.close()
    store = PartitionDirectory.open(tmp_path, ChunkConfig(sync=False), files)
    files.fail_at = len(files.calls) + 2
    with pytest.raises(StorageError, match=r"cannot sync .*chunk-000000.desc"):
        store.sync()
    with pytest.raises(PartitionPoisoned):
        store.append([batch_of(numbered(0, 1))])
    store.close()


def power_cut(files: RecordingFiles, base: Path, data: st.DataObject) -> None:
    """Leave in `base / "after"` one of the possible outcomes of a power cut for `base / "p"`."""
    files.end_process()
    files.power_cut(
        base / "p",
        base / "after",
        lambda: data.draw(st.booleans()),
        lambda size: data.draw(st.integers(0, size)),
    )


@settings(max_examples=80, deadline=None)
@given(data=st.data(), call=st.integers(0, 100))
def test_acknowledged_events_survive_a_power_cut_at_any_call(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, call: int
) -> None:
    base = tmp_path_factory.mktemp("power")
    (base / "p").mkdir()
    files = RecordingFiles(fail_at=call)
    acknowledged: list[Event] = []
    with contextlib.suppress(StorageError):
        acknowledged, _ = run(PartitionDirectory.open(base / "p", ChunkConfig(max_events_per_chunk=5), files))
    power_cut(files, base, data)
    with PartitionDirectory.open(base / "after", ChunkConfig(max_events_per_chunk=5)) as recovered:
        found = events_of(recovered)
        assert found[: len(acknowledged)] == acknowledged
        assert found == ATTEMPTED[: len(found)]
        recovered.append([batch_of(numbered(7, 3))])
    with PartitionDirectory.open(base / "after") as reopened:
        assert events_of(reopened) == found + numbered(7, 3)
        assert reopened.quarantined == []


@given(data=st.data(), call=st.integers(0, 100))
def test_without_sync_a_power_cut_leaves_all_chunks_but_the_last(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, call: int
) -> None:
    base = tmp_path_factory.mktemp("power")
    (base / "p").mkdir()
    files = RecordingFiles(fail_at=call)
    with contextlib.suppress(StorageError):
        run(PartitionDirectory.open(base / "p", ChunkConfig(max_events_per_chunk=5, sync=False), files))
    begun = [name for operation, name in files.calls if operation == "open" and name.endswith(".meta")]
    power_cut(files, base, data)
    sealed = EVENTS_BEFORE_CHUNK[max(0, len(begun) - 1)]
    with PartitionDirectory.open(base / "after") as recovered:
        assert events_of(recovered)[:sealed] == ATTEMPTED[:sealed]
        assert recovered.event_count <= len(ATTEMPTED)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), call=st.integers(0, 40))
def test_a_power_cut_during_or_after_recovery_brings_back_no_ghost_and_destroys_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, call: int
) -> None:
    base = tmp_path_factory.mktemp("power")
    with PartitionDirectory.open(base / "p") as store:
        store.append([batch_of(numbered(0, 3))])
    for ours in (base / "p").glob("mofka*"):
        ours.unlink()
    os.truncate(base / "p" / "chunk-000000.data", 35)
    files = RecordingFiles(fail_at=call)
    appended = numbered(1, 4, size=30)
    with contextlib.suppress(StorageError):
        store = PartitionDirectory.open(base / "p", files=files)
        for event in appended:
            store.append([batch_of([event])])
    power_cut(files, base, data)
    with PartitionDirectory.open(base / "after") as recovered:
        found = events_of(recovered)
    assert found == [*numbered(0, 1), *appended][: len(found)]
    kept = [path.read_bytes() for path in (base / "after").iterdir()]
    assert any(b"m1m2" in content for content in kept)


def test_a_commit_is_synced_in_the_journal_and_nowhere_else(tmp_path: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(tmp_path, ChunkConfig(), files) as store:
        store.append([batch_of(numbered(0, 1))])
        before = len(files.calls)
        store.append([batch_of(numbered(1, 3)), batch_of(numbered(4, 3)), batch_of([(b"m", b"")])])
        calls = files.calls[before:]
        assert calls[:2] == [("write", "mofka.journal"), ("sync", "mofka.journal")]
        assert sorted(calls[2:]) == [
            *(("write", f"chunk-000000.{k}") for k in ("data", "desc", "idx", "meta")),
            ("write", "mofka-000000.seals"),
        ]
        before = len(files.calls)
        store.append([batch_of([(b"m", b"")])])
        assert len(files.calls) - before == 6
        assert not any(name.endswith(".data") for _, name in files.calls[before:])


def test_without_sync_nothing_is_synced_before_the_chunk_is_full(tmp_path: Path) -> None:
    files = RecordingFiles()
    with PartitionDirectory.open(tmp_path, ChunkConfig(sync=False, max_events_per_chunk=6), files) as store:
        store.append([batch_of(numbered(0, 3))])
        before = len(files.calls)
        store.append([batch_of(numbered(3, 3))])
        assert {operation for operation, _ in files.calls[before:]} == {"write"}
        store.append([batch_of(numbered(6, 1))])
        synced = [name for operation, name in files.calls[before:] if operation == "sync"]
        chunk = [*(f"chunk-000000.{k}" for k in ("data", "desc", "idx", "meta")), "mofka-000000.seals"]
        assert sorted(synced) == sorted([*chunk, "mofka.chunks", tmp_path.name, tmp_path.name])
        store.sync()
        assert sum(operation == "sync" for operation, _ in files.calls[before:]) == len(synced) + 7


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM])
def test_a_commit_that_finds_no_space_is_taken_back_and_the_next_one_stored(
    tmp_path: Path, sync: bool, number: int
) -> None:
    config = ChunkConfig(max_events_per_chunk=5, sync=sync)
    opening, everything = calls_of_a_run(tmp_path / "whole", sync)
    for failing in range(opening, everything):
        directory = tmp_path / str(failing)
        files = RecordingFiles(failing, number)
        with PartitionDirectory.open(directory, config, files) as store:
            before, error = run(store)
            assert error is not None
            if files.calls[failing][0] == "sync" and number != errno.EMFILE:
                assert store.error is not None
                continue
            assert store.error is None
            assert events_of(store) == before
            assert store.append([batch_of(numbered(500, 7)), batch_of(numbered(507, 2))], {"c": 1}) == [
                len(before),
                len(before) + 7,
            ]
            expected = [*before, *numbered(500, 9)]
            assert events_of(store) == expected
            files.power_cut(directory, tmp_path / f"{failing} cut", lambda: not sync, lambda size: size)
        for left in (directory, tmp_path / f"{failing} cut"):
            with PartitionDirectory.open(left, config, RecordingFiles()) as store:
                assert events_of(store) == expected
                assert store.damaged == []
                assert store.cursors == {"c": 1}


def test_a_disk_that_stays_full_fails_each_commit_and_is_tried_again_by_the_next(tmp_path: Path) -> None:
    files = RecordingFiles(error=errno.ENOSPC)
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(max_events_per_chunk=5), files) as store:
        store.append([batch_of(numbered(0, 4))])
        for _ in range(6):
            for ahead in range(6):
                files.fail_at = len(files.calls) + ahead
                with contextlib.suppress(StorageError):
                    store.append([batch_of(numbered(4, 3)), batch_of(numbered(7, 3))])
                if store.error is not None or store.event_count > 4:
                    break
            if store.error is not None or store.event_count > 4:
                break
        files.fail_at = None
        assert events_of(store) == numbered(0, store.event_count)
    with PartitionDirectory.open(tmp_path / "p") as store:
        assert events_of(store)[:4] == numbered(0, 4)
