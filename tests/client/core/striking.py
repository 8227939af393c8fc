"""Strikes at the points where CPython runs handlers of signals: a function's entry, and a C function's return."""

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any


def struck(
    work: Callable[[], object],
    places: Iterable[int],
    strike: Callable[[], object],
    files: Iterable[str],
    functions: Iterable[str] = (),
) -> None:
    """Do `work`, and `strike` at these of the points in these files, and in functions of these names anywhere."""
    wanted, inside, named = set(places), set(files), set(functions)
    count = 0

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        code = frame.f_code
        if event in ("call", "c_return") and (code.co_filename in inside or code.co_name in named):
            count += 1
            if count in wanted:
                strike()

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
