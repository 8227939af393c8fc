"""The ends of FIFOs that a daemon holds: one to read lines from, one to write lines into. They never block."""

import array
import fcntl
import os
import select
import stat
import termios
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, TypeAlias

from diaspora_stream.ctl.fifo_lines import Lines
from diaspora_stream.ctl.stopping import Stop
from diaspora_stream.errors import DiasporaError

Buffer: TypeAlias = bytes | memoryview

_CHUNK: Final = 64 << 10


class FifoError(DiasporaError):
    """A path that cannot be used as a FIFO; says why."""


def _check(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise FifoError(f"{path}: {error.strerror}") from None
    if not stat.S_ISFIFO(mode):
        raise FifoError(f"{path}: there is something that is no FIFO; it is left as it is")


class ReadEnd:
    """A FIFO to read lines from, made if it is not there.

    The descriptor stays open across writers. It is watched for changes, not for states, so that a FIFO that nobody
    has open for writing, which is readable for ever, wakes nobody.

    Raises
    ------
    FifoError
        The path is no FIFO, cannot be made, or is read by another daemon.
    """

    def __init__(self, path: str, stop: Stop) -> None:
        self.path = path
        self.lines = Lines()
        self._fd = self._opened()
        self._poller = select.epoll()
        self._poller.register(self._fd, select.EPOLLIN | select.EPOLLET)
        self._poller.register(stop.fd, select.EPOLLIN)

    def _opened(self) -> int:
        while True:
            try:
                os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
                if not os.path.lexists(self.path):
                    os.mkfifo(self.path, 0o666)
            except OSError as error:
                raise FifoError(f"{self.path}: cannot be made: {error.strerror}") from None
            _check(self.path)
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise FifoError(f"{self.path}: cannot be opened: {error.strerror}") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise FifoError(f"{self.path}: another daemon reads it") from None
            self._identity = os.fstat(fd)
            if self.is_there:
                return fd
            os.close(fd)

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to this FIFO."""
        try:
            return os.path.samestat(os.lstat(self.path), self._identity)
        except OSError:
            return False

    def wait(self, timeout: float | None) -> bool:
        """Wait for news, at most `timeout` seconds; False if none came."""
        return bool(self._poller.poll(timeout))

    def read(self) -> Iterator[list[bytes]]:
        """Yield the lines that are there, some at a time; a last one without a newline when the last writer is gone.

        After the last ones of all writers an empty list is yielded.
        """
        while True:
            try:
                chunk = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                yield self.lines.end()
                yield []
                return
            if lines := self.lines.feed(chunk):
                yield lines

    @property
    def is_ours(self) -> bool:
        """Whether the file belongs to the user of this process."""
        return self._identity.st_uid == os.geteuid()

    def remove(self) -> None:
        """Close it, and remove the file if it is still there and ours."""
        if self.is_there and self.is_ours:
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close it; the file stays."""
        self._poller.close()
        os.close(self._fd)


class WriteEnd:
    """A FIFO to write lines into, which must be there.

    It is open for reading as well: what was written stays in the pipe when a reader leaves, for the next one.

    Raises
    ------
    FifoError
        The path is no FIFO, or cannot be opened.
    """

    def __init__(self, path: str) -> None:
        _check(path)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise FifoError(f"{path}: cannot be opened: {error.strerror}") from None
        self.written = self._waiting()
        """Bytes that went into the pipe, with those that were there before."""

    def _waiting(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, count)
        return count[0]

    @property
    def read(self) -> int:
        """Bytes that readers have taken out of the pipe."""
        return self.written - self._waiting()

    def write(self, text: Buffer, timeout: float, stop: Stop | None = None) -> int:
        """Write what there is room for, after waiting `timeout` seconds at most for some; return how much.

        With `stop`, the wait also ends when that is requested.
        """
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        if stop is not None:
            poller.register(stop.fd, select.POLLIN)
        poller.poll(timeout * 1000)
        try:
            count = os.write(self._fd, text)
        except BlockingIOError:
            return 0
        self.written += count
        return count

    def close(self) -> None:
        """Close it; the file stays."""
        os.close(self._fd)
