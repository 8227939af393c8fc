"""What members of a group hold of each other, and what a machine that watches them wants done. No I/O.

| a member is | when |
|---|---|
| `alive` | it answers, or nothing is known against it |
| `suspect` | it has missed a ping; it may be slow, or out of reach for a moment |
| `dead` | it has missed too many, or was suspect for too long; it is asked again all the same, and comes back so |

A machine (`mochi.flock.centralized`, `mochi.flock.swim`) is told what happens, with the time, and says in `tick` what
is to be done. Of each `Ping` it is told once whether it was answered.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import msgspec


class State(enum.IntEnum):
    """Of two that are said of the same incarnation, the greater one counts."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2

    @property
    def word(self) -> str | None:
        """How it stands in a view: nothing for who is alive."""
        return None if self is State.ALIVE else self.name.lower()


class Peer(NamedTuple):
    """A member at an address. At another address the member of the same rank is another peer."""

    rank: int
    address: str


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """What is said of a peer. A peer alone raises its incarnation: to contradict what was said of the one before."""

    rank: int
    address: str
    state: State
    incarnation: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0

    @property
    def peer(self) -> Peer:
        """Who it is said of."""
        return Peer(self.rank, self.address)


class Purpose(enum.Enum):
    """What a ping is for."""

    LOOK = "look"
    RETURN = "return"
    """To find whether one that is dead has come back."""
    COUNT = "count"
    """To count who is there before the file is written."""


@dataclass(eq=False, frozen=True)
class Ping:
    """Ask `to` whether `about` is there: another one, or itself; it has `timeout` seconds to answer."""

    to: Peer
    about: Peer
    timeout: float
    news: Sequence[Standing] = ()
    purpose: Purpose = Purpose.LOOK


@dataclass(frozen=True)
class Write:
    """Have the file say how the peers are; who is not in it is alive."""

    states: Mapping[Peer, State]


Action = Ping | Write


class Machine(Protocol):
    """What watches the members of a group; one thread at a time."""

    @property
    def due(self) -> float:
        """When `tick` is wanted next."""

    @property
    def states(self) -> Mapping[Peer, State]:
        """Who is suspect or dead."""

    @property
    def frozen(self) -> str | None:
        """Why nobody may write the file on this side; None where somebody may."""

    def know(self, peers: Collection[Peer]) -> None:
        """Take over who the other members are that have not ended."""

    def recorded(self, states: Mapping[Peer, State]) -> None:
        """Take note of what the file says, whoever wrote it."""

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""

    def news_for(self, peer: Peer) -> Sequence[Standing]:
        """Return what to tell a peer that is asked in the place of another."""

    def asked(self, sender: Peer, news: Sequence[Standing], now: float) -> Sequence[Standing]:
        """Take note that a peer has asked; return what to tell it."""

    def answered(self, ping: Ping, news: Sequence[Standing], now: float) -> None:
        """Take note that who was asked about is there."""

    def missed(self, ping: Ping, now: float) -> None:
        """Take note that nobody has answered in time."""
