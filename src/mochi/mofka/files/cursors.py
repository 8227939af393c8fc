"""Where the consumers of a topic are: a small file for each, which any process may change.

A file has one record for each partition: the id of the consumer's next event, and a checksum. A record that is not
good is none: its consumer begins at the first event. Cursors only move forward, whoever moves them. Those that tell
of events which a crash has taken are moved back by the writer of the partition, before it writes others.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import quote

from xxhash import xxh3_64_intdigest

from diaspora_stream.errors import DiasporaError, TimeoutExpired
from mochi.disk import lacks_locks

_RECORD = struct.Struct("<QQ")
_SUFFIX = ".cursor"
_LONGEST = 200
_PAUSE = 0.01


class CursorKeeper(Protocol):
    """Keeps the cursors of a topic's consumers."""

    def get(self, consumer: str, partition: int) -> int:
        """Return the id of a consumer's next event, 0 if none is known."""

    def advance(self, consumer: str, partition: int, next_id: int) -> None:
        """Move a cursor forward, unless it is there."""


class Cursors:
    """The cursors of a topic.

    Parameters
    ----------
    directory : str
        Where the files are; made with the first of them.
    is_synced : bool
        Whether a cursor is on disk before `advance` returns; otherwise it survives the process alone.
    timeout : float
        Seconds to wait at most for another process that changes the same file.
    """

    def __init__(self, directory: str, *, is_synced: bool, timeout: float) -> None:
        self._directory = directory
        self._is_synced = is_synced
        self._timeout = timeout

    def get(self, consumer: str, partition: int) -> int:
        """Return the id of a consumer's next event, 0 if none is known."""
        try:
            fd = os.open(self._path(consumer), os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return _read(fd, partition)
        finally:
            os.close(fd)

    def advance(self, consumer: str, partition: int, next_id: int) -> None:
        """Move a cursor forward, unless it is there.

        Raises
        ------
        DiasporaError
            It cannot be stored.
        """
        path = self._path(consumer)
        try:
            os.makedirs(self._directory, exist_ok=True)
            is_new = self._is_synced and not os.path.exists(path)
            with self._locked(path, os.O_CREAT) as fd:
                if _read(fd, partition) < next_id:
                    _write(fd, partition, next_id)
                    if self._is_synced:
                        os.fdatasync(fd)
            if is_new:
                _sync_names(self._directory)
        except OSError as error:
            raise DiasporaError(f"the cursor of consumer {consumer!r} cannot be stored: {error}") from error

    def limit(self, partition: int, count: int) -> None:
        """Let no cursor be behind the last of `count` events; by who writes the partition, before there are more."""
        try:
            names = [name for name in os.listdir(self._directory) if name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return
        for name in names:
            with self._locked(os.path.join(self._directory, name)) as fd:
                if _read(fd, partition) > count:
                    _write(fd, partition, count)

    def _path(self, consumer: str) -> str:
        name = quote(consumer, safe=" ")
        if len(name) > _LONGEST:
            name = f"{name[: _LONGEST - 64]}{hashlib.sha256(consumer.encode()).hexdigest()}"
        return os.path.join(self._directory, name + _SUFFIX)

    @contextmanager
    def _locked(self, path: str, flags: int = 0) -> Iterator[int]:
        """Open a file for the body, which no other process changes meanwhile."""
        fd = os.open(path, os.O_RDWR | flags, 0o666)
        deadline = time.monotonic() + self._timeout
        try:
            while not _has_locked(fd):
                if time.monotonic() > deadline:
                    raise TimeoutExpired(f"{path} is locked by another process for {self._timeout:g} s")
                time.sleep(_PAUSE)
            yield fd
        finally:
            os.close(fd)


def _has_locked(fd: int) -> bool:
    """Lock a file, if nobody has; a file system without locks is not locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if not lacks_locks(error):
            raise
    return True


def _read(fd: int, partition: int) -> int:
    record = os.pread(fd, _RECORD.size, partition * _RECORD.size)
    if len(record) < _RECORD.size:
        return 0
    next_id, checksum = _RECORD.unpack(record)
    return int(next_id) if checksum == _checksum(partition, next_id) else 0


def _write(fd: int, partition: int, next_id: int) -> None:
    os.pwrite(fd, _RECORD.pack(next_id, _checksum(partition, next_id)), partition * _RECORD.size)


def _checksum(partition: int, next_id: int) -> int:
    return xxh3_64_intdigest(next_id.to_bytes(8, "little"), partition + 1)


def _sync_names(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
