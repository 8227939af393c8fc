"""Appending and reading, against the golden chunk and against a list in memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.mofka.chunks import (
    Batch,
    ChunkConfig,
    DamagedEvents,
    OutOfRange,
    PartitionDirectory,
    PartitionLocked,
    PartitionPoisoned,
    StorageError,
)
from tests.chunks.chunk_events import Event, batch_of, chunk_files, events_of, numbered

GOLDEN_EVENTS = [
    (bytes.fromhex("0700000000000000") + b'{"x":1}', b"hello"),
    (bytes.fromhex("0200000000000000") + b"{}", b""),
]
GOLDEN_CHUNK = {
    "chunk-000000.meta": "0700000000000000 7b2278223a317d 0200000000000000 7b7d",
    "chunk-000000.data": "68656c6c6f",
    "chunk-000000.desc": """
        0500000000000000 0500000000000000 1800000000000000
        00000000 00000000 0000000000000000 05000000 00000000 0000000000000000
        0000000000000000 0000000000000000 1800000000000000
        00000000 00000000 0500000000000000 00000000 00000000 0000000000000000
        """,
    "chunk-000000.idx": """
        0000000000000000 0f000000 00000000 0000000000000000 05000000 00000000
        0000000000000000 38000000 00000000
        0f00000000000000 0a000000 00000000 0500000000000000 00000000 00000000
        3800000000000000 38000000 00000000
        """,
}

events = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=6)
commits = st.lists(st.lists(events, max_size=4), max_size=6)
configs = st.builds(
    ChunkConfig,
    max_chunk_size=st.integers(0, 1000),
    max_events_per_chunk=st.integers(0, 20),
    sync=st.just(False),
    fd_cache_capacity=st.integers(1, 5),
)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_two_events_make_the_golden_chunk(tmp_path: Path, sync: bool, together: bool) -> None:
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(sync=sync)) as store:
        if together:
            assert store.append([batch_of(GOLDEN_EVENTS)]) == [0]
        else:
            assert store.append([batch_of([event]) for event in GOLDEN_EVENTS]) == [0, 1]
        assert store.event_count == 2
    golden = {name: bytes.fromhex(content) for name, content in GOLDEN_CHUNK.items()}
    assert chunk_files(tmp_path / "p") == golden


def test_a_golden_chunk_of_the_original_is_read(tmp_path: Path) -> None:
    for name, content in GOLDEN_CHUNK.items():
        (tmp_path / name).write_bytes(bytes.fromhex(content))
    with PartitionDirectory.open(tmp_path) as store:
        assert events_of(store) == GOLDEN_EVENTS
        assert store.quarantined == []


def test_a_new_partition_has_four_empty_files(tmp_path: Path) -> None:
    PartitionDirectory.open(tmp_path / "base" / "topic-uuid").close()
    names = ["data", "desc", "idx", "meta"]
    assert chunk_files(tmp_path / "base" / "topic-uuid") == {f"chunk-000000.{kind}": b"" for kind in names}


@given(commits=commits, config=configs, max_events=st.integers(1, 9), max_bytes=st.integers(0, 200))
def test_what_is_read_is_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[list[list[Event]]],
    config: ChunkConfig,
    max_events: int,
    max_bytes: int,
) -> None:
    directory = tmp_path_factory.mktemp("p")
    expected: list[Event] = []
    for reopened in range(2):
        with PartitionDirectory.open(directory, config) as store:
            assert store.event_count == len(expected)
            for batches in commits[reopened::2]:
                firsts = []
                for batch in batches:
                    firsts.append(len(expected))
                    expected.extend(batch)
                assert store.append([batch_of(batch) for batch in batches]) == firsts
                assert store.event_count == len(expected)
            assert events_of(store, max_events, max_bytes) == expected
    with PartitionDirectory.open(directory) as store:
        assert events_of(store) == expected
        assert store.quarantined == []


@given(commits=commits, config=configs, data=st.data())
def test_pieces_of_data_are_those_of_the_events_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[list[list[Event]]],
    config: ChunkConfig,
    data: st.DataObject,
) -> None:
    appended = [event for batches in commits for batch in batches for event in batch]
    with PartitionDirectory.open(tmp_path_factory.mktemp("p"), config) as store:
        for batches in commits:
            store.append([batch_of(batch) for batch in batches])
        requests: list[tuple[int, list[tuple[int, int]]]] = []
        expected = []
        for event_id in (
            data.draw(st.lists(st.integers(0, len(appended) - 1), max_size=8)) if appended else []
        ):
            payload = appended[event_id][1]
            starts = data.draw(st.lists(st.integers(0, len(payload)), max_size=3))
            pieces = [(start, data.draw(st.integers(0, len(payload) - start))) for start in starts]
            requests.append((event_id, pieces))
            expected.append(b"".join(payload[start : start + length] for start, length in pieces))
        assert [bytes(found) for found in store.read_data(requests)] == expected


def test_a_batch_that_does_not_fit_begins_the_next_chunk(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path, ChunkConfig(max_events_per_chunk=5)) as store:
        for first, count in ((0, 3), (3, 2), (5, 4), (9, 2), (11, 9), (20, 1)):
            store.append([batch_of(numbered(first, count))])
        assert events_of(store) == numbered(0, 21)
    sizes = [os.stat(tmp_path / f"chunk-{chunk:06d}.idx").st_size // 48 for chunk in range(5)]
    assert sizes == [5, 4, 2, 9, 1]


@pytest.mark.parametrize(
    ("event", "per_chunk"),
    [((bytes(300), b""), 3), ((b"", bytes(250)), 4), ((b"", b""), 17)],
    ids=["metadata", "data", "descriptors"],
)
def test_no_file_of_a_chunk_grows_past_the_limit(tmp_path: Path, event: Event, per_chunk: int) -> None:
    with PartitionDirectory.open(tmp_path, ChunkConfig(max_chunk_size=1000)) as store:
        store.append([batch_of([event])] * (per_chunk + 1))
    assert max(len(content) for content in chunk_files(tmp_path).values()) <= 1000
    assert os.stat(tmp_path / "chunk-000000.idx").st_size == 48 * per_chunk
    assert os.stat(tmp_path / "chunk-000001.idx").st_size == 48


def test_a_batch_larger_than_a_chunk_has_one_of_its_own(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path, ChunkConfig(max_chunk_size=100)) as store:
        store.append([batch_of(numbered(0, 1)), batch_of(numbered(1, 50)), batch_of(numbered(51, 1))])
        assert events_of(store) == numbered(0, 52)
    sizes = [os.stat(tmp_path / f"chunk-{chunk:06d}.idx").st_size // 48 for chunk in range(3)]
    assert sizes == [1, 50, 1]


def test_buffers_may_end_anywhere_between_and_within_events(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint32)
    batch = Batch(
        np.array([3, 4], np.uint32),
        [b"a", b"", b"bcdef", memoryview(bytearray(b"g"))],
        np.array([10, 14], np.uint64),
        [values.data],
    )
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch])
        assert events_of(store) == [(b"abc", values.tobytes()[:10]), (b"defg", values.tobytes()[10:])]


def test_no_batches_and_empty_batches_use_no_ids(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        assert store.append([]) == []
        assert store.append([batch_of([]), batch_of(numbered(0, 2)), batch_of([])]) == [0, 0, 2]
        assert store.event_count == 2


def test_a_range_ends_at_the_limit_of_bytes_but_has_one_event_at_least(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of([(bytes(10), bytes(90)), (bytes(10), bytes(40)), (b"", b"")] * 2)])
        assert store.read_range(0, 9, 150, with_data=True).count == 3
        assert store.read_range(0, 9, 149, with_data=True).count == 1
        assert store.read_range(0, 9, 0, with_data=True).count == 1
        assert store.read_range(0, 9, 20, with_data=False).count == 3
        assert store.read_range(2, 2, 1000, with_data=True).count == 2
        without = store.read_range(1, 1, 1000, with_data=False)
        assert without.data is None
        assert without.data_sizes.tolist() == [40]


def test_ranges_and_pieces_are_read_into_the_memory_given(tmp_path: Path) -> None:
    given_out: list[bytearray] = []

    def pooled(size: int) -> memoryview:
        given_out.append(bytearray(size))
        return memoryview(given_out[-1])

    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of([(b"one", b"1111"), (b"two", b"2222")])])
        found = store.read_range(0, 2, 100, with_data=True, allocate_metadata=pooled, allocate_data=pooled)
        assert given_out == [b"onetwo", b"11112222"]
        assert [found.metadata.obj, found.data.obj if found.data else None] == given_out
        store.read_data([(1, [(1, 2)]), (0, [(0, 1)])], pooled)
        assert given_out[2] == b"221"


def test_events_that_are_not_there_are_out_of_range(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        with pytest.raises(OutOfRange, match="event 0 of a partition of 0 events"):
            store.read_range(0, 1, 1, with_data=True)
        store.append([batch_of(numbered(0, 3))])
        for event_id in (-1, 3, 2**70):
            with pytest.raises(OutOfRange, match=f"event {event_id} of a partition of 3 events"):
                store.read_range(event_id, 1, 1, with_data=True)
            with pytest.raises(OutOfRange, match=f"event {event_id} of a partition of 3 events"):
                store.read_data([(0, [(0, 1)]), (event_id, [(0, 1)])])


@pytest.mark.parametrize("piece", [(0, 21), (20, 1), (-1, 2), (5, -1), (2**64, 0)])
def test_pieces_beyond_an_event_are_out_of_range(tmp_path: Path, piece: tuple[int, int]) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of(numbered(0, 3))])
        with pytest.raises(OutOfRange, match="of event 1, which has 20 of data"):
            store.read_data([(1, [(0, 20), piece])])


def test_an_index_record_that_lies_is_never_followed(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of(numbered(0, 3))])
    (tmp_path / "mofka-000000.seals").unlink()
    with PartitionDirectory.open(tmp_path) as store:
        index = tmp_path / "chunk-000000.idx"
        with index.open("r+b") as file:
            file.seek(48 + 24)
            file.write(b"\xff\xff\xff\xff")
        assert store.read_range(0, 3, 1000, with_data=False).count == 1
        with pytest.raises(DamagedEvents, match="events 1 to 1, of chunk 0, refer to bytes") as raised:
            store.read_range(1, 2, 1000, with_data=False)
        assert (raised.value.first, raised.value.count) == (1, 1)
        assert store.read_range(2, 1, 1000, with_data=True).count == 1


def test_a_file_cut_from_outside_is_an_error_not_stale_memory(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of(numbered(0, 3))])
        os.truncate(tmp_path / "chunk-000000.data", 50)
        with pytest.raises(
            StorageError, match=r"chunk-000000.data: events 0 to 2, of chunk 0, are not in it"
        ):
            store.read_range(0, 3, 1000, with_data=True)


def test_events_that_do_not_lie_back_to_back_are_read_all_the_same(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        store.append([batch_of([(b"aa", b"AAA"), (b"xx", b"XXX"), (b"bb", b"BBB"), (b"cc", b"CCC")])])
    index = tmp_path / "chunk-000000.idx"
    records = index.read_bytes()
    index.write_bytes(records[:48] + records[96:])
    for ours in tmp_path.glob("mofka*"):
        ours.unlink()
    with PartitionDirectory.open(tmp_path) as store:
        assert events_of(store) == [(b"aa", b"AAA"), (b"bb", b"BBB"), (b"cc", b"CCC")]
        pieces = store.read_data([(0, [(1, 2)]), (1, [(0, 3)]), (2, [(0, 1)])])
        assert [bytes(piece) for piece in pieces] == [b"AA", b"BBB", b"C"]


def test_readers_see_whole_commits_while_events_are_appended(tmp_path: Path) -> None:
    expected = numbered(0, 1200)
    finished = Flag()

    with PartitionDirectory.open(
        tmp_path, ChunkConfig(sync=False, max_events_per_chunk=50, fd_cache_capacity=3)
    ) as store:

        def follow() -> list[Event]:
            seen: list[Event] = []
            while not (finished.is_set() and len(seen) == store.event_count):
                assert store.event_count % 12 == 0
                if store.event_count == len(seen):
                    continue
                found = store.read_range(len(seen), 7, 1000, with_data=True)
                pieces = store.read_data(
                    [(found.first + n, [(0, size)]) for n, size in enumerate(found.data_sizes.tolist())]
                )
                assert b"".join(pieces) == bytes(found.data or b"")
                metadata = bytes(found.metadata)
                for size, piece in zip(found.metadata_sizes.tolist(), pieces, strict=True):
                    seen.append((metadata[:size], bytes(piece)))
                    metadata = metadata[size:]
            return seen

        with ThreadPoolExecutor(3) as threads:
            followers = [threads.submit(follow) for _ in range(3)]
            try:
                for first in range(0, len(expected), 12):
                    store.append(
                        [batch_of(expected[first : first + 5]), batch_of(expected[first + 5 : first + 12])]
                    )
            finally:
                finished.set()
            assert all(follower.result() == expected for follower in followers)


def test_a_second_store_of_the_same_directory_is_refused(tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path) as store:
        with pytest.raises(PartitionLocked, match=f"process {os.getpid()} on "):
            PartitionDirectory.open(tmp_path)
        store.append([batch_of(numbered(0, 1))])
    with PartitionDirectory.open(tmp_path) as store:
        assert store.event_count == 1


def test_a_closed_store_refuses_to_append_and_to_read(tmp_path: Path) -> None:
    store = PartitionDirectory.open(tmp_path)
    store.append([batch_of(numbered(0, 1))])
    store.close()
    store.close()
    with pytest.raises(PartitionPoisoned, match=r"takes no more events: the store of .* is closed"):
        store.append([batch_of(numbered(1, 1))])
    with pytest.raises(StorageError, match="the store is closed"):
        store.read_range(0, 1, 100, with_data=True)


def test_open_descriptors_stay_within_the_capacity_however_many_chunks(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    config = ChunkConfig(sync=False, max_events_per_chunk=1, fd_cache_capacity=5)
    with PartitionDirectory.open(tmp_path, config) as store:
        store.append([batch_of([event]) for event in numbered(0, 30)])
        assert events_of(store) == numbered(0, 30)
        files, journal, lock = 5, 3, 1
        assert descriptors() == before + files + journal + lock + 5
    assert descriptors() == before


@pytest.mark.parametrize(
    ("field", "value"), [("max_chunk_size", -1), ("max_events_per_chunk", -1), ("fd_cache_capacity", 0)]
)
def test_a_configuration_out_of_bounds_is_refused_by_name(field: str, value: int) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"{field} is {value}, but must be at least"):
        ChunkConfig(**fields)
