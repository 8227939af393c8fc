"""Data descriptors: where the data of an event is, and which of its bytes are meant.

A descriptor is a location (opaque, chosen by the backend), the size of the event's data there, and one
selection of it. A view is a further selection, counted in bytes of what the descriptor it is made from
selects.

Invariants: descriptors never change; views compose at once, so that a descriptor always holds a single
selection in coordinates of the event's data, ascending, without overlap and inside that data.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, SupportsIndex, TypeAlias

from diaspora_stream.errors import InvalidDescriptor
from diaspora_stream.generations import as_before
from diaspora_stream.integers import unsigned

Segment: TypeAlias = tuple[int, int]
"""(offset, size), in bytes from the start of the event's data, or of the view it is asked of."""


class _Stride(NamedTuple):
    offset: int
    num_blocks: int
    block_size: int
    gap_size: int

    @property
    def end(self) -> int:
        return self.offset + self.num_blocks * self.block_size + (self.num_blocks - 1) * self.gap_size

    def segments(self) -> list[Segment]:
        step = self.block_size + self.gap_size
        return [(self.offset + index * step, self.block_size) for index in range(self.num_blocks)]


_Selection: TypeAlias = _Stride | tuple[Segment, ...]

_SUB, _STRIDE, _UNSTRUCTURED = 1, 2, 3
_WORD: Final = struct.Struct("<Q")
_PAIR: Final = struct.Struct("<QQ")
_HEADER: Final = struct.Struct("<QQQ")
_STRIDE_BODY: Final = struct.Struct("<QQQQ")


