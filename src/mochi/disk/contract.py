"""What storage needs of a file system: the contract of all file layers.

A call does all that was asked, or raises a `StorageError` that names the operation and the file. Calls block, and may
be made from several threads at once, each at its own offsets.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class File(Protocol):
    """An open file, read and written at given offsets."""

    @property
    def path(self) -> str:
        """Path that it was opened by."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one after the other, from `offset` on."""

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on; a file that ends before is an error (EIO)."""

    def sync(self) -> None:
        """Return when all that was written is on disk.

        Raises
        ------
        SyncFailed
            What was written may be lost for good, whatever the error number.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes, or extend it with zeros."""

    def close(self) -> None:
        """Close the file, which releases its lock; the object is of no use afterwards."""


class FileLayer(Protocol):
    """A file system, as far as storage needs one."""

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory of this name."""

    def make_directory(self, path: str, *, private: bool) -> bool:
        """Make a directory in one that is there, and tell whether it was missing.

        A file in its place is an error (ENOTDIR). A private one is its owner's alone, as all files are, unless the
        layer goes by the umask.
        """

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory, or a link to one."""

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, in any order."""

    def sync_directory(self, path: str) -> None:
        """Return when the names in a directory are on disk; errors as of `File.sync`."""

    def size(self, path: str) -> int:
        """Return the length of a file in bytes; a directory (EISDIR) or a device (EINVAL) is none."""

    def sync_all(self, files: Sequence[File]) -> None:
        """Return when all that was written to several files of this layer is on disk, as after `File.sync` of each."""

    def rename(self, path: str, target: str) -> None:
        """Rename a file; another that has the name already is no more."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def open(self, path: str, *, writable: bool) -> File:
        """Open a file to read; or to read and write, and then make it if it is missing."""

    def lock(self, path: str) -> File:
        """Make a lock file, and hold its lock until it is closed. Forked children share it.

        Raises
        ------
        Locked
            Somebody else holds it; says who.
        """

    def lock_shared(self, path: str) -> File:
        """Keep out whoever wants the lock of a lock file that is there; errors as of `lock`.

        Others may share it, and the file is not changed.
        """
