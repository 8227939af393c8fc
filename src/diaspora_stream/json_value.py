"""Python values as JSON: what an application may pass as metadata or options, and how it is written.

Invariants: text is compact UTF-8, keys are in byte order, NaN and the infinities are null, bytes are base64
text, a tuple is an array, a dict key that is no str is `str(key)`. What `encode` writes, `from_text` reads.
"""

import re
from typing import Any, Final

import msgspec

from diaspora_stream.errors import InvalidJson, InvalidMetadata


def _to_builtin(value: Any) -> Any:
    """Reduce an instance of a subclass of float, int or str, such as numpy.float64, to the builtin type."""
    for builtin in (float, int, str):
        if isinstance(value, builtin):
            return builtin(value)
    raise TypeError


encode_fast: Final = msgspec.json.Encoder(enc_hook=_to_builtin, order="sorted").encode
"""The bare encoder: `encode` for values whose dict keys are all str, with errors that name no place."""

_decode: Final = msgspec.json.Decoder().decode


def _with_str_keys(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_str_keys(item, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_str_keys(item, f"{path}/{index}") for index, item in enumerate(value)]
    try:
        encode_fast(value)
    except TypeError:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"{kind} at {path!r} has no JSON form; "
            "use None, bool, int, float, str, bytes, list, tuple or dict of these"
        ) from None
    return value


def encode(value: Any) -> bytes:
    """Return a value as compact JSON text with sorted keys.

    Costs one Python call more than the bare encoder as long as every dict key is a str; otherwise the value
    is walked in Python.

    Parameters
    ----------
    value
        None, bool, int, float, str, bytes, or a list, tuple or dict of these, subclasses included. An int of
        any size is written exactly; a reader in another language may see a float beyond 64 bits.

    Raises
    ------
    TypeError
        For a value of another type, such as a numpy integer or array; says which, and where.
    InvalidMetadata
        For text that is not Unicode (a lone surrogate), and for a value that contains itself.
    """
    try:
        try:
            return encode_fast(value)
        except TypeError:
            return encode_fast(_with_str_keys(value, ""))
    except RecursionError:
        raise InvalidMetadata("a value that contains itself, or is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise InvalidMetadata(f"text that is not Unicode: {error}") from None


def _not_unicode(text: str | bytes | bytearray | memoryview) -> InvalidJson:
    try:
        text.encode() if isinstance(text, str) else str(text, "utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        return InvalidJson(f"not Unicode: {error.reason}", error.start)
    return InvalidJson("not Unicode", 0)


def from_text(text: str | bytes | bytearray | memoryview) -> Any:
    """Return the value of JSON text; where a key is repeated, the last one counts.

    Raises
    ------
    InvalidJson
        For text that is not JSON, or not UTF-8; carries the position.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        reason = str(error)
        found = re.fullmatch(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", reason)
        if found:
            raise InvalidJson(found[1], int(found[2])) from None
        end = len(text.encode()) if isinstance(text, str) else memoryview(text).nbytes
        raise InvalidJson(reason, end) from None
    except UnicodeError:
        raise _not_unicode(text) from None
    except RecursionError:
        raise InvalidJson("nested too deeply", 0) from None


decode = from_text