def _merged(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Join the segments that touch."""
    result: list[Segment] = []
    for offset, size in segments:
        if result and sum(result[-1]) == offset:
            result[-1] = (result[-1][0], result[-1][1] + size)
        else:
            result.append((offset, size))
    return tuple(result)


def _check_segments(segments: Sequence[Segment], size: int) -> None:
    """Raise unless the segments ascend, do not overlap, and lie within `size` bytes."""
    end = 0
    for index, (offset, length) in enumerate(segments):
        if offset < end:
            raise InvalidDescriptor(
                f"segment {index} starts at {offset}, before the end of the one before it at {end}; "
                "segments must ascend and must not overlap"
            )
        end = offset + length
        if offset >= size or end > size:
            raise InvalidDescriptor(
                f"segment {index}, bytes {offset} to {end}, is not within the {size} bytes to select from"
            )


def _check_stride(stride: _Stride, size: int) -> None:
    if stride.end > size:
        raise InvalidDescriptor(
            f"the last of {stride.num_blocks} blocks would end at {stride.end}, "
            f"but there are {size} bytes to select from"
        )


def _compose(segments: Sequence[Segment], view: Iterable[Segment]) -> Iterable[Segment]:
    """Map the segments of a view through the segments of what it is a view of; one pass over both."""
    index = start = 0
    for offset, size in view:
        while index < len(segments) - 1 and start + segments[index][1] <= offset:
            start += segments[index][1]
            index += 1
        while True:
            base, length = segments[index]
            skipped = offset - start
            taken = min(size, length - skipped)
            yield base + skipped, taken
            offset += taken
            size -= taken
            if not size:
                break
            start += length
            index += 1


class DataDescriptor:
    """A selection of the data of one event.

    Parameters
    ----------
    location : str or bytes
        Where the backend keeps the data; positional only.
    size : int
        Size of the data there, in bytes; positional only.

    Notes
    -----
    Two descriptors are equal when they select the same segments of the same data. Instances are immutable:
    threads may share them. Views of views compose, which the original documents but does not do.
    """

    __slots__ = ("_base_size", "_location", "_selection", "_size")

    _location: bytes
    _base_size: int
    _selection: _Selection
    _size: int

    def __init__(self, location: str | bytes = b"", size: SupportsIndex = 0, /) -> None:
        if isinstance(location, str):
            location = location.encode(errors="surrogateescape")
        elif not isinstance(location, bytes | bytearray | memoryview):
            raise TypeError(f"location must be a str or bytes, not {location!r}")
        self._location = bytes(location)
        self._base_size = self._size = unsigned("size", size)
        self._selection = ((0, self._size),)

    @property
    def size(self) -> int:
        """Number of bytes selected."""
        return self._size

    @property
    def base_size(self) -> int:
        """Number of bytes of the event's data, selected or not."""
        return self._base_size

    @property
    def location(self) -> str:
        """The location as text; bytes that are not UTF-8 become lone surrogates, as file names do."""
        return self._location.decode(errors="surrogateescape")

    @property
    def location_bytes(self) -> bytes:
        """The location as the backend wrote it."""
        return self._location

    def flatten(self) -> list[Segment]:
        """Return the segments selected, as (offset, size) in bytes from the start of the event's data.

        A descriptor without selection gives one segment, even when there is no data; a selection of nothing
        gives none. Costs time and memory in proportion to the number of segments.
        """
        if isinstance(self._selection, _Stride):
            return self._selection.segments()
        if self._size == 0 < self._base_size and len(self._selection) == 1:
            return []
        return list(self._selection)

    @as_before("offset", "size")
    def make_sub_view(self, *, offset: SupportsIndex, size: SupportsIndex) -> "DataDescriptor":
        """Select `size` bytes from `offset` on, or as many as there are.

        Returns
        -------
        DataDescriptor
            Without location when nothing is asked for, or `offset` is past the end.

        Raises
        ------
        TypeError
            For a parameter that is no int from 0 to 2**64-1.
        """
        start, length = unsigned("offset", offset), unsigned("size", size)
        if start > self._size or length == 0 or self._size == 0:
            return DataDescriptor()
        return self._select(((start, min(length, self._size - start)),))

    @as_before(
        "offset",
        "num_blocks",
        "block_size",
        "gap_size",
        numblocks="num_blocks",
        blocksize="block_size",
        gapsize="gap_size",
    )
    def make_stride_view(
        self,
        *,
        offset: SupportsIndex,
        num_blocks: SupportsIndex,
        block_size: SupportsIndex,
        gap_size: SupportsIndex,
    ) -> "DataDescriptor":
        """Select `num_blocks` blocks of `block_size` bytes from `offset` on, `gap_size` bytes apart.

        Returns
        -------
        DataDescriptor
            Without location when there are no blocks, blocks are empty, or `offset` is past the end.

        Raises
        ------
        InvalidDescriptor
            When the last block would end past the end of what there is to select from.
        TypeError
            For a parameter that is no int from 0 to 2**64-1.
        """
        stride = _Stride(
            unsigned("offset", offset),
            unsigned("num_blocks", num_blocks),
            unsigned("block_size", block_size),
            unsigned("gap_size", gap_size),
        )
        if stride.offset > self._size or stride.num_blocks == 0 or stride.block_size == 0:
            return DataDescriptor()
        _check_stride(stride, self._size)
        return self._select(stride)

    @as_before("segments")
    def make_unstructured_view(
        self, *, segments: Iterable[tuple[SupportsIndex, SupportsIndex]]
    ) -> "DataDescriptor":
        """Select the given segments, each an (offset, size) in bytes.

        Returns
        -------
        DataDescriptor
            Without location when there is no segment. Segments that touch become one.

        Raises
        ------
        InvalidDescriptor
            When segments are out of order, overlap, or are not within what there is to select from.
        TypeError
            For an offset or size that is no int from 0 to 2**64-1.
        """
        wanted = [(unsigned("offset", offset), unsigned("size", size)) for offset, size in segments]
        if not wanted:
            return DataDescriptor()
        _check_segments(wanted, self._size)
        return self._select(_merged(wanted))

    def _select(self, view: _Selection) -> "DataDescriptor":
        """Return this descriptor seen through a valid view."""
        outer = self._selection
        if not isinstance(outer, _Stride) and len(outer) == 1:
            base = outer[0][0]
            if isinstance(view, _Stride):
                return self._with(view._replace(offset=base + view.offset))
            return self._with(tuple([(base + offset, size) for offset, size in view]))
        inner = view.segments() if isinstance(view, _Stride) else view
        return self._with(_merged(_compose(self.flatten() or [(0, 0)], inner)))

    def _with(self, selection: _Selection) -> "DataDescriptor":
        """Return a descriptor of the same data with this selection of it."""
        result = DataDescriptor.__new__(DataDescriptor)
        result._location = self._location
        result._base_size = self._base_size
        result._selection = selection
        if isinstance(selection, _Stride):
            result._size = selection.num_blocks * selection.block_size
        else:
            result._size = sum([size for _, size in selection])
        return result

    def serialize(self) -> bytes:
        """Return the descriptor as the original's raw archive, little-endian, with at most one selection.

        A reader that applies a selection to the whole data, and one that composes selections, agree on it.
        """
        header = _HEADER.pack(self._size, self._base_size, len(self._location)) + self._location
        match self._selection:
            case _Stride() as stride:
                return header + _WORD.pack(1) + bytes([_STRIDE]) + _STRIDE_BODY.pack(*stride)
            case ((0, self._base_size),):
                return header + _WORD.pack(0)
            case ((offset, size),):
                return header + _WORD.pack(1) + bytes([_SUB]) + _PAIR.pack(offset, size)
            case segments:
                body = b"".join([_PAIR.pack(*segment) for segment in segments])
                return header + _WORD.pack(1) + bytes([_UNSTRUCTURED]) + _WORD.pack(len(segments)) + body

    @classmethod
    def deserialize(cls, buffer: bytes | bytearray | memoryview) -> "DataDescriptor":
        """Return the descriptor in the original's raw archive; several selections compose.

        Raises
        ------
        InvalidDescriptor
            The bytes end early, or go on after the descriptor. A selection is of an unknown kind, or does not fit
            into the data. The size is not that of the selections.
        """
        reader = _Reader(buffer)
        size, base_size, location_size = reader.read(_HEADER)
        result = cls(reader.take(location_size), base_size)
        (count,) = reader.read(_WORD)
        for _ in range(count):
            result = result._select(reader.selection(result._size))
        if reader.left:
            raise InvalidDescriptor(f"{reader.left} bytes after the end of a data descriptor")
        if result._size != size:
            raise InvalidDescriptor(
                f"a data descriptor says that it selects {size} bytes, its selections say {result._size}"
            )
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DataDescriptor):
            return NotImplemented
        return (
            self._location == other._location
            and self._base_size == other._base_size
            and (self._selection == other._selection or self.flatten() == other.flatten())
        )

    def __hash__(self) -> int:
        return hash((self._location, self._base_size, self._size))

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return DataDescriptor.deserialize, (self.serialize(),)

    def __repr__(self) -> str:
        whole = f"DataDescriptor({self.location!r}, {self._base_size})"
        match self._selection:
            case _Stride() as stride:
                arguments = ", ".join(f"{name}={value}" for name, value in stride._asdict().items())
                return f"{whole}.make_stride_view({arguments})"
            case ((0, self._base_size),):
                return whole
            case ((offset, size),):
                return f"{whole}.make_sub_view(offset={offset}, size={size})"
            case segments:
                return f"{whole}.make_unstructured_view(segments={list(segments)})"


