"""The processes of a benchmark: what /proc says of them, a server, and workers that run step by step.

A worker is held at every checkpoint until the parent has looked at the counters of all processes, so figures
of a step contain nothing of the steps around it.
"""

import contextlib
import mmap
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import msgspec

from mochi.mofka.testing import BIN, Service, configuration

CONFIG = configuration()
STEP_TIMEOUT = 120.0
SPAWN = multiprocessing.get_context("spawn")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

Checkpoint = Callable[[Any], None]


class BrokenRun(Exception):
    """A process of the benchmark failed, hung or moved something else than what it was given."""


class Usage(msgspec.Struct, frozen=True):
    """Counters of one process since it started, all its threads together.

    Attributes
    ----------
    cpu_s : float
        User and system time, in steps of 10 ms.
    memory_bytes, peak_bytes : int
        Resident memory, shared pages included: now, and at most so far.
    switches : int
        Context switches, voluntary and not, of the threads that are alive: wake-ups.
    """

    cpu_s: float
    memory_bytes: int
    peak_bytes: int
    switches: int


def usage(pid: int) -> Usage:
    """Read the counters of a process from /proc."""
    process = Path("/proc", str(pid))
    times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    status = _status(process)
    threads = []
    for task in (process / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            threads.append(_status(task))
    return Usage(
        cpu_s=sum(map(int, times)) / TICKS_PER_SECOND,
        memory_bytes=status["VmRSS"] * 1024,
        peak_bytes=status["VmHWM"] * 1024,
        switches=sum(t["voluntary_ctxt_switches"] + t["nonvoluntary_ctxt_switches"] for t in threads),
    )


def _status(process: Path) -> dict[str, int]:
    lines = (line.partition(":") for line in (process / "status").read_text().splitlines())
    words = ((name, value.split()) for name, _, value in lines)
    return {name: int(value[0]) for name, value in words if value and value[0].isdecimal()}


def back_memory(size: int = 2 << 30) -> None:
    """Touch `size` bytes of fresh memory in a process that then ends.

    In a virtual machine a page that the host has not given yet costs several times what the guest's own page fault
    costs. What runs next takes pages that were just freed, so that all rows and limits meet the same memory.
    """
    process = multiprocessing.get_context("fork").Process(target=_touch, args=(size,))
    process.start()
    process.join()


def _touch(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1


BEDROCK: tuple[str | Path, ...] = (BIN / "bedrock",)


@contextlib.contextmanager
def server(
    address: str,
    directory: Path,
    config: dict[str, Any] = CONFIG,
    *,
    command: Sequence[str | Path] = BEDROCK,
    servers: int = 1,
    stderr: IO[str] | None = None,
) -> Iterator[Service]:
    """A `bedrock`, by `command`, in `directory`, ready to serve; told to stop afterwards."""
    several = ["-n", str(servers)] if servers > 1 else []
    whole = [*command, *several, address, "-c", "config.json"]
    try:
        service = Service(directory, config, servers=servers, command=whole, stderr=stderr)
    except AssertionError as error:
        raise BrokenRun(f"bedrock {address}: {error}") from None
    with service:
        yield service
        service.stop()


class Worker:
    """A process that runs ``function(checkpoint, *args)``, held at every checkpoint until told to advance.

    Entering the context waits for the first checkpoint; leaving it ends the function at the one where it is held.
    """

    def __init__(
        self, function: Callable[..., None], *args: Any, context: SpawnContext | ForkServerContext = SPAWN
    ) -> None:
        self._pipe, self._theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work, args=(self._theirs, function, args), daemon=True
        )
        self._name = function.__name__

    def __enter__(self) -> "Worker":
        self.start()
        self.receive()
        return self

    def start(self) -> None:
        """Start the process, and wait for nothing."""
        self._process.start()
        self._theirs.close()

    def usage(self) -> Usage:
        """Counters of the process now."""
        assert self._process.pid is not None
        return usage(self._process.pid)

    def advance(self) -> Any:
        """Let the function run to its next checkpoint, and return the value it gives there.

        Raises
        ------
        BrokenRun
            If the function raises (its traceback is on stderr), or takes longer than `STEP_TIMEOUT`.
        """
        self.release()
        return self.receive()

    def release(self) -> None:
        """Let the function run on."""
        self._pipe.send(None)

    def receive(self) -> Any:
        """Wait for the function's next checkpoint, and return the value it gives there, as `advance` does."""
        if not self._pipe.poll(STEP_TIMEOUT):
            raise BrokenRun(f"{self._name}: nothing after {STEP_TIMEOUT:.0f} s")
        try:
            value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise BrokenRun(f"{self._name}: ended with status {self._process.exitcode}") from None
        if isinstance(value, BrokenRun):
            raise value
        return value

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(STEP_TIMEOUT if error[0] is None else 0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Workers:
    """Processes that run the same function, each with arguments of its own, and pass checkpoints together.

    They are forked from one process that has imported `benchmarks.workers` already: many are started in the time that
    one interpreter takes to start.
    """

    def __init__(self, function: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.workers"])
        self._workers = [Worker(function, *args, context=context) for args in arguments]

    def __enter__(self) -> "Workers":
        with contextlib.ExitStack() as started:
            for worker in self._workers:
                started.push(worker)
                worker.start()
            for worker in self._workers:
                worker.receive()
            self._started = started.pop_all()
        return self

    def advance(self) -> list[Any]:
        """Let all run to their next checkpoints, and return the values they give there; see `Worker.advance`."""
        for worker in self._workers:
            worker.release()
        return [worker.receive() for worker in self._workers]

    def __exit__(self, *error: Any) -> None:
        self._started.__exit__(*error)


def _work(pipe: Connection, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    def checkpoint(value: Any) -> None:
        pipe.send(value)
        try:
            pipe.recv()
        except EOFError:
            sys.exit()

    try:
        function(checkpoint, *args)
    except Exception as error:
        pipe.send(BrokenRun(f"{function.__name__}: {type(error).__name__}: {error}"))
        raise
