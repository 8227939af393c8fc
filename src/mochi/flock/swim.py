"""The group type ``swim``: each member pings one other at a time, and what it finds goes round with the pings. No I/O.

| a peer | on | becomes |
|---|---|---|
| alive | a ping that is missed, by those as well who were asked to ping it in its place | suspect |
| alive | news that it is suspect or dead, of its incarnation or a later one | suspect |
| suspect | the end of `suspicion_timeout_ms` | dead |
| suspect, dead | news that it is alive, of a later incarnation | alive |

Who hears that it is suspect or dead itself raises its incarnation, and says so. News of a death make a peer suspect
only: each member finds it dead by its own clock, which leaves the peer time to answer. One that is dead is pinged too,
one in each period, so two sides of a network that was parted find each other again.

The file is written by one member, the first that is alive, if more than half of all have just answered it.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence

from mochi.flock.config import SwimConfig
from mochi.flock.standing import Action, Peer, Ping, Purpose, Standing, State, Write

MOST_NEWS = 16
"""Pieces of news that a ping brings, beside those of who asks and who is asked."""

ROUNDS = 3
"""A piece of news is told this many times the logarithm of the number of members."""


class _Known:
    """What is held of a peer."""

    def __init__(self) -> None:
        self.state = State.ALIVE
        self.incarnation = 0
        self.suspect_until = math.inf
        self.looks: set[Ping] = set()
        """Pings on their way that look for it."""
        self.is_sought = False
        """Whether others have to be asked to ping it."""


class Swim:
    """The view of one member; see `mochi.flock.standing.Machine`.

    Parameters
    ----------
    me : Peer
    config : SwimConfig
    draw : random.Random
        Draws who is pinged.
    now : float
        The time, in seconds on any clock that runs evenly.
    """

    def __init__(self, me: Peer, config: SwimConfig, draw: random.Random, now: float) -> None:
        self._me = me
        self._config = config
        self._draw = draw
        self._now = now
        self._incarnation = 0
        self._known: dict[Peer, _Known] = {}
        self._round: list[Peer] = []
        self._told: dict[Peer, int] = {}
        self._recorded: Mapping[Peer, State] = {}
        self._period_due = now + draw.uniform(0, config.protocol_period)
        self._count_due = now
        self._counted: dict[Ping, bool | None] = {}
        self._is_counted = False

    @property
    def incarnation(self) -> int:
        """How often this member has contradicted what was said of it."""
        return self._incarnation

    @property
    def due(self) -> float:
        """When `tick` is wanted next."""
        dues = [self._period_due, *(known.suspect_until for known in self._known.values())]
        if self._is_counted or any(known.is_sought for known in self._known.values()):
            return self._now
        if self._has_to_write:
            dues.append(self._count_due)
        return min(dues)

    @property
    def states(self) -> Mapping[Peer, State]:
        """Who is suspect or dead."""
        return {peer: known.state for peer, known in self._known.items() if known.state}

    @property
    def frozen(self) -> str | None:
        """Why nobody may write the file on this side; None where somebody may."""
        number = 1 + len(self._known)
        reached = number - len(self.states)
        if 2 * reached > number:
            return None
        return f"{reached} of {number} members are within reach, and more than half are needed"

    @property
    def _has_to_write(self) -> bool:
        alive = [self._me, *(peer for peer, known in self._known.items() if not known.state)]
        return self.states != self._recorded and self.frozen is None and min(alive) == self._me

    def know(self, peers: Collection[Peer]) -> None:
        """Take over who the other members are that have not ended."""
        self._known = {peer: self._known.get(peer) or _Known() for peer in sorted(peers)}
        self._round = [peer for peer in self._round if peer in self._known]

    def recorded(self, states: Mapping[Peer, State]) -> None:
        """Take note of what the file says, whoever wrote it."""
        self._recorded = {peer: state for peer, state in states.items() if state}

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        self._forgive(now)
        self._now = now
        for peer, known in self._known.items():
            if known.suspect_until <= now:
                known.state, known.suspect_until = State.DEAD, math.inf
                self._tell(peer)
        return [*self._seek(), *self._look(now), *self._write(now)]

    def _forgive(self, now: float) -> None:
        """Let time not count in which this process was stopped, and could not hear that a peer is alive."""
        late = now - min(self.due, self._period_due)
        if late > self._config.ping_timeout:
            for known in self._known.values():
                known.suspect_until += late

    def _seek(self) -> list[Ping]:
        """Ask others to ping those that have missed a ping."""
        actions: list[Ping] = []
        for peer, known in self._known.items():
            if not known.is_sought:
                continue
            known.is_sought = False
            able = [other for other, its in self._known.items() if other != peer and not its.state]
            chosen = self._draw.sample(able, min(len(able), self._config.ping_req_members))
            timeout = self._config.ping_req_timeout
            known.looks = {Ping(other, peer, timeout, self.news_for(other)) for other in chosen}
            actions += sorted(known.looks, key=lambda ping: ping.to)
            if not chosen:
                self._miss(peer, known)
        return actions

    def _look(self, now: float) -> list[Action]:
        """Ping the next one, and one of the dead."""
        if now < self._period_due:
            return []
        self._period_due = now + self._config.protocol_period
        actions: list[Action] = []
        for _ in range(len(self._known)):
            if not self._round:
                self._round = list(self._known)
                self._draw.shuffle(self._round)
            peer = self._round.pop()
            known = self._known[peer]
            if known.state is not State.DEAD and not known.looks and not known.is_sought:
                ping = Ping(peer, peer, self._config.ping_timeout, self.news_for(peer))
                known.looks = {ping}
                actions.append(ping)
                break
        dead = [peer for peer, known in self._known.items() if known.state is State.DEAD]
        if dead:
            peer = self._draw.choice(dead)
            timeout = self._config.ping_timeout
            actions.append(Ping(peer, peer, timeout, self.news_for(peer), Purpose.RETURN))
        return actions

    def _write(self, now: float) -> list[Action]:
        """Write the file once more than half have answered; ask them where it says something else than is held here."""
        if self._is_counted:
            self._is_counted = False
            return [Write(self.states)] if self._has_to_write else []
        if not self._has_to_write or self._count_due > now:
            return []
        self._count_due = now + max(self._config.protocol_period, self._config.ping_timeout)
        timeout = self._config.ping_timeout
        pings = [
            Ping(peer, peer, timeout, self.news_for(peer), Purpose.COUNT)
            for peer, known in self._known.items()
            if not known.state
        ]
        self._counted = dict.fromkeys(pings)
        self._is_counted = not self._known
        return list(pings)

    def news_for(self, peer: Peer) -> list[Standing]:
        """Return what to tell a peer: of this member, of that peer, and what was told least often of the others."""
        most = ROUNDS * math.ceil(math.log2(2 + len(self._known)))
        self._told = {
            about: times
            for about, times in self._told.items()
            if times < most and (about in self._known or about == self._me)
        }
        chosen = sorted(self._told, key=lambda about: (self._told[about], about))[:MOST_NEWS]
        for about in chosen:
            self._told[about] += 1
        known = [each for each in (self._me, peer) if each == self._me or each in self._known]
        return [self._standing(about) for about in dict.fromkeys((*known, *chosen))]

    def asked(self, sender: Peer, news: Sequence[Standing], now: float) -> Sequence[Standing]:
        """Take note that a peer has asked; return what to tell it."""
        self._hear(news, now)
        return self.news_for(sender)

    def answered(self, ping: Ping, news: Sequence[Standing], now: float) -> None:
        """Take note that who was asked about is there."""
        self._hear(news, now)
        if ping in self._counted:
            self._counted[ping] = True
            number = 1 + len(self._known)
            if 2 * (1 + sum(map(bool, self._counted.values()))) > number:
                self._is_counted, self._counted = True, {}
        known = self._known.get(ping.about)
        if known is not None and ping in known.looks:
            known.looks = set()

    def missed(self, ping: Ping, now: float) -> None:
        """Take note that nobody has answered in time."""
        self._now = max(self._now, now)
        known = self._known.get(ping.about)
        if known is None or ping not in known.looks:
            return
        known.looks.remove(ping)
        if ping.to == ping.about:
            known.is_sought = True
        elif not known.looks:
            self._miss(ping.about, known)

    def _miss(self, peer: Peer, known: _Known) -> None:
        if known.state is State.ALIVE:
            self._suspect(peer, known, known.incarnation, self._now)

    def _suspect(self, peer: Peer, known: _Known, incarnation: int, now: float) -> None:
        known.state, known.incarnation = State.SUSPECT, incarnation
        known.suspect_until = now + self._config.suspicion_timeout
        self._tell(peer)

    def _hear(self, news: Sequence[Standing], now: float) -> None:
        self._now = max(self._now, now)
        for each in news:
            if each.peer == self._me:
                self._hear_of_me(each)
                continue
            known = self._known.get(each.peer)
            if known is None:
                continue
            if each.state is State.ALIVE:
                if each.incarnation > known.incarnation:
                    known.state, known.incarnation = State.ALIVE, each.incarnation
                    known.suspect_until = math.inf
                    self._tell(each.peer)
            elif each.incarnation > known.incarnation or (
                each.incarnation == known.incarnation and known.state is State.ALIVE
            ):
                self._suspect(each.peer, known, each.incarnation, now)

    def _hear_of_me(self, said: Standing) -> None:
        contradicted = said.incarnation + bool(said.state)
        if contradicted > self._incarnation:
            self._incarnation = contradicted
            self._tell(self._me)

    def _tell(self, peer: Peer) -> None:
        self._told[peer] = 0

    def _standing(self, peer: Peer) -> Standing:
        if peer == self._me:
            return Standing(*peer, State.ALIVE, self._incarnation)
        known = self._known[peer]
        return Standing(*peer, known.state, known.incarnation)
