"""What every target does, in this process and behind an RPC."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mochi.warabi import REGION_ID_SIZE, InvalidArguments, InvalidRegion, Target


def test_what_was_written_is_read(target: Target) -> None:
    region = target.create(10)
    assert len(region) == REGION_ID_SIZE
    assert bytes(target.read(region, [(0, 10)])) == bytes(10)
    target.write(region, [(2, 3)], b"abc")
    target.persist(region, [(2, 3)])
    assert bytes(target.read(region, [(0, 10)])) == b"\0\0abc\0\0\0\0\0"


def test_several_parts_are_written_and_read_in_their_order(target: Target) -> None:
    region = target.create(8)
    target.write(region, [(6, 2), (0, 3)], memoryview(b"xyabc"), persist=True)
    assert bytes(target.read(region, [(0, 3), (6, 1), (7, 1), (3, 0)])) == b"abcxy"


def test_a_region_is_made_and_written_at_once(target: Target) -> None:
    first, second = target.create_write(b"one"), target.create_write(bytearray(b"another"), persist=True)
    assert first != second
    assert bytes(target.read(first, [(0, 3)])) == b"one"
    assert bytes(target.read(second, [(0, 7)])) == b"another"


def test_large_regions_are_whole(target: Target) -> None:
    data = bytes(range(256)) * (80 << 10)
    region = target.create_write(data)
    assert target.read(region, [(0, len(data))]) == data
    assert bytes(target.read(region, [(len(data) - 3, 3)])) == data[-3:]


@pytest.mark.parametrize(
    "parts", [[(0, 12_000_000)], [(-1, 3)], [(3, -1)], [(9, 12_000_000)], [(1, 2), (2**62, 1)]]
)
def test_parts_outside_a_region_are_refused(target: Target, parts: list[tuple[int, int]]) -> None:
    region = target.create(10)
    for refused in (
        lambda: target.read(region, parts),
        lambda: target.persist(region, parts),
        lambda: target.write(region, parts, b"abc"),
    ):
        with pytest.raises(InvalidArguments):
            refused()
    assert bytes(target.read(region, [(0, 10)])) == bytes(10)


def test_data_of_another_length_is_refused(target: Target) -> None:
    region = target.create(10)
    with pytest.raises(InvalidArguments, match="4 bytes for parts of 3 bytes"):
        target.write(region, [(0, 1), (5, 2)], b"abcd")


@pytest.mark.parametrize("size", [0, -1, 2**63, 2**70])
def test_a_region_of_an_impossible_size_is_refused(target: Target, size: int) -> None:
    with pytest.raises((InvalidArguments, Exception), match=r"region"):
        target.create(size)


@pytest.mark.parametrize(
    "region", [b"", b"short", bytes(REGION_ID_SIZE), b"\xff" * REGION_ID_SIZE, b"x" * 100]
)
def test_a_region_that_is_none_is_named(target: Target, region: bytes) -> None:
    for refused in (
        lambda: target.read(region, [(0, 1)]),
        lambda: target.write(region, [(0, 1)], b"a"),
        lambda: target.persist(region, [(0, 1)]),
        lambda: target.erase(region),
    ):
        with pytest.raises(InvalidRegion, match="region"):
            refused()


def test_regions_are_erased_apart(target: Target) -> None:
    kept, erased = target.create_write(b"k" * 5000), target.create_write(b"e" * 5000)
    target.erase(erased)
    assert bytes(target.read(kept, [(0, 5000)])) == b"k" * 5000
    later = target.create_write(b"l" * 5000)
    assert bytes(target.read(later, [(0, 5000)])) == b"l" * 5000


def test_many_threads_at_once_do_not_meet(target: Target) -> None:
    def work(number: int) -> None:
        data = bytes([number]) * 3000
        for _ in range(20):
            region = target.create_write(data)
            if bytes(target.read(region, [(0, 3000)])) != data:
                wrong.append(number)

    wrong: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


ranges = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(
    lambda pair: (min(pair), abs(pair[0] - pair[1]))
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(ranges, max_size=3), st.integers(1, 255)), max_size=20))
def test_a_target_agrees_with_plain_memory(
    target: Target, writes: list[tuple[int, list[tuple[int, int]], int]]
) -> None:
    regions = [target.create(100) for _ in range(3)]
    expected = [bytearray(100) for _ in range(3)]
    for number, parts, byte in writes:
        target.write(regions[number], parts, bytes([byte]) * sum(length for _, length in parts))
        for offset, length in parts:
            expected[number][offset : offset + length] = bytes([byte]) * length
    assert [bytes(target.read(region, [(0, 100)])) for region in regions] == expected
