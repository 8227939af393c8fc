"""The processes of a benchmark: those of mpirun, else this one alone."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Final

from diaspora_stream.errors import DiasporaError

_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Environment variables of launchers that hold the number of processes."""


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a launcher has started; 1 where there is none."""
    sizes = (environment.get(name, "") for name in _SIZES)
    return next((int(size) for size in sizes if size.isdecimal()), 1)


class Ranks:
    """One process alone.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    """

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes at rank 0, an empty list at the others."""
        return [value]

    def abort(self, code: int) -> None:
        """End all processes that wait for this one."""


class MpiRanks(Ranks):
    """The processes of ``MPI_COMM_WORLD``. Starts MPI."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._world = MPI.COMM_WORLD
        self.rank = self._world.rank
        self.size = self._world.size

    def barrier(self) -> None:
        """See `Ranks.barrier`."""
        self._world.Barrier()

    def gather(self, value: Any) -> list[Any]:
        """See `Ranks.gather`."""
        return self._world.gather(value) or []

    def abort(self, code: int) -> None:
        """See `Ranks.abort`."""
        self._world.Abort(code)


def meet() -> Ranks:
    """Return the processes of this benchmark.

    Raises
    ------
    DiasporaError
        A launcher has started several, which cannot meet; their figures would be of one each.
    """
    size = launched()
    if size == 1:
        return Ranks()
    install = "pip install 'mofka[mpi]' brings an MPI that belongs to it"
    if importlib.util.find_spec("mpi4py") is None:
        raise DiasporaError(f"{size} processes were started, and mpi4py is not installed; {install}")
    try:
        ranks = MpiRanks()
    except (ImportError, RuntimeError) as error:
        raise DiasporaError(
            f"{size} processes were started, and mpi4py does not load: {error}; {install}"
        ) from error
    if ranks.size != size:
        raise DiasporaError(
            f"{size} processes were started, of which mpi4py sees {ranks.size}: it is of another MPI; {install}"
        )
    return ranks
