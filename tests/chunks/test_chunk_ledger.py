"""What is remembered beside the events: producers' recent batches, and cursors, over ends of every kind."""

import os
import shutil
from pathlib import Path

import pytest

from mochi.mofka.chunks import ChunkConfig, Origin, PartitionDirectory, Remembered
from mochi.mofka.chunks import journal as journal_module
from mochi.mofka.chunks.format import ledger as ledger_module
from mochi.mofka.chunks.format.ledger import Ledger, pack_notes, unpack_notes
from tests.chunks.chunk_events import batch_of, events_of, numbered

P, Q = b"p" * 16, b"q" * 16
both = pytest.mark.parametrize("sync", [True, False])


def limits(sync: bool) -> ChunkConfig:
    return ChunkConfig(max_events_per_chunk=5, sync=sync)


def filled(store: PartitionDirectory) -> None:
    """Append batches of two producers, some of them in one commit that begins a chunk, and cursors."""
    store.append([batch_of(numbered(0, 3), Origin(P, 0))], {"c": 1})
    store.append([batch_of(numbered(3, 1), Origin(Q, 0)), batch_of(numbered(4, 3), Origin(P, 1))])
    store.append([], {"d": 7, "c": 0})
    store.append([batch_of(numbered(7, 1))])
    store.append([batch_of(numbered(8, 2), Origin(Q, 1))], {"c": 9})


def holds_what_was_filled(store: PartitionDirectory) -> None:
    assert events_of(store) == numbered(0, 10)
    assert store.producers() == [Remembered(P, 2, (0, 4)), Remembered(Q, 2, (3, 8))]
    assert store.cursors == {"c": 9, "d": 7}


@both
@pytest.mark.parametrize("checkpoints", [False, True])
def test_all_is_remembered_after_an_orderly_end_and_after_a_kill(
    tmp_path: Path, sync: bool, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if checkpoints:
        monkeypatch.setattr(journal_module, "_LIMIT", 1)
    with PartitionDirectory.open(tmp_path / "p", limits(sync)) as store:
        filled(store)
        holds_what_was_filled(store)
        shutil.copytree(tmp_path / "p", tmp_path / "killed")
    epoch = store.epoch
    for directory in (tmp_path / "p", tmp_path / "killed"):
        for _ in range(2):
            with PartitionDirectory.open(directory, limits(not sync)) as store:
                holds_what_was_filled(store)
                assert store.epoch == epoch


def test_a_new_directory_has_a_new_epoch_that_fits_the_messages(tmp_path: Path) -> None:
    epochs = set()
    for name in "abc":
        with PartitionDirectory.open(tmp_path / name) as store:
            epochs.add(store.epoch)
    assert len(epochs) == 3
    assert all(1 <= epoch <= 2**62 for epoch in epochs)


@pytest.mark.parametrize(("left", "kept"), [(5, 5), (4, 3), (3, 3), (2, 0), (0, 0)])
def test_without_sync_a_kill_in_the_middle_of_a_commit_leaves_whole_batches(
    tmp_path: Path, left: int, kept: int
) -> None:
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(sync=False)) as store:
        store.append([batch_of(numbered(0, 3), Origin(P, 0)), batch_of(numbered(3, 2), Origin(Q, 0))])
        shutil.copytree(tmp_path / "p", tmp_path / "killed")
    os.truncate(tmp_path / "killed" / "chunk-000000.idx", left * 48)
    known = {3: [Remembered(P, 1, (0,))], 5: [Remembered(P, 1, (0,)), Remembered(Q, 1, (3,))]}
    for _ in range(2):
        with PartitionDirectory.open(tmp_path / "killed") as store:
            assert events_of(store) == numbered(0, kept)
            assert store.producers() == known.get(kept, [])


def test_without_sync_producers_are_forgotten_where_a_power_cut_left_events_that_nobody_knows(
    tmp_path: Path,
) -> None:
    with PartitionDirectory.open(tmp_path / "p", ChunkConfig(sync=False)) as store:
        store.append([batch_of(numbered(0, 3), Origin(P, 0))], {"c": 3})
        shutil.copy(tmp_path / "p" / "mofka.journal", tmp_path / "journal")
        store.append([batch_of(numbered(3, 2), Origin(P, 1))], {"c": 4})
        shutil.copytree(tmp_path / "p", tmp_path / "cut")
    shutil.copy(tmp_path / "journal", tmp_path / "cut" / "mofka.journal")
    with PartitionDirectory.open(tmp_path / "cut") as store:
        assert events_of(store) == numbered(0, 5)
        assert store.producers() == []
        assert store.cursors == {"c": 3}


def test_the_ledger_is_bounded_and_forgets_the_quietest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_PRODUCERS", 3)
    ledger = Ledger()
    identities = [bytes([n]) * 16 for n in range(5)]
    for sequence in range(100):
        ledger.note(Origin(identities[0], sequence), 7 * sequence)
    for identity in (*identities[1:3], identities[0], *identities[3:]):
        ledger.note(Origin(identity, 100 if identity == identities[0] else 0), 1000)
    assert [known.identity for known in ledger.producers()] == [identities[n] for n in (0, 3, 4)]
    assert ledger.producers()[0] == Remembered(
        identities[0], 101, (*(7 * sequence for sequence in range(37, 100)), 1000)
    )


def test_an_identity_that_begins_anew_is_remembered_from_there() -> None:
    ledger = Ledger()
    for sequence, first_id in ((0, 0), (1, 5), (0, 9)):
        ledger.note(Origin(P, sequence), first_id)
    assert ledger.producers() == [Remembered(P, 1, (9,))]


def test_batches_whose_events_are_gone_may_be_sent_again() -> None:
    ledger = Ledger()
    for sequence, first_id in enumerate((0, 4, 8)):
        ledger.note(Origin(P, sequence), first_id)
    ledger.note(Origin(Q, 0), 9)
    ledger.forget_batches(8)
    assert ledger.producers() == [Remembered(P, 2, (0, 4))]


def test_what_is_packed_is_what_is_unpacked() -> None:
    producers = [Remembered(P, 2**63, (1, 2**62)), Remembered(Q, 1, ())]
    cursors = {"": 0, "c" * 1024: 2**63, "\u00e9\udc80": 5}
    assert unpack_notes(memoryview(pack_notes(producers, cursors))) == (producers, cursors)


@both
def test_a_lost_ledger_costs_what_it_held_and_no_event(tmp_path: Path, sync: bool) -> None:
    with PartitionDirectory.open(tmp_path / "p", limits(sync)) as store:
        filled(store)
    for name in ("mofka.ledger-0", "mofka.ledger-1"):
        (tmp_path / "p" / name).write_bytes(b"rot")
    with PartitionDirectory.open(tmp_path / "p") as store:
        assert events_of(store) == numbered(0, 10)
        assert store.producers() == []
        assert store.cursors == {}
