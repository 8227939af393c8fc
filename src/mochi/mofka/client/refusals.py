"""Partitions as a client knows them, and what an application is told when one of them refuses. No I/O."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from diaspora_stream.errors import (
    ConnectionFailed,
    DiasporaError,
    EventsDamaged,
    EventsExpired,
    TimeoutExpired,
)
from mochi.margo.errors import (
    AddressError,
    AuthenticationError,
    ConnectionLost,
    DeadlineExceeded,
    Fault,
    HeldUp,
    MargoError,
    ProtocolError,
)

_AWAY = ("no_provider", "no_rpc", "wrong_partition", "closed")


class PartitionInfo(msgspec.Struct, frozen=True):
    """Where a partition is served; `as_dict` is the entry of ``topic.partitions``."""

    index: int
    address: str
    provider_id: int
    uuid: str

    @property
    def key(self) -> bytes:
        """The uuid as 16 bytes."""
        return _uuid_bytes(self.uuid)

    def as_dict(self) -> dict[str, Any]:
        """Return the public form."""
        return {"address": self.address, "provider_id": self.provider_id, "uuid": self.uuid}

    def __str__(self) -> str:
        return f"partition {self.index} ({self.uuid}, provider {self.provider_id} at {self.address})"


@lru_cache
def _uuid_bytes(uuid: str) -> bytes:
    return UUID(uuid).bytes


class EpochChanged(DiasporaError):
    """A partition came back without its events, or with others.

    Attributes
    ----------
    partition : PartitionInfo
    old, new : int
        The epochs: the one that the client knew, and the partition's own.
    """

    def __init__(self, what: str, partition: PartitionInfo, old: int, new: int) -> None:
        super().__init__(what, partition, old, new)
        self.what = what
        self.partition = partition
        self.old = old
        self.new = new

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.partition} came back without its events, in epoch {self.new} where epoch {self.old} "
            f"was known"
        )


def as_diaspora_error(error: Exception, what: str) -> DiasporaError:
    """Return the error of the public tree that tells an application of `error`."""
    if isinstance(error, DiasporaError):
        return error
    if isinstance(error, DeadlineExceeded):
        return TimeoutExpired(f"{what}: {error}")
    if isinstance(error, Fault | AuthenticationError | HeldUp):
        return DiasporaError(f"{what}: {error}")
    return ConnectionFailed(f"{what}: {error}")


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Raise what the servers' side raises as errors of the public tree, which say what was being done."""
    try:
        yield
    except MargoError as error:
        raise as_diaspora_error(error, what) from error


def refusal(fault: MargoError, what: str, partition: PartitionInfo, epoch: int) -> DiasporaError:
    """Return the error that tells an application of a partition's `fault`, where `epoch` was known."""
    if isinstance(fault, Fault) and fault.code == "wrong_epoch":
        return EpochChanged(what, partition, epoch, fault.details.get("epoch", 0))
    if isinstance(fault, Fault) and fault.code == "expired":
        return EventsExpired(f"{what}, {partition}", fault.details["first"], fault.details["next"])
    if isinstance(fault, Fault) and fault.code == "damaged":
        first, count = fault.details["first"], fault.details["count"]
        return EventsDamaged(f"{what}, {partition}", first, first + count, str(fault))
    return as_diaspora_error(fault, f"{what}, {partition}")


def is_away(error: MargoError) -> bool:
    """Tell whether `error` says that a partition is not there, or not yet."""
    if isinstance(error, Fault):
        return error.code in _AWAY
    return isinstance(error, AddressError | AuthenticationError | ConnectionLost | ProtocolError)
