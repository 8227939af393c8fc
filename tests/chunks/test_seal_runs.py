"""Runs of seals: what is verified by many seals at once is what each of them would verify alone."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mochi.disk import PosixFiles
from mochi.mofka.chunks import ChunkConfig, DamagedEvents, PartitionDirectory, follow
from mochi.mofka.chunks.format import layout, seals
from mochi.mofka.chunks.format.seals import (
    BLOCK,
    SLOT,
    RunStream,
    Seal,
    SealRun,
    Slots,
    Stream,
    seals_in,
    sums_of,
)
from mochi.mofka.fsck.check import check
from tests.chunks.chunk_events import batch_of

KEY = 12345

event_sizes = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.integers(0, 300), st.sampled_from([0, 1000, BLOCK, 70000])),
)
parts = st.lists(
    st.one_of(
        st.lists(event_sizes, min_size=1, max_size=4),
        st.tuples(event_sizes, st.integers(1, 90)).map(lambda repeated: [repeated[0]] * repeated[1]),
    ),
    min_size=1,
    max_size=12,
)


def sealed(sizes: Sequence[Sequence[tuple[int, int]]], gaps: Sequence[int]) -> list[Seal]:
    """Make a seal of each part; before that which has a gap, something is left out of events or bytes."""
    seals = []
    places = [0, 0, 0, 0]
    for number, part in enumerate(sizes):
        if number < len(gaps) and gaps[number] < len(places):
            places[gaps[number]] += 1
        streams = [
            Stream(places[n], np.array(one, np.uint32), sums_of([bytes(sum(one))], KEY))
            for n, one in enumerate(zip(*part, strict=True))
        ]
        first, descriptor_start = places[2:]
        seals.append(Seal(first, descriptor_start, 7, streams[0], streams[1]))
        steps = (streams[0].size, streams[1].size, len(part), len(part) * layout.DESCRIPTOR_SIZE)
        places = [place + step for place, step in zip(places, steps, strict=True)]
    return seals


def told(seal: Seal) -> list[object]:
    """Give all that a run should tell of a seal."""
    said: list[object] = [seal.first, seal.end]
    for stream in (seal.metadata, seal.data):
        stop = stream.start + stream.size
        begins = range(stream.start, stop, BLOCK)
        blocks = [
            (begin, min(begin + BLOCK, stop), checksum)
            for begin, checksum in zip(begins, stream.sums.tolist(), strict=True)
        ]
        said += [stream.bounds().tolist(), blocks]
    return said


def told_by(run: SealRun) -> Iterator[list[object]]:
    """Give the same for each seal of a run."""

    def of(stream: RunStream, low: int, high: int) -> list[object]:
        bounds = stream.bounds[low - run.first : high - run.first + 1].tolist()
        return [bounds, stream.blocks(bounds[0], bounds[-1])]

    for low, high in zip(run.firsts[:-1].tolist(), run.firsts[1:].tolist(), strict=True):
        yield [low, high, *of(run.metadata, low, high), *of(run.data, low, high)]


@given(
    sizes=parts,
    gaps=st.lists(st.integers(0, 20), max_size=12),
    damage=st.one_of(st.none(), st.tuples(st.integers(0), st.integers(1, 255))),
    until=st.integers(1, 400),
)
def test_runs_are_of_the_seals_that_are_good_one_by_one(
    sizes: list[list[tuple[int, int]]],
    gaps: list[int],
    damage: tuple[int, int] | None,
    until: int,
) -> None:
    content = bytearray(b"".join(seal.pack(KEY) for seal in sealed(sizes, gaps)))
    if damage:
        content[damage[0] % len(content)] ^= damage[1]
    good = list(seals_in(memoryview(content), KEY))
    slots = Slots(memoryview(content), KEY)
    for bound in (1 << 32, until):
        found: list[list[object]] = []
        slot = 0
        while more := slots.run(slot, bound):
            run, slot = more
            assert len(run.firsts) == 2 or run.end <= bound
            assert run.descriptor_start == good[len(found)][0].descriptor_start
            found += told_by(run)
        assert found == [told(seal) for seal, _ in good]
        assert slot * SLOT == (good[-1][1] if good else 0)


def test_a_run_ends_where_a_slot_could_not_be_found_by_halving() -> None:
    content = bytearray(b"".join(seal.pack(KEY) for seal in sealed([[(1, 2)]] * 9, [])))
    content[(2 * 4 + 1) * SLOT + 4] ^= 1  # the place of the second slot of the fifth seal
    slots = Slots(memoryview(content), KEY)
    everything, to_the_fifth = slots.run(0, 9), slots.run(0, 9, in_place=True)
    assert everything is not None
    assert to_the_fifth is not None
    assert (everything[0].end, everything[1]) == (9, 18)
    assert (to_the_fifth[0].end, to_the_fifth[1]) == (4, 8)
    assert slots.run(8, 9, in_place=True) is None


def outcomes(directory: Path) -> list[object]:
    """Tell all that reading and checking give."""
    found: list[object] = []
    with follow(directory, PosixFiles()) as store:
        for most in (3, 1000):
            position = 0
            while position < store.event_count:
                try:
                    read = store.read_range(position, most, 1 << 30, with_data=True)
                except DamagedEvents as error:
                    found.append(str(error))
                    position = error.first + error.count
                else:
                    found += [read.metadata_sizes.tolist(), read.data_sizes.tolist()]
                    found += [bytes(read.metadata), bytes(read.data or b"")]
                    position += read.count
        for event_id in range(store.event_count):
            try:
                found.append(bytes(store.read_data([(event_id, [(0, 1)])])[0]))
            except DamagedEvents as error:
                found.append(str(error))
    report = check(PosixFiles(), os.fspath(directory))
    return [*found, report.findings, report.chunks]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=30),
    kind=st.sampled_from(layout.ALL_KINDS),
    place=st.integers(0),
    change=st.one_of(st.integers(1, 255), st.just("cut")),
    large=st.booleans(),
)
def test_one_damage_anywhere_is_told_as_if_each_seal_were_alone(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    kind: str,
    place: int,
    change: int | str,
    large: bool,
) -> None:
    # Where a file of seals ends too early, those that are read together are lost together.
    assume(kind != layout.SEALS or change != "cut")
    directory = tmp_path_factory.mktemp("p")
    with PartitionDirectory.open(directory, ChunkConfig(sync=False)) as store:
        for part in sizes:
            events = [(os.urandom(size), os.urandom(size * (3000 if large else 1))) for size in part]
            store.append([batch_of(events)])
    path = directory / layout.file_name(0, kind)
    content = bytearray(path.read_bytes())
    place %= len(content)
    if isinstance(change, int):
        content[place] ^= change
    path.write_bytes(content if isinstance(change, int) else content[:place])
    together = outcomes(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seals, "_MOST_EVENTS", 0)
        assert together == outcomes(directory)
