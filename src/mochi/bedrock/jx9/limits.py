"""How much a script may do, and the meter at which it pays.

Whatever a script does is paid for. It costs a step for each node, and for each few things that one operator or
function walks over. It costs bytes for each string, array and object made; none is given back. What could be much
larger than all that was paid for so far is paid for before it is made. So time and memory are bounded whatever the
script says.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from mochi.bedrock.jx9.errors import Jx9LimitError
from mochi.bedrock.jx9.values import Array, Value, text

__all__ = ["LOCAL", "QUERY", "Limits", "Meter"]

SLICE = 500
"""Steps between two pauses: about 0.5 ms."""

_WALKED_PER_STEP = 4
_COPIED_PER_STEP = 32
_BYTES_PER_STEP = 4096
_ENTRY_BYTES = {False: 8, True: 64}
"""Of an array, and of an object."""
_SCALAR_BYTES = 8


class Limits(Struct, frozen=True, kw_only=True):
    """What a script may use."""

    length: int
    """Characters of the script."""
    steps: int
    depth: int
    """Calls of the script's own functions inside each other."""
    memory: int
    """Bytes, over all values that the script makes."""


QUERY = Limits(length=8 << 10, steps=100_000, depth=32, memory=64 << 20)
"""For a script from elsewhere: about 0.1 s."""

LOCAL = msgspec.structs.replace(QUERY, length=1 << 20, steps=2_000_000, memory=1 << 30)
"""For a script that the user of this process runs: about a second."""


class Meter:
    """Counts what one run of a script uses.

    Parameters
    ----------
    limits : Limits
    pause : callable, optional
        Called after each `SLICE` steps, so that others have their turn.
    """

    def __init__(self, limits: Limits, pause: Callable[[], None] | None = None) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._memory = limits.memory
        self._pause = pause
        self._next_look = limits.steps - SLICE if pause else 0

    def step(self, count: int = 1) -> None:
        """Pay for work; raises `Jx9LimitError` where too little is left."""
        self._steps -= count
        if self._steps < self._next_look:
            self._look()

    def _look(self) -> None:
        """Stop a script that has used all its steps, and let others have their turn."""
        if self._steps < 0:
            raise Jx9LimitError(f"the script did not end within {self._limits.steps} steps")
        if self._pause is not None:
            self._pause()
            self._next_look = max(self._steps - SLICE, 0)

    def take(self, size: int) -> None:
        """Pay for making or searching `size` bytes; raises `Jx9LimitError` where too little is left."""
        self._memory -= size
        if self._memory < 0:
            raise Jx9LimitError(f"the script needs more than {self._limits.memory} bytes for its values")
        self.step(size // _BYTES_PER_STEP)

    def weigh(self, value: Value) -> int:
        """Pay for one walk over a value, and return about how many bytes a copy of it is."""
        size = 0
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                size += len(item)
                self.step(len(item) // _BYTES_PER_STEP)
            elif isinstance(item, Array):
                self.step(1 + len(item) // _WALKED_PER_STEP)
                size += len(item) * _ENTRY_BYTES[item.is_object]
                if isinstance(item.entries, dict):
                    size += sum(map(len, item.entries))
                waiting += item.values()
            else:
                size += _SCALAR_BYTES
        return size

    def copy(self, value: Array) -> None:
        """Pay for a copy of an array or object, its entries being shared."""
        self.step(len(value) // _COPIED_PER_STEP)
        self.take(len(value) * _ENTRY_BYTES[value.is_object])

    def put(self, array: Array, key: str | int | None, value: Value) -> None:
        """Set an entry, see `Array.put`, and pay for it."""
        was_object = array.is_object
        if was_object and key is None:
            self.step(len(array) // _COPIED_PER_STEP)
        array.put(key, value)
        if array.is_object is not was_object:
            self.copy(array)
        self.take(_ENTRY_BYTES[array.is_object])

    def text(self, value: Value) -> str:
        """Pay for and return a value as text."""
        if isinstance(value, Array):
            self.take(self.weigh(value))
        return text(value)
