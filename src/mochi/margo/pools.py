"""Pools and xstreams at run time: where work runs, and in which order.

One xstream, `MargoConfig.progress_xstream`, is the thread that drives the event loop; each other one is a thread that
takes work from its pools. A pool that only the loop's xstream serves is *inline*: its work runs on the loop, with no
hand-over. Work that comes once the pools are closed runs in the thread that brings it. Handlers that compute share
the interpreter whatever their pool; handlers that wait for a disk or a peer do not hold each other up if their pool
has threads.

The kind of a pool says which work is taken next:

``fifo``, ``fifo_wait``
    The one that was put there first. A strand that has had its turn goes to the end.
``prio_wait``
    Work that has begun before work that has not, as margo has it: a strand with pieces left goes first, up to
    `BOOSTED_TURNS` turns. Equals by age.
``earliest_first``
    The one that came first: a strand keeps the age of its oldest piece, however often it is put back.

The scheduler of an xstream says which of its pools is looked at first: ``randws`` takes from its first pool, and
steals from the others in random order; all others take them in the order given. No xstream spins: those that
``basic`` and ``fifo`` would have poll, sleep until there is work.

Invariant: an xstream sleeps only while all its pools are empty, and one that sleeps is woken for each new work.
"""

import heapq
import itertools
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import TypeVar

from mochi import shortage
from mochi.margo.config import MargoConfig, PoolSpec, XstreamSpec

T = TypeVar("T")
Work = Callable[[], None]

log = logging.getLogger(__name__)

CLOSING = 5.0
"""Seconds that xstreams are given to finish when an engine ends; a handler that hangs is left behind."""

BOOSTED_TURNS = 25
"""Turns of a strand after which a ``prio_wait`` pool no longer prefers it: it is no end of something, but a stream."""

_arrivals = itertools.count()


def _run(work: Work) -> None:
    try:
        work()
    except Exception:
        log.exception("unhandled error in a pool")


class Pool:
    """A named queue of work.

    Attributes
    ----------
    inline : bool
        True when its work runs on the event loop.
    """

    def __init__(self, spec: PoolSpec, lock: threading.Lock, post: Callable[[Work], None]) -> None:
        self.name = spec.name
        self.inline = False
        self._kind = spec.kind
        self._lock = lock
        self._post = post
        self._xstreams: list[_Xstream] = []
        self._work: list[tuple[int, int, Work]] = []
        self._closed = False

    def spawn(self, work: Work, *, arrival: int | None = None, turns: int = 0) -> None:
        """Run `work` soon, on an xstream of this pool. Any thread; never blocks; errors are logged.

        Parameters
        ----------
        arrival : int, optional
            Age of work that was here before: a number that is smaller than that of all work that came later.
        turns : int
            How often it has run already.
        """
        with self._lock:
            if not self._closed:
                number = next(_arrivals)
                rank = 0
                if self._kind == "prio_wait":
                    rank = 0 if 0 < turns <= BOOSTED_TURNS else 1
                elif self._kind == "earliest_first":
                    rank = number if arrival is None else arrival
                heapq.heappush(self._work, (rank, number, work))
                if self.inline:
                    self._post(self.run_next)
                else:
                    self._wake_one()
                return
        _run(work)

    def run_next(self) -> None:
        """Run the work that is next, if there is any, here and now."""
        with self._lock:
            work = self.take()
        if work is not None:
            _run(work)

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Run `function` soon, on an xstream of this pool, and hand out its result. Any thread."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.spawn(work)
        return future

    @property
    def has_work(self) -> bool:
        """Whether any work waits."""
        return bool(self._work)

    def take(self) -> Work | None:
        """Take the work that is next; the caller holds the lock."""
        return heapq.heappop(self._work)[2] if self._work else None

    def close(self) -> None:
        """Let work that comes from now on run in the thread that brings it; the caller holds the lock."""
        self._closed = True

    def served_by(self, xstreams: Sequence["_Xstream"], *, by_loop: bool) -> None:
        """Take note of the threads that serve this pool from now on; the caller holds the lock.

        Work that waits is not lost: it is offered to the threads, or posted to the loop.
        """
        self._xstreams = list(xstreams)
        was_inline, self.inline = self.inline, by_loop and not xstreams
        for _ in self._work:
            if self.inline and not was_inline:
                self._post(self.run_next)
            elif xstreams:
                self._wake_one()

    @property
    def has_threads(self) -> bool:
        """Whether any thread serves this pool, beside the loop's."""
        return bool(self._xstreams)

    def _wake_one(self) -> None:
        for xstream in self._xstreams:
            if xstream.wake():
                return


class Strand:
    """Runs work one after another, in the order given, on the xstreams of a pool.

    On an inline pool, work given from the loop runs at once. After `TURN` pieces a strand lets other work of its pool
    have its turn, as far as the pool's kind has it.
    """

    TURN = 64

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._lock = threading.Lock()
        self._work: deque[tuple[int, Work]] = deque()
        self._active = False
        self._turns = 0

    def spawn(self, work: Work) -> None:
        """Run `work` after all that was given before."""
        if self.pool.inline and not self._active:
            _run(work)
            return
        arrival = next(_arrivals)
        with self._lock:
            self._work.append((arrival, work))
            if self._active:
                return
            self._active = True
            self._turns = 0
        self.pool.spawn(self._drain, arrival=arrival)

    def _drain(self) -> None:
        for _ in range(self.TURN):
            with self._lock:
                if not self._work:
                    self._active = False
                    return
                _, work = self._work.popleft()
            _run(work)
        with self._lock:
            if not self._work:
                self._active = False
                return
            oldest, _ = self._work[0]
            self._turns += 1
        self.pool.spawn(self._drain, arrival=oldest, turns=self._turns)


