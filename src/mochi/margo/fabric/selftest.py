"""What a fabric does on this machine, tried: a report that people with such cards can send.

Two endpoints of this process read each other's memory: a byte to 64 MiB, what was read, how fast, what a wrong key
costs, and whether an idle endpoint sleeps.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from mochi.margo.address import TcpAddress
from mochi.margo.fabric.library import FabricError, Library, load
from mochi.margo.fabric.plane import Lease, Plane
from mochi.margo.fabric.provider import choose

SIZES = (1, 4096, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
REPETITIONS = 20
SECONDS = 20.0
"""How long one read may take."""

IDLE_SECONDS = 1.0


def selftest(address: TcpAddress) -> dict[str, Any]:
    """Try the fabric of an address; return a report in plain data, with ``passed`` and ``problems``.

    Raises
    ------
    FabricError
        It does not start; says why.
    """
    library = load()
    provider = choose(library, address.fabric, address.host, address.card, address.pid)
    report: dict[str, Any] = {
        "library": library.path,
        "version": "{}.{}".format(*library.version),
        "provider": provider.name,
        "domain": provider.domain,
        "memory": provider.memory_words(),
        "key_bits": provider.key_bits,
        "problems": [],
    }
    problems: list[str] = report["problems"]
    reader, owner = _plane(library, address), _plane(library, address)
    try:
        report["endpoint_name_bytes"] = len(owner.name)
        there = owner.lease(SIZES[-1])
        there.view[:] = os.urandom(1 << 20) * (SIZES[-1] >> 20)
        peer, base, key = reader.meet(owner.name), there.region.base, there.region.key
        report["reads"] = [_measure(reader, peer, there, size, problems) for size in SIZES]
        wrong = _read(reader, peer, reader.lease(4096), base, key ^ 1)
        if wrong is None:
            problems.append("a read with a wrong key succeeded")
        again = _until(lambda: _read(reader, peer, reader.lease(4096), base, key) is None)
        if not again:
            problems.append("after a wrong key, nothing can be read any more")
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        report["idle_load"] = round((time.process_time() - before) / IDLE_SECONDS, 4)
        if report["idle_load"] > 0.5:
            problems.append("an idle endpoint takes a processor")
    finally:
        reader.close()
        owner.close()
    report["passed"] = not problems
    return report


def _plane(library: Library, address: TcpAddress) -> Plane:
    pid = None if address.pid is None else address.pid
    try:
        return Plane(library, choose(library, address.fabric, address.host, address.card, pid))
    except FabricError:
        if pid is None:
            raise
    # The second endpoint of this process cannot have the same number.
    return Plane(library, choose(library, address.fabric, address.host, address.card))


def _measure(plane: Plane, peer: int, there: Lease, size: int, problems: list[str]) -> dict[str, Any]:
    into = plane.lease(size)
    into.view[:] = bytes(size)
    seconds = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        error = _read(plane, peer, into, there.region.base, there.region.key)
        seconds.append(time.perf_counter() - begin)
        if error is not None:
            problems.append(f"reading {size} bytes: {error}")
            return {"bytes": size, "error": str(error)}
    if into.view != there.view[:size]:
        problems.append(f"what was read of {size} bytes is not what was there")
    median = statistics.median(seconds)
    return {
        "bytes": size,
        "microseconds": round(median * 1e6, 1),
        "slowest": round(max(seconds) * 1e6, 1),
        "gigabytes_per_second": round(size / median / 1e9, 3),
    }


def _read(plane: Plane, peer: int, into: Lease, base: int, key: int) -> BaseException | None:
    done = threading.Event()
    outcome: list[BaseException | None] = []

    def told(error: BaseException | None) -> None:
        outcome.append(error)
        done.set()

    plane.read(done, peer, into, base, key, time.monotonic() + SECONDS, told)
    done.wait()
    return outcome[0]


def _until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            return False
    return True
