"""Loading the data that a consumer's selector asks for: of many events of a batch by one request.

For each event there are the calls of
these two, those that decode its metadata, and one to make its descriptor; see `choose`.
"""

from itertools import chain, groupby
from typing import Any, NamedTuple, NoReturn

import numpy as np

from diaspora_stream.consumer import DataAllocator, DataSelector
from diaspora_stream.data_descriptor import DataDescriptor
from diaspora_stream.errors import DiasporaError, EventsLost
from diaspora_stream.event import Event
from mochi.mofka.client.batch import byte_view
from mochi.mofka.client.event import FailedEvent, LoadedEvent, ReceivedBatch
from mochi.mofka.protocol import NUMBER, DataRequest, Numbers

LOAD_BYTES = 16 << 20
"""Bytes of selected data that one request loads; an event more ends it."""


class Selected(NamedTuple):
    """Pieces of the data of events, in the order of these: each an event's id, an offset and a length."""

    events: Numbers
    offsets: Numbers
    lengths: Numbers

    def part(self, begin: int, end: int) -> "Selected":
        """Return some of the pieces."""
        return Selected(self.events[begin:end], self.offsets[begin:end], self.lengths[begin:end])

    def requests(self) -> list[DataRequest]:
        """Return the pieces of each event, as servers take them that take no arrays."""
        each = zip(self.events.tolist(), self.offsets.tolist(), self.lengths.tolist(), strict=True)
        return [
            (event, [(offset, length) for _, offset, length in pieces])
            for event, pieces in groupby(each, lambda piece: piece[0])
        ]


class Choice(NamedTuple):
    """What selector and allocator have answered for consecutive events.

    Attributes
    ----------
    start : int
        Number of the first one in the batch.
    events : list of Event
        All of them; those that are to have data have buffers that are not filled yet.
    places : list of int
        Numbers, in the batch, of the events that are to have data.
    targets : list of list of memoryview
        For each of these the memory to fill.
    selected : Selected
        What of their data goes there.
    """

    start: int
    events: list[Event]
    places: list[int]
    targets: list[list[memoryview]]
    selected: Selected

    def without(self, error: EventsLost, batch: ReceivedBatch) -> "Choice":
        """Return what is left to be loaded without the events that `error` tells to be lost; raises it if none is."""
        first, (start, events, places, targets, selected) = batch.first, self
        kept = [n for n, place in enumerate(places) if not error.first <= first + place < error.next]
        if len(kept) == len(places):
            raise error
        for lost in {*places} - {places[n] for n in kept}:
            events[lost - start] = FailedEvent(batch, lost, error)
        is_kept = (selected.events < error.first) | (selected.events >= error.next)
        left = Selected(*(numbers[is_kept] for numbers in selected))
        return Choice(start, events, [places[n] for n in kept], [targets[n] for n in kept], left)


def choose(
    batch: ReceivedBatch, start: int, data_selector: DataSelector, data_allocator: DataAllocator
) -> Choice:
    """Ask selector and allocator about the events of a batch from number `start` on, up to `LOAD_BYTES` selected.

    What they raise, and what is no answer, fails their event alone.
    """
    events: list[Event] = []
    places: list[int] = []
    targets: list[list[memoryview]] = []
    ids: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    first, size = batch.first, 0
    for index in range(start, batch.count):
        try:
            metadata = batch.metadata_of(index)
            whole = batch.descriptor_of(index)
            selected = data_selector(metadata, whole)
            if selected is not whole:
                _check_selected(selected, whole)
            if selected is None:
                events.append(LoadedEvent(batch, index, []))
                continue
            wanted = selected.size
            given = data_allocator(metadata, selected)
            if given.__class__ is list and len(given) == 1 and given[0].__class__ is bytearray:
                views = [memoryview(given[0])]
                if len(given[0]) != wanted:
                    _refuse_size(len(given[0]), wanted)
            else:
                views = _memory_of(given, wanted)
            events.append(LoadedEvent(batch, index, list(given)))
            if wanted:
                for offset, length in ((0, wanted),) if selected is whole else selected.flatten():
                    ids.append(first + index)
                    offsets.append(offset)
                    lengths.append(length)
                places.append(index)
                targets.append(views)
                size += wanted
                if size >= LOAD_BYTES:
                    break
        except Exception as error:
            events.append(FailedEvent(batch, index, error))
    numbers = (np.array(each, NUMBER) for each in (ids, offsets, lengths))
    return Choice(start, events, places, targets, Selected(*numbers))


def load(
    batch: ReceivedBatch, start: int, data_selector: DataSelector, data_allocator: DataAllocator
) -> list[Event]:
    """Return events of a batch, see `choose`, with the data that was asked for, loaded by one request."""
    choice = choose(batch, start, data_selector, data_allocator)
    events = choice.events
    try:
        while choice.places:
            try:
                batch.feed.load(choice.selected, list(chain.from_iterable(choice.targets)), batch.epoch)
                break
            except EventsLost as error:
                choice = choice.without(error, batch)
    except DiasporaError as error:
        return [FailedEvent(batch, start + place, error) for place in range(len(events))]
    return events


def _check_selected(selected: Any, whole: DataDescriptor) -> None:
    if selected is None:
        return
    if not isinstance(selected, DataDescriptor):
        raise DiasporaError(
            f"a data selector returns a DataDescriptor or None, not {type(selected).__name__}"
        )
    its_own = selected.location_bytes == whole.location_bytes and selected.base_size == whole.base_size
    if selected.size and not its_own:
        raise DiasporaError(
            f"a data selector returns the descriptor it is given, or a view of it; {selected!r} is neither"
        )


def _memory_of(given: Any, size: int) -> list[memoryview]:
    """Return the memory of an allocator's buffers; `DiasporaError` unless it is to be written, and of `size` bytes."""
    if not isinstance(given, list | tuple):
        raise DiasporaError(f"a data allocator returns a list of buffers, not {type(given).__name__}")
    views = [_writable(buffer) for buffer in given]
    found = sum(map(len, views))
    if found != size:
        # Older applications count elements where the original took them for bytes.
        counts = [memoryview(buffer).nbytes // memoryview(buffer).itemsize for buffer in given]
        if sum(counts) != size:
            _refuse_size(found, size)
        views = [view[:count] for view, count in zip(views, counts, strict=True)]
    return [view for view in views if len(view)]


def _refuse_size(found: int, size: int) -> NoReturn:
    raise DiasporaError(f"a data allocator gave {found} bytes of memory for the {size} bytes selected")


def _writable(buffer: Any) -> memoryview:
    """Return a buffer as writable bytes."""
    view = memoryview(buffer)
    if view.readonly:
        raise DiasporaError(f"a data allocator returns writable buffers, and {type(buffer).__name__} is not")
    if not view.contiguous:
        raise DiasporaError("a data allocator returns contiguous buffers")
    return byte_view(view)
