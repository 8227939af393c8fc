"""A module as a user would write it: components found by `name:module`, and one that registers a name."""

from typing import Any

from diaspora_stream.errors import InvalidMetadata
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator


class Limit(Validator):
    def __init__(self, **options: Any) -> None:
        self.most = options["most"]

    def validate(self, metadata: Any) -> None:
        if metadata > self.most:
            raise InvalidMetadata(f"{metadata} is more than {self.most}")


class Reverse(Serializer, name="reverse-text"):
    def serialize(self, value: Any) -> bytes:
        return str(value)[::-1].encode()

    def deserialize(self, buffer: bytes | bytearray | memoryview) -> Any:
        return bytes(buffer).decode()[::-1]


not_a_class = 3
