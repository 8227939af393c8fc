"""Seals: packed and found again, and what is read verified by them, to the block."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.disk import PosixFile, PosixFiles
from mochi.mofka.chunks import ChunkConfig, DamagedEvents, PartitionDirectory
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.seals import BLOCK, SLOT, Seal, Stream, seals_in, sums_of, unpack
from mochi.mofka.chunks.spans import Spans
from tests.chunks.chunk_events import Event, batch_of, chunk_files, events_of, numbered

WITHOUT_SYNC = ChunkConfig(sync=False)

sizes = st.one_of(
    st.lists(st.integers(0, 255), max_size=80),
    st.lists(st.integers(0, 70000), max_size=8),
    st.integers(0, 9).map(lambda size: [size] * 50),
)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def seal_of(metadata: Sequence[int], data: Sequence[int], first: int, key: int) -> Seal:
    streams = [
        Stream(first * 7, np.array(stream, np.uint32), sums_of([bytes(sum(stream))], key))
        for stream in (metadata, data)
    ]
    return Seal(first, 56 * first, 123456789, streams[0], streams[1])


@given(
    metadata=sizes,
    data=sizes,
    key=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**32 - 1),
    bit=st.integers(0),
)
def test_a_seal_is_read_as_it_was_packed_and_not_at_all_with_any_bit_changed(
    metadata: list[int], data: list[int], key: int, first: int, bit: int
) -> None:
    count = min(len(metadata), len(data))
    if not count:
        return
    seal = seal_of(metadata[:count], data[:count], first, key)
    packed = seal.pack(key)
    assert len(packed) % SLOT == 0
    found = unpack(memoryview(packed + b"more"), key)
    assert found is not None
    again, size = found
    assert size == len(packed)
    assert (again.first, again.count, again.descriptor_start, again.time) == (
        first,
        count,
        56 * first,
        123456789,
    )
    for stream, expected in ((again.metadata, seal.metadata), (again.data, seal.data)):
        assert stream.start == expected.start
        assert stream.sizes.tolist() == expected.sizes.tolist()
        assert stream.sums.tolist() == expected.sums.tolist()
    assert unpack(memoryview(packed), key ^ 1) is None
    assert unpack(memoryview(packed[:-SLOT]), key) is None
    damaged = bytearray(packed)
    bit %= 8 * SLOT
    damaged[bit // 8] ^= 1 << bit % 8
    found = unpack(memoryview(damaged), key)
    assert found is None or 32 <= bit < 64 or bit >= 8 * (SLOT - 8)


def test_bytes_that_are_no_seal_are_none_whatever_they_tell_of(tmp_path: Path) -> None:
    for content in (
        b"",
        bytes(SLOT),
        b"\xff" * SLOT,
        bytes(16) + b"\xff" * 4 + bytes(SLOT),
        os.urandom(5 * SLOT),
    ):
        assert list(seals_in(memoryview(content), 5)) == []


@given(pieces=st.lists(st.integers(0, 3 * BLOCK // 2), max_size=6))
def test_sums_do_not_depend_on_how_the_content_is_divided(pieces: list[int]) -> None:
    content = np.random.default_rng(1).bytes(sum(pieces))
    ends = np.cumsum(pieces).tolist()
    divided = [content[end - size : end] for size, end in zip(pieces, ends, strict=True)]
    assert sums_of(divided, 3).tolist() == sums_of([content], 3).tolist()
    assert len(sums_of([content], 3)) == -(-len(content) // BLOCK)


class CountingFiles(PosixFiles):
    """Real files, and how many bytes were read of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, int] = {}

    def open(self, path: str, *, writable: bool) -> PosixFile:
        file = super().open(path, writable=writable)
        read: Callable[[memoryview, int], None] = file.read
        kind = path.rpartition(".")[2]

        def counted(target: memoryview, offset: int) -> None:
            self.read[kind] = self.read.get(kind, 0) + len(target)
            read(target, offset)

        file.read = counted  # type: ignore[method-assign]
        return file


def test_a_small_view_of_large_data_reads_and_verifies_its_blocks_alone(tmp_path: Path) -> None:
    data = os.urandom(40 * BLOCK + 17)
    files = CountingFiles()
    with PartitionDirectory.open(tmp_path, WITHOUT_SYNC, files) as store:
        store.append([batch_of([(b"m", data)])])
        files.read.clear()
        wanted = [(5 * BLOCK - 3, 6), (5 * BLOCK + 100, 4), (5 * BLOCK + 200, 4), (len(data) - 1, 1)]
        (found,) = store.read_data([(0, wanted)])
        assert bytes(found) == b"".join(data[offset : offset + length] for offset, length in wanted)
        assert files.read["data"] == 2 * BLOCK + 17
        overwrite(tmp_path / "chunk-000000.data", 5 * BLOCK + 7777, b"rot!")
        assert bytes(store.read_data([(0, [(3 * BLOCK, BLOCK)])])[0]) == data[3 * BLOCK : 4 * BLOCK]
        with pytest.raises(DamagedEvents, match=r"chunk-000000.data: events 0 to 0, .* do not match"):
            store.read_data([(0, [(5 * BLOCK, 1)])])


