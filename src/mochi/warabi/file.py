"""A target in one file, kept when its server ends. The layout is the original's: regions end to end, nothing else.

A name holds the region's offset and its size in the file, which is a multiple of the alignment. Nothing in the file
tells where regions begin: who has lost a name has lost its region.

Invariants
----------
1. A region lies within the file from the moment it has a name, so that its place is not given twice, after a crash
   neither.
2. After a failed sync nothing is promised any more: the target refuses all but reads, and says why.
"""

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from mochi.abt_io.instance import Instance
from mochi.disk import PosixFile, take
from mochi.margo.errors import ConfigError
from mochi.margo.wire import Buffer
from mochi.warabi.errors import InvalidArguments, InvalidRegion, StorageError
from mochi.warabi.target import REGION_ID_SIZE, Parts, Target, matched, total_of

_ID = struct.Struct("<QQ")
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_LARGEST = 2**63 - 1

_libc = ctypes.CDLL(None, use_errno=True)


class FileConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of an ``abtio`` target.

    Attributes
    ----------
    path : str
        The file.
    create_if_missing, override_if_exists : bool
        Whether to make a file that is missing, and to begin one that is there anew.
    alignment : int
        Bytes; sizes of regions in the file are multiples of it.
    directio : bool
        Whether what was written leaves the page cache when it is on disk, for targets that are larger than memory.
    sync : bool
        Whether every write is on disk before it is answered.
    abt_io : dict
        Configuration of the threads, or rings, that read and write.
    """

    path: Annotated[str, Meta(min_length=1)]
    create_if_missing: bool = False
    override_if_exists: bool = False
    alignment: Annotated[int, Meta(ge=8, le=2**30, multiple_of=8)] = 8
    directio: bool = False
    sync: bool = False
    abt_io: dict[str, Any] | UnsetType = UNSET


class PmdkConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Configuration of a ``pmdk`` target, which is a file like any other here."""

    path: Annotated[str, Meta(min_length=1)]
    create_if_missing_with_size: Annotated[int, Meta(ge=8388608)] | UnsetType = UNSET
    override_if_exists: bool = False


class FileTarget(Target):
    """Regions in a file, which this process alone may have open.

    Parameters
    ----------
    settings : FileConfig
    io : Instance
        Whose file calls are used; not closed with the target.
    where : str
        JSON path of the configuration, for errors.

    Raises
    ------
    ConfigError
        The file is missing, cannot be used, or is in use.
    """

    def __init__(self, settings: FileConfig, io: Instance, where: str) -> None:
        self.config: dict[str, Any] = to_builtins(settings)
        self._settings = settings
        self._io = io
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._file: PosixFile | None = _opened(settings, io, where)
        self._end = _rounded(os.fstat(self._file.fd).st_size, settings.alignment)

    def create(self, size: int) -> bytes:
        room = _rounded(size, self._settings.alignment)
        if size < 1 or room > _LARGEST - self._end:
            raise InvalidArguments(f"a region has 1 byte or more, and must fit in a file; not {size}")
        with self._using() as file, self._lock:
            file.truncate(self._end + room)  # invariant 1
            region = _ID.pack(self._end, room)
            self._end += room
        return region

    def write(self, region: bytes, parts: Parts, data: Buffer, *, persist: bool = False) -> None:
        start, size = self._place(region)
        matched(parts, size, data)
        view, at = memoryview(data), 0
        with self._using() as file:
            for offset, length in parts:
                file.write([view[at : at + length]], start + offset)
                at += length
            if persist or self._settings.sync or self._settings.directio:
                self._sync(file, start, size)

    def persist(self, region: bytes, parts: Parts) -> None:
        start, size = self._place(region)
        total_of(parts, size)
        with self._using() as file:
            self._sync(file, start, size)

    def read(self, region: bytes, parts: Parts) -> memoryview:
        start, size = self._place(region)
        found = memoryview(bytearray(total_of(parts, size)))
        at = 0
        with self._using(to_read=True) as file:
            for offset, length in parts:
                file.read(found[at : at + length], start + offset)
                at += length
        return found

    def erase(self, region: bytes) -> None:
        start, size = self._place(region)
        with self._using() as file:
            _punch(file.fd, start, size)

    def close(self) -> None:
        """Put all on disk, and close the file; idempotent."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            try:
                file.sync()
            finally:
                file.close()

    def _place(self, region: bytes) -> tuple[int, int]:
        if len(region) != REGION_ID_SIZE:
            raise InvalidRegion(f"the name of a region has {REGION_ID_SIZE} bytes, not {len(region)}")
        start, size = _ID.unpack(region)
        if not size or start + size > self._end:
            raise InvalidRegion(f"there is no region {region.hex()} in {self._settings.path}")
        return start, size

    def _sync(self, file: PosixFile, start: int, size: int) -> None:
        try:
            file.sync()
        except OSError as error:
            self._failure = f"{error}; nothing is certain any more"  # invariant 2
            raise
        if self._settings.directio:
            os.posix_fadvise(file.fd, start, size, os.POSIX_FADV_DONTNEED)

    @contextmanager
    def _using(self, *, to_read: bool = False) -> Iterator[PosixFile]:
        file = self._file
        if file is None:
            raise StorageError(f"the target in {self._settings.path} is closed")
        if self._failure is not None and not to_read:
            raise StorageError(self._failure)
        try:
            yield file
        except OSError as error:
            raise StorageError(str(error)) from error


def _opened(settings: FileConfig, io: Instance, where: str) -> PosixFile:
    path = settings.path
    exists = os.path.lexists(path)
    if exists and not os.path.isfile(path):
        raise ConfigError(f"{where}.path", f"{path} is not a regular file")
    if not exists and not settings.create_if_missing:
        raise ConfigError(f"{where}.path", f"there is no file {path}, and create_if_missing is false")
    try:
        file = io.files.open(path, writable=True)
        try:
            take(file.fd, sign=False)
            if settings.override_if_exists:
                file.truncate(0)
        except BaseException:
            file.close()
            raise
    except BlockingIOError as error:
        problem = f"{path} is the target of another provider: {error.strerror}"
        raise ConfigError(f"{where}.path", problem) from None
    except OSError as error:
        raise ConfigError(f"{where}.path", f"{path} cannot be used: {error.strerror}") from error
    return file


def _rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _punch(fd: int, start: int, size: int) -> None:
    """Return the room of a region to a file system that takes it; `os` has no call for this."""
    if _libc.fallocate64(fd, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
