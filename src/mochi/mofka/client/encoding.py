"""What an application pushes, as the bytes that are stored. No I/O."""

from typing import Any

from diaspora_stream.errors import DiasporaError
from diaspora_stream.json_value import encode, from_text
from diaspora_stream.producer import segments_of
from diaspora_stream.serializer import DefaultSerializer, Serializer
from diaspora_stream.validator import DefaultValidator, Validator
from mochi.margo.wire import Buffer
from mochi.mofka.client.batch import Gather, byte_view


class Encoder:
    """Validates and encodes metadata for one topic, in any thread.

    Attributes
    ----------
    prefixed : bool
        Whether `text` gives JSON text that wants its length before it, as the default serializer writes it.
    plain : bool
        Whether the text of a dict is what `diaspora_stream.json_value.encode` gives.
    """

    def __init__(self, validator: Validator, serializer: Serializer, *, is_finite: bool) -> None:
        self._validator = validator
        self._serializer = serializer
        self._is_finite = is_finite
        self.prefixed = isinstance(serializer, DefaultSerializer)
        self.plain = self.prefixed and type(validator) is DefaultValidator and not is_finite

    def text(self, metadata: Any) -> bytes:
        """Return metadata as bytes; errors as of `diaspora_stream.producer.Producer.push`."""
        given: str | bytes | None = None
        if isinstance(metadata, str):
            given = str.__str__(metadata)
            metadata = from_text(given)
        elif isinstance(metadata, bytes | bytearray):
            given = bytes(metadata)
            metadata = from_text(given)
        elif isinstance(metadata, memoryview):
            raise TypeError("metadata is a JSON value or JSON text, not a memoryview; give bytes(...) of it")
        if not self.plain:
            self._validator.validate(metadata)
        if self._is_finite or self.prefixed:
            text = encode(metadata, is_finite=self._is_finite)
            if self.prefixed:
                return text
        if given is None:
            return bytes(memoryview(self._serializer.serialize(metadata)))
        text = given.encode() if isinstance(given, str) else given
        return bytes(memoryview(self._serializer.serialize_text(text, metadata)))


def as_data(data: Any) -> Any:
    """Return what was given as data in a form whose length is its number of bytes."""
    buffers = [_bytes_of(segment) for segment in segments_of(data)]
    if len(buffers) == 1:
        return buffers[0]
    return Gather(buffers) if buffers else b""


def _bytes_of(segment: Any) -> Buffer:
    if isinstance(segment, str):
        raise TypeError("data is bytes, not str: encode it, for example with .encode()")
    try:
        view = memoryview(segment)
    except (TypeError, ValueError):
        raise TypeError(f"data is a buffer, or a list of buffers, not {type(segment).__name__}") from None
    if "O" in view.format:
        raise TypeError(
            "data is bytes, not references to Python objects, as an array of dtype object has them"
        )
    if not view.contiguous:
        raise DiasporaError(
            "data is not contiguous in memory; make it so, for example with numpy.ascontiguousarray"
        )
    return byte_view(view)
