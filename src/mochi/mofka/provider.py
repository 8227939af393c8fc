"""One partition, served over RPC: batches in, feeds out, cursors.

Nothing here is done per event. A batch is checked, numbered and stored as a whole; its acknowledgement leaves when
the partition says that it is stored. A feed, see `mochi.mofka.feeds`, sends what is there whenever its consumer has
granted credit; a consumer that grants none costs no memory.

Invariant 1: all that a provider knows belongs to the event loop. A handler decodes its request in its pool, and is
carried on by the loop. What storage tells from a thread comes by `Engine.on_loop`, in the order in which it was told.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from mochi import shortage
from mochi.margo import rpc
from mochi.margo.bulk import BulkBuffer
from mochi.margo.complaints import Complaint
from mochi.margo.connection import Connection, Request
from mochi.margo.engine import Engine
from mochi.margo.errors import Fault, ProtocolError
from mochi.margo.peer import Reservation
from mochi.margo.pools import Pool
from mochi.margo.wire import Buffer, Frame, Segment, allocate_private
from mochi.mofka.chunks import Batch, InvalidBatch, Origin, Pieces, rearranged
from mochi.mofka.feeds import Feed, State
from mochi.mofka.partition.blocks import joined
from mochi.mofka.partition.contract import LargeEvent, Partition, Slice, expired
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    LEND,
    MAX_BATCH_EVENTS,
    MAX_PIECES,
    MAX_REQUESTED_BYTES,
    PIECE_SIZE,
    REQUEST_DATA,
    SEND_BATCH,
    SIZE,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Acknowledge,
    BatchStored,
    Done,
    Events,
    Grant,
    Lend,
    Lent,
    RequestData,
    SendBatch,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Where,
    pieces_in,
    raw,
    split_sizes,
)
from mochi.mofka.sequencer import Sequencer

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_FEED_BYTES = 4 << 20
"""Bytes of one batch of a feed, unless a single event is larger."""

MAX_FEEDS = 4096
"""Feeds of one connection at one partition."""

SHORTEST_EXPIRY = 1.0
LONGEST_EXPIRY = 3600.0
"""Seconds until a partition is asked again to drop what is too old, whenever it says that there is something."""

MAX_LENT = 1 << 30
"""Bytes of the buffers lent to producers of one partition; who asks for more sends in line.

