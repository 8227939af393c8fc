"""Which of libfabric's offers an address stands for, and what Mofka has to know of that provider."""

from typing import Any, NamedTuple

from mochi.margo.fabric import library as lib
from mochi.margo.fabric.library import FabricError, Library, NoFabric, Offers

_EINVAL, _ENODATA = 22, 61


class Kind(NamedTuple):
    """What is known of a provider beforehand.

    Attributes
    ----------
    provider : str
        Its name in libfabric.
    by_host : bool
        Whether an endpoint is at an address of the host, else at a network card.
    wants_counter : bool
        Whether an open counter makes the provider serve peers with a thread of its own.
    longest_sleep : float or None
        Seconds to sleep at most where the provider may lose a wake-up.
    """

    provider: str
    by_host: bool = True
    wants_counter: bool = False
    longest_sleep: float | None = None


KINDS = {
    "verbs": Kind("verbs;ofi_rxm"),
    "cxi": Kind("cxi", by_host=False, longest_sleep=0.01),
    "efa": Kind("efa", by_host=False),
    "tcp": Kind("tcp", wants_counter=True),
    "tcp;ofi_rxm": Kind("tcp;ofi_rxm"),
}
"""By the name in an address; ``tcp`` is the stand-in for tests, plain sockets are faster."""


class Provider:
    """An offer that was chosen.

    Attributes
    ----------
    mr_modes : int
        What the provider wants of registered memory, as bits.
    key_bits : int
        Bits of a key that Mofka chooses.
    """

    def __init__(self, kind: Kind, offers: Offers, info: Any, ffi: Any) -> None:
        self._offers = offers  # frees what `info` is part of
        self.info = info
        self.name = kind.provider
        self.wants_counter = kind.wants_counter
        self.longest_sleep = kind.longest_sleep
        self.mr_modes = int(info.domain_attr.mr_mode)
        self.key_bits = min(8 * int(info.domain_attr.mr_key_size or 8), 62)
        self.domain = ffi.string(info.domain_attr.name).decode() if info.domain_attr.name else ""


def choose(library: Library, name: str, host: str | None, card: str | None) -> Provider:
    """Return the offer for the provider `name` of an address.

    Parameters
    ----------
    host : str or None
        An IP address of this host, for providers that want one.
    card : str or None
        The network card, or other domain.

    Raises
    ------
    FabricError
        There is no such offer here; says what there is.
    """
    kind = KINDS[name]
    where = host if kind.by_host else None
    try:
        offers = library.offers(where, kind.provider, card)
    except FabricError as error:
        if error.code in (_ENODATA, _EINVAL):
            raise NoFabric(
                f"using {name!r}",
                error.code,
                f"libfabric {library.version[0]}.{library.version[1]} at {library.path} offers no provider "
                f"{kind.provider!r} here",
            ) from None
        raise
    for info in offers:
        attr = info.fabric_attr
        if attr.prov_name and library.ffi.string(attr.prov_name).decode() == kind.provider:
            if info.domain_attr.mr_mode & lib.MR_RAW:
                continue
            return Provider(kind, offers, info, library.ffi)
    raise NoFabric(
        f"using {name!r}", _ENODATA, f"libfabric offers {kind.provider!r} in no form that Mofka can use"
    )
