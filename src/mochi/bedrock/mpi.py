"""Processes that were started by mpirun or srun: rounds by MPI.

All of MPI happens in one thread of its own, so that Ctrl-C and deadlines work while it waits. It is finalized as soon
as the group is formed: from then on, what becomes of one process is for the launcher to judge, not for MPI.
"""

import importlib.util
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from mochi import shortage
from mochi.bedrock.errors import BedrockError
from mochi.bedrock.peers import PATIENCE, PeerError, Peers

__all__ = ["MpiPeers", "launched", "meet"]

R = TypeVar("R")

INSTALL = "pip install 'mofka[mpi]'"

_LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
"""Environment variables that hold the number of processes; a batch script of Slurm has none of them."""

_FINALIZE_PATIENCE = 10.0


def launched(environment: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Return the launcher of this process, and how many it has started; None where there is no launcher."""
    for variable, launcher in _LAUNCHERS.items():
        size = environment.get(variable, "")
        if size.isdecimal():
            return launcher, int(size)
    return None


def _is_wanted(text: bytes) -> bool:
    """Tell whether the text of a configuration, in any language, asks for MPI."""
    return re.search(rb"MPI_COMM_WORLD|[\"']mpi[\"']", text) is not None


def meet(launcher: str, size: int, read: Callable[[], bytes]) -> Peers | None:
    """Meet the other processes that a launcher has started; None where there are none, or none are needed.

    Parameters
    ----------
    read : callable
        Gives the text of the configuration, which is looked at where the others cannot be met: does it need them?

    Raises
    ------
    BedrockError
        The configuration needs MPI, which is not installed, does not start, or does not see the others.
    """
    if size == 1:
        return None
    started = f"{launcher} has started {size} processes"
    if importlib.util.find_spec("mpi4py") is None:
        if _is_wanted(read()):
            raise BedrockError(
                f"{started}, and mpi4py is not installed, by which they form a group: {INSTALL}"
            )
        return None
    peers = MpiPeers()
    if peers.size == size:
        return peers
    peers.close()
    if _is_wanted(read()):
        raise BedrockError(
            f"{started}, of which MPI sees {peers.size}: mpi4py was built with another MPI than {launcher} "
            "belongs to; use the mpirun beside it, or srun --mpi=pmix"
        )
    return None


class MpiPeers(Peers):
    """All processes of ``MPI_COMM_WORLD``. Starts MPI.

    Raises
    ------
    BedrockError
        MPI cannot be loaded, or does not start within `PATIENCE`.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_broken = False
        self._left = False
        shortage.start(threading.Thread(target=self._work, name="bedrock-mpi", daemon=True))
        rank, size = self._in_thread(self._start, PATIENCE)
        super().__init__(rank, size, range(size))

    def _start(self) -> tuple[int, int]:
        try:
            import mpi4py

            mpi4py.rc.initialize = False
            mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise BedrockError(f"mpi4py cannot be loaded: {error}; {INSTALL} brings an MPI for it") from error
        MPI.Init_thread(MPI.THREAD_FUNNELED)
        self._mpi: Any = MPI
        self._world: Any = MPI.COMM_WORLD
        return self._world.rank, self._world.size

    def _exchange(self, word: bytes) -> list[bytes]:
        return self._in_thread(lambda: self._all_gather(word), PATIENCE + _FINALIZE_PATIENCE)

    def _all_gather(self, word: bytes) -> list[bytes]:
        deadline = time.monotonic() + PATIENCE
        sizes = np.empty(self.size, np.int32)
        self._wait(self._world.Iallgather(np.array([len(word)], np.int32), sizes), deadline)
        words = np.empty(int(sizes.sum()), np.uint8)
        self._wait(self._world.Iallgatherv(np.frombuffer(word, np.uint8), [words, sizes]), deadline)
        ends = np.cumsum(sizes)
        return [words[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]

    def _wait(self, request: Any, deadline: float) -> None:
        pause = 0.0001
        while not request.Test():
            if self._is_broken or time.monotonic() > deadline:
                self._is_broken = True
                raise PeerError(None, f"not all of {self.size} processes were there within {PATIENCE:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def abandon(self) -> None:
        """Go in the middle of a start; MPI ends the other processes."""
        if not self._left:
            self._is_broken = True
            self.close()

    def _leave(self) -> None:
        """Finalize MPI; where a process is stuck in a round, or has left it, have MPI end all of them."""
        if self._left:
            return
        self._left = True
        last = (lambda: self._world.Abort(255)) if self._is_broken else self._mpi.Finalize
        with suppress(PeerError):  # the others are on their way out, or the launcher is
            self._in_thread(last, _FINALIZE_PATIENCE)

    def _work(self) -> None:
        while True:
            self._tasks.get()()

    def _in_thread(self, task: Callable[[], R], patience: float) -> R:
        future: Future[R] = Future()

        def run() -> None:
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(run)
        try:
            return future.result(patience)
        except TimeoutError:
            raise PeerError(None, f"MPI does not answer within {patience:.0f} s") from None
