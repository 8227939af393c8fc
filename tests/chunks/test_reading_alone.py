"""A partition's directory whose file system is read-only: everything in it is read, and nothing is changed."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mochi.disk import PosixFiles
from mochi.mofka.chunks import ChunkConfig, Origin, PartitionDirectory, StorageError
from mochi.mofka.chunks.config import Retention
from mochi.mofka.chunks.errors import PartitionLocked, PartitionPoisoned
from tests.chunks.chunk_events import batch_of, events_of, numbered


class ReadOnlyFiles(PosixFiles):
    """Refuses whatever changes something, as a file system that is mounted read-only does."""

    def _refuse(self, path: str) -> Any:
        raise StorageError.refused("change", path, OSError(errno.EROFS, os.strerror(errno.EROFS)))

    def make_directory(self, path: str, *, private: bool) -> bool:
        return bool(self._refuse(path))

    def remove_directory(self, path: str) -> None:
        self._refuse(path)

    def rename(self, path: str, target: str) -> None:
        self._refuse(path)

    def remove(self, path: str) -> None:
        self._refuse(path)

    def open(self, path: str, *, writable: bool) -> Any:
        return self._refuse(path) if writable else super().open(path, writable=False)

    def lock(self, path: str) -> Any:
        return self._refuse(path)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def fill(directory: Path, config: ChunkConfig) -> PartitionDirectory:
    store = PartitionDirectory.open(directory, config)
    for first in range(0, 50, 10):
        store.append([batch_of(numbered(first, 10), Origin(b"p" * 16, first // 10))], {"reader": first})
    return store


def ended(directory: Path, config: ChunkConfig) -> Path:
    fill(directory, config).close()
    return directory


def crashed(directory: Path, config: ChunkConfig) -> Path:
    with fill(directory, config):
        shutil.copytree(directory, directory.with_name("copy"))
    return directory.with_name("copy")


def torn(directory: Path, config: ChunkConfig) -> Path:
    copy = crashed(directory, config)
    for path in copy.glob("*.idx"):
        os.truncate(path, path.stat().st_size - path.stat().st_size // 3)
    return copy


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("left", [ended, crashed])
@pytest.mark.parametrize("max_events", [1000, 20])
def test_all_that_was_stored_is_read_and_nothing_is_changed(
    tmp_path: Path, left: Callable[[Path, ChunkConfig], Path], sync: bool, max_events: int
) -> None:
    config = ChunkConfig(sync=sync, max_events_per_chunk=max_events, retention=Retention(1))
    directory = left(tmp_path / "partition", ChunkConfig(sync=sync, max_events_per_chunk=max_events))
    before = content(directory)
    with PartitionDirectory.open_to_read(directory, config, ReadOnlyFiles()) as store:
        assert events_of(store) == numbered(0, 50)
        assert store.cursors == {"reader": 40}
        assert store.expires_in() is None
        for batches, cursors in (([batch_of(numbered(50, 1))], {}), ([], {"x": 1})):
            with pytest.raises(
                PartitionPoisoned, match=r"takes no more events: the file system of .* is read-only"
            ):
                store.append(batches, cursors)
        assert events_of(store) == numbered(0, 50)
    assert content(directory) == before
    with PartitionDirectory.open(directory, ChunkConfig(sync=sync)) as store:
        assert events_of(store) == numbered(0, 50)


def test_what_a_journal_has_and_the_chunk_files_have_not_is_read_from_it(tmp_path: Path) -> None:
    directory = torn(tmp_path / "partition", ChunkConfig())
    before = content(directory)
    with PartitionDirectory.open_to_read(directory, None, ReadOnlyFiles()) as store:
        assert events_of(store) == numbered(0, 50)
    assert content(directory) == before


def test_who_reads_alone_keeps_out_who_would_write_and_no_other_reader(tmp_path: Path) -> None:
    directory = ended(tmp_path / "partition", ChunkConfig())
    with (
        PartitionDirectory.open_to_read(directory),
        PartitionDirectory.open_to_read(directory),
        pytest.raises(PartitionLocked),
    ):
        PartitionDirectory.open(directory)
    with PartitionDirectory.open(directory), pytest.raises(PartitionLocked):
        PartitionDirectory.open_to_read(directory)


def test_a_directory_of_the_original_is_read_without_a_lock(tmp_path: Path) -> None:
    directory = ended(tmp_path / "partition", ChunkConfig())
    for path in directory.glob("mofka.*"):
        path.unlink()
    before = content(directory)
    with PartitionDirectory.open_to_read(directory, None, ReadOnlyFiles()) as store:
        assert events_of(store) == numbered(0, 50)
    assert content(directory) == before
