"""The consumer of the ``mofka`` driver: feeds of partitions, events handed out in the order of the pulls.

How an event comes: the server sends batches ahead, as far as credit reaches. Whoever reads the connection (a thread
that waits for an event, else the background thread) puts them into `arrived`. The thread that finds no event ready
opens the next batch; an event is then two slots, and handing one out is one operation on a deque.

Invariants
----------
1. An event is in a batch that arrived, in `_ready`, in a future, or with the application. A future that is dropped
   gives its event back, to the front.
2. Futures get events in the order of the pulls: while `_waiting` has a living future, no pull takes an event past it.
   Nor does a failure of a partition overtake the events before it, and it is handed out once.
3. A batch's credit goes back when its last event is handed out. Not more than `MAX_CREDIT` bytes, and one batch for
   each partition, are here ahead of the application, also when a feed was subscribed again; beside these, the data
   that a selector asked for, `LOAD_BYTES` at a time or that of one event.
4. Ctrl-C strikes at calls and at jumps. An event passes from one place to the next by statements without a call
   between them (``+=`` and ``del`` on a deque, a ``for`` over `_taking`), so that it is never in none, nor in two.
   A traceback that somebody keeps must not keep the future of a wait that was interrupted, which would get the next
   event: the frames below hold its weak reference alone.
"""

import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from diaspora_stream.consumer import Consumer, DataAllocator, DataSelector
from diaspora_stream.errors import DiasporaError, EventsLost, TimeoutExpired
from diaspora_stream.event import Event
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import WHOLE
from mochi.margo.errors import HeldUp, MargoError
from mochi.margo.link import Link
from mochi.margo.owned_lock import OwnedLock
from mochi.mofka.client.event import (
    FailedFeed,
    LoadedEvent,
    MofkaEvent,
    NoMoreEvents,
    ReceivedBatch,
)
from mochi.mofka.client.feed import Feed
from mochi.mofka.client.loading import load
from mochi.mofka.client.pulling import PulledEvent, event_at, is_vacant
from mochi.mofka.client.refusals import PartitionInfo, as_diaspora_error, is_away, refusal
from mochi.mofka.client.service import Service, deadline_after

if TYPE_CHECKING:
    from mochi.mofka.client.topic import MofkaTopic

log = logging.getLogger(__name__)

MAX_CREDIT = 64 << 20
"""Bytes that the servers may send ahead of the application, all partitions together."""


