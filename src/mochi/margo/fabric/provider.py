"""Which of libfabric's offers an address stands for, and what Mofka has to know of that provider."""

from typing import Any, NamedTuple

from mochi.margo.fabric import library as lib
from mochi.margo.fabric.library import Library, NoFabric

_ENODATA = 61


class Kind(NamedTuple):
    """What is known of a provider beforehand.

    Attributes
    ----------
    provider : str
        Its name in libfabric.
    needs : str
        What it needs, for people who have it not.
    by_host : bool
        Whether an endpoint is at an address of the host, else at a network card.
    wants_counter : bool
        Whether an open counter makes the provider serve peers with a thread of its own.
    longest_sleep : float or None
        Seconds to sleep at most where the provider may lose a wake-up.
    """

    provider: str
    needs: str
    by_host: bool = True
    wants_counter: bool = False
    longest_sleep: float | None = None


_TCP_NEEDS = "an interface with an IP address"

KINDS = {
    "verbs": (
        Kind("verbs;ofi_rxm", "an InfiniBand or RoCE card with an IP address, and libibverbs and librdmacm"),
    ),
    "cxi": (
        Kind(
            "cxi",
            "a Slingshot card, and the system's libfabric (MOFKA_LIBFABRIC names it)",
            by_host=False,
            longest_sleep=0.01,
        ),
    ),
    "efa": (Kind("efa", "an EFA card, and libefa", by_host=False),),
    "tcp;ofi_rxm": (Kind("tcp", _TCP_NEEDS, wants_counter=True), Kind("tcp;ofi_rxm", _TCP_NEEDS)),
}
"""What serves the fabric of an address, the first that there is. From libfabric 2.0 on, ``tcp`` needs no ``ofi_rxm``.

Those on TCP are the stand-in where there is no such card: plain sockets are faster.
"""


class Provider:
    """An offer that was chosen.

    Attributes
    ----------
    mr_modes : int
        What the provider wants of registered memory, as bits.
    key_bits : int
        Bits of a key that Mofka chooses.
    """

    def __init__(self, library: Library, kind: Kind, info: Any) -> None:
        self.info = library.copy(info)
        self.name = kind.provider
        self.wants_counter = kind.wants_counter
        self.longest_sleep = kind.longest_sleep
        self.mr_modes = int(info.domain_attr.mr_mode)
        self.key_bits = min(8 * int(info.domain_attr.mr_key_size or 8), 62)
        name = info.domain_attr.name
        self.domain = library.ffi.string(name).decode() if name else ""

    def memory_words(self) -> list[str]:
        """Return what the provider wants of memory, for people."""
        return [words for mode, words in _WORDS.items() if self.mr_modes & mode]


_WORDS = {
    lib.MR_LOCAL: "what is read into is registered too",
    lib.MR_VIRT_ADDR: "peers name addresses of this process",
    lib.MR_ALLOCATED: "registered memory is pinned",
    lib.MR_PROV_KEY: "keys are the provider's",
    lib.MR_ENDPOINT: "memory belongs to an endpoint",
}


def choose(library: Library, fabric: str, host: str = "", card: str = "", pid: int | None = None) -> Provider:
    """Return the offer for the fabric of an address.

    Parameters
    ----------
    host : str
        An IP address of this host, for providers that want one.
    card, pid
        See `mochi.margo.address.TcpAddress`.

    Raises
    ------
    NoFabric
        There is no such offer here; says what was asked for, and of which library.
    FabricError
        The library fails.
    """
    for kind in KINDS[fabric]:
        node = host if kind.by_host else card
        service = None if pid is None or kind.by_host else str(pid)
        for info in library.offers(node or None, service, kind.provider, card or None):
            attr = info.fabric_attr
            is_meant = attr.prov_name and library.ffi.string(attr.prov_name).decode() == kind.provider
            if is_meant and not info.domain_attr.mr_mode & lib.MR_RAW:
                return Provider(library, kind, info)
    names = " or ".join(repr(kind.provider) for kind in KINDS[fabric])
    where = "".join(f", {what} {value}" for what, value in (("address", host), ("card", card)) if value)
    major, minor = library.version
    raise NoFabric(
        f"using ofi+{fabric}",
        _ENODATA,
        f"libfabric {major}.{minor} at {library.path} offers no {names} here{where}; it needs "
        f"{KINDS[fabric][0].needs}, else use ofi+tcp",
    )
