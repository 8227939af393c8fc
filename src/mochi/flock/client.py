"""Asking a flock provider for the members of its group."""

from mochi.flock import rpc
from mochi.flock.group_file import GroupView
from mochi.margo.client import Client


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
