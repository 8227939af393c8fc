"""What clients and partition providers say to each other: names of RPCs, and their messages.

Messages are MessagePack arrays; a field added at the end of one is ignored by those who do not know it. Events
travel in bulk, as three segments. The first has the sizes, as little-endian u32: all metadata sizes, then all data
sizes. The second has the metadata back to back, the third the data.
"""

from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer

SEND_BATCH = "mofka_producer_send_batch"
LEND = "mofka_producer_lend"
SUBSCRIBE = "mofka_consumer_request_events"
GRANT = "mofka_consumer_grant"
UNSUBSCRIBE = "mofka_consumer_remove_consumer"
REQUEST_DATA = "mofka_consumer_request_data"
ACKNOWLEDGE = "mofka_consumer_ack_event"
CREATE_TOPIC = "mofka_create_topic"
ADD_PARTITION = "mofka_add_partition"
ATTACH_TOPIC = "mofka_attach_topic"
DELETE_TOPIC = "mofka_delete_topic"
SETTLE_TOPIC = "mofka_settle_topic"
REMOVE = "mofka_remove_partition"

SIZE = np.dtype("<u4")
MAX_EVENT_BYTES = 2**32 - 1
"""Bytes that the metadata, and the data, of one event may have: sizes are 32-bit on the wire and on disk."""

REMEMBERED_BATCHES = 64
"""Batches of a producer whose ids a partition can tell again; a producer has at most so many on their way."""

MAX_BATCH_EVENTS = 1 << 20
"""Events of one batch at most; checked before memory is taken for them."""

MAX_REQUESTED_BYTES = 1 << 32
"""Bytes of data that one `RequestData` may ask for: those of the largest event."""

NUMBER = np.dtype("<i8")
PIECE_SIZE = 3 * NUMBER.itemsize
MAX_PIECES = 1 << 20
"""Pieces of data that one `RequestData` may ask for."""

MAX_CONSUMER_NAME = 1024
"""Characters of a consumer's name."""

MAX_NUMBER = 2**63 - 1

Numbers: TypeAlias = NDArray[np.int64]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Identity: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
DataRequest: TypeAlias = tuple[Number, list[tuple[Number, Number]]]
ConsumerName: TypeAlias = Annotated[str, Meta(max_length=MAX_CONSUMER_NAME)]


class Where(msgspec.Struct, array_like=True, frozen=True):
    """Which partition is meant, and in which epoch: one that lost its events has another; 0 takes any."""

    uuid: Identity
    epoch: Number


class SendBatch(msgspec.Struct, array_like=True):
    """A batch of events; bulk: sizes, metadata, data (the data perhaps in a lent buffer).

    Attributes
    ----------
    producer : bytes
        Identity of the producer, 16 random bytes.
    sequence : int
        Number of the batch, from 0 for each identity.
    created : int
        Nanoseconds since 1970, on the producer's clock.
    """

    where: Where
    producer: Identity
    sequence: Number
    count: Number
    created: int
    flags: int = 0


class BatchStored(msgspec.Struct, array_like=True):
    """Answer to a batch: ids ``first`` to ``first + count - 1`` are its events', in this epoch of the partition."""

    first: int
    epoch: int


class Lend(msgspec.Struct, array_like=True):
    """Asks for a buffer to put the data of batches into; the answer carries its descriptor."""

    where: Where


class Lent(msgspec.Struct, array_like=True):
    """A buffer lent to one connection until that closes."""

    lease: int
    size: int


class Subscribe(msgspec.Struct, array_like=True):
    """Asks for events from the cursor of `consumer` on, or from `start`.

    Attributes
    ----------
    stream : int
        Number of the stream of notices that the batches come in.
    batch_size : int
        Events a batch at most; 0 leaves it to the server.
    batches, credit : int
        Batches, and bytes, that may be sent before more is granted; the last batch may go beyond the bytes.
    """

    where: Where
    consumer: ConsumerName
    stream: Number
    batch_size: Number
    batches: Number
    credit: Number
    with_data: bool
    start: Number | None = None


class Subscribed(msgspec.Struct, array_like=True):
    """The feed starts at event `first`, in this epoch of the partition.

    Attributes
    ----------
    takes_arrays : bool
        Whether the server takes a `RequestData` whose pieces come in bulk.
    """

    first: int
    epoch: int
    takes_arrays: bool = False


class Events(msgspec.Struct, array_like=True):
    """Notice of a feed; bulk: sizes, metadata, and data where the subscription asked for it. No events: the end."""

    first: int
    count: int


class Grant(msgspec.Struct, array_like=True):
    """One-way: gives back credit."""

    stream: Number
    batches: Number
    credit: Number


class Unsubscribe(msgspec.Struct, array_like=True):
    """Ends a feed; one that has ended is no error."""

    stream: Number


class RequestData(msgspec.Struct, array_like=True):
    """Asks for pieces of the data of events; bulk of the answer: all pieces back to back.

    Attributes
    ----------
    events : list
        Each an event's id, and the ``(offset, length)`` of its pieces; none where the pieces come in bulk.
    count : int
        Number of pieces in bulk, see `pieces_in`.
    """

    where: Where
    events: list[DataRequest]
    count: Number = 0


