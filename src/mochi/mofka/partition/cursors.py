"""Where the consumers of a partition are, as they last said."""

from collections.abc import Mapping

from mochi.margo.errors import Fault

MAX_CURSOR_BYTES = 8 << 20
"""Bytes of the names of a partition's consumers, each counted with `CURSOR_COST` more: a hundred thousand names
of fifty characters. One more is refused, for to forget one would send its consumer back to the first event."""

CURSOR_COST = 32


class Cursors:
    """The id of each consumer's next event. Cursors only move forward; calls must not overlap."""

    def __init__(self, stored: Mapping[str, int]) -> None:
        self._next = dict(stored)
        self._room = MAX_CURSOR_BYTES - sum(map(_cost, stored))

    def __getitem__(self, consumer: str) -> int:
        """Return the id of a consumer's next event, 0 for one that is not known."""
        return self._next.get(consumer, 0)

    def advance(self, consumer: str, next_id: int) -> None:
        """Move a cursor forward, if it is not there yet.

        Raises
        ------
        Fault
            ``too_many_consumers``: there is no room for the name of one more.
        """
        if consumer not in self._next:
            if _cost(consumer) > self._room:
                raise Fault(
                    "too_many_consumers",
                    f"the cursors of {len(self._next)} consumers are kept, and there is no room for that of "
                    f"{consumer!r}; go on under the name of one of them",
                )
            self._room -= _cost(consumer)
        self._next[consumer] = max(next_id, self[consumer])


def _cost(consumer: str) -> int:
    return len(consumer.encode("utf-8", "surrogatepass")) + CURSOR_COST
