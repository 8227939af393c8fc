"""A lock that knows its thread, for calls that meet a frame of their own thread.

A signal handler, a ``__del__``, a callback or a trace function may strike anywhere in this package, and call it. Then
a frame of the same thread is suspended below the call, perhaps with locks held, or in the middle of a message. Nobody
can wait for such a frame. So each place that has an `OwnedLock` does one of three things when it `is_mine` already:

- what need not be done at once is left in a queue, which the suspended frame empties when it gives the lock back;
- what is needed at once goes another way: over another connection, or from the state that the suspended frame left,
  under a new lock. When the suspended frame goes on, it finds by the lock that it was overtaken, and changes nothing
  more. It checks that with no call between the check and the changes behind it;
- what can do neither raises at once.

That frames are suspended at calls alone is what invariants about Ctrl-C rest on already, see `mochi.margo.link`.
"""

import _thread
from collections.abc import Callable
from typing import ClassVar


class OwnedLock(_thread.RLock):  # type: ignore[misc]  # final in the stubs alone
    """A lock that its holder may take again, and that tells whether it is the caller's."""

    __slots__ = ()

    is_mine: ClassVar[Callable[["OwnedLock"], bool]] = _thread.RLock._is_owned  # type: ignore[attr-defined]
    """Tells whether the calling thread holds the lock: in a frame that is suspended, if not in the caller.

    A method in C, which `threading.Condition` calls as well: it is asked ten times for each answer that is waited for.
    """
