"""What peers do wrong, so that no peer can fill a log with it: of each kind one line in an interval.

No I/O: the owner logs the lines that it is given, and asks again when an interval is over.

| state of a kind | what happens | what is logged | next |
|---|---|---|---|
| quiet | a complaint | its text | noted |
| noted | a complaint | | noted, one more |
| noted | the interval is over, and none has come | | quiet |
| noted | the interval is over, and some have come | how many, and the text of the last | noted |
"""

import logging

import msgspec

INTERVAL = 1.0
"""Seconds between two lines of a kind."""


class Complaint(msgspec.Struct, frozen=True):
    """A kind of complaint: what a peer did, or what was done for it and failed, and how grave that is."""

    what: str
    level: int = logging.WARNING


class Complaints:
    """Counts complaints by their kind, and tells what to log. One thread at a time."""

    def __init__(self) -> None:
        self._noted: dict[Complaint, tuple[int, str]] = {}

    @property
    def has_noted(self) -> bool:
        """Whether the end of an interval is waited for."""
        return bool(self._noted)

    def add(self, kind: Complaint, text: str) -> str | None:
        """Take a complaint; return the line to log now, if there is one."""
        if kind in self._noted:
            self._noted[kind] = self._noted[kind][0] + 1, text
            return None
        self._noted[kind] = 0, text
        return f"{kind.what}: {text}"

    def interval_over(self) -> list[tuple[Complaint, str]]:
        """Take note that an interval has passed; return the lines to log."""
        left = {kind: noted for kind, noted in self._noted.items() if noted[0]}
        self._noted = {kind: (0, text) for kind, (_, text) in left.items()}
        return [
            (kind, f"{kind.what}: {count} more, the last one: {text}") for kind, (count, text) in left.items()
        ]
