"""The suite that every type of partition passes, for ours."""

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from mochi.mofka.chunks import KEEP_ALL, Retention
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.contract import Partition
from mochi.mofka.partition.default import DefaultPartition
from mochi.mofka.partition.legacy import LegacyPartition
from mochi.mofka.partition.legacy_store import LegacyStore
from mochi.mofka.partition.memory import MemoryPartition
from mochi.mofka.testing.suites import PartitionSuite, Place
from mochi.warabi.memory import MemoryTarget
from mochi.yokan.config import open_database
from tests.mofka.partition_io import BreakableFiles, GatedIo


class MemoryPlace:
    """Nowhere: a memory partition begins anew."""

    def open(self, retention: Retention = KEEP_ALL) -> Partition:
        return MemoryPartition({}, retention)

    def close(self) -> None:
        pass


class TestMemory(PartitionSuite):
    survives = False

    @pytest.fixture
    def places(self) -> type[Place]:
        return MemoryPlace


class DirectoryPlace:
    """A directory."""

    def __init__(self, path: Path, **fields: object) -> None:
        self._fields = {"path": str(path), **fields}
        self._uuid = str(uuid4())
        self._opened: list[tuple[DefaultPartition, GatedIo]] = []

    def open(self, retention: Retention = KEEP_ALL) -> Partition:
        io = GatedIo(BreakableFiles())
        kept = msgspec.to_builtins(retention)
        fields = {**self._fields, "max_events_per_chunk": 20, **({"retention": kept} if kept else {})}
        partition = DefaultPartition("topic", self._uuid, DefaultFields.parse(fields), io)
        self._opened.append((partition, io))
        return partition

    def close(self) -> None:
        for partition, io in self._opened:
            partition.close()
            io.close()
        self._opened.clear()


class TestDefault(PartitionSuite):
    @pytest.fixture(params=[True, False], ids=["sync", "no sync"])
    def sync(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def places(self, tmp_path: Path, sync: bool):  # type: ignore[no-untyped-def]
        return lambda: DirectoryPlace(tmp_path / uuid4().hex, sync=sync)


class TestDefaultFromFilesAlone(TestDefault):
    @pytest.fixture(autouse=True)
    def _nothing_kept(self, nothing_kept: None) -> None:
        pass


class LegacyPlace:
    """A database and a target in memory."""

    def __init__(self) -> None:
        self._database, _ = open_database({"database": {"type": "map"}})
        self._target = MemoryTarget({}, "config")
        self._name = f"topic-{uuid4()}"
        self._opened: list[LegacyPartition] = []

    def open(self, retention: Retention = KEEP_ALL) -> Partition:
        partition = LegacyPartition("topic", lambda: LegacyStore(self._name, self._database, self._target))
        self._opened.append(partition)
        return partition

    def close(self) -> None:
        for partition in self._opened:
            partition.close()
        self._opened.clear()


class TestLegacy(PartitionSuite):
    retains = False

    @pytest.fixture
    def places(self) -> type[Place]:
        return LegacyPlace
