"""A partition of an embedded topic, as its producers and consumers know it."""

import os
from collections.abc import Callable
from typing import Any

from mochi.mofka.files.storage import Reader


class EmbeddedPartition:
    """A partition.

    Attributes
    ----------
    index : int
        Its number in the topic.
    path : str
        Its directory, empty if it is in memory.
    open_reader : callable
        Opens it to be read.
    """

    def __init__(self, index: int, path: str, open_reader: Callable[[], Reader]) -> None:
        self.index = index
        self.path = path
        self.open_reader = open_reader

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of ``topic.partitions``."""
        return {"path": self.path} if self.path else {}

    @property
    def uuid(self) -> str:
        """What events name it by."""
        return self.path or str(self.index)

    def exists(self) -> bool:
        """Tell whether the partition has not been deleted."""
        return not self.path or os.path.isdir(self.path)

    def __str__(self) -> str:
        return f"partition {self.index}" + (f" ({self.path})" if self.path else "")
