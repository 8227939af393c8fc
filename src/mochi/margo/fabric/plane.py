"""One endpoint of a provider, and the thread that drives it: registered memory that others read, and reads of theirs.

There are no messages, and no writes. The completion of a write does not say that its bytes are there, and what others
may write into cannot be used again until they are gone. What is decided is decided in `transfers`; here it is done.

A read is posted by whoever asks for it. Where the provider is busy, as it is until it has a connection to the peer, the
thread posts it later. The thread sleeps in the kernel while nothing happens. It also serves what peers read of this
process, where the provider leaves that to software.

A forked child calls nothing of what it has inherited. The provider's state is shared with the parent, and a lock that
the thread held when the child was made is never free there.
"""

import contextlib
import ctypes
import logging
import os
import secrets
import select
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mochi.margo.bulk import BufferPool, BufferPoolConfig, BulkBuffer
from mochi.margo.fabric import library as lib
from mochi.margo.fabric.library import FabricError, Library
from mochi.margo.fabric.provider import Provider
from mochi.margo.fabric.transfers import Ended, State, Told, Transfer, Transfers

log = logging.getLogger(__name__)

MAX_QUARANTINED = 256 << 20
"""Bytes in quarantine from which an endpoint takes nothing new: peers that hang hold no more memory than this."""

_EAGAIN = 11
_EAVAIL = 259
_ETIMEDOUT = 110
_ECANCELED = 125
_CQ_FORMAT_MSG = 2
_WAIT_FD = 3
_WAIT_POLLFD = 6
_AV_TABLE = 2
_GETWAIT = 5
_ENABLE = 6
_SEND, _RECEIVE = 1 << 11, 1 << 10
_ACCESS = 1 << 8 | 1 << 12  # what is read goes there, and peers may read it
_ENTRIES = 64
_ENTRY = struct.Struct("=QQQ")
_CONTEXT_BYTES = 64
_PAUSE = 0.001
"""Seconds between two tries of a provider that was busy."""


MAX_PLACED = 256 << 20
"""Bytes that are placed for all peers of an endpoint, and that these have not fetched."""

FETCH_SECONDS = 30.0
"""How long a peer may take to let its memory be read."""

TIERS = BufferPoolConfig(first_size=64 << 10, num_tiers=6)
"""Registered buffers: 64 KiB to 64 MiB."""


class Region:
    """Registered memory.

    Attributes
    ----------
    base : int
        The address of its first byte, as peers name it.
    key : int
        What peers show to reach it.
    is_closed : bool
        Whether it can be reached no more.
    """

    def __init__(self, memory: memoryview, address: int, base: int, key: int, desc: Any, mr: Any) -> None:
        self.memory = memory
        self.address = address
        self.base = base
        self.key = key
        self.desc = desc
        self.mr = mr
        self.is_closed = False


class Lease(NamedTuple):
    """Registered memory out of a pool, which goes back once nobody holds a view of it.

    Attributes
    ----------
    view : memoryview
    region : Region
        What it is the beginning of.
    """

    view: memoryview
    region: Region


