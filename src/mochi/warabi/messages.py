"""What a target's handle and its provider say to each other. Bytes travel as the bulk of a request, or of an answer."""

from typing import Final

from msgspec import Struct

CREATE: Final = "warabi_create"
WRITE: Final = "warabi_write"
CREATE_WRITE: Final = "warabi_create_write"
PERSIST: Final = "warabi_persist"
READ: Final = "warabi_read"
ERASE: Final = "warabi_erase"


class Create(Struct):
    """Make a region of so many bytes; the answer is a `Region`."""

    size: int


class CreateWrite(Struct):
    """Make a region of the bytes of the bulk; the answer is a `Region`."""

    persist: bool


class Region(Struct):
    """A region's name. Asked with: erase it; the answer is `Done`."""

    region: bytes


class Pieces(Struct):
    """Parts of a region, to persist (the answer is `Done`) or to read (they are the bulk of the answer)."""

    region: bytes
    parts: list[tuple[int, int]]


class Write(Struct):
    """Write the bytes of the bulk into parts of a region; the answer is `Done`."""

    region: bytes
    parts: list[tuple[int, int]]
    persist: bool


class Done(Struct):
    """It is done."""
