"""Members of a group on virtual time, and a network between them that loses messages and can be parted."""

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence

from mochi.flock.standing import Machine, Peer, Ping, Standing, State, Write

LATENCY = (0.001, 0.02)


class Node:
    """A member: its machine, and whether its process is there."""

    def __init__(self, peer: Peer, machine: Machine) -> None:
        self.peer = peer
        self.machine = machine
        self.is_up = True
        self.is_stopped = False


class Simulation:
    """A group.

    Parameters
    ----------
    make : callable
        Makes the machine of a member that starts, from the member, a source of chance, and the time.
    """

    def __init__(self, size: int, make: Callable[[Peer, random.Random, float], Machine], seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.loss = 0.0
        self.make = make
        self.sides: dict[Peer, int] = {}
        self.file: Mapping[Peer, State] = {}
        self.writers: list[tuple[float, Peer]] = []
        self.changes: list[tuple[float, Peer, Peer, State]] = []
        """When a member held something else of another one than before."""
        self._held: dict[tuple[Peer, Peer], State] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.peers = [Peer(rank, f"ofi+tcp://10.0.0.{rank}:1") for rank in range(size)]
        self.nodes = {peer: Node(peer, make(peer, self.draw, 0.0)) for peer in self.peers}
        for node in self.nodes.values():
            self._begin(node)

    def _begin(self, node: Node) -> None:
        node.machine.know([peer for peer in self.peers if peer != node.peer])
        node.machine.recorded(self.file)
        self._wake(node)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            when, _, what = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            what()
        self.now = end

    def kill(self, peer: Peer) -> None:
        self.nodes[peer].is_up = False

    def restart(self, peer: Peer) -> None:
        """Start a member again that has forgotten all."""
        self.nodes[peer] = Node(peer, self.make(peer, self.draw, self.now))
        self._begin(self.nodes[peer])

    def stop(self, peer: Peer) -> None:
        """Stop a process, as SIGSTOP does; it keeps what it knows."""
        self.nodes[peer].is_stopped = True

    def go_on(self, peer: Peer) -> None:
        self.nodes[peer].is_stopped = False
        self._wake(self.nodes[peer])

    def part(self, *others: Peer) -> None:
        """Part the network: no message passes between these and the rest."""
        self.sides = dict.fromkeys(others, 1)

    def heal(self) -> None:
        self.sides = {}

    def states(self, peer: Peer) -> dict[int, State]:
        """Return what a member holds of others, by rank."""
        return {other.rank: state for other, state in self.nodes[peer].machine.states.items()}

    def _is_there(self, node: Node) -> bool:
        return node.is_up and self.nodes[node.peer] is node

    def _wake(self, node: Node) -> None:
        """Have `tick` called when it is due; early calls find that it is not."""
        for other in self.peers:
            state = node.machine.states.get(other, State.ALIVE)
            if self._held.get((node.peer, other), State.ALIVE) is not state:
                self._held[node.peer, other] = state
                self.changes.append((self.now, node.peer, other, state))

        def tick() -> None:
            if not self._is_there(node) or node.is_stopped or node.machine.due > self.now:
                return
            node.machine.recorded(self.file)
            for action in node.machine.tick(self.now):
                if isinstance(action, Write):
                    self.writers.append((self.now, node.peer))
                    self.file = dict(action.states)
                else:
                    self._ping(node, action)
            self._wake(node)

        if node.machine.due < float("inf"):
            self._at(max(node.machine.due, self.now), tick)

    def _ping(self, node: Node, ping: Ping) -> None:
        is_over = False

        def end(outcome: Callable[[], None]) -> None:
            nonlocal is_over
            if is_over or not self._is_there(node):
                return
            if node.is_stopped:  # it finds its time-out over when it goes on
                self._at(self.now + 0.5, lambda: end(miss))
                return
            is_over = True
            outcome()
            self._wake(node)

        def miss() -> None:
            node.machine.missed(ping, self.now)

        def arrive(news: Sequence[Standing]) -> None:
            end(lambda: node.machine.answered(ping, news, self.now))

        def ask() -> None:
            to = self.nodes[ping.to]
            news = to.machine.asked(node.peer, ping.news, self.now)
            self._wake(to)
            if ping.about == ping.to:
                self._send(to.peer, node.peer, lambda: arrive(news))
            else:
                self._relay(to, ping, lambda: self._send(to.peer, node.peer, lambda: arrive(news)))

        self._at(self.now + ping.timeout, lambda: end(miss))
        self._send(node.peer, ping.to, ask)

    def _relay(self, via: Node, ping: Ping, done: Callable[[], None]) -> None:
        def ask() -> None:
            target = self.nodes[ping.about]
            target.machine.asked(via.peer, via.machine.news_for(ping.about), self.now)
            self._wake(target)
            self._send(ping.about, via.peer, done)

        self._send(via.peer, ping.about, ask)

    def _send(self, sender: Peer, to: Peer, deliver: Callable[[], None]) -> None:
        def arrive() -> None:
            node = self.nodes[to]
            if node.is_up and not node.is_stopped:
                deliver()

        is_parted = self.sides.get(sender) != self.sides.get(to)
        if not is_parted and self.draw.random() >= self.loss:
            self._at(self.now + self.draw.uniform(*LATENCY), arrive)
