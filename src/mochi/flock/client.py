"""Asking a flock provider for the members of its group."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from mochi.flock import rpc
from mochi.flock.group_file import GroupView, Member
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, AuthenticationError, ConnectionLost, MargoError


class FlockClient:
    """Client of flock providers; as thread- and fork-safe as the `Client` under it.

    Parameters
    ----------
    client : Client
        Connections to use; it holds the tokens.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def view(self, address: str, provider_id: int) -> GroupView:
        """Return the current view of the group, which has no token in it.

        Raises
        ------
        MargoError
            The server cannot be reached, refuses the token, or has no flock provider of that id.
        """
        return self._client.call(address, rpc.GET_VIEW, rpc.GetView(), GroupView, provider_id=provider_id)

    def announce(self, to: Member, member: Member) -> None:
        """Tell a member of one that has come, or has moved; errors as `view`."""
        self._client.call(
            to.address, rpc.ANNOUNCE, rpc.Announce(member), type(None), provider_id=to.provider_id
        )

    def is_alive(self, member: Member) -> bool:
        """Tell whether a member is there. One that does not answer within the client's time-out may be."""
        try:
            self.view(member.address, member.provider_id)
        except (AddressError, AuthenticationError, ConnectionLost):
            return False
        except MargoError:
            pass
        return True


@contextmanager
def talking_to(view: GroupView, timeout: float) -> Iterator[FlockClient]:
    """Give a client that may talk to the members of a group, for a moment."""
    with closing(Client(timeout=timeout)) as client:
        if view.token is not None:
            for address, rank in view.ranks.items():
                client.set_token(address, view.token, rank)
        yield FlockClient(client)
