"""What a flock client and a flock provider say to each other."""

from typing import Annotated, Final

import msgspec

from mochi.flock.group_file import Member
from mochi.flock.standing import Standing

GET_VIEW: Final = "flock_get_view"
ANNOUNCE: Final = "flock_announce"
ASK: Final = "flock_ask"


class GetView(msgspec.Struct):
    """Ask for the view of the group; the answer is a `GroupView` without the token."""


class Announce(msgspec.Struct):
    """Tell a member of one that has come, or has come back at another address; the answer is null."""

    member: Member


class Asking(msgspec.Struct):
    """Ask a member whether it is there; the answer is an `Answer`.

    Attributes
    ----------
    rank, address : int and str
        Who asks.
    news : tuple of Standing
        What it has to tell of others.
    about : int and str, optional
        Whether another one is there, which the member is to ask in its place.
    timeout : float
        Seconds that it has for that.
    """

    rank: int
    address: str
    news: tuple[Standing, ...]
    about: tuple[int, str] | None = None
    timeout: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class Answer(msgspec.Struct):
    """What a member answers.

    Attributes
    ----------
    is_there : bool
        Whether the one asked about is.
    is_known : bool
        Whether who asks is a member, as far as is known here.
    news : tuple of Standing
        What the member has to tell of others.
    """

    is_there: bool
    is_known: bool
    news: tuple[Standing, ...]
