"""The descriptors that partitions of one process have open: who keeps them, and who gives them up.

They belong to holders. One is a file that is open to be read; another is what a partition has open to be written.

| state | what it means | where there is no room |
|---|---|---|
| busy | it is read, or a commit is under way | it is left alone |
| idle | not in use, and all that was written by it is on disk | it is closed, the one idle for longest first |
| unsynced | not in use; the kernel may yet say that it could not write | where none is idle: settled, so that it is |

Invariants
----------
1. A file is closed only while nobody uses it, and nothing unsynced was written by it; but for the end of its
   partition.
2. Locks are counted, and stay.
3. What is open exceeds the capacity only for as long as all of it is busy.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from mochi.disk.contract import File
from mochi.disk.errors import StorageError, lacks_descriptors

T = TypeVar("T")

ATTEMPTS = 16
"""How often room is made for a call that finds no descriptor: others may take it meanwhile."""

SETTLED = 4
"""How many holders are settled at most, in vain, to make room once."""


class Holder:
    """Who has files open, all of them on disk.

    Attributes
    ----------
    users : int
        How often it is in use; for `Holders`.
    """

    __slots__ = ("users",)

    def __init__(self) -> None:
        self.users = 0

    def is_unsynced(self) -> bool:
        """Tell whether something written by the files may not be on disk."""
        return False

    def give_up(self) -> Sequence[File]:
        """Part with the files, which are the caller's to close; called while the holder is not in use."""
        return ()

    def settle(self) -> None:
        """Put on disk what was written, unless that has to wait for somebody."""


class Holders:
    """Who has how many descriptors, and who is next to give them up. No I/O, and for one thread at a time.

    Attributes
    ----------
    open : int
        Descriptors that are open.
    """

    def __init__(self, capacity: int) -> None:
        self.open = 0
        self._capacity = capacity
        self._idle: OrderedDict[Holder, None] = OrderedDict()
        self._unsynced: OrderedDict[Holder, None] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more."""
        return self.open >= self._capacity

    def use(self, holder: Holder) -> None:
        """Let a holder be in use, once more."""
        if not holder.users:
            self.forget(holder)
        holder.users += 1

    def rest(self, holder: Holder) -> None:
        """Let a holder be in use once less."""
        holder.users -= 1
        if not holder.users:
            (self._unsynced if holder.is_unsynced() else self._idle)[holder] = None

    def forget(self, holder: Holder) -> None:
        """Ask a holder for nothing, until it has rested again."""
        self._idle.pop(holder, None)
        self._unsynced.pop(holder, None)

    def idle(self) -> Holder | None:
        """Take the holder that has been idle for longest."""
        return self._idle.popitem(last=False)[0] if self._idle else None

    def unsynced(self) -> Holder | None:
        """Take the holder that has been unsynced, and not in use, for longest; it is in use by the caller then."""
        if not self._unsynced:
            return None
        holder = next(iter(self._unsynced))
        self.use(holder)
        return holder


class Descriptors:
    """Opens files for all partitions of a process, and has others closed where there is no room. Thread-safe.

    Parameters
    ----------
    capacity : int, optional
        Descriptors that are kept at most. Without it none is closed, unless the system gives no more.

    Attributes
    ----------
    lock : Lock
        Guards `holders`, and what holders know of their files; nobody waits for the system under it.
    """

    def __init__(self, capacity: int = sys.maxsize) -> None:
        self.lock = Lock()
        self.holders = Holders(capacity)

    def open(self, open: Callable[[], T]) -> T:
        """Open something that stays open, counted until it is `closed`, with room made first."""
        while self.holders.is_full and self._make_room():  # invariant 3
            pass
        opened = self.call(open)
        self.keep()
        return opened

    def call(self, call: Callable[[], T]) -> T:
        """Make a call that needs a descriptor; where the system gives none, room is made for it."""
        for _ in range(ATTEMPTS):
            try:
                return call()
            except StorageError as error:
                if not lacks_descriptors(error) or not self._make_room():
                    raise
        return call()

    def keep(self) -> None:
        """Count one that is open, and stays so until it is `closed`."""
        with self.lock:
            self.holders.open += 1

    def closed(self) -> None:
        """Take note that one is open no more."""
        with self.lock:
            self.holders.open -= 1

    def forget(self, holder: Holder) -> None:
        """Ask a holder for nothing any more, whose files are closed."""
        with self.lock:
            self.holders.forget(holder)

    def use(self, holder: Holder) -> None:
        """Keep a holder's files open until it rests."""
        with self.lock:
            self.holders.use(holder)

    def rest(self, holder: Holder) -> None:
        """Let a holder's files be closed where there is no room, unless somebody else still uses it."""
        with self.lock:
            self.holders.rest(holder)
            files = self._given_up(holder) if self.holders.is_full else ()
        if files:
            close_all(files)

    def _make_room(self) -> bool:
        """Have the files of a holder closed, of an idle one if there is any; tell whether any were."""
        files: Sequence[File] = ()
        with self.lock:
            while not files and (holder := self.holders.idle()) is not None:
                files = self._given_up(holder)
        for _ in range(SETTLED):
            if files:
                break
            with self.lock:
                holder = self.holders.unsynced()
            if holder is None:
                break
            holder.settle()
            with self.lock:
                self.holders.rest(holder)
                files = self._given_up(holder)
        close_all(files)
        return bool(files)

    def _given_up(self, holder: Holder) -> Sequence[File]:
        """Take a holder's files if that may be; the caller has the lock, and closes them without it."""
        if holder.users or holder.is_unsynced():  # invariant 1
            return ()
        self.holders.forget(holder)
        files = holder.give_up()
        self.holders.open -= len(files)
        return files


def close_all(files: Sequence[File]) -> None:
    """Close files by which nothing was written that is not on disk, so that a failure tells nothing."""
    for file in files:
        with suppress(StorageError):
            file.close()
