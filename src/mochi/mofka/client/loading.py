"""What a consumer's data selector and data allocator are asked, and what they may answer. No I/O."""

from typing import Any

from diaspora_stream.consumer import DataAllocator, DataSelector
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import DiasporaError
from mochi.mofka.client.batch import byte_view


def select(data_selector: DataSelector | None, metadata: Any, whole: DataDescriptor) -> DataDescriptor | None:
    """Ask a consumer's selector what it wants of an event's data; `DiasporaError` if that is no answer."""
    assert data_selector is not None
    selected = data_selector(metadata, whole)
    if selected is None:
        return None
    if not isinstance(selected, DataDescriptor):
        raise DiasporaError(
            f"a data selector returns a DataDescriptor or None, not {type(selected).__name__}"
        )
    its_own = selected.location_bytes == whole.location_bytes and selected.base_size == whole.base_size
    if selected.size and not its_own:
        raise DiasporaError(
            f"a data selector returns the descriptor it is given, or a view of it; {selected!r} is neither"
        )
    return selected


def allocate(
    data_allocator: DataAllocator | None, metadata: Any, descriptor: DataDescriptor
) -> tuple[list[Any], list[memoryview]]:
    """Have a consumer's allocator give buffers for what is selected; returns them, and the memory to fill.

    Raises
    ------
    DiasporaError
        They are no writable, contiguous buffers of that size.
    """
    assert data_allocator is not None
    given = data_allocator(metadata, descriptor)
    if not isinstance(given, list | tuple):
        raise DiasporaError(f"a data allocator returns a list of buffers, not {type(given).__name__}")
    views = [_writable(buffer) for buffer in given]
    size = sum(map(len, views))
    if size != descriptor.size:
        # Older applications count elements where the original took them for bytes.
        counts = [memoryview(buffer).nbytes // memoryview(buffer).itemsize for buffer in given]
        if sum(counts) == descriptor.size:
            views = [view[:count] for view, count in zip(views, counts, strict=True)]
            size = descriptor.size
    if size != descriptor.size:
        raise DiasporaError(
            f"a data allocator gave {size} bytes of memory for the {descriptor.size} bytes selected"
        )
    return list(given), [view for view in views if len(view)]


def _writable(buffer: Any) -> memoryview:
    """Return a buffer as writable bytes."""
    view = memoryview(buffer)
    if view.readonly:
        raise DiasporaError(f"a data allocator returns writable buffers, and {type(buffer).__name__} is not")
    if not view.contiguous:
        raise DiasporaError("a data allocator returns contiguous buffers")
    return byte_view(view)
