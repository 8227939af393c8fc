"""Modes: bit flags that vary what a verb does. The values are those of Yokan's interface.

=============  ========================  ==========================================================
verb           modes                     meaning
=============  ========================  ==========================================================
put            APPEND                    the value goes after the one already there
put            NEW_ONLY                  no key may exist yet, else `KeyExists` and nothing is put
put            EXIST_ONLY                every key must exist, else `KeyNotFound` and nothing is put
get            CONSUME                   what was found is erased in the same step
list_*         INCLUSIVE                 ``from_key`` itself is listed as well
list_*         NO_PREFIX                 the prefix is cut off the keys
list_keyvals   IGNORE_KEYS, KEEP_LAST    keys come back empty, all of them or all but the last
doc_update     UPDATE_NEW                documents that do not exist are made
any            NO_RDMA                   no effect
=============  ========================  ==========================================================

Any other bit is an `InvalidMode`. The original applies NEW_ONLY and EXIST_ONLY key by key and skips
the offending ones in silence when there are several; here all keys are put or none is.
"""

from enum import IntFlag

from mochi.yokan.errors import InvalidMode

__all__ = [
    "YOKAN_MODE_APPEND",
    "YOKAN_MODE_CONSUME",
    "YOKAN_MODE_DEFAULT",
    "YOKAN_MODE_EXIST_ONLY",
    "YOKAN_MODE_EXTRA",
    "YOKAN_MODE_FILTER_VALUE",
    "YOKAN_MODE_IGNORE_DOCS",
    "YOKAN_MODE_IGNORE_KEYS",
    "YOKAN_MODE_INCLUSIVE",
    "YOKAN_MODE_KEEP_LAST",
    "YOKAN_MODE_LIB_FILTER",
    "YOKAN_MODE_LUA_FILTER",
    "YOKAN_MODE_NEW_ONLY",
    "YOKAN_MODE_NOTIFY",
    "YOKAN_MODE_NO_PREFIX",
    "YOKAN_MODE_NO_RDMA",
    "YOKAN_MODE_SUFFIX",
    "YOKAN_MODE_UPDATE_NEW",
    "YOKAN_MODE_WAIT",
    "Mode",
    "check_mode",
]


class Mode(IntFlag):
    """How a verb is to be carried out; combined with ``|``."""

    DEFAULT = 0
    INCLUSIVE = 0x1
    APPEND = 0x2
    CONSUME = 0x4
    WAIT = 0x8
    NOTIFY = 0x8
    NEW_ONLY = 0x10
    EXIST_ONLY = 0x20
    NO_PREFIX = 0x40
    IGNORE_KEYS = 0x80
    KEEP_LAST = 0x180
    SUFFIX = 0x200
    LUA_FILTER = 0x400
    IGNORE_DOCS = 0x800
    FILTER_VALUE = 0x1000
    LIB_FILTER = 0x2000
    NO_RDMA = 0x4000
    UPDATE_NEW = 0x8000
    EXTRA = 0x10000


def _names(bits: int) -> str:
    return ", ".join(name for name, flag in Mode.__members__.items() if flag and flag & bits == flag)


def check_mode(verb: str, mode: int, allowed: Mode) -> None:
    """Raise `InvalidMode` when `mode` has bits that are neither `allowed` nor NO_RDMA."""
    if excess := mode & ~int(allowed | Mode.NO_RDMA):
        found = _names(excess) or hex(excess)
        raise InvalidMode(f"{verb} does not take mode {found}; it takes {_names(allowed | Mode.NO_RDMA)}")


YOKAN_MODE_DEFAULT = Mode.DEFAULT
YOKAN_MODE_INCLUSIVE = Mode.INCLUSIVE
YOKAN_MODE_APPEND = Mode.APPEND
YOKAN_MODE_CONSUME = Mode.CONSUME
YOKAN_MODE_WAIT = Mode.WAIT
YOKAN_MODE_NOTIFY = Mode.NOTIFY
YOKAN_MODE_NEW_ONLY = Mode.NEW_ONLY
YOKAN_MODE_EXIST_ONLY = Mode.EXIST_ONLY
YOKAN_MODE_NO_PREFIX = Mode.NO_PREFIX
YOKAN_MODE_IGNORE_KEYS = Mode.IGNORE_KEYS
YOKAN_MODE_KEEP_LAST = Mode.KEEP_LAST
YOKAN_MODE_SUFFIX = Mode.SUFFIX
YOKAN_MODE_LUA_FILTER = Mode.LUA_FILTER
YOKAN_MODE_IGNORE_DOCS = Mode.IGNORE_DOCS
YOKAN_MODE_FILTER_VALUE = Mode.FILTER_VALUE
YOKAN_MODE_LIB_FILTER = Mode.LIB_FILTER
YOKAN_MODE_NO_RDMA = Mode.NO_RDMA
YOKAN_MODE_UPDATE_NEW = Mode.UPDATE_NEW
YOKAN_MODE_EXTRA = Mode.EXTRA
