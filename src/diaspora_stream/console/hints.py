"""The end of a message about a name that is not known: which one was meant, or which ones there are."""

import difflib
from collections.abc import Iterable

_LONGEST = 200
"""Characters of a name that are compared; of a longer one, the first."""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like another, or None if none is like it.

    Parameters
    ----------
    name : object
        What was found. Anything but a str is like no name.
    known : iterable of str
        The names that would have been right.
    """
    if not isinstance(name, str):
        return None
    return next(iter(difflib.get_close_matches(name[:_LONGEST], list(known), n=1)), None)


def suggestion(near: str | None) -> str:
    """Return the end of a message that asks whether a name was meant; empty for None."""
    return "" if near is None else f"; did you mean {near!r}?"


def hint(name: object, known: Iterable[str]) -> str:
    """Return the end of a message: the nearest known name, or all that are known.

    Returns
    -------
    str
        Such as ``"; did you mean 'default'?"``, or ``"; known are 'a', 'b'"``. Empty if nothing is known.
    """
    names = sorted(known)
    return suggestion(nearest(name, names)) or (f"; known are {', '.join(map(repr, names))}" if names else "")
