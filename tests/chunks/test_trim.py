"""Retention: what goes, and that wherever dropping it is cut short, a chunk is there or gone and ids stay."""

import contextlib
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.disk import Buffer, File, PosixFiles
from mochi.mofka.chunks import (
    ChunkConfig,
    CorruptPartition,
    ExpiredEvents,
    PartitionDirectory,
    Retention,
    StorageError,
    follow,
)
from mochi.mofka.chunks.format.layout import Chunk
from tests.chunks.chunk_events import batch_of, events_of, numbered
from tests.chunks.recording_files import RecordingFiles

SECOND = 10**9

EVENTS = numbered(0, 20)
"""What `filled` stores, five events a chunk."""


def filled(
    directory: Path, files: RecordingFiles | None = None, *, sync: bool = True, **retention: Any
) -> PartitionDirectory:
    config = ChunkConfig(max_events_per_chunk=5, sync=sync, retention=Retention(**retention))
    store = PartitionDirectory.open(directory, config, files)
    for first in range(0, 20, 5):
        store.append([batch_of(EVENTS[first : first + 5])])
    return store


def chunks_of(*times: int) -> list[Chunk]:
    """Give chunks of 100 bytes whose newest events are of these seconds, and an empty one that follows."""
    chunks = [Chunk(number, number, 1, 52, time=time * SECOND) for number, time in enumerate(times)]
    return [*chunks, Chunk(len(times), len(times))]


@pytest.mark.parametrize(("max_bytes", "gone"), [(1000, 0), (400, 0), (399, 1), (300, 1), (299, 2), (1, 4)])
def test_the_oldest_chunks_go_until_the_rest_has_no_more_bytes(max_bytes: int, gone: int) -> None:
    assert Retention(max_bytes).expired(chunks_of(1, 2, 3, 4), 0) == gone


def test_the_chunk_that_is_being_written_stays_whatever_its_size_and_age() -> None:
    chunks = chunks_of(1, 2)[:-1]
    assert Retention(1, 1).expired(chunks, 1000 * SECOND) == 1
    assert Retention(1, 1).expired(chunks[1:], 1000 * SECOND) == 0
    assert Retention(1, 1).next_expiry(chunks[1:], 0) is None


@pytest.mark.parametrize(
    ("times", "now", "gone", "next_expiry"),
    [
        ((10, 20, 30), 19, 0, 20),
        ((10, 20, 30), 20, 1, 20),
        ((10, 20, 30), 39, 2, 20),
        ((10, 20, 30), 1000, 3, 20),
        # The clock was set back: later chunks are no older than those before them.
        ((100, 5, 6), 109, 0, 110),
        ((100, 5, 6), 110, 3, 110),
        # It was ahead for a while: such a chunk stays until one after it goes.
        ((10, 1000, 30), 39, 1, 20),
        ((10, 1000, 30), 40, 3, 20),
        ((1000, 1001), 30, 0, 1010),
        # Chunks without a time, as the original's: the same.
        ((0, 0, 30), 39, 0, 40),
        ((0, 0, 30), 40, 3, 40),
        ((0, 0), 1000, 0, None),
    ],
)
def test_chunks_go_by_the_age_of_their_newest_event(
    times: tuple[int, ...], now: int, gone: int, next_expiry: int | None
) -> None:
    retention = Retention(max_age=10)
    assert retention.expired(chunks_of(*times), now * SECOND) == gone
    assert retention.next_expiry(chunks_of(*times), now * SECOND) == (
        None if next_expiry is None else next_expiry * SECOND
    )