class MofkaConsumer(Consumer):
    """See `diaspora_stream.consumer.Consumer`."""

    def __init__(
        self,
        service: Service,
        topic: "MofkaTopic",
        name: str,
        batch_size: int,
        max_num_batches: int,
        thread_pool: ThreadPool,
        targets: Sequence[PartitionInfo],
        data_selector: DataSelector | None,
        data_allocator: DataAllocator | None,
        iteration_timeout_ms: float,
    ) -> None:
        self.service = service
        self.topic = topic
        self.name = name
        self.batch_size = batch_size
        self.max_num_batches = max_num_batches
        self.thread_pool = thread_pool
        self.loads_all = data_selector is WHOLE
        self.data_selector = None if data_selector is WHOLE else data_selector
        self.data_allocator = None if data_allocator is WHOLE else data_allocator
        self._iteration_timeout_ms = iteration_timeout_ms
        credit = MAX_CREDIT // max(len(targets), 1)
        self._feeds = [Feed(self, topic, partition, credit) for partition in targets]
        self._waiting: deque[weakref.ref[PulledEvent]] = deque()
        self._begin()
        service.watch(self)
        service.watch_fork(self)
        try:
            self._subscribe_all()
        except BaseException:
            self._abandon()
            raise

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of topic {self.topic.name!r}>"

    def _begin(self) -> None:
        self._lock = OwnedLock()
        self.arrived: deque[ReceivedBatch | FailedFeed] = deque()
        self._ready: deque[Any] = deque()
        self._taking = iter(self._ready.popleft, None)
        self._current: ReceivedBatch | None = None
        self._opened = 0
        self._loader: int | None = None
        self._active = {id(feed) for feed in self._feeds}
        self._closed = False
        self._stale = False

    def reset(self) -> None:
        """Begin anew in a forked child: subscribe again at the next wait; futures that have no event wait on."""
        closed = self._closed
        self._begin()
        self._closed = closed
        self._stale = True
        for feed in self._feeds:
            feed.reset()

    def _subscribe_all(self) -> None:
        """Subscribe to all partitions; goes on without those that are not found, if any is.

        That the first events of one are lost is told by the pull that they would have come to.

        Raises
        ------
        DiasporaError
            A partition refuses, or none is found within the time-out.
        """
        for feed in self._feeds:
            feed.subscribe()
        timeout = 2 * self.service.timeout
        is_done = self.service.client.wait(self._has_subscribed, tuple, deadline_after(timeout))
        for failed in self._failed():
            if not isinstance(failed.error, EventsLost):
                raise failed.error
        if not is_done:
            raise TimeoutExpired(f"{self!r}: the partitions have not answered within {timeout:g} s")

    def _has_subscribed(self) -> bool:
        failed = self._failed()
        if not all(isinstance(each.error, EventsLost) for each in failed):
            return True
        behind = [each.feed for each in failed]
        found = [feed.link is not None or feed in behind for feed in self._feeds]
        return all(found) or (
            any(found)
            and all(is_found or feed.is_missing for is_found, feed in zip(found, self._feeds, strict=True))
        )

    def _failed(self) -> list[FailedFeed]:
        return [failed for failed in list(self.arrived) if isinstance(failed, FailedFeed)]

    def pull(self) -> PulledEvent:
        """Return a future of the next event. Costs about half a microsecond when one is ready."""
        future = PulledEvent(self)
        if not self._waiting:
            try:
                for event in self._taking:
                    future.event = event
                    return future
            except IndexError:
                pass
        if self._closed:
            raise self._is_closed()
        self._waiting.append(weakref.ref(future))
        return future

    def _is_closed(self) -> DiasporaError:
        return DiasporaError(f"{self!r} is closed")

    def __iter__(self) -> Iterator[Event]:
        """Yield events until there is none for the consumer's ``iteration_timeout_ms``, or no more.

        Before it ends for want of events, every partition has answered that it is there.
        """
        while True:
            try:
                if not self._waiting:
                    for event in self._taking:
                        if event.__class__ is not MofkaEvent and event.__class__ is not LoadedEvent:
                            self._ready.appendleft(event)
                            break
                        yield event
                        if self._waiting:
                            break
            except IndexError:
                pass
            following = self.pull().wait(self._iteration_timeout_ms)
            if following is None:
                if self._all_are_read():
                    return
            elif following.event_id is None:
                return
            else:
                yield following

    def __next__(self) -> Event:
        """Return the next event, as a ``for`` loop does."""
        for event in self:
            return event
        raise StopIteration

    def _all_are_read(self) -> bool:
        """Tell whether all partitions are there and have nothing more; False if there is news to look at.

        Waits while one is looked for, until that has come to its end.

        Raises
        ------
        TimeoutExpired
            One does not answer within the driver's time-out.
        """
        client = self.service.client
        feeds = [feed for feed in self._feeds if id(feed) in self._active]
        if any(feed.link is None for feed in feeds):
            client.wait(
                lambda: self._has_arrived() or all(feed.link for feed in feeds), self._links, math.inf
            )
            return False
        answers = [(feed, answer) for feed in feeds if (answer := feed.ask()) is not None]

        def is_done() -> bool:
            return self._has_arrived() or all(answer.is_done() for _, answer in answers)

        def silent() -> str:
            missing = [str(feed.partition) for feed, answer in answers if not answer.is_done()]
            return f"topic {self.topic.name!r}, {', '.join(missing)}: connected, and does not answer"

        if not client.wait_for_server(is_done, self._links, self.service.deadline(None), silent):
            raise TimeoutExpired(f"{silent()} within {self.service.timeout:g} s; events may be there")
        for feed, answer in answers:
            if answer.error is not None and not is_away(answer.error):
                raise refusal(answer.error, f"topic {self.topic.name!r}", feed.partition, 0)
        return (
            len(answers) == len(feeds)
            and not self._has_arrived()
            and all(answer.frame for _, answer in answers)
        )

    def _has_arrived(self) -> bool:
        return bool(self._closed or self._ready or self.arrived or self._loader is not None)

    def wait_for(self, place: "weakref.ref[PulledEvent]", timeout: float | None) -> Any:
        """Wait until the future at `place` has its event; None when the time is over."""
        deadline = deadline_after(timeout)
        if self._stale:
            self._stale = False
            for feed in self._feeds:
                feed.subscribe()
        self.service.jobs.begin()
        while True:
            if self._loader == threading.get_ident():
                raise DiasporaError(f"a data selector or allocator of {self!r} cannot wait for its events")
            if self._lock.is_mine():
                raise DiasporaError(
                    f"a call cannot wait for events of {self!r} where it has struck: among them"
                )
            self.fulfil()
            if (event := event_at(place)) is not None:
                return event
            if self._closed:
                raise self._is_closed()
            try:
                if not self.service.client.wait(lambda: self._has_news(place), self._links, deadline):
                    return None
            except HeldUp as error:
                raise DiasporaError(f"{self!r}: {error}") from error

    def _has_news(self, place: "weakref.ref[PulledEvent]") -> bool:
        if event_at(place) is not None or self._closed:
            return True
        if self._loader is not None:
            return False
        if self._ready or not self._active:
            return True
        batch = self._current
        if batch is not None and self._opened < batch.count:
            return True
        try:
            following = self.arrived[0]
        except IndexError:
            return False
        return not isinstance(following, FailedFeed) or not following.feed.holds_back(following)

    def _links(self) -> Collection[Link]:
        """Return the links to drive while waiting; none while the news may come from another thread."""
        links = {feed.link for feed in self._feeds}
        if self._loader is not None or None in links:
            return ()
        return {link for link in links if link is not None}

    def fulfil(self) -> None:
        """Give the events that are here to the futures that wait, in their order; may load data.

        Does nothing while another thread loads, which then goes on with it.
        """
        if self._loader is not None or self._closed or self._lock.is_mine():
            return
        try:
            with self._lock:
                while self._waiting:
                    place = self._waiting[0]
                    if not is_vacant(place):
                        del self._waiting[0]
                    elif self._ready or self._open_next():
                        self._fill(place)
                    else:
                        break
        finally:
            self.service.client.notify()

    def _fill(self, place: "weakref.ref[PulledEvent]") -> None:
        future = place()
        if future is not None:
            try:
                for event in self._taking:
                    future.event = event
                    break
            except IndexError:
                pass

    def _open_next(self) -> bool:
        """Make the next events ready, of a batch or of a part of one; the caller holds the lock. False without any."""
        batch = self._current
        if batch is None or self._opened == batch.count:
            if batch is not None:
                batch.feed.give_back(batch)
                self._current = None
            if not self.arrived:
                if not self._active:
                    self._ready.append(NoMoreEvents(self.topic.generation.metadata_text))
                return not self._active
            following = self.arrived[0]
            if isinstance(following, FailedFeed):
                if not following.feed.go_on(following):
                    return False
                ready = self._ready
                ready += (following,)
                del self.arrived[0]
                return True
            self._opened = 0
            batch = self._current = following
            del self.arrived[0]
        events: Iterable[Event]
        if batch.data is not None or self.data_selector is None:
            end = batch.count
            events = map(MofkaEvent, repeat(batch), range(end))
        else:
            events = self._load(batch)
            end = self._opened + len(events)
        ready = self._ready
        ready += events
        self._opened = end
        return True

    def _load(self, batch: ReceivedBatch) -> list[Event]:
        assert self.data_selector is not None
        assert self.data_allocator is not None
        self._loader = threading.get_ident()
        try:
            return load(batch, self._opened, self.data_selector, self.data_allocator)
        finally:
            self._loader = None

    def feed_ended(self, feed: Feed) -> None:
        """Take note that a partition will send no more."""
        self._active.discard(id(feed))

    def wants(self, feed: Feed) -> bool:
        """Tell whether more events of `feed` are of use."""
        return not self._closed and id(feed) in self._active

    def feed_failed(self, failed: FailedFeed) -> None:
        """Have a failure handed out after the events that have arrived."""
        arrived = self.arrived
        arrived += (failed,)

    def give_back(self, event: Any) -> None:
        """Take the event of a future that was dropped; it is the next one handed out."""
        self._ready.appendleft(event)
        if self._waiting:
            self.service.client.notify()
            self.service.jobs.put(self._feeds[0].ask)

    def unsubscribe(self) -> None:
        """Have the servers send no more; what is here may still be pulled."""
        if self._closed:
            raise self._is_closed()
        self._active.clear()
        for feed in self._feeds:
            try:
                feed.unsubscribe()
            except MargoError as error:
                raise as_diaspora_error(error, f"topic {self.topic.name!r}, {feed.partition}") from error

    def _unsubscribe(self, feed: Feed) -> None:
        try:
            feed.unsubscribe()
        except MargoError as error:
            log.info("closing %r: %s", self, error)

    def _abandon(self) -> None:
        """Give up a consumer that could not be made, without waiting for anybody."""
        self.stop()
        for feed in self._feeds:
            feed.drop()

    def close(self) -> None:
        """Unsubscribe, and drop what is here; idempotent. A server that is gone is no error."""
        if self._closed:
            return
        self.stop()
        for feed in self._feeds:
            self._unsubscribe(feed)
        if not self._lock.is_mine():
            with self._lock:
                self.arrived.clear()
                self._ready.clear()

    def stop(self) -> None:
        """Give no more events."""
        self._closed = True
        self.service.client.rouse()

    def __del__(self) -> None:
        for feed in getattr(self, "_feeds", ()):
            self.service.jobs.put(feed.drop)