@pytest.mark.parametrize("data", [b"", b"data"])
def test_small_commits_are_read_at_once(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CountingFiles()
    with PartitionDirectory.open(tmp_path, WITHOUT_SYNC, files) as store:
        for number in range(100):
            store.append([batch_of([(b"%2d" % number, data)])])
        runs = []
        read = Spans.read

        def counted(reader: Spans, chunk: Chunk, kind: str, offset: int, target: memoryview) -> None:
            runs.append((kind, len(target)))
            read(reader, chunk, kind, offset, target)

        monkeypatch.setattr(Spans, "read", counted)
        found = store.read_range(0, 100, 1 << 20, with_data=True)
        assert found.count == 100
        assert runs == [("meta", 200), *([("data", 400)] if data else [])]


@pytest.mark.parametrize(("kind", "offset"), [("meta", 61), ("data", 2 * BLOCK + 500)])
def test_damage_costs_the_events_of_its_block_and_all_others_are_served(
    tmp_path: Path, kind: str, offset: int
) -> None:
    events = [(b"m%05d" % n, os.urandom(BLOCK // 2)) for n in range(30)]
    with PartitionDirectory.open(tmp_path, WITHOUT_SYNC) as store:
        for first in range(0, 30, 10):
            store.append([batch_of(events[first : first + 10])])
    before = chunk_files(tmp_path)
    overwrite(tmp_path / f"chunk-000000.{kind}", offset, b"rot")
    lost = range(10, 20) if kind == "meta" else range(4, 6)
    with PartitionDirectory.open(tmp_path, WITHOUT_SYNC) as store:
        found: list[Event] = []
        damaged: list[tuple[int, int]] = []
        position = 0
        while position < 30:
            try:
                read = store.read_range(position, 8, 1 << 30, with_data=True)
            except DamagedEvents as error:
                damaged.append((error.first, error.count))
                position = error.first + error.count
            else:
                assert read.data is not None
                ends = np.cumsum(read.data_sizes).tolist()
                found += [
                    (bytes(read.metadata[6 * n : 6 * n + 6]), bytes(read.data[end - BLOCK // 2 : end]))
                    for n, end in enumerate(ends)
                ]
                position += read.count
        assert damaged == [(lost.start, len(lost))]
        assert found == [event for n, event in enumerate(events) if n not in lost]
        if kind == "meta":
            assert bytes(store.read_data([(12, [(0, 9)])])[0]) == events[12][1][:9]
    assert len(before) == 4


@pytest.mark.parametrize("sync", [True, False])
def test_what_the_original_appended_between_is_served_without_a_seal(tmp_path: Path, sync: bool) -> None:
    config = ChunkConfig(sync=sync)
    with PartitionDirectory.open(tmp_path / "p", config) as store:
        store.append([batch_of(numbered(0, 4))])
    shutil.copytree(tmp_path / "p", tmp_path / "theirs")
    for path in (tmp_path / "theirs").glob("mofka*"):
        path.unlink()
    with PartitionDirectory.open(tmp_path / "theirs", config) as store:
        store.append([batch_of(numbered(4, 3))])
    for path in (tmp_path / "theirs").glob("chunk*"):
        shutil.copy(path, tmp_path / "p")
    for first in (7, 12):
        with PartitionDirectory.open(tmp_path / "p", config) as store:
            assert store.event_count == first
            store.append([batch_of(numbered(first, 5))])
            assert events_of(store) == numbered(0, first + 5)
            assert events_of(store, max_events=2) == numbered(0, first + 5)
    overwrite(tmp_path / "p" / "chunk-000000.meta", 8, b"!")  # event 4, which is not sealed
    overwrite(tmp_path / "p" / "chunk-000000.meta", 14, b"!")  # event 7, which is
    with PartitionDirectory.open(tmp_path / "p") as store:
        assert bytes(store.read_range(4, 1, 100, with_data=False).metadata) == b"!4"
        with pytest.raises(DamagedEvents, match="events 7 to 11"):
            store.read_range(7, 1, 100, with_data=False)


@settings(max_examples=30, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 90000), min_size=1, max_size=5), min_size=1, max_size=8),
    wanted=st.lists(st.tuples(st.integers(0), st.integers(0), st.integers(0, 70000)), max_size=12),
    limit=st.integers(1, 12),
)
def test_any_pieces_are_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[int]],
    wanted: list[tuple[int, int, int]],
    limit: int,
) -> None:
    events = [(b"m" * (size % 7), os.urandom(size)) for batch in batches for size in batch]
    with PartitionDirectory.open(
        tmp_path_factory.mktemp("p"), ChunkConfig(sync=False, max_events_per_chunk=6)
    ) as store:
        first = 0
        for batch in batches:
            store.append([batch_of(events[first : first + len(batch)])])
            first += len(batch)
        requests = []
        for event_id, offset, length in wanted:
            event_id %= len(events)
            size = len(events[event_id][1])
            offset %= size + 1
            requests.append((event_id, [(offset, min(length, size - offset))]))
        expected = [events[n][1][offset : offset + length] for n, [(offset, length)] in requests]
        assert list(map(bytes, store.read_data(requests))) == expected
        assert events_of(store, max_events=limit) == events
        assert events_of(store, max_bytes=100000) == events
