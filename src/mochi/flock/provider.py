"""A member of a group: answers for its view, and keeps the group file in step with what becomes of it.

The engine lets in who holds the token of the service and means this member. The group file is written once all servers
that were started together are complete, so that whoever finds it can use the service. A member that ends marks itself
there, and tells the others; the last one removes the file, unless another service has replaced it. One that does not
answer may be alive: the file stays until nobody listens.

What the view is comes from the group file where that changes, and from those who announce themselves, who may be on
hosts that do not share the file. A member that finds its rank taken by another, for it did not answer for a while, ends
its server.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec

from mochi import shortage
from mochi.flock import group_file, rpc
from mochi.flock.bootstrap import CALL_TIMEOUT, Offer, Place, bootstrap, new_token, primary_of
from mochi.flock.centralized import Centralized
from mochi.flock.client import Sign, announce, listens, talking_to
from mochi.flock.config import CentralizedConfig, FlockConfig, SwimConfig
from mochi.flock.errors import FlockError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.flock.standing import Machine, Peer, State
from mochi.flock.swim import Swim
from mochi.flock.watch import Watch
from mochi.margo.asking import answers
from mochi.margo.complaints import Complaint
from mochi.margo.engine import Engine
from mochi.margo.errors import MargoError
from mochi.margo.peer import Seat
from mochi.margo.pools import Pool

WATCH_INTERVAL = 10.0
"""Seconds between two looks of a member whether it has been replaced. The clock runs on while a process is stopped."""

REPLACED = 255
"""Status of a server that ends because it has been."""

_log = logging.getLogger(__name__)

ANNOUNCED = Complaint("flock: a member has told", logging.INFO)


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
        self._is_complete = False
        me = Member(engine.address, provider_id, 0 if place is None else place.rank)
        self._bootstrap = bootstrap(me, config, self._file, place)
        self._token = self._bootstrap.token or engine.gate.token or new_token()
        if engine.gate.token not in (None, self._token):
            raise FlockError("the server is a member of another service already, which has another token")
        engine.address = self._bootstrap.me.address  # perhaps by the name of its host
        self._seat: Seat | None = None
        self._primary: int | None = None
        self._bootstrap.on_place = self._take_seat
        self._take_seat(self._bootstrap.me)
        self._view = self._view_of((self._bootstrap.me,))
        self._stamp: tuple[int, ...] = ()
        self._watcher: Watch | None = None
        self._problem: str | None = None
        self._introduced = float("-inf")
        self._introducing = threading.Lock()
        self._changing = threading.Lock()
        self._closed = threading.Event()
        engine.define(rpc.GET_VIEW, provider_id, rpc.GetView, self._get_view, pool=pool)
        engine.define(rpc.ANNOUNCE, provider_id, rpc.Announce, self._take_note, pool=pool)
        engine.define(rpc.ASK, provider_id, rpc.Asking, self._asked, pool=pool)

    @property
    def view(self) -> GroupView:
        """The current view of the group, with its token; reads the group file if that has changed.

        In a group that watches its members, it says who is suspect or dead, and whether it is frozen, and why.
        """
        self._refresh()
        return self._view if self._watcher is None else self._watcher.shown(self._view)

    @property
    def config(self) -> dict[str, Any]:
        """Expanded configuration; of a group that watches its members, with how they are."""
        shown = self._config.expand()
        return shown if self._watcher is None else {**shown, "state": self._watcher.state}

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
        self._stamp = self._stamp_of_file()
        members = self._bootstrap.form(
            {rank: msgspec.convert(offer, Offer) for rank, offer in offers.items()}
        )
        self._config = self._config.of_group(self._bootstrap.found)
        if self._config.group.type == "centralized":
            found = self._bootstrap.found
            is_named = found is not None and group_file.CONFIG_KEY in found.metadata
            self._primary = primary_of(found if found is not None and is_named else self._view_of(members))
        self._view = self._view_of(members)
        self._watcher = self._watch_over(self._view)
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
        self._is_complete = True
        if self._watcher is not None:
            self._watcher.start()
        shortage.start(threading.Thread(target=self._watch, name="flock-watch", daemon=True))

    def close(self) -> None:
        """Leave the server, and the group file if it is still the one of this service. Idempotent."""
        self._engine.undefine(self._provider_id)
        if self._closed.is_set():
            return
        self._closed.set()
        if self._watcher is not None:
            self._watcher.close()
        if self._is_published:
            try:
                group_file.update(str(self._file), self._without_me)
            except GroupFileError as error:
                _log.debug("flock: %s", error)
        if self._is_complete:
            announce(self._ended, self._view, CALL_TIMEOUT)

    def _without_me(self, view: GroupView) -> GroupView | None:
        me = self._bootstrap.me
        if view.token != self._token or not any(m.address == me.address for m in view.members):
            return view
        if all(sign is Sign.GONE for _, sign in answers(self._others(view), _listens)):
            return None
        return view.with_member(self._ended)

    @property
    def _ended(self) -> Member:
        """This member, once it has ended."""
        return msgspec.structs.replace(self._bootstrap.me, ended=True)

    def _others(self, view: GroupView) -> list[Member]:
        """Return the members beside this one that have not ended."""
        return [m for m in view.members if m.address != self._bootstrap.me.address and not m.ended]

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_INTERVAL):
            if not self._refresh():
                self._ask_others()

    def _refresh(self) -> bool:
        """Have the view from the group file, if that has changed; return whether there is one of this service."""
        with self._changing:
            stamp = self._stamp_of_file()
            if stamp in ((), self._stamp):
                return bool(stamp)
            try:
                found = group_file.read(str(self._file))
            except GroupFileError as error:
                _log.debug("flock: %s", error)
                return False
            if found.token != self._token:
                return False
            self._stamp = stamp
            self._adopt(found)
            if self._watcher is not None:
                self._watcher.recorded(found)
        return True

    def _stamp_of_file(self) -> tuple[int, ...]:
        with suppress(OSError):
            if self._file is not None:
                status = os.stat(self._file)
                return (status.st_ino, status.st_mtime_ns, status.st_size)
        return ()

    def _ask_others(self) -> None:
        """Have the view of the first of the other members that answers."""
        with talking_to(self._view, CALL_TIMEOUT) as client:
            for other in self._others(self._view):
                with suppress(MargoError):
                    found = client.view(other.address, other.provider_id)
                    with self._changing:
                        self._adopt(found)
                    return

    def _adopt(self, found: GroupView) -> None:
        """Take over what is known of the members."""
        me = self._bootstrap.me
        found = found.ranked().with_states({})
        for member in found.members:
            if member.rank == me.rank and member.address != me.address and self._is_complete:
                shortage.start(threading.Thread(target=self._face, args=(member,), daemon=True))
        self._view = self._view_of(found.with_member(me).members)
        if self._watcher is not None:
            self._watcher.know(self._view)

    def _watch_over(self, view: GroupView) -> Watch | None:
        """Return the watch over the members; None where nobody watches them."""
        me, config = self._bootstrap.me, self._config.watching
        peer, draw, now = Peer(me.rank or 0, me.address), random.Random(), time.monotonic()
        machine: Machine
        if isinstance(config, CentralizedConfig):
            assert self._primary is not None
            machine = Centralized(peer, self._primary, config, draw, now)
        elif isinstance(config, SwimConfig):
            machine = Swim(peer, config, draw, now)
        else:
            return None
        watch = Watch(me, machine, self._refresh, self._record, self._introduce)
        watch.know(view)
        return watch

    def _record(self, states: Mapping[Peer, State]) -> bool:
        """Have the group file say how the members are, which is the matter of one of them; return whether it does."""
        if self._file is None or self._closed.is_set():
            return True

        def change(view: GroupView) -> GroupView:
            if view.token != self._token:
                return view
            present = self._view if self._stamp_of_file() == self._stamp else view.ranked()
            return GroupView(present.members, {**view.metadata, **present.metadata}).with_states(states)

        problem: str | None = None
        try:
            group_file.update(self._file, change)
        except GroupFileError as error:
            problem = str(error)
        if problem not in (None, self._problem):
            _log.warning("flock: who is suspect or dead is not in the group file: %s", problem)
        self._problem = problem
        return problem is None

    def _introduce(self, to: Member) -> None:
        """Have members know this one, unless it was replaced: one of them does not know it."""
        with self._introducing:
            if time.monotonic() < self._introduced + WATCH_INTERVAL:
                return
            self._introduced = time.monotonic()
        me = self._bootstrap.me
        with talking_to(self._view, CALL_TIMEOUT) as client, suppress(MargoError):
            known = client.view(to.address, to.provider_id).ranked().members
            rival = next((m for m in known if m.rank == me.rank and m.address != me.address), None)
            if rival is not None:
                self._face(rival)
            elif not self._closed.is_set():
                announce(me, self._view, CALL_TIMEOUT)

    def _face(self, rival: Member) -> None:
        """End the server if another has its rank and is there; who is not there is known to those who have old news."""
        with talking_to(self._view_of((rival,)), CALL_TIMEOUT) as client:
            sign = client.sign(rival)
        if not sign.is_living:
            announce(self._bootstrap.me, self._view, CALL_TIMEOUT)
        elif not self._closed.is_set():
            _log.error("rank %s is served at %s by now; this server ends", rival.rank, rival.address)
            self._engine.finalize(REPLACED)
            self._closed.set()

    def _take_seat(self, me: Member) -> None:
        """Let in who means this member, under its rank as it is from now on."""
        seat = Seat(self._token, me.rank)
        self._engine.gate.admit(seat, instead=self._seat)
        self._seat = seat

    def _view_of(self, members: tuple[Member, ...]) -> GroupView:
        config = self._config.group.config
        for member in members:
            if member.rank == self._primary is not None:
                config = {
                    **config,
                    group_file.PRIMARY: member.address,
                    "primary_provider_id": member.provider_id,
                }
        metadata = {
            group_file.CONFIG_KEY: msgspec.json.encode(config, order="sorted").decode(),
            group_file.TYPE_KEY: self._config.group.type,
        }
        return GroupView(members, metadata).with_token(self._token)

    def _get_view(self, request: rpc.GetView) -> GroupView:
        return self.view.without_token()

    def _asked(self, request: rpc.Asking) -> rpc.Answer | Future[rpc.Answer]:
        if self._watcher is None:  # the group is not formed yet
            return rpc.Answer(request.about is None, True, ())
        return self._watcher.asked(request)

    def _take_note(self, request: rpc.Announce) -> None:
        member = request.member
        with self._changing:
            self._adopt(self._view.with_member(member))
        state = "has ended" if member.ended else "is a member"
        self._engine.complain(ANNOUNCED, f"{member.address} {state}, with rank {member.rank}")


def _listens(member: Member) -> Sign:
    return listens(member.address, CALL_TIMEOUT)
