"""Tables of transitions: what may happen in which state, and where it leads."""

import enum
from collections.abc import Mapping
from typing import TypeAlias, TypeVar


class Name(enum.Enum):
    """The name of a state or an event; its value says what that is."""

    __hash__ = object.__hash__  # at once: `Enum.__hash__` is a function in Python


S = TypeVar("S", bound=Name)
E = TypeVar("E", bound=Name)


Table: TypeAlias = Mapping[S, Mapping[E, S]]


class NotAllowed(Exception):
    """An event that cannot happen in a state.

    Attributes
    ----------
    state, event : Name
    """

    def __init__(self, state: Name, event: Name) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{self.event} is not allowed in {self.state}"


def following(table: Table[S, E], state: S, event: E) -> S:
    """Return the state that `event` leads to; `NotAllowed` if it cannot happen in `state`."""
    try:
        return table[state][event]
    except KeyError:
        raise NotAllowed(state, event) from None
