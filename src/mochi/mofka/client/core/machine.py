"""Machines: how a core is changed and its actions are carried out, whatever interrupts that.

A core is a `State`: plain data whose methods are events. They change it and return actions. A machine has an event
change a copy, and puts that copy with its actions into the place of the state by one store. Then it carries out the
actions, one after the other.

Invariants
----------
1. Between events nobody changes a state. Who reads `now` sees all that an event changed, or nothing of it.
2. Each event takes effect once, in the order of their coming: the store that makes it count notes its name as well.
3. Each action is carried out at least once, in order; again from its beginning if that was interrupted. It is taken
   out of the outbox once it is done. So actions are made such that doing them twice does no harm.
4. Only who holds the lock changes anything. Looking whether it is still the machine's, and changing something, have
   no call between them: CPython runs handlers of signals, other threads and finalizers at calls and jumps alone.
5. A call that meets a suspended frame of its own thread (see `mochi.margo.owned_lock`) leaves its event to that
   frame, or takes the machine over: it changes the lock, and goes on from what is there. The suspended frame finds
   that out by invariant 4, and changes nothing more.
6. What Ctrl-C leaves undone is done in a thread where it does not strike.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from mochi.margo.owned_lock import OwnedLock

log = logging.getLogger(__name__)


class State(msgspec.Struct):
    """What a core is in.

    Its fields are plain data, never changed in place: an event gives them other values.

    Attributes
    ----------
    outbox : list
        Actions that are not carried out yet.
    handled : tuple or None
        The event that took effect, while it still is the first of the inbox.
    origin : State or None
        What this is a copy of, while an event changes it. An event that changes anything beside its state looks
        first whether that is still the machine's, with no call between.
    """

    outbox: list[Any] = []
    handled: tuple[Any, ...] | None = None
    origin: Any = None

    def overtaken(self) -> list[Any]:
        """Go on without a frame that is suspended; return what is to be done in place of the outbox."""
        raise NotImplementedError

    def broken(self, error: Exception) -> list[Any]:
        """Go on after an event or an action that raised; return what is to be done in place of the outbox."""
        raise NotImplementedError


S = TypeVar("S", bound=State)
Event = Callable[..., list[Any]]


class Machine(Generic[S]):
    """A core, and the actions that it asks for.

    Attributes
    ----------
    now : State
        For all to read, without a lock; the next event puts another in its place.
    """

    now: S

    def begin(self, state: S) -> None:
        """Begin with `state`; again in a forked child, without what was left to be done."""
        self._lock = OwnedLock()
        self._inbox: deque[tuple[Any, ...]] = deque()
        self.now = state

    def perform(self, action: Any) -> None:
        """Carry out an action; it may be repeated."""
        raise NotImplementedError

    def in_background(self, work: Callable[[], object]) -> None:
        """Have `work` done by a thread where Ctrl-C does not strike; a store, and one call of a C function."""
        raise NotImplementedError

    @property
    def is_suspended(self) -> bool:
        """Whether a frame of the calling thread is suspended in here."""
        return self._lock.is_mine()

    def tell(self, event: Event, *arguments: Any) -> None:
        """Have an event take effect and its actions carried out; left to a frame that is suspended, if there is one."""
        if self._lock.is_mine():
            self._inbox.append((event, arguments))
        else:
            self._do((event, arguments))

    def ask(self, event: Event, *arguments: Any) -> None:
        """Have an event take effect and its actions carried out; takes over from a frame that is suspended."""
        if self._lock.is_mine():
            self._take_over()
        self._do((event, arguments))

    def _do(self, event: tuple[Any, ...]) -> None:
        try:
            self._inbox.append(event)
            while True:
                held = self._lock
                with held:
                    self._work(held)
                    overtaken = held is not self._lock
                if not overtaken:
                    break
            if self._inbox:
                self._serve()
        except BaseException:
            self.in_background(self._serve)  # invariant 6
            raise

    def post(self, event: Event, *arguments: Any) -> None:
        """Have an event take effect, now or by who holds the lock; never waits."""
        self._inbox.append((event, arguments))
        self._serve()

    def _take_over(self) -> None:
        """Go on without a frame of this thread that is suspended in here."""
        after = replace(self.now)
        after.outbox = after.overtaken()
        lock = OwnedLock()
        # No call between these, invariant 4: the suspended frame finds both or neither.
        self._lock = lock
        self.now = after

    def _serve(self) -> None:
        """Do what is left to be done, unless somebody holds the lock, who does it then."""
        try:
            while self._inbox or self.now.outbox:
                held = self._lock
                if held.is_mine():
                    return
                for taken in map(held.acquire, (False,)):  # no call between this and what gives it back
                    if not taken:
                        return
                    try:
                        self._work(held)
                    finally:
                        held.release()
        except BaseException:
            self.in_background(self._serve)  # invariant 6
            raise

    def _work(self, held: OwnedLock) -> None:
        """Carry out actions, and have events take effect, until there are none; the caller holds the lock."""
        inbox = self._inbox
        while held is self._lock:
            before = self.now
            if before.handled is not None:
                del inbox[0]  # invariant 2
                before.handled = None
            elif before.outbox:
                outbox = before.outbox
                try:
                    self.perform(outbox[0])
                except Exception as error:
                    self._break(held, before, outbox[1:], error, None)
                if held is self._lock:  # invariant 4
                    del outbox[0]  # invariant 3
            elif inbox:
                event = inbox[0]
                after = replace(before)
                after.origin = before
                try:
                    after.outbox = event[0](after, *event[1])
                except Exception as error:
                    self._break(held, before, [], error, event)
                else:
                    after.origin, after.handled = None, event
                    if held is self._lock:  # invariant 4
                        self.now = after  # invariants 1 and 2
            else:
                return

    def _break(
        self, held: OwnedLock, before: S, rest: list[Any], error: Exception, event: tuple[Any, ...] | None
    ) -> None:
        """Have the core go on after a fault of the program, with the `rest` of the outbox."""
        log.error("%r", self, exc_info=error)
        after = replace(before)
        after.outbox = rest
        after.outbox = after.broken(error)
        after.handled = event
        if held is self._lock:  # invariant 4
            self.now = after
