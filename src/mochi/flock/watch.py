"""Watching the members of a group: does what a `Machine` says, on threads and a client of its own.

One thread sleeps until the machine wants something. Each ping has a thread for as long as it waits, so that no member
waits for another; one that asks in the place of another answers when it knows.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from mochi import shortage
from mochi.flock import rpc
from mochi.flock.group_file import GroupView, Member
from mochi.flock.standing import Machine, Peer, Ping, State, Write
from mochi.margo.client import Client
from mochi.margo.errors import MargoError

FROZEN_KEY = "__frozen__"
"""Metadata of a view that nobody writes: why."""

_log = logging.getLogger(__name__)


class Watch:
    """A member's watch over the others.

    Parameters
    ----------
    me : Member
    machine : Machine
        What decides.
    refresh : callable
        Reads the group file if that has changed; is called before each turn of the machine.
    record : callable
        Has the group file say how the peers are; returns whether it does.
    stranger : callable
        Is called when a member does not know this one, with that member.

    Notes
    -----
    Any thread. Between `start` and `close` it wakes up when the machine does.
    """

    def __init__(
        self,
        me: Member,
        machine: Machine,
        refresh: Callable[[], object],
        record: Callable[[Mapping[Peer, State]], bool],
        stranger: Callable[[Member], None],
    ) -> None:
        self._me = me
        self._machine = machine
        self._refresh = refresh
        self._record = record
        self._stranger = stranger
        self._members: dict[Peer, Member] = {}
        self._client = Client()
        self._changing = threading.Condition()
        self._held: dict[Peer, State] = {}
        self._frozen: str | None = None
        self._is_closed = False
        self._alarm = math.inf

    def start(self) -> None:
        """Begin to ask the others."""
        shortage.start(threading.Thread(target=self._run, name="flock-pings", daemon=True))

    def close(self) -> None:
        """Ask nobody any more."""
        with self._changing:
            self._is_closed = True
            self._changing.notify()
        self._client.close()

    def know(self, view: GroupView) -> None:
        """Take over who the members are."""
        others = {
            Peer(member.rank or 0, member.address): member
            for member in view.ranked().members
            if not member.ended and member.address != self._me.address
        }
        if view.token is not None:
            for peer in others:
                self._client.set_token(peer.address, view.token, peer.rank)
        with self._changing:
            self._members = others
            self._machine.know(others)
            self._note()

    def recorded(self, view: GroupView) -> None:
        """Take note of what the group file says."""
        said = {
            Peer(member.rank or 0, member.address): State[member.state.upper()]
            for member in view.ranked().members
            if not member.ended and member.state is not None and member.state.upper() in State.__members__
        }
        with self._changing:
            self._machine.recorded(said)
            self._note()

    def shown(self, view: GroupView) -> GroupView:
        """Return a view with how each member is, and why nobody writes it if that is so."""
        with self._changing:
            states, frozen = self._machine.states, self._machine.frozen
        metadata = view.metadata if frozen is None else {**view.metadata, FROZEN_KEY: frozen}
        return GroupView(view.with_states(states).members, metadata)

    def asked(self, asking: rpc.Asking) -> rpc.Answer | Future[rpc.Answer]:
        """Answer one who asks, at once where it asks for this member itself."""
        sender = Peer(asking.rank, asking.address)
        with self._changing:
            is_known = sender in self._members
            news = tuple(self._machine.asked(sender, asking.news, time.monotonic()))
            self._note()
            about = None if asking.about is None else Peer(*asking.about)
            if about not in self._members or self._is_closed:
                return rpc.Answer(about is None, is_known, news)
            ping = Ping(about, about, asking.timeout, self._machine.news_for(about))
        answer: Future[rpc.Answer] = Future()

        def ask() -> None:
            answer.set_result(rpc.Answer(self._ping(ping), is_known, news))

        try:
            shortage.start(threading.Thread(target=ask, name="flock-ask", daemon=True))
        except OSError:
            return rpc.Answer(False, is_known, news)
        return answer

    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._refresh()
                self._turn()
            except Exception:
                _log.exception("flock: unhandled error while the members are watched")
                time.sleep(1)
            with self._changing:
                while not self._is_closed and (left := self._machine.due - time.monotonic()) > 0:
                    self._alarm = self._machine.due
                    self._changing.wait(None if left == math.inf else left)

    def _turn(self) -> None:
        with self._changing:
            actions = [] if self._is_closed else self._machine.tick(time.monotonic())
            self._note()
        for action in actions:
            if isinstance(action, Write):
                if self._record(action.states):
                    with self._changing:
                        self._machine.recorded(action.states)
                continue
            try:
                shortage.start(
                    threading.Thread(target=self._ping, args=(action,), name="flock-ping", daemon=True)
                )
            except OSError as error:
                _log.debug("flock: %s", error)
                self._missed(action)

    def _ping(self, ping: Ping) -> bool:
        """Ask a member, and tell the machine what came of it; return whether the one asked about is there."""
        answer = self._ask(ping)
        if answer is None:
            self._missed(ping)
            return False
        with self._changing:
            asked = None if self._is_closed else self._members.get(ping.to)
            self._machine.answered(ping, answer.news, time.monotonic())
            self._note()
        if not answer.is_known and asked is not None:
            self._stranger(asked)
        return True

    def _missed(self, ping: Ping) -> None:
        with self._changing:
            if self._is_closed:
                return
            self._machine.missed(ping, time.monotonic())
            self._note()
            is_dead = self._machine.states.get(ping.to) is State.DEAD
        link = self._client.living_link(ping.to.address) if is_dead else None
        if link is not None:  # what TCP sends again, after a cut, it sends late
            self._client.set_aside(link)

    def _ask(self, ping: Ping) -> rpc.Answer | None:
        """Return what a member answers; None if it is not there, or says that the one asked about is not."""
        member = self._members.get(ping.to)
        if member is None:
            return None
        about = None if ping.to == ping.about else (ping.about.rank, ping.about.address)
        asking = rpc.Asking(self._me.rank or 0, self._me.address, tuple(ping.news), about, ping.timeout)
        try:
            answer = self._client.call(
                member.address,
                rpc.ASK,
                asking,
                rpc.Answer,
                provider_id=member.provider_id,
                timeout=ping.timeout,
            )
        except MargoError as error:
            _log.debug("flock: rank %s: %s", ping.to.rank, error)
            return None
        return answer if answer.is_there else None

    def _note(self) -> None:
        """Log what has changed, and wake the thread up if something is due."""
        states, frozen = self._machine.states, self._machine.frozen
        for peer in sorted({*states, *self._held}):
            before, now = self._held.get(peer, State.ALIVE), states.get(peer, State.ALIVE)
            if before is now or peer not in self._members:
                continue
            level = logging.INFO if State.DEAD not in (before, now) else logging.WARNING
            _log.log(level, "flock: rank %s at %s is %s", peer.rank, peer.address, now.name.lower())
        self._held = dict(states)
        if frozen != self._frozen:
            if frozen is None:
                _log.warning("flock: the view of the group is not frozen any more")
            elif self._frozen is None:
                _log.warning("flock: the view of the group is frozen: %s", frozen)
            self._frozen = frozen
        if self._machine.due < self._alarm:
            self._changing.notify()

    @property
    def state(self) -> dict[str, object]:
        """What a query shows."""
        with self._changing:
            states, frozen = self._machine.states, self._machine.frozen
            shown: dict[str, object] = {
                "members": {
                    str(peer.rank): states.get(peer, State.ALIVE).name.lower()
                    for peer in sorted(self._members)
                }
            }
        return shown if frozen is None else {**shown, "frozen": frozen}