class Plane:
    """An endpoint on a provider.

    Any thread may call any method; `told` is called by the endpoint's thread, or by the caller.

    Parameters
    ----------
    library : Library
    provider : Provider
        What to use, and where.

    Attributes
    ----------
    name : bytes
        What peers know this endpoint by.

    Raises
    ------
    FabricError
        The provider does not start here.
    """

    def __init__(self, library: Library, provider: Provider) -> None:
        self.library = library
        self.provider = provider
        self._ffi = library.ffi
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._transfers = Transfers()
        self._contexts: dict[int, int] = {}
        self._held: dict[int, Any] = {}
        self._free_contexts: list[Any] = []
        self._peers: dict[bytes, tuple[int, int]] = {}
        self._pool = BufferPool(TIERS)
        self._retired: deque[Region] = deque()
        self._placed = 0
        self._regions: set[Region] = set()
        self._closing = False
        self._sleeps_until = float("-inf")
        self._open: list[tuple[str, Any]] = []
        try:
            self._start()
        except BaseException:
            self._close_all()
            raise
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="mofka-fabric", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        ffi, library = self._ffi, self.library
        self._info = info = self.provider.info
        check = library.check

        fabric = ffi.new("struct fid_fabric **")
        check("opening the fabric", library.call.fi_fabric(info.fabric_attr, fabric, ffi.NULL))
        self._fabric = self._opened("fabric", fabric[0])
        domain = ffi.new("struct fid_domain **")
        check("opening the domain", self._fabric.ops.domain(self._fabric, info, domain, ffi.NULL))
        self._domain = self._opened("domain", domain[0])
        ops = self._domain.ops
        av_attr = ffi.new("struct fi_av_attr *", {"type": _AV_TABLE})
        av = ffi.new("struct fid_av **")
        check("opening the table of addresses", ops.av_open(self._domain, av_attr, av, ffi.NULL))
        self._av = self._opened("table of addresses", av[0])
        size = max(int(info.tx_attr.size), _ENTRIES) * 2
        cq_attr = ffi.new(
            "struct fi_cq_attr *", {"size": size, "format": _CQ_FORMAT_MSG, "wait_obj": _WAIT_FD}
        )
        cq = ffi.new("struct fid_cq **")
        check("opening the queue of completions", ops.cq_open(self._domain, cq_attr, cq, ffi.NULL))
        self._cq = self._opened("queue of completions", cq[0])
        if self.provider.wants_counter:
            counter_attr = ffi.new("struct fi_cntr_attr *", {"wait_obj": _WAIT_POLLFD})
            counter = ffi.new("struct fid_cntr **")
            check("opening a counter", ops.cntr_open(self._domain, counter_attr, counter, ffi.NULL))
            self._opened("counter", counter[0])
        ep = ffi.new("struct fid_ep **")
        check("opening the endpoint", ops.endpoint(self._domain, info, ep, ffi.NULL))
        self._ep = self._opened("endpoint", ep[0])
        bind = self._ep.fid.ops.bind
        fid = ffi.addressof(self._ep, "fid")
        check("binding the addresses", bind(fid, ffi.addressof(self._av, "fid"), 0))
        check("binding the completions", bind(fid, ffi.addressof(self._cq, "fid"), _SEND | _RECEIVE))
        check("enabling the endpoint", self._ep.fid.ops.control(fid, _ENABLE, ffi.NULL))
        length = ffi.new("size_t *", 0)
        self._ep.cm.getname(fid, ffi.NULL, length)
        name = ffi.new("char[]", max(int(length[0]), 1))
        check("asking for the endpoint's name", self._ep.cm.getname(fid, name, length))
        self.name = bytes(ffi.buffer(name, length[0]))
        waits_on = ffi.new("int *")
        check(
            "asking what to wait on",
            self._cq.fid.ops.control(ffi.addressof(self._cq, "fid"), _GETWAIT, waits_on),
        )
        self._fd = waits_on[0]

    def _opened(self, what: str, thing: Any) -> Any:
        self._open.append((what, thing))
        return thing

    def register(self, memory: memoryview) -> Region:
        """Register writable memory; it must not move or go until `unregister`.

        Raises
        ------
        FabricError
            The provider refuses: no room for pinned pages, say (``ulimit -l``).
        """
        ffi = self._ffi
        modes = self.provider.mr_modes
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) if memory.nbytes else 0
        out = ffi.new("struct fid_mr **")
        key = 0 if modes & lib.MR_PROV_KEY else secrets.randbits(self.provider.key_bits)
        self._check_ours()
        with self._lock:
            self._check_open()
            domain = ffi.addressof(self._domain, "fid")
            self.library.check(
                f"registering {memory.nbytes} bytes",
                self._domain.mr.reg(
                    domain, ffi.cast("void *", address), memory.nbytes, _ACCESS, 0, key, 0, out, ffi.NULL
                ),
            )
            mr = out[0]
            if modes & lib.MR_ENDPOINT:
                fid = ffi.addressof(mr, "fid")
                self.library.check("binding memory", mr.fid.ops.bind(fid, ffi.addressof(self._ep, "fid"), 0))
                self.library.check("enabling memory", mr.fid.ops.control(fid, _ENABLE, ffi.NULL))
            region = Region(
                memory,
                address,
                address if modes & lib.MR_VIRT_ADDR else 0,
                int(mr.key),
                mr.mem_desc if modes & lib.MR_LOCAL else ffi.NULL,
                mr,
            )
            self._regions.add(region)
        return region

    def unregister(self, region: Region) -> None:
        """Let peers reach memory no more. One that reads it now loses its connection to this endpoint."""
        if not self._is_inherited:
            with self._lock:
                self._unregister(region)

    def _unregister(self, region: Region) -> None:
        if region in self._regions:
            self._regions.discard(region)
            region.is_closed = True
            region.mr.fid.ops.close(self._ffi.addressof(region.mr, "fid"))

    def lease(self, size: int) -> Lease:
        """Return registered memory.

        Raises
        ------
        FabricError
            The provider registers no more.
        """
        buffer = self._pool.acquire(size)
        if buffer.retire is None:
            region = self.register(buffer.view)
            buffer.region, buffer.retire = region, partial(self._retired.append, region)
        owner = np.frombuffer(buffer.view, np.uint8, size)
        weakref.finalize(owner, self._take_back, buffer).atexit = False
        return Lease(owner.data, buffer.region)

    def _take_back(self, buffer: BulkBuffer) -> None:
        if not buffer.region.is_closed:
            self._pool.release(buffer)

    def take_room(self, size: int) -> bool:
        """Tell whether `size` bytes more may be placed for peers; they count until `give_room`."""
        with self._lock:
            if self._placed and self._placed + size > MAX_PLACED:
                return False
            self._placed += size
            return True

    def give_room(self, size: int) -> None:
        """Take note that what was placed is not needed any more."""
        with self._lock:
            self._placed -= size

    def spoil(self, leases: Iterable[Lease]) -> None:
        """Let peers reach memory no more that they may still be about to fetch: it is never used for anything else.

        Else they could take what comes next for what they were promised.
        """
        for lease in leases:
            self.unregister(lease.region)

    def meet(self, name: bytes) -> int:
        """Return the number of a peer by its endpoint's name; `part` when it is not needed any more.

        Raises
        ------
        FabricError
            It is no name of this provider.
        """
        self._check_ours()
        with self._lock:
            self._check_open()
            number, users = self._peers.get(name, (0, 0))
            if not users:
                ffi = self._ffi
                out = ffi.new("fi_addr_t *")
                if self._av.ops.insert(self._av, ffi.from_buffer(name), 1, out, 0, ffi.NULL) != 1:
                    raise FabricError("taking the name of a peer", 22, "it is no name of this provider")
                number = int(out[0])
            self._peers[name] = number, users + 1
            return number

    def part(self, name: bytes) -> None:
        """Take note that a peer is not needed any more by one of those who met it."""
        if self._is_inherited:
            return
        with self._lock:
            number, users = self._peers[name]
            if users > 1 or self._transfers.has(number):  # a name that is used cannot be removed
                self._peers[name] = number, max(users - 1, 1)
            elif not self._closing:
                del self._peers[name]
                self._av.ops.remove(self._av, self._ffi.new("fi_addr_t *", number), 1, 0)

    @property
    def quarantined(self) -> int:
        """Bytes of transfers that were given up, and that the provider may still carry out."""
        return self._transfers.quarantined

    def give_up(self, owner: object, why: BaseException) -> None:
        """Wait no more for what `owner` has asked for: libfabric may not learn that its peer is gone."""
        if self._is_inherited:
            return
        with self._lock:
            told = self._transfers.give_up(owner, why)
        self._tell(told)

    def read(
        self, owner: object, peer: int, into: Lease, base: int, key: int, deadline: float, told: Told
    ) -> None:
        """Read a peer's memory into all of a lease.

        Parameters
        ----------
        owner : object
            For `give_up`.
        base, key : int
            Where the bytes begin, and of which region they are, as the peer says.
        deadline : float
            On the clock of ``time.monotonic``.
        told : callable
            See `Told`. Never called from within a call of this that raises.

        Raises
        ------
        FabricError
            The endpoint is closed, or has too much in quarantine.
        """
        self._check_ours()
        size = into.view.nbytes
        transfer = Transfer(owner, peer, size, deadline, told, (into.region, base, key), into.view)
        with self._lock:
            self._check_open()
            if self._transfers.quarantined > MAX_QUARANTINED:
                raise FabricError("posting a transfer", _EAGAIN, "too much memory waits for peers that hang")
            self._transfers.add(transfer)
            ended = self._post_waiting()
            wants_thread = transfer.state is State.WAITING or deadline < self._sleeps_until
        self._tell(ended)
        if wants_thread:
            self._rouse()

    def _post_waiting(self) -> list[Ended]:
        """Post what waits, as far as the provider takes it; the caller holds the lock."""
        ended: list[Ended] = []
        busy: set[int] = set()
        for number, transfer in self._transfers.waiting():
            if transfer.peer not in busy:
                ended += self._post(number, transfer)
                if transfer.state is State.WAITING:
                    busy.add(transfer.peer)
        return ended

    def _post(self, number: int, transfer: Transfer) -> list[Ended]:
        ffi = self._ffi
        region, base, key = transfer.post
        context = self._free_contexts.pop() if self._free_contexts else ffi.new("char[]", _CONTEXT_BYTES)
        at = int(ffi.cast("uintptr_t", context))
        self._contexts[at] = number
        self._held[at] = context
        into = ffi.cast("void *", region.address)
        code = self._ep.rma.read(
            self._ep, into, transfer.size, region.desc, transfer.peer, base, key, context
        )
        if code == 0:
            self._transfers.taken(number)
            return []
        del self._contexts[at]
        self._free_contexts.append(self._held.pop(at))
        if code == -_EAGAIN:
            return []
        return self._transfers.refused(number, self.library.error("posting a read", -code))

    @property
    def is_closed(self) -> bool:
        """Whether the endpoint is of no more use."""
        return self._closing

    @property
    def _is_inherited(self) -> bool:
        return os.getpid() != self._pid

    def _check_ours(self) -> None:
        if self._is_inherited:
            raise FabricError("using an endpoint", 1, "it belongs to the parent process")

    def _check_open(self) -> None:
        if self._closing:
            raise FabricError("using an endpoint", 108, "it is closed")

    def _rouse(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._woken, b"\0")

    def _tell(self, ended: list[Ended]) -> None:
        for told, error in ended:
            try:
                told(error)
            except Exception:
                log.exception("whoever asked for a transfer failed")

    def _run(self) -> None:
        try:
            self._drive()
        except Exception:
            log.exception("libfabric's %s failed; connections go on without it", self.provider.name)
            self._closing = True
            self._end("the endpoint failed")

    def _drive(self) -> None:
        ffi = self._ffi
        entries = ffi.new("struct fi_cq_msg_entry[]", _ENTRIES)
        buffer = ffi.buffer(entries)
        fids = ffi.new("struct fid *[]", [ffi.addressof(self._cq, "fid")])
        trywait = self._fabric.ops.trywait
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while not self._closing:
            with self._lock:
                ended, busy = self._progress(entries, buffer)
                while self._retired:
                    self._unregister(self._retired.popleft())
                now = time.monotonic()
                ended += self._transfers.expire(now, self._too_late())
                until = self._transfers.next_deadline()
                if self._transfers.waiting():
                    until = min(until, now + _PAUSE)
                if self.provider.longest_sleep is not None:
                    until = min(until, now + self.provider.longest_sleep)
                self._sleeps_until = until
            self._tell(ended)
            if busy or ended:
                continue
            if trywait(self._fabric, fids, 1) != 0:
                continue
            timeout = None if until == float("inf") else max((until - now) * 1000, 0.0)
            for fd, _ in poller.poll(timeout):
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)

    def _too_late(self) -> FabricError:
        return FabricError("moving bytes", _ETIMEDOUT, "the peer did not take part in time")

    def _progress(self, entries: Any, buffer: Any) -> tuple[list[Ended], bool]:
        """Take what has completed, and post what waits; the caller holds the lock."""
        ended: list[Ended] = []
        count = self._cq.ops.read(self._cq, entries, _ENTRIES)
        if count > 0:
            for at, _, _ in _ENTRY.iter_unpack(buffer[: count * _ENTRY.size]):
                ended += self._completed(at, None)
        elif count == -_EAVAIL:
            failure = self._ffi.new("struct fi_cq_err_entry *")
            if self._cq.ops.readerr(self._cq, failure, 0) > 0:
                at = int(self._ffi.cast("uintptr_t", failure.op_context))
                ended += self._completed(at, self.library.error("moving bytes", failure.err))
        elif count not in (-_EAGAIN, 0):
            raise self.library.error("reading completions", -count)
        return ended + self._post_waiting(), count > 0 or count == -_EAVAIL

    def _completed(self, at: int, error: BaseException | None) -> list[Ended]:
        number = self._contexts.pop(at, None)
        if number is None:
            return []
        self._free_contexts.append(self._held.pop(at))
        return self._transfers.completed(number, error)

    def close(self) -> None:
        """Close the endpoint; what is under way is told that it failed, and its memory is free."""
        if self._is_inherited or self._closing:
            return
        self._closing = True
        self._rouse()
        self._thread.join()
        self._end("the endpoint was closed")
        os.close(self._wake)
        os.close(self._woken)

    def _end(self, why: str) -> None:
        with self._lock:
            for region in self._regions:  # before the endpoint that some providers bind them to
                region.mr.fid.ops.close(self._ffi.addressof(region.mr, "fid"))
            self._regions.clear()
            self._close_all()
            ended = self._transfers.end(FabricError("moving bytes", _ECANCELED, why))
        self._tell(ended)

    def _close_all(self) -> None:
        by_name = dict(self._open)
        for what in ("endpoint", "counter", "queue of completions", "table of addresses", "domain", "fabric"):
            thing = by_name.get(what)
            if thing is not None and thing.fid.ops.close(self._ffi.addressof(thing, "fid")):
                log.warning("libfabric did not close the %s", what)
        self._open.clear()
