"""The bytes of records, against values worked out from the format by hand."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.mofka.chunks import Batch, InvalidBatch, StorageError
from mochi.mofka.chunks.format import layout


def test_descriptor_of_a_whole_payload_has_the_golden_bytes() -> None:
    records = layout.descriptor_records(1, np.array([100], np.uint64), np.array([26], np.uint32))
    assert records.tobytes() == bytes.fromhex(
        "1a00000000000000 1a00000000000000 1800000000000000 01000000 00000000"
        "6400000000000000 1a000000 00000000 0000000000000000"
    )


@given(
    st.lists(st.tuples(st.integers(0, layout.U32_MAX), st.integers(0, layout.U32_MAX)), max_size=20),
    st.tuples(*[st.integers(0, 2**40)] * 3),
    st.integers(0, layout.U32_MAX),
)
def test_records_are_what_struct_would_pack(
    sizes: list[tuple[int, int]], starts: tuple[int, int, int], chunk: int
) -> None:
    metadata_sizes = np.array([size for size, _ in sizes], np.uint64)
    data_sizes = np.array([size for _, size in sizes], np.uint32)
    metadata_at, data_at, descriptor_at = starts
    data_offsets = layout.offsets(data_sizes, data_at)
    index = layout.index_records(
        layout.offsets(metadata_sizes, metadata_at), metadata_sizes, data_offsets, data_sizes, descriptor_at
    )
    packed_index, packed_descriptors = b"", b""
    for metadata_size, data_size in sizes:
        packed_index += struct.pack(
            "<QI4xQI4xQI4x", metadata_at, metadata_size, data_at, data_size, descriptor_at, 56
        )
        packed_descriptors += struct.pack(
            "<QQQI4xQI4xQ", data_size, data_size, 24, chunk, data_at, data_size, 0
        )
        metadata_at, data_at, descriptor_at = (
            metadata_at + metadata_size,
            data_at + data_size,
            descriptor_at + 56,
        )
    assert index.tobytes() == packed_index
    assert layout.descriptor_records(chunk, data_offsets, data_sizes).tobytes() == packed_descriptors


@given(st.integers(0, layout.U32_MAX), st.sampled_from(layout.KINDS))
def test_file_names_can_be_parsed_back(chunk: int, kind: str) -> None:
    assert layout.parse_file_name(layout.file_name(chunk, kind)) == (chunk, kind)


def test_file_names_have_six_digits_or_more() -> None:
    assert layout.file_name(7, "meta") == "chunk-000007.meta"
    assert layout.file_name(1_000_000, "idx") == "chunk-1000000.idx"


@pytest.mark.parametrize(
    "name", ["chunk-1.idx", "chunk-0000001.idx", "chunk-000001.bak", "chunk-000001.idx~", "mofka.lock"]
)
def test_other_names_are_not_chunk_files(name: str) -> None:
    assert layout.parse_file_name(name) is None


def test_chunk_numbers_beyond_32_bits_are_refused() -> None:
    with pytest.raises(StorageError, match="partition is full"):
        layout.file_name(2**32, "idx")


@pytest.mark.parametrize("kind", ["metadata", "data"])
def test_an_event_of_4_gib_is_refused_by_position_and_size(kind: str) -> None:
    sizes = {"metadata": np.zeros(3, np.uint64), "data": np.zeros(3, np.uint64)}
    sizes[kind][1] = 2**32
    with pytest.raises(
        InvalidBatch, match=rf"the {kind} of event 1 .* 4294967296 bytes.* at most 4294967295"
    ):
        Batch(sizes["metadata"], [], sizes["data"], [])


def test_sizes_that_disagree_with_the_content_are_refused() -> None:
    one = np.array([5], np.uint32)
    with pytest.raises(InvalidBatch, match="add up to 5 bytes, but 4 bytes of content"):
        Batch(one, [b"abcd"], one, [b"abcde"])
    with pytest.raises(InvalidBatch, match="batch of 1 metadata sizes has 2 data sizes"):
        Batch(one, [b"abcde"], np.array([2, 3], np.uint32), [b"abcde"])


def test_sizes_that_are_not_unsigned_integers_are_refused() -> None:
    good = np.zeros(1, np.uint32)
    wrong: list[Any] = [np.zeros(1, np.int64), np.zeros((1, 1), np.uint32), np.zeros(1)]
    for sizes in wrong:
        with pytest.raises(InvalidBatch, match="one-dimensional array of unsigned integers"):
            Batch(good, [], sizes, [])


def test_records_beyond_the_files_are_told_from_those_within() -> None:
    records = np.zeros(6, layout.INDEX_DTYPE)
    records["descriptor_size"] = 56
    records["metadata_offset"], records["metadata_size"] = 5, 5
    records["metadata_size"][1] = 6
    records["data_offset"][2] = 21
    records["descriptor_offset"][3] = 2**64 - 1
    records["descriptor_size"][4] = 0
    assert layout.within(records, 10, 20, 56).tolist() == [True, False, False, False, False, True]
