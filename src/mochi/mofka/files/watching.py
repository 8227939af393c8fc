"""Learning of new events: one thread of a process watches directories for all its consumers.

It asks inotify where that tells all, and looks itself where it does not. A change that another machine makes on a
network file system is not told there. Nor is one beyond the number of directories that the system watches for a
user. Everywhere it looks now and then.

inotify is called through ctypes: the packages for it bring a thread for each directory, or are not kept.
"""

import ctypes
import errno
import logging
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

from mochi import shortage

log = logging.getLogger(__name__)

OFTEN = 0.05
"""Seconds between two looks where nothing tells of a change."""

SELDOM = 1.0
"""Seconds between two looks where inotify does."""

_LOCAL = {
    0xEF53: "ext",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlayfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
}
"""File systems of one machine, by the type that `statfs` tells: all that changes there, inotify tells of."""

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = (
    2,
    0x40,
    0x80,
    0x100,
    0x200,
    0x400,
    0x800,
)
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 16
_STATFS_SIZE = 256

_libc = ctypes.CDLL(None, use_errno=True)


def file_system(path: str) -> int:
    """Return the type of the file system that a directory is on, as `statfs` tells it; 0 if it does not."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.statfs(os.fsencode(path), buffer):
        return 0
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


class Watch:
    """Directories that somebody wants to know of changes in; made by `Watcher.watch`.

    Attributes
    ----------
    pause : float
        Seconds between two looks.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self.pause = SELDOM
        self.due = 0.0
        self.numbers: set[int] = set()
        self._callback = weakref.WeakMethod(callback) if hasattr(callback, "__self__") else lambda: callback

    def call(self) -> bool:
        """Tell who watches; False if that is no more."""
        callback = self._callback()
        if callback is None:
            return False
        callback()
        return True


class Watcher:
    """Calls those who watch, in a thread that runs while any does. Thread-safe; `reset` in a forked child.

    Callbacks must be short. One that is a method does not keep its object alive.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, where nobody watches."""
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._thread: threading.Thread | None = None
        self._inotify = -1
        self._wake: tuple[int, int] = (-1, -1)

    def after_fork_in_child(self) -> None:
        """Begin anew; the parent's descriptors are closed here."""
        for fd in (self._inotify, *self._wake):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self.reset()

    def watch(self, directories: Sequence[str], callback: Callable[[], object]) -> Watch:
        """Have a callback called after changes in directories, and now and then, until `unwatch`."""
        watch = Watch(callback)
        with self._lock:
            self._start()
            for directory in directories:
                number = self._add(directory)
                if number < 0:
                    watch.pause = OFTEN
                else:
                    watch.numbers.add(number)
            watch.due = time.monotonic() + watch.pause
            self._watches.append(watch)
        self._rouse()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Call no more."""
        with self._lock:
            self._remove(watch)

    def _remove(self, watch: Watch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)
            others = set().union(*(other.numbers for other in self._watches))
            for number in watch.numbers - others:
                _libc.inotify_rm_watch(self._inotify, number)

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._inotify = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._inotify < 0:
            log.info("inotify cannot be used, new events are looked for: %s", os.strerror(ctypes.get_errno()))
        self._thread = threading.Thread(target=self._run, name="mofka-files-watcher", daemon=True)
        shortage.start(self._thread)

    def _add(self, directory: str) -> int:
        """Have inotify tell of a directory; -1 if it cannot, or does not tell all."""
        if self._inotify < 0 or file_system(directory) not in _LOCAL:
            return -1
        number: int = _libc.inotify_add_watch(self._inotify, os.fsencode(directory), _MASK)
        if number < 0:
            log.info("%s is looked at: inotify: %s", directory, os.strerror(ctypes.get_errno()))
        return number

    def _rouse(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake[1], b"\0")

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        if self._inotify >= 0:
            poll.register(self._inotify, select.POLLIN)
        while True:
            with self._lock:
                due = min((watch.due for watch in self._watches), default=None)
            timeout = None if due is None else max(due - time.monotonic(), 0) * 1000 + 1
            for fd, _ in poll.poll(timeout):
                if fd == self._wake[0]:
                    with suppress(BlockingIOError):
                        os.read(fd, _BUFFER)
            self._tell(self._changed())

    def _changed(self) -> set[int]:
        """Return the numbers of the directories that inotify tells of."""
        numbers: set[int] = set()
        while self._inotify >= 0:
            try:
                content = os.read(self._inotify, _BUFFER)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    log.warning("inotify: %s", error)
                break
            position = 0
            while position < len(content):
                number, _, _, length = _EVENT.unpack_from(content, position)
                numbers.add(number)
                position += _EVENT.size + length
        return numbers

    def _tell(self, numbers: set[int]) -> None:
        now = time.monotonic()
        with self._lock:
            # -1: more has happened than inotify could keep.
            told = [
                watch
                for watch in self._watches
                if watch.due <= now or not numbers.isdisjoint(watch.numbers) or -1 in numbers
            ]
        for watch in told:
            watch.due = now + watch.pause
            if not watch.call():
                self.unwatch(watch)


WATCHER = Watcher()
"""The one of this process."""

os.register_at_fork(after_in_child=WATCHER.after_fork_in_child)
