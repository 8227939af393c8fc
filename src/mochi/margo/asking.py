"""Asking many at the same time: those who do not answer cost one time-out, not each theirs."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from mochi.margo.errors import MargoError

T = TypeVar("T")
R = TypeVar("R")

MAX_ASKED = 32
"""Questions that are asked side by side."""


def answers(asked: Collection[T], question: Callable[[T], R]) -> Iterator[tuple[T, R | MargoError]]:
    """Ask side by side; yield who was asked, and the answer or its error, as they come.

    Interruptible by Ctrl-C; who stops earlier does not wait for the others, which are asked in threads of their own.
    """
    left: SimpleQueue[T] = SimpleQueue()
    found: SimpleQueue[tuple[T, R | BaseException]] = SimpleQueue()
    for one in asked:
        left.put(one)

    def ask() -> None:
        with suppress(Empty):
            while True:
                one = left.get_nowait()
                try:
                    found.put((one, question(one)))
                except BaseException as error:
                    found.put((one, error))

    threads = 0
    if len(asked) > 1:
        with suppress(RuntimeError):  # no more can be started
            while threads < min(len(asked), MAX_ASKED):
                threading.Thread(target=ask, name="margo-ask", daemon=True).start()
                threads += 1
    if not threads:
        ask()
    for _ in asked:
        one, outcome = found.get()
        if isinstance(outcome, BaseException) and not isinstance(outcome, MargoError):
            raise outcome
        yield one, outcome
