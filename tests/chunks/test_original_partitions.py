"""Partitions that servers of the original wrote: read here, and written again."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mochi.mofka.chunks import ChunkConfig, PartitionDirectory
from tests.chunks.chunk_events import PARTITIONS, Event, batch_of, chunk_files, events_of, numbered

BATCHES = {
    "plain": (ChunkConfig(), 16),
    "rotated": (ChunkConfig(max_events_per_chunk=70), 10),
    "mixed": (ChunkConfig(max_chunk_size=70000), 1),
}
"""Limits under which we begin chunks where the original did, and the size of the batches."""

PADDING = {
    ".idx": (48, [slice(12, 16), slice(28, 32), slice(44, 48)]),
    ".desc": (56, [slice(28, 32), slice(44, 48)]),
}


def partition(name: str) -> Path:
    (directory,) = PARTITIONS.glob(f"{name}-*/")
    return directory


def masked(files: dict[str, bytes]) -> dict[str, bytes]:
    """Set the padding of index records and descriptors to zero."""
    result = {}
    for name, content in files.items():
        if Path(name).suffix in PADDING:
            size, padding = PADDING[Path(name).suffix]
            records = np.frombuffer(content, np.uint8).reshape(-1, size).copy()
            for columns in padding:
                records[:, columns] = 0
            content = records.tobytes()
        result[name] = content
    return result


@pytest.fixture(params=BATCHES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def events(name: str, tmp_path: Path) -> list[Event]:
    """Read the events from a copy, for opening a directory locks it."""
    shutil.copytree(partition(name), tmp_path / "copy")
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert store.quarantined == []
        return events_of(store)


def test_all_events_are_as_they_were_produced(name: str, events: list[Event]) -> None:
    expected = json.loads((PARTITIONS / f"{name}.expected.json").read_text())
    assert len(events) == len(expected)
    for (metadata, data), wanted in zip(events, expected, strict=True):
        assert int.from_bytes(metadata[:8], "little") == len(metadata) - 8
        assert json.loads(metadata[8:]) == wanted["metadata"]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (wanted["size"], wanted["sha256"])


def test_writing_the_events_again_gives_the_same_files(
    name: str, events: list[Event], tmp_path: Path
) -> None:
    config, size = BATCHES[name]
    with PartitionDirectory.open(tmp_path / "again", config) as store:
        for first in range(0, len(events), size):
            store.append([batch_of(events[first : first + size])])
    assert chunk_files(tmp_path / "again") == masked(chunk_files(partition(name)))


def test_appending_leaves_what_the_original_wrote(name: str, events: list[Event], tmp_path: Path) -> None:
    with PartitionDirectory.open(tmp_path / "copy", ChunkConfig(max_events_per_chunk=1000)) as store:
        assert store.append([batch_of(numbered(0, 30))]) == [len(events)]
    with PartitionDirectory.open(tmp_path / "copy") as store:
        assert events_of(store) == events + numbered(0, 30)
    extended = chunk_files(tmp_path / "copy")
    for file_name, content in chunk_files(partition(name)).items():
        assert extended[file_name].startswith(content)