def whole(location: bytes, size: int) -> DataDescriptor:
    """Return the descriptor of all data of an event, for backends: arguments are not checked."""
    result = DataDescriptor.__new__(DataDescriptor)
    result._location = location
    result._base_size = result._size = size
    result._selection = ((0, size),)
    return result


class _Reader:
    """A cursor over the bytes of a serialized descriptor; reading past the end is an error."""

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(buffer).cast("B")
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._view) - self._position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise InvalidDescriptor(
                f"a data descriptor of {len(self._view)} bytes ends early: "
                f"{size} bytes wanted at byte {self._position}, {self.left} left"
            )
        self._position += size
        return bytes(self._view[self._position - size : self._position])

    def read(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def selection(self, size: int) -> _Selection:
        """Read one selection of `size` bytes, and check that it fits."""
        (tag,) = self.take(1)
        if tag == _SUB:
            offset, length = self.read(_PAIR)
            if offset > size:
                raise InvalidDescriptor(
                    f"a view starts at {offset}, but there are {size} bytes to select from"
                )
            return ((offset, min(length, size - offset)),)
        if tag == _STRIDE:
            stride = _Stride(*self.read(_STRIDE_BODY))
            if not stride.num_blocks or not stride.block_size:
                raise InvalidDescriptor("a strided view without blocks, or of empty blocks")
            _check_stride(stride, size)
            return stride
        if tag == _UNSTRUCTURED:
            (count,) = self.read(_WORD)
            numbers = struct.iter_unpack("<QQ", self.take(count * _PAIR.size))
            segments: list[Segment] = [(offset, length) for offset, length in numbers]
            _check_segments(segments, size)
            return _merged(segments)
        raise InvalidDescriptor(
            f"unknown kind of selection {tag} at byte {self._position - 1} of a data descriptor; "
            "known are 1 (sub), 2 (stride), 3 (unstructured)"
        )
