"""A member of a group: answers for its view, and keeps the group file in step with what becomes of it.

The engine lets in who holds the token of the service and means this member. The group file is written once all servers
that were started together are complete, so that whoever finds it can use the service. A member that ends marks itself
there; the last one alive removes the file, unless another service has replaced it.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from mochi.flock import group_file, rpc
from mochi.flock.bootstrap import CALL_TIMEOUT, Offer, Place, bootstrap, new_token
from mochi.flock.client import talking_to
from mochi.flock.config import FlockConfig
from mochi.flock.errors import FlockError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.margo.engine import Engine
from mochi.margo.handshake import Seat
from mochi.margo.pools import Pool

_log = logging.getLogger(__name__)


class FlockProvider:
    """A member of a group.

    Parameters
    ----------
    engine : Engine
        Server that the provider belongs to; its gate gets the token, and the rank of the member.
    provider_id : int
        Identifier of the provider in its server.
    config : FlockConfig
        Checked configuration.
    pool : Pool, optional
        Where views are handed out; the engine's RPC pool when None.
    place : Place, optional
        Place of the process among those of its service; None if it was started alone.

    Raises
    ------
    FlockError
        No bootstrap leads to a group.
    """

    def __init__(
        self,
        engine: Engine,
        provider_id: int,
        config: FlockConfig,
        pool: Pool | None = None,
        place: Place | None = None,
    ) -> None:
        self._engine = engine
        self._provider_id = provider_id
        self._config = config
        self._file = None if config.file is None else os.path.abspath(config.file)
        self._is_published = False
        me = Member(engine.address, provider_id, 0 if place is None else place.rank)
        self._bootstrap = bootstrap(me, config, self._file, place)
        self._token = self._bootstrap.token or engine.gate.token or new_token()
        if engine.gate.token not in (None, self._token):
            raise FlockError("the server is a member of another service already, which has another token")
        self._seat: Seat | None = None
        self._bootstrap.on_place = self._take_seat
        self._take_seat(self._bootstrap.me)
        self._view = self._view_of((self._bootstrap.me,))
        engine.define(rpc.GET_VIEW, provider_id, rpc.GetView, self._get_view, pool=pool)
        engine.define(rpc.ANNOUNCE, provider_id, rpc.Announce, self._take_note, pool=pool)

    @property
    def view(self) -> GroupView:
        """The current view of the group, with its token."""
        return self._view

    @property
    def config(self) -> dict[str, Any]:
        """Expanded configuration."""
        return self._config.expand()

    @property
    def offer(self) -> dict[str, Any]:
        """What the providers of this name in the other processes should know: an `Offer`, as plain data."""
        return dict(msgspec.to_builtins(Offer(self._bootstrap.me, self._file)))

    def form(self, offers: Mapping[int, Any]) -> tuple[int, dict[int, str]]:
        """Form the group.

        Parameters
        ----------
        offers : mapping
            What each process offers that has a provider of this name, its own offer included, by rank.

        Returns
        -------
        int
            Ordinal of this member.
        dict
            Address of each member by ordinal.

        Raises
        ------
        FlockError
            There is no such group.
        """
        members = self._bootstrap.form(
            {rank: msgspec.convert(offer, Offer) for rank, offer in offers.items()}
        )
        self._view = self._view_of(members)
        ranks = self._view.ranks
        return ranks[self._bootstrap.me.address], {rank: address for address, rank in ranks.items()}

    def ready(self, engine: Engine) -> None:
        """Publish the group file, if the configuration names one.

        Raises
        ------
        GroupFileError
            The file cannot be written.
        """
        self._bootstrap.publish(self._view)
        self._is_published = self._file is not None and not self._bootstrap.keeps_file

    def close(self) -> None:
        """Leave the server, and the group file if it is still the one of this service. Idempotent."""
        self._engine.undefine(self._provider_id)
        if not self._is_published:
            return
        self._is_published = False
        try:
            group_file.update(str(self._file), self._without_me)
        except GroupFileError as error:
            _log.debug("flock: %s", error)

    def _without_me(self, view: GroupView) -> GroupView | None:
        me = self._bootstrap.me
        if view.token != self._token or not any(m.address == me.address for m in view.members):
            return view
        others = [member for member in view.members if member.address != me.address and not member.ended]
        with talking_to(view, CALL_TIMEOUT) as client:
            if not any(map(client.is_alive, others)):
                return None
        return view.with_member(msgspec.structs.replace(me, ended=True))

    def _take_seat(self, me: Member) -> None:
        """Let in who means this member, under its rank as it is from now on."""
        seat = Seat(self._token, me.rank)
        self._engine.gate.admit(seat, instead=self._seat)
        self._seat = seat

    def _view_of(self, members: tuple[Member, ...]) -> GroupView:
        config = self._config.group.config
        metadata = {
            "__config__": msgspec.json.encode(config, order="sorted").decode(),
            "__type__": self._config.group.type,
        }
        return GroupView(members, metadata).with_token(self._token)

    def _get_view(self, request: rpc.GetView) -> GroupView:
        return self._view.without_token()

    def _take_note(self, request: rpc.Announce) -> None:
        self._view = self._view.with_member(request.member)
        _log.info("flock: %s is a member, with rank %s", request.member.address, request.member.rank)
