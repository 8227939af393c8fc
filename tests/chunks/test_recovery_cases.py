"""What recovery decides, without files: the table in `mochi.mofka.chunks.recovery.cases`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import BLOCK, RECORDS_START, Head, Mode, Part, Record, checksum
from mochi.mofka.chunks.format.layout import Chunk, Displaced
from mochi.mofka.chunks.format.ledger import NO_NOTES
from mochi.mofka.chunks.format.seals import Seal, Stream, key_of, sums_of
from mochi.mofka.chunks.recovery import cases
from mochi.mofka.chunks.recovery.cases import Case, Gap

HEAD = Head(7, 1, Mode.FULL, bytes(16), Chunk(0, 0))
LARGE = 1 << 10
"""Bytes of data that are not in a record, here."""


def part_of(before: Chunk, sizes: list[int]) -> Part:
    """Make a part of events whose data has these sizes."""
    key = key_of(HEAD.owner, before.number)
    metadata, data = b"m" * len(sizes), bytes(range(1, 251)) * (sum(sizes) // 250 + 1)
    data = data[: sum(sizes)]
    ones, of_data = np.ones(len(sizes), np.uint32), np.array(sizes, np.uint32)
    streams = (
        Stream(before.metadata_end, ones, sums_of([metadata], key)),
        Stream(before.data_end, of_data, sums_of([data], key)),
    )
    seals = Seal(before.count, before.descriptor_end, 1, *streams).pack(key)
    after = before.extended(len(sizes), len(metadata), len(data), len(seals), 1)
    return Part(before, after, ones, [metadata], of_data, [data], seals, NO_NOTES)


def record_of(part: Part, sequence: int, settled: int, *, last: bool = True) -> bytes:
    """Make a record of a full journal."""
    within = part.data_bytes < LARGE
    record = Record(
        4,
        HEAD.generation,
        sequence,
        settled,
        part.before,
        part.count,
        len(part.notes),
        len(part.seals),
        part.metadata_bytes,
        part.data_bytes,
        checksum(HEAD.key, (part.notes, part.seals)),
        within,
        last,
    )
    body = b"".join([part.notes, part.seals, *part.metadata, *(part.data if within else ())])
    content = record.pack(HEAD.key) + body
    return content + bytes(-len(content) % BLOCK)


def journal_of(
    commits: list[list[int]], settled: list[int], *, whole: int | None = None
) -> tuple[bytearray, list[Part]]:
    """Make a journal of commits of one part, of which those from `whole` on are not whole."""
    content = bytearray(RECORDS_START)
    parts: list[Part] = []
    for number, sizes in enumerate(commits):
        parts.append(part_of(parts[-1].after if parts else Chunk(0, 0), sizes))
        content += record_of(parts[-1], number, settled[number], last=whole is None or number < whole)
    return content, parts


def replayed(content: bytearray, *, has_data: bool = True, was_stored: bool = False) -> cases.Replay:
    return cases.replayed(memoryview(content), HEAD, lambda part: has_data, lambda part: was_stored)


def spans_of(steps: list[Part | Gap]) -> list[tuple[type, int, int]]:
    return [(type(step), step.before.end_id, step.after.end_id) for step in steps]


def test_all_whole_commits_are_told_and_the_parts_of_one_that_is_not() -> None:
    content, _ = journal_of([[1, 2], [3], [4]], [0, 1, 2], whole=2)
    replay = replayed(content)
    assert spans_of(replay.steps) == [(Part, 0, 2), (Part, 2, 3)]
    assert [part.before.end_id for part in replay.rest] == [3]


@pytest.mark.parametrize("place", [100, 5])
def test_a_record_that_nobody_counts_as_on_disk_is_torn(place: int) -> None:
    content, _ = journal_of([[1], [2], [3]], [0, 0, 0])
    content[RECORDS_START + BLOCK + place] ^= 1
    replay = replayed(content)
    assert spans_of(replay.steps) == [(Part, 0, 1)]
    assert not replay.rest


def test_a_record_that_a_later_one_counts_is_lost_and_its_events_are_known() -> None:
    content, _ = journal_of([[1], [2, 2], [3]], [0, 1, 2])
    content[RECORDS_START + BLOCK + 20] ^= 1
    replay = replayed(content)
    assert spans_of(replay.steps) == [(Part, 0, 1), (Gap, 1, 3), (Part, 3, 4)]


@pytest.mark.parametrize(
    ("settled", "stored", "damaged"), [(0, False, False), (1, False, True), (0, True, True)]
)
def test_large_data_is_torn_unless_its_commit_was_on_disk(settled: int, stored: bool, damaged: bool) -> None:
    content, _ = journal_of([[LARGE], [1]], [0, settled])
    replay = cases.replayed(memoryview(content), HEAD, lambda part: False, lambda part: stored)
    if damaged:
        assert [part.before.end_id for part in replay.damaged] == [0]
        assert spans_of(replay.steps) == [(Part, 0, 1), (Part, 1, 2)]
    else:
        assert replay.broken is not None
        assert replay.broken.before.end_id == 0
        assert not replay.steps


@given(st.data())
def test_wherever_a_journal_ends_commits_before_that_are_told(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=4))
    content, parts = journal_of(sizes, list(range(len(sizes))))
    end = data.draw(st.integers(RECORDS_START, len(content)))
    replay = replayed(content[:end])
    told = len(replay.steps)
    assert spans_of(replay.steps) == spans_of(list(parts[:told]))
    assert told >= (end - RECORDS_START) // BLOCK


@pytest.mark.parametrize(
    ("good", "was_on_disk", "record", "large"),
    [
        (True, False, Case.WHOLE, Case.WHOLE),
        (False, False, Case.TORN, Case.TORN),
        (False, True, Case.LOST, Case.DAMAGED),
    ],
)
def test_what_was_on_disk_is_not_torn(good: bool, was_on_disk: bool, record: Case, large: Case) -> None:
    assert cases.record_case(good=good, was_on_disk=was_on_disk) is record
    assert cases.data_case(good=good, was_on_disk=was_on_disk) is large


def test_events_are_whole_up_to_the_first_that_files_or_descriptors_do_not_have() -> None:
    start = Chunk(0, 0)
    part = part_of(start, [5, 6, 7])
    index = part.index()
    sizes = {kind: part.after.ends[kind] for kind in layout.KINDS}
    descriptors = layout.descriptor_records(0, index["data_offset"], index["data_size"])
    assert cases.usual_descriptors(start, index, sizes[layout.DESC]) == 3
    assert cases.whole_events(start, index, descriptors, sizes) == 3
    assert cases.whole_events(start, index, descriptors, {**sizes, layout.DATA: 17}) == 2
    descriptors["chunk"][1] = 9
    assert cases.whole_events(start, index, descriptors, sizes) == 1


def test_a_few_events_that_differ_where_ours_were_sealed_are_damaged_and_all_of_a_part_are_foreign() -> None:
    parts = [part_of(Chunk(0, 0), [1, 2])]
    parts.append(part_of(parts[0].after, [3, 4]))
    none, all_of_second = np.zeros(4, np.bool_), np.array([False, False, True, True])
    one = np.array([False, False, True, False])

    def first(differing: np.ndarray, *, sealed: bool) -> int | None:
        return cases.first_foreign(parts, 4, none, differing.copy(), differing.copy(), lambda part: sealed)

    assert first(none, sealed=True) is None
    assert first(one, sealed=False) == 2
    assert first(one, sealed=True) is None
    assert first(all_of_second, sealed=True) == 2


def test_displaced_events_count_once_their_head_is_whole_and_for_one_generation() -> None:
    part = part_of(Chunk(3, 10), [5, 6])
    displaced = Displaced.between(part.before, part.after)
    packed = displaced.pack(1, 2)
    assert Displaced.unpack(packed, 1, 2) == displaced
    assert Displaced.unpack(packed, 1, 3) is None
    assert Displaced.unpack(packed[:-1] + b"\0", 1, 2) is None
    assert cases.overlap(displaced, part)
    assert not cases.overlap(displaced, part_of(part.after, [1]))
