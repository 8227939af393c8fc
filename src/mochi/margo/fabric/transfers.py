"""What becomes of transfers between registered memory, decided without I/O.

==========  ===========================================  ===========================================
state       event                                        next state, action
==========  ===========================================  ===========================================
WAITING     the provider takes it                        FLYING
WAITING     the provider is busy (also: connecting)      WAITING, is tried again
WAITING     the provider refuses it                      DONE, told
WAITING     its time is over, or its owner gives it up    DONE, told; the provider never had it
FLYING      it completes, or fails                       DONE, told
FLYING      its time is over, or its owner gives it up    QUARANTINED, told
QUARANTINED it completes, or fails                       DONE
==========  ===========================================  ===========================================

Nothing can be taken back from a provider: cancelling a transfer does nothing. It may touch the memory as soon as a
peer that was stopped goes on. So the memory of a transfer that was given up is kept until the provider has completed
it: that is its quarantine. An event that a state does not have is a fault of the caller, and raises.
"""

import enum
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

Told: TypeAlias = Callable[[BaseException | None], None]
"""Is told once what became of a transfer: None, or why it failed."""

Ended: TypeAlias = tuple[Told, BaseException | None]
"""Whom to tell, and what."""


class State(enum.Enum):
    """What has become of a transfer so far."""

    WAITING = enum.auto()
    FLYING = enum.auto()
    QUARANTINED = enum.auto()
    DONE = enum.auto()


class Event(enum.Enum):
    """What may happen to a transfer."""

    TAKEN = enum.auto()
    REFUSED = enum.auto()
    COMPLETED = enum.auto()
    GIVEN_UP = enum.auto()


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.WAITING: {
        Event.TAKEN: State.FLYING,
        Event.REFUSED: State.DONE,
        Event.GIVEN_UP: State.DONE,
    },
    State.FLYING: {Event.COMPLETED: State.DONE, Event.GIVEN_UP: State.QUARANTINED},
    State.QUARANTINED: {Event.COMPLETED: State.DONE, Event.GIVEN_UP: State.QUARANTINED},
    State.DONE: {Event.GIVEN_UP: State.DONE},
}


class Transfer(msgspec.Struct, eq=False, gc=True):
    """One transfer.

    Attributes
    ----------
    owner : object
        Who asked for it, and may give it up.
    peer : int
        Whom it is with.
    size : int
        Bytes.
    deadline : float
        When it is given up, on the caller's clock.
    told : callable
        See `Told`.
    post : Any
        What the provider is given; opaque here.
    memory : Any
        Kept until the provider can no longer touch it.
    """

    owner: object
    peer: int
    size: int
    deadline: float
    told: Told | None
    post: Any
    memory: Any
    state: State = State.WAITING


class Transfers:
    """The transfers of one endpoint, by number; the caller serialises the calls.

    Methods return what is to be told, as pairs that `tell` takes once no lock is held.

    Attributes
    ----------
    quarantined : int
        Bytes of memory in quarantine.
    """

    def __init__(self) -> None:
        self.quarantined = 0
        self._all: dict[int, Transfer] = {}
        self._waiting: dict[int, Transfer] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, transfer: Transfer) -> int:
        """Take a new transfer; return its number."""
        self._numbers += 1
        self._all[self._numbers] = self._waiting[self._numbers] = transfer
        return self._numbers

    def waiting(self) -> list[tuple[int, Transfer]]:
        """Return those that the provider has not taken, oldest first; of each peer, none overtakes another."""
        return list(self._waiting.items())

    def taken(self, number: int) -> None:
        """Take note that the provider has one."""
        self._change(number, Event.TAKEN)
        del self._waiting[number]

    def refused(self, number: int, error: BaseException) -> list[Ended]:
        """Take note that the provider will not have one."""
        self._waiting.pop(number, None)
        return self._end(number, Event.REFUSED, error)

    def completed(self, number: int, error: BaseException | None) -> list[Ended]:
        """Take note that the provider is done with one, well or not."""
        transfer = self._all[number]
        if transfer.state is State.QUARANTINED:
            self.quarantined -= transfer.size
        return self._end(number, Event.COMPLETED, error)

    def has(self, peer: int) -> bool:
        """Tell whether there is any transfer with a peer, in quarantine perhaps."""
        return any(transfer.peer == peer for transfer in self._all.values())

    def give_up(self, owner: object, error: BaseException) -> list[Ended]:
        """Wait no more for what `owner` has asked for."""
        numbers = [number for number, transfer in self._all.items() if transfer.owner is owner]
        return self._give_up(numbers, error)

    def expire(self, now: float, error: BaseException) -> list[Ended]:
        """Wait no more for those whose time is over."""
        numbers = [
            number
            for number, transfer in self._all.items()
            if transfer.deadline <= now and transfer.told is not None
        ]
        return self._give_up(numbers, error)

    def next_deadline(self) -> float:
        """Return when the next one is to be given up; infinity if there is none."""
        return min(
            (transfer.deadline for transfer in self._all.values() if transfer.told is not None),
            default=float("inf"),
        )

    def end(self, error: BaseException) -> list[Ended]:
        """Forget all: the endpoint is closed, and the provider can touch nothing any more."""
        told: list[Ended] = [(t.told, error) for t in self._all.values() if t.told is not None]
        self._all.clear()
        self._waiting.clear()
        self.quarantined = 0
        return told

    def _give_up(self, numbers: list[int], error: BaseException) -> list[Ended]:
        told: list[Ended] = []
        for number in numbers:
            transfer = self._all[number]
            before = transfer.state
            if before is State.WAITING:
                del self._waiting[number]
                told += self._end(number, Event.GIVEN_UP, error)
                continue
            self._change(number, Event.GIVEN_UP)
            if before is State.FLYING:
                self.quarantined += transfer.size
            if transfer.told is not None:
                told.append((transfer.told, error))
                transfer.told = None
        return told

    def _end(self, number: int, event: Event, error: BaseException | None) -> list[Ended]:
        transfer = self._change(number, event)
        del self._all[number]
        return [] if transfer.told is None else [(transfer.told, error)]

    def _change(self, number: int, event: Event) -> Transfer:
        transfer = self._all[number]
        following = TRANSITIONS[transfer.state].get(event)
        if following is None:
            raise RuntimeError(
                f"transfer {number} is {transfer.state.name}: {event.name} cannot happen to it"
            )
        transfer.state = following
        return transfer
