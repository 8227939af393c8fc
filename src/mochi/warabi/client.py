"""A target that a provider serves: every call is one RPC."""

from types import TracebackType
from typing import TypeVar

from msgspec import Struct

from mochi.margo.client import Client as MargoClient
from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.warabi import messages
from mochi.warabi.errors import InvalidArguments, StorageError, WarabiError
from mochi.warabi.messages import Create, CreateWrite, Done, Pieces, Region, Write
from mochi.warabi.target import Parts, Target

__all__ = ["Client", "TargetHandle"]

R = TypeVar("R")


class TargetHandle(Target):
    """A target somewhere else.

    Every call costs a round trip, and beside its own errors raises those of `mochi.margo.client.Client.call`:
    `ConnectionLost` and `DeadlineExceeded` leave open whether it has taken effect. Usable from any thread, and after a
    fork, as its client is.

    Parameters
    ----------
    client : mochi.margo.client.Client
    address : str
        Of the server.
    provider_id : int
    """

    def __init__(self, client: MargoClient, address: str, provider_id: int) -> None:
        self.address = address
        self.provider_id = provider_id
        self._client = client

    def create(self, size: int) -> bytes:
        if not 1 <= size < 2**63:
            raise InvalidArguments(f"a region has 1 byte or more, and must fit in a file; not {size}")
        return self._call(messages.CREATE, Create(size), Region).region

    def write(self, region: bytes, parts: Parts, data: Buffer, *, persist: bool = False) -> None:
        self._call(messages.WRITE, Write(region, list(parts), persist), Done, data)

    def create_write(self, data: Buffer, *, persist: bool = False) -> bytes:
        return self._call(messages.CREATE_WRITE, CreateWrite(persist), Region, data).region

    def persist(self, region: bytes, parts: Parts) -> None:
        self._call(messages.PERSIST, Pieces(region, list(parts)), Done)

    def read(self, region: bytes, parts: Parts) -> memoryview:
        try:
            _, (found,) = self._client.transfer(
                self.address, messages.READ, Pieces(region, list(parts)), Done, provider_id=self.provider_id
            )
        except Fault as fault:
            raise WarabiError.revive(fault) from None
        if found is None:
            raise StorageError(f"the server at {self.address} lent what it was to send")
        return found

    def erase(self, region: bytes) -> None:
        self._call(messages.ERASE, Region(region), Done)

    def _call(self, name: str, args: Struct, result: type[R], data: Buffer | None = None) -> R:
        bulk = [] if data is None else [[memoryview(data).cast("B")]]
        try:
            answer, _ = self._client.transfer(
                self.address, name, args, result, provider_id=self.provider_id, bulk=bulk
            )
        except Fault as fault:
            raise WarabiError.revive(fault) from None
        return answer


class Client:
    """Makes handles of targets.

    Parameters
    ----------
    protocol : str, optional
        Accepted as the original has it; addresses say how they are reached.
    timeout : float
        Seconds that a call takes at most.
    """

    def __init__(self, protocol: str = "", *, timeout: float = 30.0) -> None:
        self._client = MargoClient(timeout=timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def make_target_handle(self, address: str, provider_id: int, token: bytes | None = None) -> TargetHandle:
        """Return a handle of the target that a provider serves.

        Parameters
        ----------
        token : bytes, optional
            Of the service, as its group file has it.
        """
        if token is not None:
            self._client.set_token(address, token)
        return TargetHandle(self._client, address, provider_id)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
