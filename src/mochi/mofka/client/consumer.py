"""The consumer of the ``mofka`` driver: feeds of partitions, events handed out in the order of the pulls.

How an event comes: the server sends batches ahead, as far as credit reaches. Whoever reads the connection (a thread
that waits for an event, else the background thread) puts them in line, see `mochi.mofka.client.feed`. The thread that
finds no event ready opens the next batch, see `mochi.mofka.client.pulling`.

Not more than `MAX_CREDIT` bytes, and one batch for each partition, are here ahead of the application, also when a feed
was subscribed again. Beside these, the data that a selector asked for: `LOAD_BYTES` at a time, or that of one event.
"""

import logging
import math
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

from diaspora_stream.consumer import Consumer, DataAllocator, DataSelector
from diaspora_stream.errors import DiasporaError, EventsLost, TimeoutExpired
from diaspora_stream.event import Event
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.topic import ADAPTIVE_BATCH_SIZE, WHOLE, TopicHandle
from mochi.margo.errors import HeldUp, MargoError
from mochi.margo.link import Link
from mochi.mofka.client.core.hand_out import HandOutState
from mochi.mofka.client.event import FailedFeed, LoadedEvent, MofkaEvent
from mochi.mofka.client.feed import Feed, Wish
from mochi.mofka.client.pulling import HandOut, PulledEvent, event_at
from mochi.mofka.client.refusals import PartitionInfo, as_diaspora_error, is_away, refusal
from mochi.mofka.client.service import Service, deadline_after
from mochi.mofka.protocol import MAX_NUMBER

log = logging.getLogger(__name__)

MAX_CREDIT = 64 << 20
"""Bytes that the servers may send ahead of the application, all partitions together."""

MIN_BATCHES = 2
"""Batches that each server may send ahead at least: one to work on, one on its way."""


class MofkaConsumer(Consumer):
    """See `diaspora_stream.consumer.Consumer`."""

    def __init__(
        self,
        service: Service,
        topic: TopicHandle,
        serializer: Serializer,
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
        self.data_selector = None if data_selector is WHOLE else data_selector
        self.data_allocator = None if data_allocator is WHOLE else data_allocator
        self._iteration_timeout_ms = iteration_timeout_ms
        shows_text = topic.generation.metadata_text
        self._hand_out = HandOut(
            len(targets), self.data_selector, self.data_allocator, shows_text, service.client.rouse
        )
        self._waiting = self._hand_out.waiting
        self._ready = self._hand_out.ready
        self._taking = self._hand_out.taking
        wish = Wish(
            topic.name,
            name,
            serializer,
            shows_text,
            0 if batch_size == ADAPTIVE_BATCH_SIZE else min(batch_size, MAX_NUMBER),
            min(max(max_num_batches, MIN_BATCHES), MAX_NUMBER),
            MAX_CREDIT // max(len(targets), 1),
            data_selector is WHOLE,
        )
        self._feeds = [Feed(service, wish, partition, self._hand_out.line) for partition in targets]
        self._is_stale = False
        service.watch(self)
        service.watch_fork(self)
        try:
            self._subscribe_all()
        except BaseException:
            self.stop()
            raise

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of topic {self.topic.name!r}>"

    def reset(self) -> None:
        """Begin anew in a forked child: subscribe again at the next wait; futures that have no event wait on."""
        self._hand_out.reset()
        for feed in self._feeds:
            feed.reset()
        self._is_stale = not self._hand_out.is_closed

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
        return [failed for failed in list(self._hand_out.line) if isinstance(failed, FailedFeed)]

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
            hand_out = self._hand_out
            if self.data_selector is None:  # else it may block
                hand_out.tell(HandOutState.wanted, self._ready, hand_out.line)
                try:
                    for event in self._taking:
                        future.event = event
                        return future
                except IndexError:
                    pass
        if self._hand_out.is_closed:
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
        feeds = [feed for feed in self._feeds if not feed.has_ended]
        if any(feed.link is None for feed in feeds):
            client.wait(
                lambda: self._hand_out.has_news() or all(feed.link for feed in feeds), self._links, math.inf
            )
            return False
        answers = [(feed, answer) for feed in feeds if (answer := feed.sign_of_life()) is not None]

        def is_done() -> bool:
            return self._hand_out.has_news() or all(answer.is_done() for _, answer in answers)

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
            and not self._hand_out.has_news()
            and all(answer.frame for _, answer in answers)
        )

    def wait_for(self, place: "weakref.ref[PulledEvent]", timeout: float | None) -> Any:
        """Wait until the future at `place` has its event; None when the time is over."""
        deadline = deadline_after(timeout)
        if self._is_stale:
            self._is_stale = False
            for feed in self._feeds:
                feed.subscribe()
        self.service.jobs.begin()
        hand_out = self._hand_out
        while True:
            if hand_out.is_suspended:
                if hand_out.loader == threading.get_ident():
                    raise DiasporaError(
                        f"a data selector or allocator of {self!r} cannot wait for its events"
                    )
                raise DiasporaError(
                    f"a call cannot wait for events of {self!r} where it has struck: among them"
                )
            self.fulfil()
            if (event := event_at(place)) is not None:
                return event
            if hand_out.is_closed:
                raise self._is_closed()
            try:
                if not self.service.client.wait(
                    lambda: event_at(place) is not None or hand_out.has_news(), self._links, deadline
                ):
                    return None
            except HeldUp as error:
                raise DiasporaError(f"{self!r}: {error}") from error

    def _links(self) -> Collection[Link]:
        """Return the links to drive while waiting; none while the news may come from another thread."""
        links = {feed.link for feed in self._feeds if not feed.has_ended}
        if self._hand_out.loader is not None or None in links:
            return ()
        return {link for link in links if link is not None}

    def fulfil(self) -> None:
        """Hand the events that are here to the futures that wait, in their order; may load data."""
        try:
            self._hand_out.fulfil()
        finally:
            self.service.client.notify()

    def give_back(self, event: Any) -> None:
        """Take the event of a future that was dropped; it is the next one handed out."""
        self._ready.appendleft(event)
        if self._waiting:
            self.service.client.rouse()

    def unsubscribe(self) -> None:
        """Have the servers send no more; what is here may still be pulled."""
        if self._hand_out.is_closed:
            raise self._is_closed()
        for feed in self._feeds:
            feed.stop()
        for feed in self._feeds:
            try:
                feed.await_farewell()
            except MargoError as error:
                raise as_diaspora_error(error, f"topic {self.topic.name!r}, {feed.partition}") from error

    def close(self) -> None:
        """Unsubscribe, and drop what is here; idempotent. A server that is gone is no error."""
        if self._hand_out.is_closed:
            return
        self.stop()
        for feed in self._feeds:
            try:
                feed.await_farewell()
            except MargoError as error:
                log.info("closing %r: %s", self, error)

    def stop(self) -> None:
        """Hand out no more events, and have the servers send no more; never waits."""
        _stop(self._feeds, self._hand_out)

    def __del__(self) -> None:
        if hasattr(self, "_feeds"):  # else Ctrl-C struck while it was made
            self.service.jobs.put(partial(_stop, self._feeds, self._hand_out))


def _stop(feeds: Sequence[Feed], hand_out: HandOut) -> None:
    for feed in feeds:
        feed.stop()
    hand_out.close()
