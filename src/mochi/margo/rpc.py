"""RPCs by name on the wire: numbers for names, and messages as MessagePack of plain structs.

An RPC's number is the CRC-32 of its name, so that both sides agree without a table. A fault is the message
``(code, text, details)``; a request's provider that is not there is the fault ``no_provider`` or ``no_rpc``.
"""

import zlib
from typing import Any, TypeVar

import msgspec

from mochi.margo.errors import Fault, ProtocolError
from mochi.margo.wire import Buffer

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
pack = _encoder.encode


def number(name: str) -> int:
    """Return the number that stands for the RPC `name` on the wire."""
    return zlib.crc32(name.encode())


def unpack(message: Buffer, kind: type[T]) -> T:
    """Decode a message of the wire.

    Raises
    ------
    ProtocolError
        It is not MessagePack, or not of the type `kind`; the text holds the path of the field.
    """
    try:
        return msgspec.msgpack.decode(message, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a message is not a {getattr(kind, '__name__', kind)}: {error}") from error


class _FaultMessage(msgspec.Struct, array_like=True):
    code: str
    text: str
    details: dict[str, Any]


def pack_fault(error: BaseException) -> bytes:
    """Return the message that carries `error` to a caller; what is not a `Fault` has the code ``internal``."""
    if isinstance(error, Fault):
        return pack(_FaultMessage(error.code, error.message, error.details))
    return pack(_FaultMessage("internal", f"{type(error).__name__}: {error}", {}))


def unpack_fault(message: Buffer) -> Fault:
    """Return the fault that a message carries."""
    fault = unpack(message, _FaultMessage)
    return Fault(fault.code, fault.text, fault.details)
