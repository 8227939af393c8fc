"""The journal: whole commits in one file beside the chunk files, so that one sync makes a commit durable.

The head says up to where the chunk files are durable (its `base`), and in which `Mode` the journal is. After the heads
come the records of the head's generation, one for each part of a commit, in order. Each tells where its part begins in
all files of its chunk: so of a record that is lost, the one behind it tells which events it had, and where. The ledger
file of the head's generation holds the ledger as it was when the generation began.

Invariants:
1. A head is written after all that it says about the chunk files, and its ledger, are on disk, into the block of the
   head that it replaces last.
2. In a full journal a record shares no block with the one before, and says how many before it were on disk.
3. A light record is written before the index records of its part: a process that is killed leaves no events that the
   journal does not know. Nothing of it is synced.
"""

import os
import secrets
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from mochi.disk import FileLayer
from mochi.mofka.chunks.catalog import read_whole
from mochi.mofka.chunks.errors import CorruptPartition
from mochi.mofka.chunks.format import layout
from mochi.mofka.chunks.format.journal import (
    BLOCK,
    HEADS_SIZE,
    READ,
    RECORDS_START,
    VERSION,
    Head,
    Mode,
    Part,
    Record,
    checksum,
    head_at,
    header_at,
)
from mochi.mofka.chunks.format.layout import Chunk
from mochi.mofka.chunks.format.ledger import Ledger, Notes

_LIMIT = 32 << 20
_LARGE_DATA = 1 << 17
_ZEROS = bytes(1 << 20)
_PIECE = 1 << 20


class Journal:
    """A journal, open to be written; made with `head` as its last one, if it has any.

    It belongs to one thread at a time, but for its `file`, which any may sync.

    Attributes
    ----------
    file : File
        Where the heads and records are.
    """

    def __init__(self, files: FileLayer, directory: str, head: Head | None) -> None:
        self._head = head or Head(
            secrets.randbits(64), 0, Mode.CLOSED, layout.owner_of(directory), Chunk(0, 0)
        )
        with ExitStack() as opened:
            self.file, *self._ledgers = (
                opened.enter_context(closing(files.open(os.path.join(directory, name), writable=True)))
                for name in (layout.JOURNAL_NAME, *layout.LEDGER_NAMES)
            )
            self._size = files.size(self.file.path)
            # The last head, which a killed process may not have synced, before the next replaces the other one.
            self.file.sync()
            files.sync_directory(directory)
            self._opened = opened.pop_all()

    @property
    def head(self) -> Head:
        """The head written last."""
        return self._head

    @property
    def full(self) -> bool:
        """Whether so much came since `begin` that it is time to put the chunk files on disk, and begin again."""
        return self._position + self._beside >= _LIMIT

    def begin(self, base: Chunk, mode: Mode, ledger: Ledger, event_count: int) -> Head:
        """Begin again without records; all up to `base` must be on disk in the chunk files.

        `ledger` is of the first `event_count` events. All is on disk on return, except where a light journal goes
        on from the same base.
        """
        synced = not (mode == self._head.mode == Mode.LIGHT and base == self._head.base)
        head = replace(
            self._head, generation=self._head.generation + 1, mode=mode, base=base, version=VERSION
        )
        turn = head.generation % 2
        self._ledgers[turn].write([head.pack_ledger(event_count, ledger)], 0)
        if synced:
            self._ledgers[turn].sync()
        self.file.write([head.pack().ljust(BLOCK, b"\0")], turn * BLOCK)  # invariant 1
        if synced:
            self.file.sync()
        self._head = head
        self._position = RECORDS_START
        self._beside = 0
        self._sequence = 0
        self._settled = 0
        return self._head

    def write(self, part: Part, *, last: bool) -> int:
        """Write a part of a commit to a full journal, the `last` one or not, and return the number of records.

        The part is on disk when `file` has been synced, and its data before or after that, where it is large
        (`is_large`).

        Notes
        -----
        One write. The file grows by zeros ahead of the records: a sync after writing where the file has bytes
        already takes half the time.
        """
        within = not is_large(part.data_bytes)
        record = Record(
            VERSION,
            self._head.generation,
            self._sequence,
            self._settled,
            part.before,
            part.count,
            len(part.notes),
            len(part.seals),
            part.metadata_bytes,
            part.data_bytes,
            checksum(self._head.key, (part.notes, part.seals)),
            within,
            last,
        )
        stop = self._position + record.size
        end = stop + -stop % BLOCK  # invariant 2
        filled = end if end <= self._size else stop + -stop % len(_ZEROS)
        header = record.pack(self._head.key)
        body = [part.notes, part.seals, *part.metadata, *(part.data if within else ())]
        self.file.write([header, *body, memoryview(_ZEROS)[: filled - stop]], self._position)
        self._size = max(self._size, filled)
        self._position = end
        self._beside += 0 if within else part.data_bytes
        self._sequence += 1
        return self._sequence

    def settle(self, records: int) -> None:
        """Take note that the first `records` records are on disk, with all that they tell of, and no commit in part.

        Of a commit that is not whole recovery cuts off what there is, and may be interrupted in the middle of it.
        """
        self._settled = records

    def note(self, part: Part) -> None:
        """Write the notes of a part to a light journal, and where it ends. One write, about 8 µs."""
        record = self._head.pack_notes(self._sequence, part.after.end_id, part.notes)
        self.file.write([record], self._position)
        self._position += len(record)
        self._sequence += 1

    def close(self) -> None:
        """Close the files, and leave them as they are."""
        self._opened.close()


