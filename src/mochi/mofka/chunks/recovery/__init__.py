"""What is in a partition's directory when it is opened, after a crash or not.

`cases` decides what each thing is, `found` reads, `recover` acts.

With a full journal the partition goes back to the last whole commit of it. The chunk files up to the journal's base are
taken as they are, and the parts that follow are written over again. Otherwise (no journal, a light one, or one closed
in order) the chunk files speak for themselves, and the partition goes back to the last whole event. So partitions of
the original are opened, and what it appended to one of ours. A light journal tells where batches end, and cuts off what
is there of the last one if it is not whole.

Chunks before the base are taken as the roster has them, and nothing of them is read. If the base's own chunk lacks
bytes after an orderly end, it is left as it is, and the next one begun. Trailing chunks without events are normal: the
original makes the next chunk's files early.

A crash leaves damage at the end alone: behind the base, or without a journal in the last chunk that has events and in
those begun after it. Damage beyond what can be served is a `CorruptPartition`, and nothing is touched. Such
is a chunk of which neither roster, index nor seals tell how many events it has. So are chunk files that do not fit a
full journal, and something in the place of a file that is none.

Invariants:
1. Bytes beyond the end move to `quarantine-*` files: they neither come back as events nor are lost.
2. What is left is on disk before it counts, for a process that was killed may not have put it there.
3. A copy of displaced events counts once its head is whole, which is written when the rest is on disk; it is removed
   when the events are on disk in their new places.
4. Producers are remembered as far as their events came back, and not at all where events are known that no notes tell
   of: their batches could be taken twice.
5. It may be interrupted anywhere, and run again.
"""

from mochi.mofka.chunks.recovery.found import is_dropped, see_that_files_are_files
from mochi.mofka.chunks.recovery.recover import Adopted, Recovery, is_left_open, make_again, recover, survey

__all__ = [
    "Adopted",
    "Recovery",
    "is_dropped",
    "is_left_open",
    "make_again",
    "recover",
    "see_that_files_are_files",
    "survey",
]
