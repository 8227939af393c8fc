"""A provider made of Python functions, behind libfabric's binary interface: it wants what a test says of memory.

Bytes are copied when a completion is read. `FakeFabric.memory` has the regions that peers reach by key.
"""

import ctypes
import os
from typing import Any

from mochi.margo.fabric import library as lib
from mochi.margo.fabric.provider import Kind, Provider

_EAGAIN, _EKEYREJECTED = 11, 129


class FakeFabric:
    """The network, and the calls of libfabric that a plane makes."""

    def __init__(self, real: lib.Library, modes: int) -> None:
        self.ffi = real.ffi
        self.path = "fake"
        self.version = (2, 5)
        self.modes = modes
        self.call = self
        self.check = real.check
        self.error = real.error
        self.memory: dict[int, tuple[int, int]] = {}
        self.bound: set[int] = set()
        self.enabled: set[int] = set()
        self.closed: list[str] = []
        self.descs: list[Any] = []
        self.busy = 0
        self._kept: list[Any] = []
        self._pending: list[Any] = []
        self._pipe = os.pipe2(os.O_NONBLOCK)
        self.next_key = 1000

    def provider(self) -> Provider:
        ffi = self.ffi
        info = self.keep(ffi.new("struct fi_info *"))
        info.tx_attr = self.keep(ffi.new("struct fi_tx_attr *"))
        info.domain_attr = self.keep(
            ffi.new("struct fi_domain_attr *", {"mr_mode": self.modes, "mr_key_size": 4})
        )
        info.fabric_attr = self.keep(ffi.new("struct fi_fabric_attr *"))
        return Provider(self, Kind("fake", "nothing"), info)  # type: ignore[arg-type]

    def keep(self, thing: Any) -> Any:
        self._kept.append(thing)
        return thing

    def function(self, signature: str, function: Any) -> Any:
        return self.keep(self.ffi.callback(signature, function))

    def fid(self, thing: Any, name: str, control: Any = None) -> Any:
        ops = self.keep(self.ffi.new("struct fi_ops *"))

        def close(fid: Any) -> int:
            self.closed.append(name)
            return 0

        ops.close = self.function("int(struct fid *)", close)
        ops.bind = self.function("int(struct fid *, struct fid *, uint64_t)", lambda fid, other, flags: 0)
        ops.control = self.function(
            "int(struct fid *, int, void *)", control or (lambda fid, command, out: 0)
        )
        thing.fid.ops = ops
        return thing

    def fi_fabric(self, attr: Any, out: Any, context: Any) -> int:
        ffi = self.ffi
        fabric = self.fid(self.keep(ffi.new("struct fid_fabric *")), "fabric")
        fabric.ops = self.keep(ffi.new("struct fi_ops_fabric *"))
        fabric.ops.domain = self.function(
            "int(struct fid_fabric *, struct fi_info *, struct fid_domain **, void *)", self._domain
        )
        fabric.ops.trywait = self.function(
            "int(struct fid_fabric *, struct fid **, int)", lambda *_: -_EAGAIN if self._pending else 0
        )
        out[0] = fabric
        return 0

    def _domain(self, fabric: Any, info: Any, out: Any, context: Any) -> int:
        ffi = self.ffi
        domain = self.fid(self.keep(ffi.new("struct fid_domain *")), "domain")
        ops = domain.ops = self.keep(ffi.new("struct fi_ops_domain *"))
        ops.av_open = self.function(
            "int(struct fid_domain *, struct fi_av_attr *, struct fid_av **, void *)", self._av
        )
        ops.cq_open = self.function(
            "int(struct fid_domain *, struct fi_cq_attr *, struct fid_cq **, void *)", self._cq
        )
        ops.endpoint = self.function(
            "int(struct fid_domain *, struct fi_info *, struct fid_ep **, void *)", self._endpoint
        )
        domain.mr = self.keep(ffi.new("struct fi_ops_mr *"))
        domain.mr.reg = self.function(
            "int(struct fid *, void *, size_t, uint64_t, uint64_t, uint64_t, uint64_t, struct fid_mr **, void *)",
            self._register,
        )
        out[0] = domain
        return 0

    def _av(self, domain: Any, attr: Any, out: Any, context: Any) -> int:
        av = self.fid(self.keep(self.ffi.new("struct fid_av *")), "table of addresses")
        av.ops = self.keep(self.ffi.new("struct fi_ops_av *"))

        def insert(av: Any, address: Any, count: int, number: Any, flags: int, context: Any) -> int:
            number[0] = 7
            return 1

        av.ops.insert = self.function(
            "int(struct fid_av *, void *, size_t, fi_addr_t *, uint64_t, void *)", insert
        )
        out[0] = av
        return 0

    def _cq(self, domain: Any, attr: Any, out: Any, context: Any) -> int:
        ffi = self.ffi

        def control(fid: Any, command: int, target: Any) -> int:
            ffi.cast("int *", target)[0] = self._pipe[0]
            return 0

        cq = self.fid(self.keep(ffi.new("struct fid_cq *")), "queue of completions", control)
        cq.ops = self.keep(ffi.new("struct fi_ops_cq *"))
        cq.ops.read = self.function("ssize_t(struct fid_cq *, void *, size_t)", self._read_completions)
        cq.ops.readerr = self.function(
            "ssize_t(struct fid_cq *, struct fi_cq_err_entry *, uint64_t)", self._read_error
        )
        out[0] = cq
        return 0

    def _endpoint(self, domain: Any, info: Any, out: Any, context: Any) -> int:
        ffi = self.ffi
        ep = self.fid(self.keep(ffi.new("struct fid_ep *")), "endpoint")
        ep.cm = self.keep(ffi.new("struct fi_ops_cm *"))

        def getname(fid: Any, name: Any, length: Any) -> int:
            if length[0] >= 4:
                ffi.memmove(name, b"fake", 4)
            length[0] = 4
            return 0

        ep.cm.getname = self.function("int(struct fid *, void *, size_t *)", getname)
        ep.rma = self.keep(ffi.new("struct fi_ops_rma *"))
        signature = "ssize_t(struct fid_ep *, void *, size_t, void *, fi_addr_t, uint64_t, uint64_t, void *)"
        ep.rma.read = self.function(signature, self._post)
        out[0] = ep
        return 0

    def _register(
        self,
        fid: Any,
        at: Any,
        size: int,
        access: int,
        offset: int,
        key: int,
        flags: int,
        out: Any,
        context: Any,
    ) -> int:
        ffi = self.ffi
        mr = self.keep(ffi.new("struct fid_mr *"))
        identity = len(self._kept)

        def control(fid: Any, command: int, target: Any) -> int:
            self.enabled.add(identity)
            if self.modes & lib.MR_PROV_KEY:
                mr.key = self.next_key = self.next_key + 1
            self._publish(mr, at, size)
            return 0

        self.fid(mr, "memory", control)

        def bind(fid: Any, other: Any, flags: int) -> int:
            self.bound.add(identity)
            return 0

        mr.fid.ops.bind = self.function("int(struct fid *, struct fid *, uint64_t)", bind)
        mr.mem_desc = ffi.cast("void *", 0xDE5C)
        mr.key = (1 << 64) - 1 if self.modes & lib.MR_PROV_KEY else key
        if not self.modes & lib.MR_ENDPOINT:
            if self.modes & lib.MR_PROV_KEY:
                mr.key = self.next_key = self.next_key + 1
            self._publish(mr, at, size)
        out[0] = mr
        return 0

    def _publish(self, mr: Any, at: Any, size: int) -> None:
        self.memory[int(mr.key)] = int(self.ffi.cast("uintptr_t", at)), size

    def _post(
        self,
        ep: Any,
        at: Any,
        size: int,
        desc: Any,
        peer: int,
        address: int,
        key: int,
        context: Any,
    ) -> int:
        if self.busy:
            self.busy -= 1
            return -_EAGAIN
        self.descs.append(int(self.ffi.cast("uintptr_t", desc)))
        self._pending.append((int(self.ffi.cast("uintptr_t", at)), size, address, key, context))
        os.write(self._pipe[1], b"\0")
        return 0

    def _read_completions(self, cq: Any, entries: Any, count: int) -> int:
        if not self._pending:
            return -_EAGAIN
        at, size, address, key, context = self._pending[0]
        if key not in self.memory:
            return -259
        self._pending.pop(0)
        os.read(self._pipe[0], 1)
        start, _ = self.memory[key]
        there = address if self.modes & lib.MR_VIRT_ADDR else start + address
        ctypes.memmove(at, there, size)
        self.ffi.cast("struct fi_cq_msg_entry *", entries)[0].op_context = context
        return 1

    def _read_error(self, cq: Any, failure: Any, flags: int) -> int:
        *_, context = self._pending.pop(0)
        os.read(self._pipe[0], 1)
        failure.op_context = context
        failure.err = _EKEYREJECTED
        return 1

    def copy(self, info: Any) -> Any:
        return info
