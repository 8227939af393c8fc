"""Who may say what, and when: the conversation of a client and a server, as one machine for both ends.

Each end goes through `TRANSITIONS` by what it says and by what it hears, so each knows what may come next. What the
table does not have raises, and names the state and what was said: `LocalProtocolError` if this end was about to say
it, `RemoteProtocolError` if the other one did.
"""

import enum
from typing import Final

from mochi.margo.errors import LocalProtocolError, RemoteProtocolError
from mochi.margo.wire import Kind


class Role(enum.Enum):
    """An end of a connection."""

    CLIENT = "the client"
    SERVER = "the server"


class State(enum.Enum):
    """How far a conversation has come: what is waited for."""

    HELLO = "the client is to say whom it means"
    WELCOME = "the server is to answer, and to prove itself"
    PROOF = "the client is to prove itself"
    OPEN = "requests go one way, answers and notices the other"
    CLOSED = "nothing may be said any more"


REFUSAL: Final = 0
"""What a fault of call 0 is in the table: the server ends the connection, and says why."""

TRANSITIONS: Final[dict[State, dict[Role, dict[int, State]]]] = {
    State.HELLO: {
        Role.CLIENT: {Kind.HELLO: State.WELCOME},
        Role.SERVER: {REFUSAL: State.CLOSED},
    },
    State.WELCOME: {
        Role.CLIENT: {},
        Role.SERVER: {Kind.WELCOME: State.PROOF, REFUSAL: State.CLOSED},
    },
    State.PROOF: {
        Role.CLIENT: {Kind.PROOF: State.OPEN},
        Role.SERVER: {REFUSAL: State.CLOSED},
    },
    State.OPEN: {
        Role.CLIENT: {Kind.REQUEST: State.OPEN, Kind.CANCEL: State.OPEN, Kind.FETCHED: State.OPEN},
        Role.SERVER: {
            Kind.RESPONSE: State.OPEN,
            Kind.FAULT: State.OPEN,
            Kind.NOTICE: State.OPEN,
            REFUSAL: State.CLOSED,
        },
    },
    State.CLOSED: {Role.CLIENT: {}, Role.SERVER: {}},
}
"""What follows in each state on what each end may say there."""


class Conversation:
    """How far the conversation of one connection has come, as one end of it sees that.

    Attributes
    ----------
    role : Role
        This end.
    state : State
    ours, theirs : dict
        What this end and the other one may say now, and what follows.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.enter(State.HELLO)

    def enter(self, state: State) -> None:
        """Go to a state."""
        other = Role.SERVER if self.role is Role.CLIENT else Role.CLIENT
        self.state = state
        self.ours, self.theirs = TRANSITIONS[state][self.role], TRANSITIONS[state][other]

    def say(self, what: int) -> None:
        """Take note that this end says something, a `Kind` or a `REFUSAL`.

        Raises
        ------
        LocalProtocolError
            It is not to be said now.
        """
        if what not in self.ours:
            raise LocalProtocolError(self.describe(self.role, what))
        if self.ours[what] is not self.state:
            self.enter(self.ours[what])

    def hear(self, what: int) -> None:
        """Take note that the other end has said something.

        Raises
        ------
        RemoteProtocolError
            It is not to be said now.
        """
        if what not in self.theirs:
            other = Role.SERVER if self.role is Role.CLIENT else Role.CLIENT
            raise RemoteProtocolError(self.describe(other, what))
        if self.theirs[what] is not self.state:
            self.enter(self.theirs[what])

    def describe(self, who: Role, what: int) -> str:
        """Return the text of an error about what was said in the wrong state."""
        name = Kind(what).name if what else "REFUSAL"
        return f"{who.value} says {name} in state {self.state.name}, where {self.state.value}"
