"""The processes that were started together as one service, and how they agree on a start that all of them make.

They agree in rounds. In a round, every process says one thing, and hears what each of the others has said. A process
that fails says so in its next round, which is the last one for all. So nobody waits for a server that will never be
there, and each of them can tell why. All make the same rounds whatever their configuration, see
`mochi.bedrock.server`; after `Peers.close` they no longer know of each other.

How a round travels is a matter of who started the processes: see `mochi.bedrock.mpi` and `mochi.bedrock.supervisor`.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

import msgspec

from mochi.bedrock.errors import BedrockError

__all__ = ["PATIENCE", "Alone", "PeerError", "Peers", "Returning", "Word"]

PATIENCE = 300.0
"""Seconds that a process waits in a round for the others, which may have much to recover."""


class PeerError(BedrockError):
    """Another process of the service has failed, so this one does not start either.

    Attributes
    ----------
    rank : int or None
        Which one; None where this is not known.
    problem : str
        What it said, or what became of it.
    """

    def __init__(self, rank: int | None, problem: str) -> None:
        super().__init__(problem if rank is None else f"rank {rank} did not start: {problem}")
        self.rank = rank
        self.problem = problem


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process says in a round: something, or that it has failed."""

    item: Any = None
    problem: str | None = None


class Peers(ABC):
    """The processes of a service as one of them sees them. One thread at a time.

    Attributes
    ----------
    rank : int
        Ordinal of this process.
    size : int
        Number of processes.
    present : range
        Ranks of those who make rounds.
    """

    def __init__(self, rank: int, size: int, present: range) -> None:
        self.rank = rank
        self.size = size
        self.present = present
        self._over = False

    @property
    def speaks(self) -> bool:
        """Whether this process speaks where one of those that were started together is enough."""
        return self.rank == min(self.present)

    def gather(self, item: Any) -> dict[int, Any]:
        """Make a round with something of plain data; return what each rank has said.

        Raises
        ------
        PeerError
            A process has failed, or has said nothing within `PATIENCE`.
        """
        try:
            words = self._exchange(msgspec.msgpack.encode(Word(item)))
            said = dict(
                zip(self.present, (msgspec.msgpack.decode(word, type=Word) for word in words), strict=True)
            )
            for rank, word in said.items():
                if word.problem is not None:
                    raise PeerError(rank, word.problem)
        except PeerError:
            self._over = True
            raise
        return {rank: word.item for rank, word in said.items()}

    def fail(self, problem: str) -> None:
        """Make the last round, in which this process says that it has failed. Does nothing after the end."""
        if not self._over:
            self._over = True
            with suppress(PeerError):
                self._exchange(msgspec.msgpack.encode(Word(problem=problem)))

    def close(self) -> None:
        """Go separate ways. Idempotent."""
        self._over = True
        self._leave()

    def abandon(self) -> None:
        """Go in the middle of a start, without waiting for anybody; the others learn of it. Idempotent."""
        self._over = True
        self.close()

    @abstractmethod
    def _exchange(self, word: bytes) -> list[bytes]:
        """Say a word to all who are present, and return theirs by rank; `PeerError` where they do not come."""

    @abstractmethod
    def _leave(self) -> None:
        """Let go of what rounds need. Idempotent."""


class Alone(Peers):
    """A process that was started by itself."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        super().__init__(rank, size, range(rank, rank + 1))

    def _exchange(self, word: bytes) -> list[bytes]:
        return [word]

    def _leave(self) -> None:
        pass


class Returning(Alone):
    """A process that was started again, by itself, under the rank that it had among others."""
