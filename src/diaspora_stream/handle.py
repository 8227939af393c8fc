"""What is of one process: a handle, whose copy is the handle itself."""

from typing import Self


class Handle:
    """Base of what stands for something else: `copy.copy` and `copy.deepcopy` give the object itself."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self