def test_what_is_trimmed_is_gone_and_all_else_keeps_its_ids(tmp_path: Path) -> None:
    with filled(tmp_path, max_bytes=1) as store:
        assert store.first_id == 0
        assert store.trim() == 3
        assert store.trim() == 0
        for again in range(2):
            assert (store.first_id, store.event_count) == (15, 20 + again)
            with pytest.raises(ExpiredEvents, match="events 7 to 14") as raised:
                store.read_range(7, 10, 1000, with_data=False)
            assert (raised.value.first, raised.value.next) == (7, 15)
            with pytest.raises(ExpiredEvents):
                store.read_data([(19, []), (14, [])])
            assert events_of(store) == (EVENTS + numbered(99, 1))[15 : 20 + again]
            store.append([batch_of(numbered(99, 1))])
    assert not list(tmp_path.glob("*-00000[0-2].*"))
    assert "The original Mofka" not in (text := (tmp_path / "mofka.trimmed").read_text())
    assert "original Mofka" in text
    assert "first chunk: 3\nfirst event: 15\n" in text


@pytest.mark.parametrize("sync", [True, False])
def test_a_trimmed_directory_opens_again_and_goes_on(tmp_path: Path, sync: bool) -> None:
    events = list(EVENTS)
    filled(tmp_path, sync=sync).close()
    for number in range(8):
        config = ChunkConfig(max_events_per_chunk=5, sync=sync, retention=Retention(1))
        with PartitionDirectory.open(tmp_path, config) as store:
            assert events_of(store) == events[store.first_id :]
            store.trim()
            new = numbered(100 * number, 3)
            assert store.append([batch_of(new)], {"c": number}) == [len(events)]
            events += new
            assert store.damaged == []
            assert events_of(store) == events[store.first_id :]
        with follow(tmp_path, PosixFiles()) as seen:
            assert events_of(seen) == events[store.first_id :]
    assert store.first_id > 20


@pytest.mark.parametrize("sync", [True, False])
def test_a_failure_at_any_call_of_a_trim_leaves_chunks_there_or_gone(tmp_path: Path, sync: bool) -> None:
    files = RecordingFiles()
    with filled(tmp_path / "whole", files, sync=sync, max_bytes=1) as store:
        before = len(files.calls)
        store.trim()
        calls = len(files.calls) - before
    assert calls > 15
    for failing in range(calls):
        directory = tmp_path / str(failing)
        files = RecordingFiles()
        with filled(directory, files, sync=sync, max_bytes=1) as store:
            files.fail_at = len(files.calls) + failing
            with pytest.raises(StorageError, match="made to fail"):
                store.trim()
            assert events_of(store) == EVENTS[store.first_id :]
        with PartitionDirectory.open(directory, store.config) as store:
            assert store.first_id in (0, 15)
            assert store.damaged == []
            assert events_of(store) == EVENTS[store.first_id :]
            store.trim()
            assert store.first_id == 15
        assert len(list(directory.glob("chunk-*"))) == 4


@settings(max_examples=150, deadline=None)
@given(data=st.data(), call=st.integers(0, 30), sync=st.booleans())
def test_a_power_cut_at_any_call_of_a_trim_leaves_chunks_there_or_gone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, call: int, sync: bool
) -> None:
    base = tmp_path_factory.mktemp("power")
    files = RecordingFiles()
    store = filled(base / "p", files, sync=sync, max_bytes=1)
    store.append([batch_of(numbered(20, 1))])
    files.fail_at = len(files.calls) + call
    trimmed = False
    with contextlib.suppress(StorageError):
        store.trim()
        trimmed = True
    drop = data.draw(st.sampled_from([None, True, False]))
    files.power_cut(
        base / "p",
        base / "after",
        lambda: data.draw(st.booleans()) if drop is None else not drop,
        lambda size: data.draw(st.integers(0, size)),
    )
    files.end_process()
    with PartitionDirectory.open(base / "after", store.config) as after:
        assert after.damaged == []
        assert after.first_id == 20 if trimmed else after.first_id in (0, 20)
        events = EVENTS + numbered(20, 1)
        assert after.event_count in ([21] if sync else [20, 21])
        assert events_of(after) == events[after.first_id : after.event_count]


