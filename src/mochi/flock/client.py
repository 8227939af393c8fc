"""Asking a flock provider for the members of its group, and looking whether members are there.

`Client` makes handles of groups, which scripts use.
"""

import enum
import os
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

from mochi.flock import rpc, view
from mochi.flock.errors import FlockError
from mochi.flock.group_file import GroupView, Member
from mochi.margo import transport
from mochi.margo.asking import answers
from mochi.margo.client import Client as MargoClient
from mochi.margo.errors import (
    AddressError,
    AuthenticationError,
    ConnectionLost,
    DeadlineExceeded,
    Fault,
    MargoError,
    ProtocolError,
)
from mochi.margo.sharing import connect


class Sign(enum.Enum):
    """What there is to see of a member within a time-out."""

    ANSWERS = "answers"
    LISTENS = "listens"
    """It is there, and does not answer: it is stopped, or very busy."""
    SILENT = "silent"
    """Its host does not answer: it has vanished, or cannot be reached from here."""
    GONE = "gone"
    """Nobody listens, or somebody else does."""

    @property
    def is_living(self) -> bool:
        """Whether the member is there for sure."""
        return self in (Sign.ANSWERS, Sign.LISTENS)


class FlockClient:
    """Client of flock providers; as thread- and fork-safe as the margo client under it.

    Parameters
    ----------
    client : mochi.margo.client.Client
        Connections to use; it holds the tokens.
    """

    def __init__(self, client: MargoClient) -> None:
        self._client = client

    def view(self, address: str, provider_id: int, *, timeout: float | None = None) -> GroupView:
        """Return the current view of the group, with ordinals and who has ended; it has no token in it.

        The member has `timeout` seconds to answer, else those of the client.

        Raises
        ------
        MargoError
            The server cannot be reached, refuses the token, or has no flock provider of that id.
        """
        return self._client.call(
            address, rpc.GET_VIEW, rpc.GetView(), GroupView, provider_id=provider_id, timeout=timeout
        )

    def announce(self, to: Member, member: Member) -> None:
        """Tell a member of one that has come, has moved, or ends; errors as `view`."""
        self._client.call(
            to.address, rpc.ANNOUNCE, rpc.Announce(member), type(None), provider_id=to.provider_id
        )

    def sign(self, member: Member) -> Sign:
        """Ask a member whether it is there; blocks for twice the client's time-out at most."""
        try:
            self.view(member.address, member.provider_id)
        except (AuthenticationError, ProtocolError):
            return Sign.GONE
        except (AddressError, ConnectionLost, DeadlineExceeded) as error:
            if isinstance(error.__cause__, Fault) and error.__cause__.code == "wrong_member":
                return Sign.GONE
            return listens(member.address, self._client.timeout)
        except MargoError:
            pass
        return Sign.ANSWERS

    def signs(self, members: Collection[Member]) -> Iterator[tuple[Member, Sign]]:
        """Ask members side by side; yield the sign of each as it comes."""
        for member, sign in answers(members, self.sign):
            assert isinstance(sign, Sign)
            yield member, sign


def listens(address: str, timeout: float) -> Sign:
    """Look whether anybody listens at an address, without a word to who does."""
    try:
        transport.connect(address, timeout).close()
    except AddressError as error:
        is_known = error.__cause__ is None or isinstance(error.__cause__, ConnectionRefusedError)
        return Sign.GONE if is_known else Sign.SILENT
    return Sign.LISTENS


def announce(member: Member, view: GroupView, timeout: float) -> None:
    """Tell all other members that are there of one that has come, has moved, or ends."""
    others = [other for other in view.members if other.address != member.address and not other.ended]

    with talking_to(view, timeout) as client:
        dict(
            answers(others, lambda other: client.announce(other, member))
        )  # or else they read the group file


@contextmanager
def talking_to(view: GroupView, timeout: float) -> Iterator[FlockClient]:
    """Lend a client that may talk to the members of a group."""
    with closing(MargoClient(timeout=timeout)) as client:
        if view.token is not None:
            for address, rank in view.ranks.items():
                client.set_token(address, view.token, rank)
        yield FlockClient(client)


class Client:
    """Makes handles of groups.

    Parameters
    ----------
    arg : str, Engine or int
        A protocol, or an engine, see `mochi.margo.sharing.connect`.
    """

    def __init__(self, arg: Any) -> None:
        self.margo, self._token = connect(arg)

    def make_group_handle(self, address: str, provider_id: int = 0) -> "GroupHandle":
        """Return the group of a member, which is asked for its view; `MargoError` if it cannot be."""
        return self._handle(view.GroupView([Member(str(address), provider_id)]), update=True)

    def make_group_handle_from_file(self, filename: str | os.PathLike[str]) -> "GroupHandle":
        """Return the group of a group file; `GroupFileError` if that cannot be read."""
        return self._handle(view.GroupView.from_file(filename))

    def make_group_handle_from_serialized(self, text: str) -> "GroupHandle":
        """Return the group of the text of a view; `GroupFileError` if it is none."""
        return self._handle(view.GroupView.from_string(text))

    def _handle(self, known: view.GroupView, *, update: bool = False) -> "GroupHandle":
        known.token = known.token or self._token
        handle = GroupHandle(self.margo, known)
        if update:
            handle.update()
        return handle


class GroupHandle:
    """A group, as it was when it was last asked.

    Attributes
    ----------
    view : mochi.flock.view.GroupView
    """

    def __init__(self, margo: MargoClient, known: view.GroupView) -> None:
        self._margo = margo
        self._take(known)

    def __repr__(self) -> str:
        return f"<GroupHandle of {len(self.view.members)} members>"

    def _take(self, known: view.GroupView) -> None:
        self.view = known
        if known.token is not None:
            for member in known.members:
                self._margo.set_token(member.address, known.token, member.rank)

    def update(self) -> None:
        """Have the view of the first member that answers.

        Raises
        ------
        MargoError
            None does; that of the last one.
        """
        flock = FlockClient(self._margo)
        failure: MargoError = FlockError("the group has no members to ask")
        for _, told in answers(list(self.view.members), lambda m: flock.view(m.address, m.provider_id)):
            if isinstance(told, MargoError):
                failure = told
                continue
            found = view.GroupView.of(told)
            found.token = self.view.token
            self._take(found)
            return
        raise failure
