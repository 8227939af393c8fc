"""Tables of transitions: what may happen in which state, and where it leads."""

import enum
from collections.abc import Mapping
from typing import TypeAlias, TypeVar

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)

Table: TypeAlias = Mapping[S, Mapping[E, S]]


class NotAllowed(Exception):
    """An event that cannot happen in a state.

    Attributes
    ----------
    state, event : enum.Enum
    """

    def __init__(self, state: enum.Enum, event: enum.Enum) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{self.event} is not allowed in {self.state}"


def following(table: Table[S, E], state: S, event: E) -> S:
    """Return the state that `event` leads to; `NotAllowed` if it cannot happen in `state`."""
    following = table[state].get(event)
    if following is None:
        raise NotAllowed(state, event)
    return following
