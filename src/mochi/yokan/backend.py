"""What a database stands on: an ordered map of byte strings with atomic batches of changes.

A backend knows no verbs, modes or collections, and takes no lock: `EmbeddedDatabase` adds them, once for all
backends, and lets one thread in at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Backend"]


class Backend(ABC):
    """An ordered map of bytes. Keys are non-empty, compared byte by byte, prefixes first."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Configuration with every default filled in; it opens the same backend again."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, None where there is none."""

    @abstractmethod
    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Put every key that has a value, erase every key that has None: all or, on an error, none."""

    @abstractmethod
    def scan(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs in order of key from `start` on, itself included. Valid until the next `write`."""

    @abstractmethod
    def count(self) -> int:
        """Number of keys."""

    @abstractmethod
    def sync(self) -> None:
        """Return when all that was written would survive a crash of the machine, where the backend can do that."""

    @abstractmethod
    def close(self) -> None:
        """Release what the backend holds; idempotent."""
