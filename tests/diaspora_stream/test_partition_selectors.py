"""Partition selection."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from diaspora_stream.errors import NoPartition, UnknownName
from diaspora_stream.partition_selector import DefaultPartitionSelector, PartitionSelector


def selector(count: int) -> PartitionSelector:
    result = PartitionSelector.from_metadata()
    result.set_partitions([{}] * count)
    return result


def test_the_default_takes_each_partition_in_turn() -> None:
    assert [selector(3).select({}) for _ in range(2)] == [0, 0]
    one = selector(3)
    assert [one.select({}) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_requested_partition_is_taken_modulo_and_does_not_move_the_turn() -> None:
    one = selector(3)
    assert [one.select({}, requested) for requested in (None, 1, 5, 300, None)] == [0, 1, 2, 0, 1]


def test_threads_share_the_turns_evenly() -> None:
    one = selector(4)
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: [one.select({}) for _ in range(1000)], range(4)))
    counts = [sum(part.count(index) for part in taken) for index in range(4)]
    assert counts == [1000] * 4


def test_a_topic_without_partitions_takes_no_event() -> None:
    for requested in (None, 0):
        with pytest.raises(NoPartition, match="no partition"):
            selector(0).select({}, requested)


def test_more_partitions_are_used_once_known() -> None:
    one = selector(1)
    assert one.select({}) == 0
    one.set_partitions([{}, {}])
    assert {one.select({}), one.select({})} == {0, 1}


def test_its_description_makes_another() -> None:
    again = PartitionSelector.from_metadata(**DefaultPartitionSelector().to_metadata())
    assert again.to_metadata() == {"type": "default"}
    with pytest.raises(UnknownName, match=r"partition_selector: .*'default'"):
        PartitionSelector.from_metadata(type="defalt")
