"""Whose turn it is among those who share one thing, such as the thread that runs queries. No I/O.

Each pays for its turns, and the one that has paid least is next. Who comes anew, or again after a pause, begins with
what the one whose turn was last had paid. So a pause earns nothing, and who comes is soon served, whatever others
have waiting.
"""

from collections import deque
from typing import Generic, TypeVar

K = TypeVar("K")
W = TypeVar("W")


class Turns(Generic[K, W]):
    """Work that waits, by who brought it. Calls must not overlap.

    Invariants: of each, work is taken in the order in which it came. Of two who always have work waiting, neither
    pays more than the other by more than what one turn costs. Nothing is kept of those that have no work and are
    behind.
    """

    def __init__(self) -> None:
        self._waiting: dict[K, deque[W]] = {}
        self._paid: dict[K, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, who: K, work: W) -> None:
        """Add work."""
        if who not in self._waiting:
            self._waiting[who] = deque()
            self._paid[who] = max(self._paid.get(who, 0.0), self._now)
        self._waiting[who].append(work)

    def take(self) -> tuple[K, W] | None:
        """Take the work that is next; None if there is none."""
        if not self._waiting:
            return None
        who = min(self._waiting, key=self._paid.__getitem__)
        self._now = self._paid[who]
        waiting = self._waiting[who]
        work = waiting.popleft()
        if not waiting:
            del self._waiting[who]
        return who, work

    def pay(self, who: K, cost: float) -> None:
        """Take note of what a turn has cost."""
        self._paid[who] = max(self._paid.get(who, 0.0), self._now) + cost
        behind = [
            other for other, paid in self._paid.items() if paid <= self._now and other not in self._waiting
        ]
        for other in behind:
            del self._paid[other]

    def drop(self, who: K) -> None:
        """Forget one, and all its work."""
        self._waiting.pop(who, None)
        self._paid.pop(who, None)