class _Xstream:
    """A thread that takes work from its pools, in the order of its scheduler, until told to end.

    Its methods, but `start`, `join` and `is_current`, need the lock that it shares with its pools.
    """

    def __init__(
        self, spec: XstreamSpec, pools: Sequence[Pool], lock: threading.Lock, cores: Collection[int]
    ) -> None:
        self.spec = spec
        self._pools = pools
        self._cores = cores
        self._changed = threading.Condition(lock)
        self._idle = False
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name=spec.name, daemon=True)
        self.join = self._thread.join

    def start(self) -> None:
        """Begin; OSError (EAGAIN) if there can be no more threads now."""
        shortage.start(self._thread)

    def wake(self) -> bool:
        """Have it look for work; False if it is not asleep."""
        was_idle, self._idle = self._idle, False
        if was_idle:
            self._changed.notify()
        return was_idle

    def end(self) -> None:
        """Have it end once its pools are empty."""
        self._ending = True
        self.wake()

    def leave(self) -> None:
        """Have it end after the work that it is at, if any."""
        self._pools = ()
        self.end()

    def _next(self) -> Work | None:
        if self.spec.scheduler_type == "randws" and len(self._pools) > 2:
            first, *others = self._pools
            candidates: Sequence[Pool] = [first, *random.sample(others, len(others))]
        else:
            candidates = self._pools
        for pool in candidates:
            work = pool.take()
            if work is not None:
                return work
        return None

    def _serve(self) -> None:
        pin(self._cores)
        while True:
            with self._changed:
                while (work := self._next()) is None:
                    if self._ending:
                        return
                    self._idle = True
                    self._changed.wait()
                    self._idle = False
            _run(work)
            del work


class Pools:
    """All pools and xstreams of an engine.

    Parameters
    ----------
    post : callable
        Runs work on the event loop; called from any thread.

    Attributes
    ----------
    loop : XstreamSpec
        The xstream whose thread drives the event loop, from the start to the end.
    """

    def __init__(self, config: MargoConfig, post: Callable[[Work], None]) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._own_cores = os.sched_getaffinity(0)
        self.loop = config.progress_xstream
        self._by_name = {spec.name: Pool(spec, self._lock, post) for spec in config.pools}
        self._xstreams = {spec.name: self._thread(spec) for spec in config.xstreams if spec is not self.loop}
        with self._lock:
            self._assign()
        for xstream in self._xstreams.values():
            xstream.start()

    def __getitem__(self, name: str) -> Pool:
        return self._by_name[name]

    def add(self, spec: PoolSpec) -> None:
        """Add a pool, which no xstream serves yet. Any thread, as the three that follow."""
        with self._lock:
            self._by_name[spec.name] = Pool(spec, self._lock, self._post)

    def remove(self, name: str) -> None:
        """Remove a pool that nothing uses."""
        with self._lock:
            del self._by_name[name]

    def add_xstream(self, spec: XstreamSpec) -> None:
        """Start an xstream; OSError (EAGAIN), and nothing has changed, if there can be no more threads now."""
        xstream = self._thread(spec)
        xstream.start()
        with self._lock:
            self._xstreams[spec.name] = xstream
            self._assign()

    def remove_xstream(self, name: str) -> None:
        """Have an xstream end after the work that it is at; does not wait for that."""
        with self._lock:
            self._xstreams.pop(name).leave()
            self._assign()

    def close(self) -> None:
        """Finish what there is to do, and end the xstreams, within `CLOSING` seconds. Belongs to the loop's thread."""
        with self._lock:
            for pool in self._by_name.values():
                pool.close()
            for xstream in self._xstreams.values():
                xstream.end()
        deadline = time.monotonic() + CLOSING
        for xstream in self._xstreams.values():
            xstream.join(max(deadline - time.monotonic(), 0))
        for pool in self._by_name.values():
            while not pool.has_threads and pool.has_work:
                pool.run_next()

    def _thread(self, spec: XstreamSpec) -> _Xstream:
        pools = [self._by_name[name] for name in spec.pools]
        return _Xstream(spec, pools, self._lock, self.cores_of(spec))

    def cores_of(self, spec: XstreamSpec) -> set[int]:
        """Return the cores that the thread of an xstream may run on: all of this process, if it is bound to none."""
        return self._own_cores.intersection(spec.cores) or self._own_cores

    def check_cores(self, xstreams: Sequence[XstreamSpec], where: str) -> None:
        """Warn of cores that xstreams are to be bound to, and that this process may not use: they are not.

        Parameters
        ----------
        where : str
            JSON path of the xstream number ``{}``.
        """
        for index, xstream in enumerate(xstreams):
            if missing := set(xstream.cores) - self._own_cores:
                log.warning(
                    "%s.%s: core %s is none that this process may use, which are %s; the thread is not bound to it",
                    where.format(index),
                    "affinity" if xstream.affinity else "cpubind",
                    _listed(missing),
                    _listed(self._own_cores),
                )

    def _assign(self) -> None:
        for pool in self._by_name.values():
            threads = [xstream for xstream in self._xstreams.values() if pool.name in xstream.spec.pools]
            pool.served_by(threads, by_loop=pool.name in self.loop.pools)


def _listed(cores: Collection[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def pin(cores: Collection[int]) -> None:
    """Have the calling thread run on these cores only."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        log.warning("cannot run on the cores %s: %s", _listed(cores), error.strerror)
