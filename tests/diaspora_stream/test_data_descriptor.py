"""Views of data against an oracle that slices bytes; the serialized form against golden values."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import InvalidDescriptor

LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOCATION = bytes.fromhex("01000000 00000000 6400000000000000 1a000000 00000000")
PLAIN = DataDescriptor(LOCATION, 26)


def selected(descriptor: DataDescriptor, data: bytes) -> bytes:
    return b"".join(data[offset : offset + size] for offset, size in descriptor.flatten())


@st.composite
def views(draw: st.DrawFn, size: int) -> tuple[str, dict[str, Any]]:
    """A view that is valid for `size` bytes, at least 1."""
    kind = draw(st.sampled_from(["sub", "stride", "unstructured"]))
    if kind == "sub":
        return kind, {"offset": draw(st.integers(0, size - 1)), "size": draw(st.integers(1, size + 3))}
    if kind == "stride":
        offset = draw(st.integers(0, size - 1))
        block = draw(st.integers(1, size - offset))
        gap = draw(st.integers(0, 5))
        most = (size - offset + gap) // (block + gap)
        return kind, {
            "offset": offset,
            "num_blocks": draw(st.integers(1, most)),
            "block_size": block,
            "gap_size": gap,
        }
    cuts = sorted(draw(st.sets(st.integers(0, size), min_size=2, max_size=8)))
    return kind, {
        "segments": [(start, end - start) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
    }


def apply_to_bytes(kind: str, view: dict[str, Any], data: bytes) -> bytes:
    if kind == "sub":
        return data[view["offset"] :][: view["size"]]
    if kind == "stride":
        step = view["block_size"] + view["gap_size"]
        starts = [view["offset"] + index * step for index in range(view["num_blocks"])]
        return b"".join(data[start : start + view["block_size"]] for start in starts)
    return b"".join(data[offset : offset + size] for offset, size in view["segments"])


@given(st.data(), st.binary(min_size=1, max_size=60))
def test_views_of_views_select_what_slicing_the_bytes_does(draw: st.DataObject, data: bytes) -> None:
    descriptor, expected = DataDescriptor("here", len(data)), data
    for _ in range(draw.draw(st.integers(0, 4))):
        if not expected:
            break
        kind, view = draw.draw(views(len(expected)))
        descriptor = getattr(descriptor, f"make_{kind}_view")(**view)
        expected = apply_to_bytes(kind, view, expected)
    assert selected(descriptor, data) == expected
    assert descriptor.size == len(expected)
    assert (descriptor.location, descriptor.base_size) == ("here", len(data))
    again = DataDescriptor.deserialize(descriptor.serialize())
    assert again == descriptor
    assert again.flatten() == descriptor.flatten()
    assert pickle.loads(pickle.dumps(descriptor)) == descriptor
    assert eval(repr(descriptor), {"DataDescriptor": DataDescriptor}) == descriptor


@pytest.mark.parametrize(
    ("descriptor", "size", "segments"),
    [
        (PLAIN, 26, [(0, 26)]),
        (DataDescriptor(), 0, [(0, 0)]),
        (PLAIN.make_sub_view(offset=4, size=8), 8, [(4, 8)]),
        (PLAIN.make_sub_view(offset=20, size=100), 6, [(20, 6)]),
        (PLAIN.make_sub_view(offset=26, size=5), 0, []),
        (PLAIN.make_stride_view(offset=0, num_blocks=2, block_size=10, gap_size=3), 20, [(0, 10), (13, 10)]),
        (PLAIN.make_stride_view(offset=0, num_blocks=2, block_size=10, gap_size=6), 20, [(0, 10), (16, 10)]),
        (PLAIN.make_stride_view(offset=0, num_blocks=2, block_size=2, gap_size=0), 4, [(0, 2), (2, 2)]),
        (PLAIN.make_unstructured_view(segments=[(1, 3), (4, 5), (14, 2)]), 10, [(1, 8), (14, 2)]),
        (PLAIN.make_unstructured_view(segments=[(1, 3), (4, 5)]), 8, [(1, 8)]),
        (PLAIN.make_unstructured_view(segments=[(1, 0), (5, 2)]), 2, [(1, 0), (5, 2)]),
        (
            PLAIN.make_sub_view(offset=5, size=20).make_stride_view(
                offset=0, num_blocks=2, block_size=4, gap_size=2
            ),
            8,
            [(5, 4), (11, 4)],
        ),
        (
            PLAIN.make_stride_view(offset=1, num_blocks=5, block_size=2, gap_size=3).make_sub_view(
                offset=2, size=4
            ),
            4,
            [(6, 2), (11, 2)],
        ),
        (
            PLAIN.make_unstructured_view(segments=[(1, 3), (7, 5)]).make_unstructured_view(
                segments=[(0, 2), (4, 3)]
            ),
            5,
            [(1, 2), (8, 3)],
        ),
    ],
)
def test_size_and_segments_of_known_views(
    descriptor: DataDescriptor, size: int, segments: list[tuple[int, int]]
) -> None:
    assert descriptor.size == size
    assert descriptor.flatten() == segments


def test_a_selection_of_nothing_drops_the_location_except_at_the_very_end() -> None:
    stride = {"offset": 0, "num_blocks": 1, "block_size": 1, "gap_size": 0}
    for empty in (
        PLAIN.make_sub_view(offset=27, size=5),
        PLAIN.make_sub_view(offset=4, size=0),
        DataDescriptor("x", 0).make_sub_view(offset=0, size=1),
        PLAIN.make_stride_view(**{**stride, "num_blocks": 0}),
        PLAIN.make_stride_view(**{**stride, "block_size": 0}),
        PLAIN.make_stride_view(**{**stride, "offset": 27}),
        PLAIN.make_unstructured_view(segments=[]),
    ):
        assert empty == DataDescriptor()
        assert empty.location == ""
    assert PLAIN.make_sub_view(offset=26, size=5).location_bytes == LOCATION


def test_views_that_do_not_fit_are_refused_with_what_would() -> None:
    with pytest.raises(InvalidDescriptor, match="would end at 27, but there are 26 bytes"):
        PLAIN.make_stride_view(offset=1, num_blocks=2, block_size=10, gap_size=6)
    for segments in ([(0, 27)], [(26, 0)], [(5, 2), (1, 2)], [(0, 5), (4, 2)]):
        with pytest.raises(InvalidDescriptor, match="segment"):
            PLAIN.make_unstructured_view(segments=segments)
    wrong_offsets: list[Any] = [-1, 2**64, 1.5, "1", None]
    for wrong in wrong_offsets:
        with pytest.raises(TypeError, match="offset must be an int"):
            PLAIN.make_sub_view(offset=wrong, size=1)


def test_views_may_be_made_as_older_programs_make_them_and_descriptors_by_position_alone() -> None:
    make: Any = DataDescriptor
    with pytest.raises(TypeError):
        make(location="x", size=2)
    for location in (5, None, ["x"]):
        with pytest.raises(TypeError, match="location must be a str or bytes"):
            make(location, 2)
    plain: Any = PLAIN
    assert plain.make_sub_view(4, 8) == PLAIN.make_sub_view(offset=4, size=8)
    stride = PLAIN.make_stride_view(offset=1, num_blocks=2, block_size=3, gap_size=4)
    assert plain.make_stride_view(1, 2, 3, 4) == stride
    assert plain.make_stride_view(1, numblocks=2, blocksize=3, gapsize=4) == stride
    assert plain.make_unstructured_view([(1, 2)]) == PLAIN.make_unstructured_view(segments=[(1, 2)])
    with pytest.raises(TypeError, match=r"at most 2 arguments by position \(offset, size\), 3 were given"):
        plain.make_sub_view(1, 2, 3)
    with pytest.raises(TypeError, match="num_blocks twice: numblocks is what it was called"):
        plain.make_stride_view(offset=1, num_blocks=2, numblocks=2, block_size=3, gap_size=4)
    with pytest.raises(TypeError, match="num_blocks must be an int") as caught:
        plain.make_stride_view(offset=1, numblocks="2", block_size=3, gap_size=4)
    assert caught.value.__notes__ == ["numblocks is what num_blocks was called"]


def test_a_binary_location_survives_as_text_and_as_bytes() -> None:
    binary = DataDescriptor(b"\xff\x00ok", 3)
    assert DataDescriptor(binary.location, 3) == binary
    assert binary.location_bytes == b"\xff\x00ok"


def words(*numbers: int) -> str:
    return "".join(number.to_bytes(8, "little").hex() for number in numbers)


@pytest.mark.parametrize(
    ("descriptor", "size", "tail"),
    [
        (PLAIN, 26, words(0)),
        (PLAIN.make_sub_view(offset=4, size=8), 8, words(1) + "01" + words(4, 8)),
        (
            PLAIN.make_stride_view(offset=1, num_blocks=5, block_size=2, gap_size=3),
            10,
            words(1) + "02" + words(1, 5, 2, 3),
        ),
        (
            PLAIN.make_unstructured_view(segments=[(1, 3), (7, 5)]),
            8,
            words(1) + "03" + words(2, 1, 3, 7, 5),
        ),
    ],
)
def test_serialized_form_is_the_golden_one(descriptor: DataDescriptor, size: int, tail: str) -> None:
    golden = bytes.fromhex(words(size, 26, 24) + LOCATION.hex() + tail)
    assert descriptor.serialize() == golden
    assert DataDescriptor.deserialize(golden) == descriptor


def test_the_null_descriptor_is_32_zero_bytes() -> None:
    assert DataDescriptor().serialize() == bytes(32)
    assert DataDescriptor.deserialize(memoryview(bytes(32))) == DataDescriptor()


def test_several_selections_compose_and_are_written_as_one() -> None:
    several = bytes.fromhex(words(4, 26, 0, 2) + "01" + words(10, 10) + "01" + words(2, 4))
    descriptor = DataDescriptor.deserialize(several)
    assert descriptor.flatten() == [(12, 4)]
    assert descriptor.serialize() == bytes.fromhex(words(4, 26, 0, 1) + "01" + words(12, 4))


@given(st.data(), st.integers(1, 40))
def test_a_descriptor_cut_anywhere_or_with_more_behind_it_is_refused(draw: st.DataObject, size: int) -> None:
    kind, view = draw.draw(views(size))
    whole = getattr(DataDescriptor("x", size), f"make_{kind}_view")(**view).serialize()
    cut = draw.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidDescriptor, match="ends early"):
        DataDescriptor.deserialize(whole[:cut])
    with pytest.raises(InvalidDescriptor, match="1 bytes after"):
        DataDescriptor.deserialize(whole + b"\0")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (words(4, 26, 0, 1) + "04" + words(0, 4), "unknown kind of selection 4 at byte 32"),
        (words(4, 26, 0, 1) + "01" + words(27, 4), "starts at 27"),
        (words(5, 26, 0, 1) + "01" + words(0, 4), "says that it selects 5 bytes"),
        (words(4, 26, 0, 1) + "02" + words(0, 2**60, 1, 1), "but there are 26"),
        (words(0, 26, 0, 1) + "02" + words(0, 2**60, 0, 0), "empty blocks"),
        (words(4, 26, 0, 1) + "03" + words(2**60), "ends early"),
        (words(4, 26, 0, 1) + "03" + words(1, 24, 4), "is not within"),
        (words(4, 26, 2**63), "ends early"),
    ],
)
def test_an_archive_that_lies_is_refused(archive: str, message: str) -> None:
    with pytest.raises(InvalidDescriptor, match=message):
        DataDescriptor.deserialize(bytes.fromhex(archive))


@given(st.binary(max_size=120))
def test_any_bytes_give_a_descriptor_or_a_clear_error(buffer: bytes) -> None:
    try:
        descriptor = DataDescriptor.deserialize(buffer)
    except InvalidDescriptor:
        return
    assert descriptor.size <= descriptor.base_size


def test_equal_descriptors_hash_alike_and_others_differ() -> None:
    stride = PLAIN.make_stride_view(offset=0, num_blocks=2, block_size=1, gap_size=1)
    segments = PLAIN.make_unstructured_view(segments=[(0, 1), (2, 1)])
    assert stride == segments
    assert hash(stride) == hash(segments)
    assert PLAIN.make_sub_view(offset=0, size=26) == PLAIN
    assert DataDescriptor(LOCATION, 27) != PLAIN
    assert DataDescriptor("x", 26) != PLAIN
    assert PLAIN != LOCATION