class Acknowledge(msgspec.Struct, array_like=True):
    """Moves the cursor of `consumer` behind event `event_id`, if it is not there yet."""

    where: Where
    consumer: ConsumerName
    event_id: Number


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Which server a new partition goes to, by its rank; at `address`, unless the server that is asked knows better."""

    rank: Number
    address: str
    uuid: str


class Kind(msgspec.Struct, array_like=True, frozen=True):
    """What new partitions are: the type, and the sections ``partition`` and ``dependencies`` as they were given."""

    type: str
    partition: dict[str, Any]
    dependencies: dict[str, list[str]]


class CreateTopic(msgspec.Struct, array_like=True, frozen=True):
    """Asks for a new topic, with the descriptions of its parts.

    Attributes
    ----------
    timeout_ms : int
        How long it may have to wait for its turn, while others change a topic of this name; 0 for ever.
    """

    topic: str
    timeout_ms: Number
    kind: Kind
    places: list[Place]
    validator: dict[str, Any]
    selector: dict[str, Any]
    serializer: dict[str, Any]


class AddPartition(msgspec.Struct, array_like=True, frozen=True):
    """Asks for one more partition of a topic; one that it has already is no error."""

    topic: str
    timeout_ms: Number
    kind: Kind
    place: Place


class AttachTopic(msgspec.Struct, array_like=True, frozen=True):
    """Asks for a topic's partitions that nobody serves to be served from their directories.

    Attributes
    ----------
    path : str
        Where the directories are, ``<topic>-<uuid>`` each.
    uuid : str
        Of the only partition that is meant; empty for all.
    rank, address : int, str
        Of the server that is to serve them.
    """

    topic: str
    timeout_ms: Number
    path: str
    uuid: str
    rank: Number
    address: str


class DeleteTopic(msgspec.Struct, array_like=True, frozen=True):
    """Asks for the end of a topic, or of what an interrupted change has left of one."""

    topic: str
    timeout_ms: Number


class TopicChanged(msgspec.Struct, array_like=True):
    """It is done; `warnings` are for whoever asked."""

    warnings: list[str]


class SettleTopic(msgspec.Struct, array_like=True, frozen=True):
    """Asks for the removal of what an interrupted change has left of a topic, once nobody changes it.

    Attributes
    ----------
    rank, address : int, str
        Of the server that asks, which was started again.
    """

    topic: str
    timeout_ms: Number
    rank: Number
    address: str


class Remove(msgspec.Struct, array_like=True, frozen=True):
    """Asks a server for the end of a partition, which it need not serve, and of all that is stored of it.

    Attributes
    ----------
    rank : int or None
        Of the server that is meant; None for whoever serves the partition.
    path : str
        Where the directory of a `default` partition is; empty for others.
    unused_only : bool
        Whether to leave what is stored alone if there are events: the topic, or the partition, was never complete.
    type, dependencies : str, dict
        What is recorded of the partition: one that is not in files is opened to be removed.
    """

    topic: str
    uuid: str
    rank: Number | None
    path: str
    unused_only: bool
    type: str = ""
    dependencies: dict[str, list[str]] = {}


class Removed(msgspec.Struct, array_like=True):
    """The partition is gone; `kept` are paths of what is not the partition's own, and stays."""

    kept: list[str]


class Done(msgspec.Struct, array_like=True):
    """Answer that says nothing more."""


def split_sizes(segment: Buffer, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the metadata sizes and the data sizes of `count` events.

    Raises
    ------
    Fault
        ``bad_request``: the segment has not two sizes an event.
    """
    if count < 1 or len(segment) != 2 * SIZE.itemsize * count:
        raise Fault(
            "bad_request", f"a segment of {len(segment)} bytes does not hold the sizes of {count} events"
        )
    sizes: NDArray[Any] = np.frombuffer(segment, SIZE)
    return sizes[:count], sizes[count:]


def pieces_in(segment: Buffer, count: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return the `count` pieces of a segment of three arrays: the ids of their events, offsets, and lengths.

    Raises
    ------
    Fault
        ``bad_request``: they are others, or too many, or out of order, or overlap; or a number has no meaning.
    """
    if not 0 < count <= MAX_PIECES or len(segment) != PIECE_SIZE * count:
        raise Fault(
            "bad_request",
            f"a segment of {len(segment)} bytes does not hold {count} pieces of {PIECE_SIZE} bytes each, "
            f"{MAX_PIECES} at most",
        )
    numbers: Numbers = np.frombuffer(segment, NUMBER).reshape(3, count)
    events, offsets, lengths = numbers
    if numbers.min() < 0 or lengths.max() > MAX_NUMBER - offsets.max():
        raise Fault("bad_request", f"the pieces asked for go beyond {MAX_NUMBER}")
    same = events[1:] == events[:-1]
    if (np.where(same, offsets[:-1] + lengths[:-1] > offsets[1:], events[1:] < events[:-1])).any():
        raise Fault("bad_request", "the pieces asked for do not ascend by event and offset, or they overlap")
    return events, offsets, lengths


def raw(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return array.data.cast("B")
