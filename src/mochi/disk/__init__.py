"""Files and directories, as all that stores something here uses them. Stands on the ground: imports nothing of ours.

`FileLayer` and `File` are the contract, so that a layer in between may record, trace, refuse or keep changes to itself.
`PosixFiles` is the real one, and the only place where what the operating system refuses becomes a `StorageError`.
`locks` are how one process has a directory for itself. `descriptors` says how many files are open and who closes
some; `fd_cache` keeps files open to be read, and `kept_files` to be written. Over an `Overlay` nothing is changed.
"""

from mochi.disk.contract import Buffer, File, FileLayer
from mochi.disk.descriptors import Descriptors
from mochi.disk.errors import Locked, StorageError, SyncFailed, lacks_descriptors, lacks_locks
from mochi.disk.fd_cache import FdCache
from mochi.disk.files import Calls, PlainCalls, PosixFile, PosixFiles, sync_one
from mochi.disk.kept_files import KeptFiles, RoomyFiles
from mochi.disk.locks import share, take
from mochi.disk.overlay import Cut, Overlay

__all__ = [
    "Buffer",
    "Calls",
    "Cut",
    "Descriptors",
    "FdCache",
    "File",
    "FileLayer",
    "KeptFiles",
    "Locked",
    "Overlay",
    "PlainCalls",
    "PosixFile",
    "PosixFiles",
    "RoomyFiles",
    "StorageError",
    "SyncFailed",
    "lacks_descriptors",
    "lacks_locks",
    "share",
    "sync_one",
    "take",
]
