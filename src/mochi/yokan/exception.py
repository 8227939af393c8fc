"""What the verbs of `mochi.yokan.client` raise: one class, and a code that says why.

The names of the codes are the original's, their numbers ours.
"""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager

from mochi.margo.errors import DeadlineExceeded, Fault, MargoError
from mochi.yokan.errors import InvalidArguments, InvalidMode, KeyExists, KeyNotFound, StorageError

YOKAN_SUCCESS = 0
YOKAN_ERR_INVALID_ARGS = 1
YOKAN_ERR_INVALID_PROVIDER = 2
YOKAN_ERR_FROM_MERCURY = 3
YOKAN_ERR_KEY_NOT_FOUND = 4
YOKAN_ERR_BUFFER_SIZE = 5
YOKAN_ERR_KEY_EXISTS = 6
YOKAN_ERR_IO = 7
YOKAN_ERR_TIMEOUT = 8
YOKAN_ERR_MODE = 9
YOKAN_ERR_OTHER = 10

_CODES: list[tuple[type[MargoError], int]] = [
    (KeyNotFound, YOKAN_ERR_KEY_NOT_FOUND),
    (KeyExists, YOKAN_ERR_KEY_EXISTS),
    (InvalidMode, YOKAN_ERR_MODE),
    (InvalidArguments, YOKAN_ERR_INVALID_ARGS),
    (StorageError, YOKAN_ERR_IO),
    (DeadlineExceeded, YOKAN_ERR_TIMEOUT),
]


class Exception(builtins.Exception):
    """A verb that failed.

    Attributes
    ----------
    code : int
        One of ``YOKAN_ERR_...``.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


@contextmanager
def raising() -> Iterator[None]:
    """Raise what the verbs of a `mochi.yokan.handle.DatabaseHandle` raise as an `Exception`."""
    try:
        yield
    except MargoError as error:
        raise Exception(_code(error), str(error)) from error


def _code(error: MargoError) -> int:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, Fault):
        is_absent = error.code in ("no_rpc", "no_provider")
        return YOKAN_ERR_INVALID_PROVIDER if is_absent else YOKAN_ERR_OTHER
    return YOKAN_ERR_FROM_MERCURY
