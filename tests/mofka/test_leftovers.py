"""Directories of partitions that no server serves any more, when a topic that was never finished is cleared away."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from mochi.bedrock.modules import Deployed
from mochi.margo.errors import Fault
from mochi.mofka.chunks import Batch, PartitionDirectory
from mochi.mofka.deletion import remove_here
from mochi.mofka.protocol import Remove

UUID = "01234567-89ab-cdef-0123-456789abcdef"


def _nobody(name: str) -> None:
    raise Fault("not_found", name)


SERVER = cast(
    Deployed,
    SimpleNamespace(rank=0, address="na+sm://1", config=lambda: {"providers": []}, provider=_nobody),
)


def left_by_a_crash(path: Path, events: int) -> Path:
    """Make a partition's directory as the end of its process leaves it."""
    with PartitionDirectory.open(path / "running") as store:
        if events:
            ones = np.ones(events, np.uint32)
            store.append([Batch(ones, [b"m" * events], ones, [b"d" * events])])
        shutil.copytree(path / "running", path / f"topic-{UUID}")
    return path / f"topic-{UUID}"


def unused_only(path: Path) -> Remove:
    return Remove("topic", UUID, 0, str(path), True, "default", {})


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}


def test_a_directory_with_events_stays_and_is_not_touched(tmp_path: Path) -> None:
    directory = left_by_a_crash(tmp_path, 3)
    os.unlink(directory / "chunk-000000.idx")  # which whoever serves the partition makes again
    before = contents(directory)
    assert remove_here(SERVER, unused_only(tmp_path)) == [str(directory)]
    assert contents(directory) == before


def test_a_directory_without_events_goes(tmp_path: Path) -> None:
    directory = left_by_a_crash(tmp_path, 0)
    assert remove_here(SERVER, unused_only(tmp_path)) == []
    assert not directory.exists()
