"""What a partition sends to one consumer, and when. No I/O.

| state | what happens | next |
|---|---|---|
| ASKED | the answer that begins it is sent, or queued | IDLE |
| IDLE, STARVED | there are events, and credit for them | SENDING |
| IDLE, STARVED | there are events, and no credit | STARVED |
| SENDING | what was read is sent, and nothing more is known | IDLE |
| any but ENDED | the consumer, its connection or the partition ends it | ENDED |

While a feed is SENDING, events are read for it, or memory for them is waited for. One read is under way at a time, so
batches leave in order.
"""

import enum
from typing import Final

MAX_FEED_EVENTS = 8192
"""Events of one batch of a feed whose consumer leaves the size to the server."""

MAX_CREDIT = 256 << 20
MAX_BATCHES = 4096
"""Bytes, and batches, of one feed that are on their way at most, however much its consumer grants."""


class State(enum.Enum):
    """What a feed is at."""

    ASKED = "not answered"
    IDLE = "idle"
    STARVED = "waiting for credit"
    SENDING = "sending"
    ENDED = "ended"


TRANSITIONS: Final = {
    State.ASKED: {State.IDLE, State.ENDED},
    State.IDLE: {State.STARVED, State.SENDING, State.ENDED},
    State.STARVED: {State.SENDING, State.ENDED},
    State.SENDING: {State.IDLE, State.ENDED},
    State.ENDED: set[State](),
}


class Feed:
    """One feed. Belongs to one thread.

    Parameters
    ----------
    first : int
        Id of the first event that is to be sent.
    batch_size : int
        Events of one batch at most; 0 leaves it to the server.
    batches, credit : int
        What may be sent before more is granted.

    Attributes
    ----------
    state : State
    next : int
        Id of the next event to be sent.
    """

    __slots__ = ("batch_size", "batches", "credit", "next", "state", "with_data")

    def __init__(self, first: int, batch_size: int, batches: int, credit: int, with_data: bool) -> None:
        self.state = State.ASKED
        self.next = first
        self.batch_size = min(batch_size, MAX_FEED_EVENTS) or MAX_FEED_EVENTS
        self.batches = 0
        self.credit = 0
        self.with_data = with_data
        self.grant(batches, credit)

    def _to(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a feed that is {self.state.value} cannot become {state.value}")
        self.state = state

    def grant(self, batches: int, credit: int) -> None:
        """Add to what may be sent; a consumer that grants back what it got never loses by the limits."""
        self.batches = min(self.batches + batches, MAX_BATCHES)
        self.credit = min(self.credit + credit, MAX_CREDIT)

    def answered(self) -> None:
        """Take note that the consumer is told where the feed begins: what is sent from now on comes behind that."""
        if self.state is State.ASKED:
            self._to(State.IDLE)

    def begin(self, count: int) -> bool:
        """Return whether events are to be read now, of a partition that has `count`; the feed is then SENDING."""
        if self.next >= count or self.state not in (State.IDLE, State.STARVED):
            return False
        if self.batches <= 0 or self.credit <= 0:
            if self.state is State.IDLE:
                self._to(State.STARVED)
            return False
        self._to(State.SENDING)
        return True

    def sent(self, next_id: int, size: int) -> None:
        """Take note that the events before `next_id` are sent, `size` bytes."""
        self._to(State.IDLE)
        self.next = next_id
        self.batches -= 1
        self.credit -= size

    def end(self) -> None:
        """Take note that nothing more is to be sent."""
        self._to(State.ENDED)
