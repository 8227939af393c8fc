"""The life of topics at the server that has the master database: who may change which, and who has to wait. No I/O.

A topic is at rest in one of three states, which the database knows, or is changed by one request at a time:

    at rest    what is asked:
               create             extend         delete         settle
    ABSENT     MAKING             is not there   is not there   is settled
    THERE      exists             EXTENDING      DELETING       CLEARING
    LEFT       CLEARING, MAKING   is not there   CLEARING       CLEARING

LEFT is what an interrupted change has left of a topic that is not there: it is cleared away before anything else. Of
one that is THERE, a partition that was being added may be left. To settle is to have that cleared away, if any.
While a topic is MAKING, EXTENDING, DELETING or CLEARING, all that is asked waits, in the order of its arrival, until
that is over, or its own time is. Who waits to delete or to extend a topic that is deleted meanwhile is told that it
is not there, whatever is left of it. A change that was begun goes on, whoever does not wait for it any more.

`Lives` is told what is asked and what was found, and returns what is to be done next, as a list of

`Look`
    The state at rest is to be looked up, and told by `Lives.found`.
`Begin`
    A change is to be made; when it is over, the state that it leaves is to be told by `Lives.found`, or if nobody
    knows it, `Lives.lost`. What has become of the request is told by whoever makes the change, but for CLEARING before
    a creation, which goes on.
`Tell`
    A request is answered.
"""

from collections import deque
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Wish(Enum):
    """What may be asked."""

    CREATE = "create"
    EXTEND = "extend"
    DELETE = "delete"
    SETTLE = "settle"


class State(Enum):
    """What a topic is at rest."""

    ABSENT = "absent"
    THERE = "there"
    LEFT = "left"


class Change(Enum):
    """What a topic undergoes."""

    MAKING = "being made"
    EXTENDING = "being extended"
    DELETING = "being deleted"
    CLEARING = "being cleared away"


class Verdict(Enum):
    """How a request ends that changes nothing."""

    EXISTS = "exists"
    NOT_THERE = "is not there"
    SETTLED = "is settled"
    STILL_LEFT = "is not cleared away"
    TIMED_OUT = "was not its turn in time"
    FAILED = "cannot be looked up"


TABLE: dict[tuple[State, Wish], Change | Verdict] = {
    (State.ABSENT, Wish.CREATE): Change.MAKING,
    (State.ABSENT, Wish.EXTEND): Verdict.NOT_THERE,
    (State.ABSENT, Wish.DELETE): Verdict.NOT_THERE,
    (State.ABSENT, Wish.SETTLE): Verdict.SETTLED,
    (State.THERE, Wish.CREATE): Verdict.EXISTS,
    (State.THERE, Wish.EXTEND): Change.EXTENDING,
    (State.THERE, Wish.DELETE): Change.DELETING,
    (State.THERE, Wish.SETTLE): Change.CLEARING,
    (State.LEFT, Wish.CREATE): Change.CLEARING,
    (State.LEFT, Wish.EXTEND): Verdict.NOT_THERE,
    (State.LEFT, Wish.DELETE): Change.CLEARING,
    (State.LEFT, Wish.SETTLE): Change.CLEARING,
}


class Look(NamedTuple):
    """See the module."""

    topic: str


class Begin(NamedTuple, Generic[T]):
    """See the module."""

    topic: str
    change: Change
    request: T


class Tell(NamedTuple, Generic[T]):
    """See the module."""

    request: T
    verdict: Verdict


Step = Look | Begin[T] | Tell[T]


class _Life(Generic[T]):
    """A topic that somebody is at: what it undergoes, for whom, and who waits."""

    def __init__(self) -> None:
        self.change: Change | None = None
        self.served: tuple[Wish, T] | None = None
        self.waiting: deque[tuple[Wish, T]] = deque()


class Lives(Generic[T]):
    """The topics that somebody is at; a topic that nobody is at costs nothing. Belongs to one thread at a time.

    Requests are any values, compared by identity.
    """

    def __init__(self) -> None:
        self._lives: dict[str, _Life[T]] = {}

    def ask(self, topic: str, wish: Wish, request: T) -> list[Step[T]]:
        """Take a request."""
        life = self._lives.get(topic)
        is_first = life is None
        if life is None:
            life = self._lives[topic] = _Life()
        life.waiting.append((wish, request))
        return [Look(topic)] if is_first else []

    def found(self, topic: str, state: State) -> list[Step[T]]:
        """Take the state at rest of a topic: one that was looked up, or that a change has left."""
        life = self._lives[topic]
        change, served = life.change, life.served
        life.change = life.served = None
        to_do: list[Step[T]] = []
        if change is Change.CLEARING and served is not None and served[0] is Wish.CREATE:
            if state is State.LEFT:
                to_do.append(Tell(served[1], Verdict.STILL_LEFT))
            else:
                life.waiting.appendleft(served)
        if change is Change.DELETING and state is not State.THERE:
            late = [one for one in life.waiting if one[0] in (Wish.DELETE, Wish.EXTEND)]
            life.waiting = deque(one for one in life.waiting if one[0] not in (Wish.DELETE, Wish.EXTEND))
            to_do += [Tell(request, Verdict.NOT_THERE) for _, request in late]
        while life.waiting:
            wish, request = life.waiting.popleft()
            step = TABLE[state, wish]
            if isinstance(step, Change):
                life.change, life.served = step, (wish, request)
                return [*to_do, Begin(topic, step, request)]
            to_do.append(Tell(request, step))
        del self._lives[topic]
        return to_do

    def lost(self, topic: str) -> list[Step[T]]:
        """Take that nobody knows the state of a topic: it could not be looked up."""
        life = self._lives[topic]
        to_do: list[Step[T]] = []
        if life.change is None and life.waiting:
            to_do.append(Tell(life.waiting.popleft()[1], Verdict.FAILED))
        elif life.change is Change.CLEARING and life.served is not None and life.served[0] is Wish.CREATE:
            to_do.append(Tell(life.served[1], Verdict.FAILED))
        life.change = life.served = None
        if life.waiting:
            return [*to_do, Look(topic)]
        del self._lives[topic]
        return to_do

    def give_up(self, topic: str, request: T) -> list[Step[T]]:
        """Take that the time of a request is over; one whose change was begun goes on."""
        life = self._lives.get(topic)
        if life is None or all(one[1] is not request for one in life.waiting):
            return []
        life.waiting = deque(one for one in life.waiting if one[1] is not request)
        return [Tell(request, Verdict.TIMED_OUT)]
