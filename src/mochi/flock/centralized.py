"""The group type ``centralized``: one member, the primary, pings all others, and tells them how each is. No I/O.

| at the primary, a peer | on | becomes |
|---|---|---|
| alive | a ping that is missed | suspect; dead where one is enough |
| suspect | the `ping_max_num_timeouts`th that is missed in a row | dead |
| suspect, dead | an answer, or a question of its own | alive |

After each change all that are alive are pinged at once, for pings bring what the primary holds of the others. And
the file is to be written, until it says the same. Other members believe the primary. If that has not asked for as
long as it takes to find one dead, their view is frozen; it goes on with the next ping.
"""

import random
from collections.abc import Collection, Mapping, Sequence

from mochi.flock.config import CentralizedConfig
from mochi.flock.standing import Action, Peer, Ping, Standing, State, Write


class _Watched:
    """A peer, as the primary watches it."""

    def __init__(self, due: float) -> None:
        self.state = State.ALIVE
        self.misses = 0
        self.due = due
        self.ping: Ping | None = None


class Centralized:
    """The view of one member; see `mochi.flock.standing.Machine`.

    Parameters
    ----------
    me : Peer
    primary : int
        Rank of the primary.
    config : CentralizedConfig
    draw : random.Random
        Draws the intervals.
    now : float
        The time, in seconds on any clock that runs evenly.
    """

    def __init__(
        self, me: Peer, primary: int, config: CentralizedConfig, draw: random.Random, now: float
    ) -> None:
        self._me = me
        self._primary = primary
        self._config = config
        self._draw = draw
        self._now = now
        self._heard = now
        self._watched: dict[Peer, _Watched] = {}
        self._told: dict[Peer, State] = {}
        self._recorded: Mapping[Peer, State] = {}
        self._write_due = now
        self._patience = (config.longest_interval + config.ping_timeout) * (config.ping_max_num_timeouts + 1)
        self._is_silent = False

    @property
    def _is_primary(self) -> bool:
        return self._me.rank == self._primary

    @property
    def _has_to_write(self) -> bool:
        return self.states != self._recorded

    @property
    def due(self) -> float:
        """When `tick` is wanted next."""
        if not self._is_primary:
            return float("inf") if self._is_silent else self._heard + self._patience
        dues = [watched.due for watched in self._watched.values() if watched.ping is None]
        if self._has_to_write:
            dues.append(self._write_due)
        return min(dues, default=float("inf"))

    @property
    def states(self) -> Mapping[Peer, State]:
        """Who is suspect or dead."""
        if not self._is_primary:
            return {peer: state for peer, state in self._told.items() if peer in self._watched}
        return {peer: watched.state for peer, watched in self._watched.items() if watched.state}

    @property
    def frozen(self) -> str | None:
        """Why nobody may write the file on this side; None where somebody may."""
        if self._is_primary:
            return None
        if all(peer.rank != self._primary for peer in self._watched):
            return f"the primary, rank {self._primary}, has ended"
        if self._is_silent:
            return f"the primary, rank {self._primary}, has not pinged for {self._patience:g} s"
        return None

    def know(self, peers: Collection[Peer]) -> None:
        """Take over who the other members are that have not ended."""
        self._watched = {peer: self._watched.get(peer) or _Watched(self._now) for peer in sorted(peers)}

    def recorded(self, states: Mapping[Peer, State]) -> None:
        """Take note of what the file says, whoever wrote it."""
        self._recorded = {peer: state for peer, state in states.items() if state}

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        if not self._is_primary:
            late = now - self.due
            if 0 <= late <= self._config.ping_timeout:
                self._is_silent = True
            elif late > 0:  # this process was stopped; the primary was not listened to
                self._heard = now
            self._now = now
            return []
        self._now = now
        actions: list[Action] = []
        states = self.states
        if self._has_to_write and self._write_due <= now:
            self._write_due = now + self._config.longest_interval
            actions.append(Write(states))
        news = [Standing(*peer, state) for peer, state in states.items()]
        for peer, watched in self._watched.items():
            if watched.ping is None and watched.due <= now:
                watched.ping = Ping(peer, peer, self._config.ping_timeout, news)
                watched.due = now + self._draw.uniform(*self._config.intervals)
                actions.append(watched.ping)
        return actions

    def news_for(self, peer: Peer) -> Sequence[Standing]:
        """Return what to tell a peer that is asked in the place of another: nothing, for none is."""
        return ()

    def asked(self, sender: Peer, news: Sequence[Standing], now: float) -> Sequence[Standing]:
        """Take note that a peer has asked; return what to tell it."""
        if sender.rank == self._primary and sender in self._watched:
            self._heard = self._now = now
            self._is_silent = False
            self._told = {each.peer: each.state for each in news}
        return ()

    def answered(self, ping: Ping, news: Sequence[Standing], now: float) -> None:
        """Take note that who was asked about is there."""
        watched = self._watched.get(ping.about)
        if watched is not None and watched.ping is ping:
            watched.ping = None
            watched.misses = 0
            self._become(watched, State.ALIVE, now)

    def missed(self, ping: Ping, now: float) -> None:
        """Take note that nobody has answered in time."""
        watched = self._watched.get(ping.about)
        if watched is not None and watched.ping is ping:
            watched.ping = None
            watched.misses += 1
            is_dead = watched.misses >= self._config.ping_max_num_timeouts
            self._become(watched, State.DEAD if is_dead else State.SUSPECT, now)

    def _become(self, watched: _Watched, state: State, now: float) -> None:
        if watched.state is state:
            return
        watched.state = state
        self._write_due = now
        for other in self._watched.values():
            if other.state is State.ALIVE:
                other.due = now
