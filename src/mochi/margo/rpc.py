"""RPCs by name on the wire: numbers for names, and messages as MessagePack of plain structs.

An RPC's number is the CRC-32 of its name, so that both sides agree without a table. A fault is the message
``(code, text, details)``; a request's provider that is not there is the fault ``no_provider`` or ``no_rpc``.
"""

import zlib
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from mochi.margo.errors import Fault, RemoteProtocolError
from mochi.margo.wire import Buffer

T = TypeVar("T")

MAX_FAULT = 64 << 10
"""Bytes of a fault's message."""

_encoder = msgspec.msgpack.Encoder()
pack = _encoder.encode


@lru_cache
def number(name: str) -> int:
    """Return the number that stands for the RPC `name` on the wire."""
    return zlib.crc32(name.encode())


def unpack(message: Buffer, kind: type[T]) -> T:
    """Decode a message of the wire.

    Raises
    ------
    RemoteProtocolError
        It is not MessagePack, or not of the type `kind`; the text holds the path of the field.
    """
    try:
        return msgspec.msgpack.decode(message, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a message is not a {getattr(kind, '__name__', kind)}: {error}") from error


class _FaultMessage(msgspec.Struct, array_like=True):
    code: str
    text: str
    details: dict[str, Any]


def pack_fault(error: BaseException) -> bytes:
    """Return the message that carries `error` to a caller; what is not a `Fault` has the code ``internal``.

    Never fails: details that MessagePack cannot say, or that are beyond `MAX_FAULT`, stay behind, and so does the
    end of a text that is.
    """
    fault = error if isinstance(error, Fault) else Fault("internal", f"{type(error).__name__}: {error}")
    try:
        message = pack(_FaultMessage(fault.code, fault.message, fault.details))
        if len(message) <= MAX_FAULT:
            return message
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    code, text = (
        part[: MAX_FAULT // 8].encode(errors="replace").decode() for part in (fault.code, fault.message)
    )
    return pack(_FaultMessage(code, text, {}))


def unpack_fault(message: Buffer) -> Fault:
    """Return the fault that a message carries."""
    fault = unpack(message, _FaultMessage)
    return Fault(fault.code, fault.text, fault.details)
