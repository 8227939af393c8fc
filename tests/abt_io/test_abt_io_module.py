"""abt_io as a component of a server: its dependency, and a partition that stores through an instance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mochi.abt_io.errors import ConfigError
from mochi.abt_io.module import AbtIoModule
from mochi.margo.engine import Engine
from mochi.mofka.chunks import Batch, PartitionDirectory

SECONDS = 10


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine("na+sm")
    yield engine
    engine.finalize()
    engine.run()


def test_a_pool_is_required() -> None:
    assert AbtIoModule().dependencies({}) == {"pool": ("pool", True)}


def test_a_wrong_configuration_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="num_urings"):
        AbtIoModule().create(engine, "io", 3, {"num_uring": 1}, [], {"pool": engine.default_pool})


def test_a_partition_stores_through_an_instance(engine: Engine, tmp_path: Path) -> None:
    instance = AbtIoModule().create(engine, "io_controller", 3, {}, [], {"pool": engine.default_pool})
    layer: Any = instance.files
    sizes = np.array([2, 3], dtype=np.uint32)
    batch = Batch(sizes, [b"{}", b"[1]"], sizes, [b"he", b"llo"])

    store = instance.run(lambda: PartitionDirectory.open(tmp_path / "partition", files=layer)).result(SECONDS)
    assert instance.run(lambda: store.append([batch, batch])).result(SECONDS) == [0, 2]
    instance.run(store.close).result(SECONDS)
    instance.close()

    with PartitionDirectory.open(tmp_path / "partition") as reopened:
        assert reopened.event_count == 4
        events = reopened.read_range(1, 2, 1 << 20, with_data=True)
        assert bytes(events.metadata) == b"[1]{}"
