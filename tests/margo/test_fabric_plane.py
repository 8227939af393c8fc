"""Endpoints of libfabric: real ones on its software providers, and one that wants of memory what network cards want."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mochi.margo.fabric import library as lib
from mochi.margo.fabric.library import FabricError, Library, NoFabric, load
from mochi.margo.fabric.plane import Lease, Plane
from mochi.margo.fabric.provider import choose
from tests.margo.fabric_fake import FakeFabric

WORKER = Path(__file__).with_name("fabric_worker.py")
PATTERN = bytes(range(256))
SIZE = 1 << 20


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return load()
    except NoFabric as error:
        pytest.skip(str(error))


@pytest.fixture(params=["tcp;ofi_rxm"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plane(library: Library, name: str) -> Iterator[Plane]:
    plane = Plane(library, choose(library, name, "127.0.0.1"))
    yield plane
    plane.close()


class Peer(NamedTuple):
    process: subprocess.Popen[str]
    name: bytes
    base: int
    key: int


@pytest.fixture
def peer(name: str) -> Iterator[Peer]:
    process = subprocess.Popen([sys.executable, str(WORKER), name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    words = process.stdout.readline().split()
    yield Peer(process, bytes.fromhex(words[0]), int(words[1]), int(words[2]))
    process.kill()
    process.wait()


class Outcome:
    def __init__(self) -> None:
        self.told = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, error: BaseException | None) -> None:
        assert not self.told.is_set()
        self.error = error
        self.told.set()

    def wait(self) -> BaseException | None:
        assert self.told.wait(30)
        return self.error


def read(
    plane: Plane,
    number: int,
    into: Lease,
    base: int,
    key: int,
    *,
    seconds: float = 20.0,
    owner: object = None,
) -> Outcome:
    outcome = Outcome()
    plane.read(owner, number, into, base, key, time.monotonic() + seconds, outcome)
    return outcome


def test_bytes_are_read(library: Library, plane: Plane, name: str) -> None:
    other = Plane(library, choose(library, name, "127.0.0.1"))
    theirs, mine = other.lease(SIZE), plane.lease(SIZE)
    theirs.view[:] = os.urandom(SIZE)
    number = plane.meet(other.name)
    assert read(plane, number, mine, theirs.region.base, theirs.region.key).wait() is None
    assert mine.view == theirs.view
    other.close()


def test_a_wrong_key_fails_and_the_peer_can_be_read_again(plane: Plane, peer: Peer) -> None:
    mine, number = plane.lease(SIZE), plane.meet(peer.name)
    assert read(plane, number, mine, peer.base, peer.key).wait() is None
    assert isinstance(read(plane, number, mine, peer.base, peer.key ^ 1).wait(), FabricError)
    ends_at = time.monotonic() + 20
    while read(plane, number, plane.lease(256), peer.base, peer.key).wait() is not None:
        assert time.monotonic() < ends_at
    assert mine.view[:256] == PATTERN


def test_what_is_out_of_bounds_fails(plane: Plane, peer: Peer) -> None:
    number = plane.meet(peer.name)
    assert read(plane, number, plane.lease(SIZE), peer.base + (64 << 20) - 5, peer.key).wait() is not None


def test_a_peer_that_is_killed_costs_what_is_under_way(plane: Plane, peer: Peer) -> None:
    number, small = plane.meet(peer.name), plane.lease(256)
    assert read(plane, number, small, peer.base, peer.key).wait() is None
    peer.process.kill()
    peer.process.wait()
    leases = [plane.lease(64 << 20) for _ in range(4)]
    outcomes = [read(plane, number, lease, peer.base, peer.key, seconds=3) for lease in leases]
    assert all(isinstance(outcome.wait(), FabricError) for outcome in outcomes)
    owner = object()
    after = read(plane, number, small, peer.base, peer.key, seconds=60, owner=owner)
    plane.give_up(owner, ConnectionError("its socket closed"))
    assert after.wait() is not None


def test_memory_stays_where_a_stopped_peer_may_still_fill_it(library: Library) -> None:
    plane = Plane(library, choose(library, "tcp;ofi_rxm", "127.0.0.1"))
    process = subprocess.Popen(
        [sys.executable, str(WORKER), "tcp;ofi_rxm"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        number, base, key = plane.meet(bytes.fromhex(words[0])), int(words[1]), int(words[2])
        mine = plane.lease(SIZE)
        assert read(plane, number, mine, base, key).wait() is None
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        mine.view[:256] = bytes(256)
        assert isinstance(read(plane, number, mine, base, key, seconds=0.3).wait(), FabricError)
        assert plane.quarantined == SIZE
        process.send_signal(signal.SIGCONT)
        ends_at = time.monotonic() + 20
        while plane.quarantined:
            assert time.monotonic() < ends_at
            time.sleep(0.01)
        assert mine.view[:256] == PATTERN  # it came after it was given up
    finally:
        process.kill()
        process.wait()
        plane.close()


def test_a_closed_endpoint_tells_those_who_wait(plane: Plane, peer: Peer) -> None:
    mine, number = plane.lease(SIZE), plane.meet(peer.name)
    peer.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, peer.process.pid, os.WSTOPPED | os.WNOWAIT)
    outcome = read(plane, number, mine, peer.base, peer.key)
    plane.close()
    assert isinstance(outcome.wait(), FabricError)
    with pytest.raises(FabricError, match="closed"):
        read(plane, number, mine, peer.base, peer.key)


def test_a_forked_child_touches_nothing(plane: Plane, peer: Peer) -> None:
    mine, number = plane.lease(256), plane.meet(peer.name)
    assert read(plane, number, mine, peer.base, peer.key).wait() is None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(FabricError, match="parent"):
                read(plane, number, mine, peer.base, peer.key)
            plane.unregister(mine.region)
            plane.part(peer.name)
            plane.close()
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read(plane, number, mine, peer.base, peer.key).wait() is None


def test_an_idle_endpoint_sleeps(plane: Plane) -> None:
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.5  # one that spins takes all of it


def test_an_unknown_provider_is_refused_with_what_was_found(library: Library) -> None:
    with pytest.raises(NoFabric, match="offers no 'cxi' here, card cxi0"):
        choose(library, "cxi", card="cxi0")


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOFKA_LIBFABRIC", "/nowhere/libfabric.so.1")
    with pytest.raises(NoFabric, match="/nowhere"):
        load.__wrapped__()


MODES = (lib.MR_LOCAL, lib.MR_VIRT_ADDR, lib.MR_ALLOCATED, lib.MR_PROV_KEY, lib.MR_ENDPOINT)


@pytest.mark.parametrize(
    "modes", [sum(some) for count in range(6) for some in itertools.combinations(MODES, count)]
)
def test_what_a_provider_wants_of_memory_is_done(library: Library, modes: int) -> None:
    fake = FakeFabric(library, modes)
    fake.busy = 3
    plane = Plane(fake, fake.provider())  # type: ignore[arg-type]
    assert plane.name == b"fake"
    theirs, mine = plane.lease(4096), plane.lease(4096)
    theirs.view[:] = PATTERN * 16
    their = theirs.region
    assert (their.base != 0) == bool(modes & lib.MR_VIRT_ADDR)
    assert (their.key > 1000) == bool(modes & lib.MR_PROV_KEY) or their.key < 1 << 32
    number = plane.meet(b"fake")
    assert read(plane, number, mine, their.base, their.key).wait() is None
    assert mine.view == theirs.view
    assert isinstance(read(plane, number, mine, their.base, 5).wait(), FabricError)
    assert set(fake.descs) == {0xDE5C if modes & lib.MR_LOCAL else 0}
    assert len(fake.bound) == len(fake.enabled) == (2 if modes & lib.MR_ENDPOINT else 0)
    plane.close()
    assert fake.closed == [
        "memory",
        "memory",
        "endpoint",
        "queue of completions",
        "table of addresses",
        "domain",
        "fabric",
    ]