def test_a_chunk_that_was_written_after_the_trim_by_something_else_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with PartitionDirectory.open(
        tmp_path, ChunkConfig(max_events_per_chunk=5, retention=Retention(1))
    ) as store:
        store.trim()
    foreign = tmp_path / "chunk-000000.meta"
    foreign.write_bytes(b"of the original")
    for _ in range(2):
        with PartitionDirectory.open(tmp_path) as store:
            assert events_of(store) == EVENTS[15:]
            assert [str(foreign) in problem for problem in store.damaged] == [True]
    assert foreign.read_bytes() == b"of the original"


@pytest.mark.parametrize("change", [("chunk: 3", "chunk: 2"), ("first event: 15", "first event: 14")])
def test_a_file_that_says_something_else_than_was_written_is_not_believed(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    with filled(tmp_path, max_bytes=1) as store:
        store.trim()
    note = tmp_path / "mofka.trimmed"
    note.write_text(note.read_text().replace(*change))
    with pytest.raises(CorruptPartition, match=r"mofka.trimmed is damaged"):
        PartitionDirectory.open(tmp_path)


class SlowFiles(PosixFiles):
    """Files whose reads of one file wait at a gate."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.arrived, self.gate = threading.Event(), threading.Event()
        self.open_files = 0

    def open(self, path: str, *, writable: bool) -> File:  # type: ignore[override]
        file = super().open(path, writable=writable)
        return GatedFile(self, file) if path.endswith(self.name) and not writable else file  # type: ignore[return-value]


class GatedFile:
    def __init__(self, files: SlowFiles, file: File) -> None:
        self.path = file.path
        self._files = files
        self._file = file
        files.open_files += 1

    def read(self, target: memoryview, offset: int) -> None:
        self._files.arrived.set()
        assert self._files.gate.wait(20)
        self._file.read(target, offset)

    def close(self) -> None:
        self._files.open_files -= 1
        self._file.close()

    def write(self, buffers: list[Buffer], offset: int) -> None:
        raise AssertionError

    sync = truncate = write


@pytest.mark.parametrize(
    ("name", "ends"),
    [("chunk-000000.data", "read"), ("chunk-000000.meta", "expired"), ("mofka-000000.seals", "expired")],
)
def test_a_read_under_way_when_its_chunk_goes_ends_well_or_is_told(
    tmp_path: Path, name: str, ends: str
) -> None:
    files = SlowFiles(name)
    config = ChunkConfig(max_events_per_chunk=5, retention=Retention(1))
    filled(tmp_path).close()
    with PartitionDirectory.open(tmp_path, config, files) as store:
        outcomes: list[object] = []

        def read() -> None:
            try:
                outcomes.append(bytes(store.read_range(2, 2, 1000, with_data=True).data or b""))
            except StorageError as error:
                outcomes.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert files.arrived.wait(20)
        assert store.trim() == 3
        files.gate.set()
        reader.join(20)
        (outcome,) = outcomes
        if ends == "read":
            assert outcome == EVENTS[2][1] + EVENTS[3][1]
        else:
            assert isinstance(outcome, ExpiredEvents)
            assert outcome.next == 15
        assert files.open_files == 0


def test_a_file_that_cannot_be_removed_now_goes_when_the_directory_is_opened_next(tmp_path: Path) -> None:
    files = RecordingFiles(error=errno.EACCES)
    with filled(tmp_path, files, sync=False, max_bytes=1) as store:
        files.fail_at = len(files.calls) + 8
        with pytest.raises(StorageError, match="cannot remove"):
            store.trim()
        assert store.first_id == 15
        assert store.append([batch_of(numbered(20, 1))]) == [20]
    assert len(list(tmp_path.glob("*-00000[0-2].*"))) == 1
    PartitionDirectory.open(tmp_path).close()
    assert not list(tmp_path.glob("*-00000[0-2].*"))
