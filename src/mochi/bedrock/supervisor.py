"""``bedrock -n N``: the servers of a service on one node, as children of one process that supervises them.

The supervisor carries the rounds in which they form their group, hands SIGINT and SIGTERM on to all of them, and waits
for all of them. A server that dies afterwards leaves the others running, and is not started again: who does so says
``--rank K --size N``. A server does not outlive its supervisor.
"""

import ctypes
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import msgspec

from mochi.bedrock.peers import PATIENCE, PeerError, Peers, Word

__all__ = ["Rounds", "supervise"]

_LONGEST = 1 << 20
"""Bytes of a message between a supervisor and a server."""

_COMPLETE = b"\xc0"
"""What a server says once it is complete and makes no more rounds; no word is like it."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


class Rounds:
    """The rounds of `size` processes, as their supervisor sees them. Does no I/O.

    Parameters
    ----------
    size : int
        Number of processes.
    """

    def __init__(self, size: int) -> None:
        self._words: list[bytes | None] = [None] * size
        self._gone: dict[int, bytes] = {}

    def say(self, rank: int, word: bytes) -> list[tuple[int, bytes]]:
        """Take a word of a process; return who is to be told what."""
        self._words[rank] = word
        return self._answers()

    def leave(self, rank: int, problem: str) -> list[tuple[int, bytes]]:
        """Take note that a process makes no more rounds; return who is to be told what."""
        self._gone[rank] = msgspec.msgpack.encode(Word(problem=problem))
        return self._answers()

    def _answers(self) -> list[tuple[int, bytes]]:
        said = [rank for rank, word in enumerate(self._words) if word is not None and rank not in self._gone]
        if len(said) + len(self._gone) < len(self._words):
            return []
        answer = msgspec.msgpack.encode([self._gone.get(rank, word) for rank, word in enumerate(self._words)])
        self._words = [None] * len(self._words)
        return [(rank, answer) for rank in said]


class SupervisedPeers(Peers):
    """The children of a supervisor as one of them sees them.

    Parameters
    ----------
    channel : socket
        To the supervisor; a message is a packet.
    """

    def __init__(self, rank: int, size: int, channel: socket.socket) -> None:
        super().__init__(rank, size, range(size))
        self._channel = channel

    def _exchange(self, word: bytes) -> list[bytes]:
        self._channel.settimeout(PATIENCE)
        try:
            self._channel.send(word)
            answer = self._channel.recv(_LONGEST)
        except TimeoutError:
            raise PeerError(
                None, f"not all of {self.size} servers were there within {PATIENCE:.0f} s"
            ) from None
        except OSError as error:
            raise PeerError(None, f"the supervisor is gone: {error.strerror}") from None
        if not answer:
            raise PeerError(None, "the supervisor is gone")
        return msgspec.msgpack.decode(answer, type=list[bytes])

    def close(self) -> None:
        """Go separate ways; tell the supervisor if it is after a complete start."""
        if not self._over:
            with suppress(OSError):
                self._channel.send(_COMPLETE)
        super().close()

    def _leave(self) -> None:
        self._channel.close()


class _Server:
    """A child of the supervisor."""

    def __init__(self, rank: int, size: int, serve: Callable[[Peers], int], elder: "list[_Server]") -> None:
        self.rank = rank
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            for server in (*elder, self):
                server.channel.close()
            _become(serve, SupervisedPeers(rank, size, theirs))
        theirs.close()
        self.channel.setblocking(False)
        self.end = os.pidfd_open(self.pid)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> str | None:
        """Take the status of the process, which has ended; say how, unless it was in good order."""
        os.close(self.end)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}" if code else None


def supervise(size: int, serve: Callable[[Peers], int], ready_fd: int | None = None) -> bool:
    """Run `serve` in `size` processes until all of them have ended.

    Parameters
    ----------
    serve : callable
        Given its peers; returns the exit code of the process, or raises `SystemExit`.
    ready_fd : int, optional
        A descriptor that the servers alone keep.

    Returns
    -------
    bool
        Whether all have ended in good order.

    Notes
    -----
    Belongs to the main thread of a process without other threads.
    """
    servers: dict[int, _Server] = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for rank in range(size):
        servers[rank] = _Server(rank, size, serve, list(servers.values()))
    if ready_fd is not None:
        os.close(ready_fd)
    is_stopping = threading.Event()

    def hand_on(number: int, frame: object) -> None:
        is_stopping.set()
        for server in list(servers.values()):
            server.signal(number)

    previous = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        with selectors.DefaultSelector() as selector:
            return _watch(selector, servers, is_stopping.is_set)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(
    selector: selectors.BaseSelector, servers: dict[int, _Server], is_stopping: Callable[[], bool]
) -> bool:
    for child in servers.values():
        selector.register(child.channel, selectors.EVENT_READ, child)
        selector.register(child.end, selectors.EVENT_READ, child)
    rounds = Rounds(len(servers))
    channels = {rank: child.channel for rank, child in servers.items()}
    starting = set(servers)
    is_well = True
    while servers:
        answers: list[tuple[int, bytes]] = []
        # Last words are heard before the end is.
        for key, _ in sorted(selector.select(), key=lambda event: event[0].fileobj == event[0].data.end):
            server: _Server = key.data
            if key.fileobj is server.channel:
                word = _received(server.channel)
                if word == _COMPLETE:
                    starting.discard(server.rank)
                elif word:
                    answers += rounds.say(server.rank, word)
                else:
                    selector.unregister(server.channel)
                continue
            selector.unregister(server.end)
            problem = server.wait()
            del servers[server.rank]
            answers += rounds.leave(server.rank, problem or "was told to stop")
            if problem is not None:
                is_well = False
                if server.rank not in starting and servers and not is_stopping():
                    log.error("the server of rank %d %s; the others go on", server.rank, problem)
        for rank, answer in answers:
            with suppress(OSError):
                channels[rank].send(answer)
    return is_well


def _received(channel: socket.socket) -> bytes:
    try:
        return channel.recv(_LONGEST)
    except OSError:
        return b""


def _become(serve: Callable[[Peers], int], peers: Peers) -> NoReturn:
    """Be a server, in a process of its own, which ends when its parent does."""
    code: object = 255
    try:
        os.setpgid(0, 0)  # Ctrl-C at a terminal comes by the supervisor
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = serve(peers)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 255)