A buffer belongs to one connection and is dropped with it, never lent again. A batch may still lie in it, and a
producer that lost its connection may still write to it."""


class _Outlet:
    """A feed, and where it goes.

    Attributes
    ----------
    reserved : int
        Bytes reserved for what is being read.
    waits : Reservation or None
        For memory.
    """

    __slots__ = ("connection", "feed", "reserved", "stream", "waits")

    def __init__(self, connection: Connection, stream: int, feed: Feed) -> None:
        self.connection = connection
        self.stream = stream
        self.feed = feed
        self.reserved = 0
        self.waits: Reservation | None = None


class PartitionProvider:
    """Serves a partition at a provider id of an engine.

    Parameters
    ----------
    topic : str
    uuid : str
        The partition's, as text.
    partition : Partition
        Where the events are kept; closed with the provider.
    remove : callable
        Removes what is stored of the partition, once that is closed; returns paths of what stays. May block.
    pool : Pool, optional
        Where handlers run; the engine's RPC pool where none is given.

    Notes
    -----
    `close`, `remove` and `config` may be called from any thread.
    """

    def __init__(
        self,
        engine: Engine,
        provider_id: int,
        *,
        topic: str,
        kind: str,
        uuid: str,
        partition: Partition,
        remove: Callable[[], list[str]] = list,
        pool: Pool | None = None,
    ) -> None:
        self.topic = topic
        self.kind = kind
        self.uuid = uuid
        self._engine = engine
        self.provider_id = provider_id
        self._partition = partition
        self._remove_stored = remove
        self._where = Where(UUID(uuid).bytes, partition.epoch)
        self._sequencer = Sequencer(partition.remembered())
        self._feeds: dict[tuple[Connection, int], _Outlet] = {}
        self._lent: dict[tuple[Connection, int], BulkBuffer] = {}
        self._leases = itertools.count(1)
        self._known: dict[Connection, int] = {}
        self._closed: Fault | None = None
        self._failed = False
        self._awaits_expiry = False
        self._timer: asyncio.TimerHandle | None = None
        self._register(SEND_BATCH, self._send_batch, SendBatch, pool, allocate=self._allocate)
        self._register(LEND, self._lend, Lend, pool)
        self._register(SUBSCRIBE, self._subscribe, Subscribe, pool)
        self._register(GRANT, self._grant, Grant, pool)
        self._register(UNSUBSCRIBE, self._unsubscribe, Unsubscribe, pool)
        self._register(REQUEST_DATA, self._request_data, RequestData, pool, allocate=_allocate_pieces)
        self._register(ACKNOWLEDGE, self._acknowledge, Acknowledge, pool)
        self._await_expiry()

    @property
    def config(self) -> dict[str, Any]:
        """The provider's configuration, expanded.

        ``failed`` says why no more events are taken, ``damaged`` what was lost, and ``expired`` how many events the
        retention has dropped, the first ones, if so.
        """
        error = self._partition.error
        return {
            "partition": self._partition.config,
            "topic": self.topic,
            "type": self.kind,
            "uuid": self.uuid,
            **({} if error is None else {"failed": str(error)}),
            **({"damaged": list(self._partition.damaged)} if self._partition.damaged else {}),
            **({"expired": self._partition.first} if self._partition.first else {}),
        }

    def close(self) -> None:
        """Stop serving, tell consumers, store what has arrived, and close the partition; idempotent."""
        self._engine.undefine(self.provider_id)
        if self._closed is None:
            self._end_service("closed", f"partition {self.uuid} of topic {self.topic!r} is served no more")
            self._partition.close()

    def _end_service(self, code: str, problem: str) -> None:
        """Tell all who ask from now on, and all consumers, that there is nothing more, and why."""
        self._closed = error = Fault(code, problem)

        def end() -> None:
            for outlet in list(self._feeds.values()):
                self._end(outlet, error)
            self._lent.clear()
            if self._timer is not None:
                self._timer.cancel()

        self._engine.on_loop(end)

    def _register(
        self,
        name: str,
        handler: Callable[[Request, T], None],
        kind: type[T],
        pool: Pool | None,
        **options: Any,
    ) -> None:
        def handle(request: Request) -> None:
            try:
                message = rpc.unpack(request.frame.message, kind)
            except ProtocolError as error:
                raise Fault("bad_request", f"{name}: {error}") from error
            self._engine.on_loop(partial(request.attempt, partial(handler, request, message)))  # invariant 1

        self._engine.register(name, self.provider_id, handle, pool=pool, **options)

    def _check(self, where: Where) -> None:
        if self._closed is not None:
            raise self._closed
        if where.uuid != self._where.uuid:
            raise Fault(
                "wrong_partition",
                f"provider {self.provider_id} at {self._engine.address} serves partition {self.uuid} "
                f"of topic {self.topic!r}, not {where.uuid.hex()}",
            )
        if where.epoch not in (0, self._where.epoch):
            raise Fault(
                "wrong_epoch",
                f"partition {self.uuid} of topic {self.topic!r} was started anew, and its events may be others",
                {"epoch": self._where.epoch},
            )

    def _watch(self, connection: Connection) -> None:
        """Have what belongs to `connection` let go when it closes, or now if it is closed already."""
        if connection in self._known:
            return
        self._known[connection] = 0
        if connection.closed:
            self._forget(connection)
        else:
            connection.on_close.append(partial(self._forget, connection))

    def _forget(self, connection: Connection) -> None:
        self._known.pop(connection, None)
        for key in [key for key in self._feeds if key[0] is connection]:
            self._feeds.pop(key).feed.end()
        for key in [key for key in self._lent if key[0] is connection]:
            del self._lent[key]

    def _allocate(self, frame: Frame) -> Sequence[memoryview]:
        if self._closed is not None:
            raise self._closed
        sizes, metadata, data = _segments(frame)
        if sizes.length > 2 * SIZE.itemsize * MAX_BATCH_EVENTS:
            raise Fault("bad_request", f"a batch has at most {MAX_BATCH_EVENTS} events")
        views = self._partition.receive(sizes.length, metadata.length, 0 if data.lease else data.length)
        return views[:2] if data.lease else views

    def _lend(self, request: Request, asked: Lend) -> None:
        self._check(asked.where)
        if not request.connection.lends:
            raise Fault("no_lending", "buffers are lent to producers on the same node only")
        if sum(buffer.size for buffer in self._lent.values()) >= MAX_LENT:
            raise Fault("no_buffers", f"{MAX_LENT} bytes are lent already")
        try:
            buffer = BulkBuffer(self._partition.lent_size, shareable=True)
        except OSError as error:
            raise Fault("no_buffers", f"this machine gives no buffer to lend: {error.strerror}") from error
        if buffer.fd >= shortage.accepted_descriptors():
            raise Fault("no_buffers", "the descriptors that are left are for files")
        lease = next(self._leases)
        self._lent[request.connection, lease] = buffer
        self._watch(request.connection)
        request.reply(rpc.pack(Lent(lease, buffer.size)), descriptors=(buffer.fd,))

    def _data_of(self, request: Request) -> Buffer:
        segment, data = request.frame.segments[2], request.frame.bulk[2]
        if data is not None:
            return data
        buffer = self._lent.get((request.connection, segment.lease))
        if buffer is None:
            raise Fault("bad_request", f"buffer {segment.lease} is not lent to this connection")
        if segment.offset + segment.length > buffer.size:
            raise Fault("bad_request", f"a segment ends beyond the {buffer.size} bytes of its buffer")
        lent = buffer.view[segment.offset : segment.offset + segment.length]
        if not self._partition.keeps_buffers:
            return lent
        _, _, own = self._partition.receive(0, 0, segment.length)
        own[:] = lent
        return own

    def _send_batch(self, request: Request, message: SendBatch) -> None:
        self._check(message.where)
        _segments(request.frame)
        if message.flags:
            raise Fault("bad_request", f"a batch with flags {message.flags:#x}, and this server knows none")
        sizes, metadata, _ = request.frame.bulk
        assert sizes is not None
        assert metadata is not None
        metadata_sizes, data_sizes = split_sizes(sizes, message.count)
        try:
            data = self._data_of(request)
            origin = Origin(message.producer, message.sequence)
            batch = Batch(metadata_sizes, [metadata], data_sizes, [data], origin)
        except InvalidBatch as error:
            raise Fault("bad_request", str(error)) from error

        def answer(outcome: int | BaseException) -> None:
            if isinstance(outcome, BaseException):
                request.fail(outcome)
            else:
                request.reply(rpc.pack(BatchStored(outcome, self._where.epoch)))

        settle = self._sequencer.admit(message.producer, message.sequence, answer)
        if settle is not None:
            try:
                self._partition.append(batch, self._by_loop(partial(self._appended, settle)))
            except Exception as error:
                settle(error)
                raise

    def _by_loop(self, told: Callable[[T], None]) -> Callable[[T], None]:
        """Return what a partition may call from any thread, so that `told` is called on the loop."""
        return lambda outcome: self._engine.on_loop(partial(told, outcome))  # invariant 1

    def _appended(self, settle: Callable[[int | BaseException], None], outcome: int | BaseException) -> None:
        settle(outcome)
        if self._partition.error is not None and not self._failed:
            self._failed = True
            log.error(
                "topic %r, partition %s takes no more events: %s",
                self.topic,
                self.uuid,
                self._partition.error,
            )
        self._await_expiry()
        for outlet in list(self._feeds.values()):
            self._fill(outlet)

    def _await_expiry(self) -> None:
        """Have the partition look for what is too old when that may be, unless it is awaited already."""
        if self._awaits_expiry or self._closed is not None:
            return
        seconds = self._partition.expires_in()
        if seconds is not None:
            self._awaits_expiry = True
            pause = min(max(seconds, SHORTEST_EXPIRY), LONGEST_EXPIRY)

            def wait() -> None:
                self._timer = self._engine.loop.call_later(pause, self._expire)

            self._engine.on_loop(wait)

    def _expire(self) -> None:
        self._awaits_expiry = False
        if self._closed is None:
            self._partition.expire()
            self._await_expiry()

    def _subscribe(self, request: Request, asked: Subscribe) -> None:
        self._check(asked.where)
        first = asked.start
        if first is None:
            first = self._partition.cursor(asked.consumer) or self._partition.first
        if first > self._partition.count:
            raise Fault("out_of_range", f"event {first} is beyond the {self._partition.count} there are")
        if first < self._partition.first:
            raise expired(first, self._partition.first)
        key = (request.connection, asked.stream)
        if key in self._feeds:
            raise Fault("bad_request", f"stream {asked.stream} is in use")
        count = self._known.get(request.connection, 0)
        if count >= MAX_FEEDS:
            raise Fault("bad_request", f"{MAX_FEEDS} feeds of one connection are the most there may be")
        feed = Feed(first, asked.batch_size, asked.batches, asked.credit, asked.with_data)
        outlet = self._feeds[key] = _Outlet(request.connection, asked.stream, feed)
        self._watch(request.connection)
        if request.connection in self._known:
            self._known[request.connection] = count + 1
        request.reply(rpc.pack(Subscribed(first, self._where.epoch, takes_arrays=True)))
        self._engine.on_loop(partial(self._begin, outlet))  # behind the answer, which may be queued

    def _begin(self, outlet: _Outlet) -> None:
        outlet.feed.answered()
        self._fill(outlet)

    def _grant(self, request: Request, granted: Grant) -> None:
        outlet = self._feeds.get((request.connection, granted.stream))
        if outlet is not None:
            outlet.feed.grant(granted.batches, granted.credit)
            self._fill(outlet)

    def _unsubscribe(self, request: Request, asked: Unsubscribe) -> None:
        if self._closed is not None:
            raise self._closed
        outlet = self._feeds.get((request.connection, asked.stream))
        if outlet is not None:
            self._drop(outlet)
        request.reply(rpc.pack(Done()))

    def _fill(self, outlet: _Outlet, read: Slice | BaseException | None = None) -> None:
        """Send what was read, and then what the consumer has credit for; reads that take time come back here."""
        needed = 0 if read is None else self._take(outlet, read)
        while needed or outlet.feed.begin(self._partition.count):
            read = self._read(outlet, needed or MAX_FEED_BYTES)
            if read is None:
                return
            needed = self._take(outlet, read)

    def _read(self, outlet: _Outlet, size: int) -> Slice | BaseException | None:
        """Read up to `size` bytes, once there is memory for them; return None where either takes time."""
        outlet.reserved = size
        outlet.waits = outlet.connection.reserve(size, partial(self._read_late, outlet, size))
        return None if outlet.waits is not None else self._begin_read(outlet)

    def _read_late(self, outlet: _Outlet, size: int) -> None:
        if outlet.waits is None:
            outlet.connection.release(size)  # it was granted while the feed ended
            return
        outlet.waits = None
        read = self._begin_read(outlet)
        if read is not None:
            self._fill(outlet, read)

    def _begin_read(self, outlet: _Outlet) -> Slice | BaseException | None:
        feed, done = outlet.feed, self._by_loop(partial(self._fill, outlet))
        try:
            return self._partition.read(feed.next, feed.batch_size, outlet.reserved, feed.with_data, done)
        except Exception as error:
            return error

    def _drop(self, outlet: _Outlet) -> None:
        outlet.feed.end()
        del self._feeds[outlet.connection, outlet.stream]
        self._known[outlet.connection] -= 1
        if outlet.waits is not None:
            outlet.connection.cancel(outlet.waits)
            outlet.waits = None

    def _end(self, outlet: _Outlet, error: BaseException) -> None:
        """Tell a consumer that nothing more will come, and why."""
        self._drop(outlet)
        tell = partial(outlet.connection.fail_stream, outlet.stream, rpc.pack_fault(error))
        self._engine.on_loop(tell)  # behind the answer, which may be queued

    def _take(self, outlet: _Outlet, read: Slice | BaseException) -> int:
        """Send what was read, or why it cannot be; return the bytes to read again with, where these were too few."""
        feed, connection = outlet.feed, outlet.connection
        size = 0
        if isinstance(read, Slice):
            size = sum(map(len, read.metadata)) + (sum(map(len, read.data)) if feed.with_data else 0)
            if size > outlet.reserved:
                read = LargeEvent(size)
        if isinstance(read, BaseException) or feed.state is State.ENDED:
            connection.release(outlet.reserved)
            if feed.state is State.ENDED:
                return 0
        if isinstance(read, LargeEvent):
            return read.size
        if isinstance(read, BaseException):
            level = logging.INFO if isinstance(read, Fault) and read.code == "expired" else logging.ERROR
            what = Complaint(
                f"topic {self.topic!r}, partition {self.uuid}: cannot read for a consumer", level
            )
            self._engine.complain(what, f"event {feed.next}: {read}")
            self._end(outlet, read)
            return 0
        count = read.count
        bulk = [
            [raw(sizes.astype(SIZE, copy=False)) for sizes in (read.metadata_sizes, read.data_sizes)],
            read.metadata,
        ]
        if feed.with_data:
            bulk.append(read.data)
        feed.sent(read.first + count, size)
        message = rpc.pack(Events(read.first, count))
        connection.notify(outlet.stream, message, bulk, reserved=outlet.reserved)
        return 0

    def _request_data(self, request: Request, asked: RequestData) -> None:
        self._check(asked.where)
        pieces = _pieces_of(request.frame, asked)
        order = pieces.order()
        if (size := int(pieces.lengths.sum(dtype=float))) > MAX_REQUESTED_BYTES:
            raise Fault(
                "bad_request",
                f"{size} bytes of data are too many for one request, {MAX_REQUESTED_BYTES} at most",
            )

        def done(outcome: Sequence[Buffer] | BaseException) -> None:
            if isinstance(outcome, BaseException):
                request.fail(outcome)
                return
            if order is not None:
                outcome = [rearranged(joined(outcome), pieces, order)]
            request.reply(rpc.pack(Done()), [outcome])

        def read() -> None:
            if self._closed is not None:
                raise self._closed
            self._partition.read_data(pieces if order is None else pieces.at(order), done)

        request.reserve(size, read)

    def _acknowledge(self, request: Request, asked: Acknowledge) -> None:
        self._check(asked.where)
        if asked.event_id >= self._partition.count:
            raise Fault(
                "out_of_range",
                f"event {asked.event_id} cannot be acknowledged, the partition has {self._partition.count}",
            )

        def done(error: BaseException | None) -> None:
            if error is None:
                request.reply(rpc.pack(Done()))
            else:
                request.fail(error)

        self._partition.acknowledge(asked.consumer, asked.event_id + 1, done)

    def remove(self, unused_only: bool) -> list[str]:
        """End the service, and remove what is stored, unless it is to stay if there are events; may block.

        Returns
        -------
        list of str
            Paths of what is not the partition's own, and stays.

        Raises
        ------
        MargoError, StorageError
            It cannot be removed; another call goes on from there.
        """
        if unused_only and (self._partition.count or self._partition.error is not None):
            return []
        self._end_service("deleted", f"topic {self.topic!r} was deleted")
        try:
            self._partition.close()
        except Exception as error:
            log.warning("topic %r, partition %s: closing it: %s", self.topic, self.uuid, error)
        return self._remove_stored()


def _segments(frame: Frame) -> tuple[Segment, Segment, Segment]:
    """Return the segments of a batch: sizes, metadata and data, of which data alone may lie in a lent buffer."""
    found = len(frame.segments)
    if found != 3:
        raise Fault("bad_request", f"a batch has 3 segments (sizes, metadata, data), not {found}")
    sizes, metadata, data = frame.segments
    if sizes.lease or metadata.lease:
        raise Fault("bad_request", "the sizes and the metadata of a batch come inline, not in a lent buffer")
    return sizes, metadata, data


def _allocate_pieces(frame: Frame) -> Sequence[memoryview]:
    """Return memory for the pieces that a request for data brings, if it brings any."""
    if len(frame.segments) > 1 or any(
        segment.lease or segment.length > PIECE_SIZE * MAX_PIECES for segment in frame.segments
    ):
        raise Fault("bad_request", f"pieces of data come inline in one segment, and are {MAX_PIECES} at most")
    return allocate_private(frame)


def _pieces_of(frame: Frame, asked: RequestData) -> Pieces:
    """Return the pieces of a request for data, whose message or bulk has them."""
    if not frame.bulk and not asked.count:
        return Pieces.of(asked.events)
    segment = frame.bulk[0] if frame.bulk else b""
    if asked.events or segment is None:
        raise Fault("bad_request", "pieces of data come in the message or in bulk, not in both")
    return Pieces(*pieces_in(segment, asked.count))


class ProviderConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The ``config`` section of a provider of type ``mofka``.

    Attributes
    ----------
    attach : bool
        Input only: whether a `default` partition must have its directory already.
    failed, damaged, expired : str, list of str, int
        Output only, and ignored when they are read again.
    """

    topic: str
    type: str
    uuid: str
    partition: dict[str, Any] = {}
    attach: bool = False
    failed: str = ""
    damaged: list[str] = []
    expired: int = 0