def is_large(size: int) -> bool:
    """Tell whether so many bytes of data stay out of the journal, and are synced in their place instead."""
    return size >= _LARGE_DATA


def read_head(files: FileLayer, directory: str, names: Sequence[str]) -> Head | None:
    """Read the head of the journal of a directory, or None if there is no journal (that was ever begun).

    Raises
    ------
    CorruptPartition
        If the journal is of another partition or version, or has records but no valid head.
    """
    if layout.JOURNAL_NAME not in names:
        return None
    path = os.path.join(directory, layout.JOURNAL_NAME)
    content = read_whole(files, path, HEADS_SIZE)
    heads = []
    for position in range(0, min(len(content), RECORDS_START), BLOCK):
        found, version = head_at(content, position)
        if version not in (None, 0, *READ):
            known = " and ".join(map(str, READ))
            raise _refused(path, f"is of version {version}, but versions {known} are what can be read here")
        if found is not None:
            heads.append(found)
    head = max(heads, key=lambda found: found.generation) if heads else None
    newer = head is not None and any(
        (first := header_at(content, RECORDS_START, head.key, version)) and first.generation > head.generation
        for version in READ
    )
    if newer or (not head and files.size(path) > RECORDS_START):
        raise _refused(
            path,
            "has lost its head, so that the commits in it cannot be told; put the file right, or take it "
            "away to have the events that the chunk files hold by themselves",
        )
    if head and any(head.owner) and any(owner := layout.owner_of(directory)) and owner != head.owner:
        raise _refused(
            path,
            f"is of the partition {uuid.UUID(bytes=head.owner)}, but the directory is of "
            f"{uuid.UUID(bytes=owner)}; put the right one back",
        )
    return head


def read_ledger(
    files: FileLayer, directory: str, names: Sequence[str], head: Head
) -> tuple[Ledger, int] | None:
    """Read the ledger that the head's generation began with, and of how many events it was; None if it is lost."""
    name = layout.LEDGER_NAMES[head.generation % 2]
    return head.ledger_from(read_whole(files, os.path.join(directory, name))) if name in names else None


def read_notes(files: FileLayer, directory: str, head: Head) -> list[tuple[int, Notes]]:
    """Read a light journal: for each record the id after its part's last event, and its notes."""
    return list(head.notes_in(read_records(files, directory)))


def read_records(files: FileLayer, directory: str) -> memoryview:
    """Read the journal of a directory, whole."""
    return read_whole(files, os.path.join(directory, layout.JOURNAL_NAME))


def _refused(path: str, problem: str) -> CorruptPartition:
    return CorruptPartition(f"{path} {problem}", path=path, operation="recover")
