"""A file layer over real files that knows what a power cut would leave of them, and that fails when told to.

A file's bytes are safe once it is synced, its name once its directory is. Of what is not safe a power cut may
leave any part, in any order. Nothing is really synced, so that tests need not wait for a disk.
"""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from mochi.disk import Buffer, File, PosixFiles, SyncFailed
from mochi.mofka.chunks import StorageError

Change = tuple[int, bytes | None]
"""Bytes written at an offset; or None: the file was cut to that many bytes."""


Known = tuple[bytes, list[Change]]
"""What is safe of a file, and what is not."""


class RecordingFiles(PosixFiles):
    """Real files, and a record of every call that changes them.

    Attributes
    ----------
    calls : list of (operation, name)
        All changing calls so far.
    fail_at : int or None
        Index in `calls` of the call that fails; a failing write writes half of its bytes.
    lent : list of bytearray
        Memory that somebody else writes to just before each write to a file.
    """

    def __init__(self, fail_at: int | None = None, error: int = errno.EIO) -> None:
        super().__init__()
        self.error = error
        self.calls: list[tuple[str, str]] = []
        self.fail_at = fail_at
        self.lent: list[bytearray] = []
        self.safe: dict[str, bytes] = {}
        self.unsafe: dict[str, list[Change]] = {}
        self.safe_names: set[str] = set()
        self.replaced: dict[str, tuple[str, Known | None]] = {}
        self.removed: dict[str, Known] = {}
        self._open: set[File] = set()

    def end_process(self) -> None:
        """Close all files that are open, as the end of a process does."""
        for file in list(self._open):
            file.close()

    def _tracked(self, file: File) -> File:
        close = file.close

        def once() -> None:
            if file in self._open:
                self._open.remove(file)
                close()

        self._open.add(file)
        file.close = once  # type: ignore[method-assign]
        return file

    def lock(self, path: str) -> File:  # type: ignore[override]
        return self._tracked(super().lock(path))

    def called(self, operation: str, path: str) -> None:
        self.calls.append((operation, os.path.basename(path)))
        if len(self.calls) - 1 == self.fail_at:
            # A directory is opened to be synced, which may find no descriptor; no sync itself says so.
            refusal = SyncFailed if operation == "sync" and self.error != errno.EMFILE else StorageError
            raise refusal.refused(operation, path, OSError(self.error, "made to fail"))

    def open(self, path: str, *, writable: bool) -> File:  # type: ignore[override]
        if not writable:
            return self._tracked(super().open(path, writable=False))
        self.called("open", path)
        existed = os.path.exists(path)
        file = self._tracked(super().open(path, writable=True))
        if path not in self.safe:
            self.safe[path] = Path(path).read_bytes()
            self.unsafe[path] = []
            if existed:
                self.safe_names.add(path)
        return RecordedFile(self, file)

    def sync_all(self, files: Sequence[File]) -> None:
        for file in files:
            file.sync()

    def sync_directory(self, path: str) -> None:
        self.called("sync", path)
        self.safe_names.update(name for name in self.safe if os.path.dirname(name) == path)
        for changed in (self.replaced, self.removed):
            for name in [name for name in changed if os.path.dirname(name) == path]:
                del changed[name]

    def rename(self, path: str, target: str) -> None:
        self.called("rename", path)
        if path in self.safe:
            self.replaced.setdefault(
                target, (path, self._known(target) if target in self.safe_names else None)
            )
            self.safe[target], self.unsafe[target] = self.safe.pop(path), self.unsafe.pop(path)
            self.safe_names.discard(path)
            self.safe_names.add(target)
        super().rename(path, target)

    def remove(self, path: str) -> None:
        self.called("remove", path)
        if os.path.exists(path):
            self.removed[path] = self._known(path)
        super().remove(path)
        self.safe.pop(path, None)
        self.unsafe.pop(path, None)

    def _known(self, path: str) -> Known:
        if path in self.safe:
            return self.safe[path], self.unsafe[path]
        return Path(path).read_bytes(), []

    def remove_directory(self, path: str) -> None:
        self.called("remove", path)
        super().remove_directory(path)

    def power_cut(
        self, source: Path, target: Path, keep: Callable[[], bool], tear: Callable[[int], int]
    ) -> None:
        """Put into `target` what a power cut would leave of the directory `source`.

        `keep` decides of each unsafe name and change whether it is left, `tear` how many of its bytes.
        """
        target.mkdir()
        for untouched in source.iterdir():
            if str(untouched) not in self.safe:
                shutil.copy(untouched, target)
        left: dict[str, Known] = {}
        for path in self.safe:
            if path in self.safe_names or keep():
                left[path] = self._known(path)
        for path, (aside, before) in self.replaced.items():
            if not keep():
                left[aside] = left.pop(path)
                if before is not None:
                    left[path] = before
        left |= {path: before for path, before in self.removed.items() if not keep()}
        for path, (safe, changes) in left.items():
            content = bytearray(safe)
            for offset, written in changes:
                if not keep():
                    continue
                if written is None:
                    del content[offset:]
                    continue
                written = written[: tear(len(written))]
                content.extend(bytes(max(0, offset + len(written) - len(content))))
                content[offset : offset + len(written)] = written
            (target / os.path.basename(path)).write_bytes(content)


class RecordedFile:
    """A writable file whose changes are recorded."""

    def __init__(self, files: RecordingFiles, file: File) -> None:
        self._files = files
        self._file = file
        self.path = file.path

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        for memory in filter(None, self._files.lent):
            memory[0] = (memory[0] + 1) % 256
        content = b"".join(buffers)
        try:
            self._files.called("write", self.path)
        except StorageError:
            self._change(offset, content[: len(content) // 2])
            raise
        self._change(offset, content)

    def _change(self, offset: int, content: bytes) -> None:
        self._files.unsafe[self.path].append((offset, content))
        self._file.write([content], offset)

    def read(self, target: memoryview, offset: int) -> None:
        self._file.read(target, offset)

    def sync(self) -> None:
        self._files.called("sync", self.path)
        self._files.safe[self.path] = Path(self.path).read_bytes()
        self._files.unsafe[self.path] = []

    def truncate(self, size: int) -> None:
        self._files.called("truncate", self.path)
        self._files.unsafe[self.path].append((size, None))
        self._file.truncate(size)

    def close(self) -> None:
        self._file.close()
