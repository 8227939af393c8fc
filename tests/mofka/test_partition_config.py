"""The fields of a `default` partition, as the table of the user guide has them."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.bulk import BufferPool
from mochi.margo.engine import Engine
from mochi.margo.errors import ConfigError
from mochi.mofka.module import MofkaModule
from mochi.mofka.partition.config import DefaultFields
from mochi.mofka.partition.default import DefaultPartition
from tests.mofka.partition_io import BreakableFiles, GatedIo, append, batch_of, read

UUID = "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"

POOLS = {
    "producers.metadata_buffer_pool": 65536,
    "producers.data_buffer_pool": 67108864,
    "consumers.metadata_buffer_pool": 65536,
    "consumers.desc_buffer_pool": 4096,
}
TABLE: dict[str, Any] = {
    "max_chunk_size": 67108864,
    "max_events_per_chunk": 1000000,
    "sync": True,
    "fd_cache_capacity": 64,
}
for pool, first_size in POOLS.items():
    TABLE |= {
        f"{pool}.num_tiers": 1,
        f"{pool}.num_buffers": 0,
        f"{pool}.first_size": first_size,
        f"{pool}.size_multiple": 4.0,
    }

WRONG: dict[str, list[Any]] = {
    "path": ["", 5, None],
    "max_chunk_size": [-1, 2**32, 1.5, "1"],
    "max_events_per_chunk": [-1, 2**32],
    "sync": ["false", 1],
    "fd_cache_capacity": [0, -1],
    "producers": [[], 1],
    "retention": [[], 1],
    "retention.max_bytes": [0, -1, 1.5, "1", None],
    "retention.max_age": [0, -1.0, 1e10, "1", None],
}
for pool in POOLS:
    WRONG |= {
        f"{pool}.num_tiers": [0, 33, 1.5],
        f"{pool}.num_buffers": [-1],
        f"{pool}.first_size": [0, 2**48 + 1],
        f"{pool}.size_multiple": [1.0, 0.5, 1025.0, "4"],
    }


def nested(name: str, value: Any) -> dict[str, Any]:
    """Return the section in which the field of this dotted name has a value."""
    for key in reversed(name.split(".")):
        value = {key: value}
    section: dict[str, Any] = value
    return section


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a section by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in section.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def test_defaults_are_those_of_the_table() -> None:
    expanded = DefaultFields.parse({"path": "/tmp/mofka"}).expand()
    assert flat(expanded) == {"path": "/tmp/mofka", **TABLE}
    assert DefaultFields.parse(expanded).expand() == expanded


def test_a_retention_is_shown_where_it_was_given() -> None:
    section = {"path": "p", "retention": {"max_bytes": 10**9}}
    expanded = DefaultFields.parse(section).expand()
    assert flat(expanded) == {"path": "p", **TABLE, "retention.max_bytes": 10**9}
    assert DefaultFields.parse(expanded).expand() == expanded


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_value_out_of_bounds_is_refused_with_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        DefaultFields.parse({"path": "p", **nested(name, value)})
    assert raised.value.where == f"config.partition.{name}"


def test_a_path_is_not_taken_for_a_directory_named_tilde() -> None:
    with pytest.raises(ConfigError, match=r"config\.partition\.path: '~/x' is not expanded here"):
        DefaultFields.parse({"path": "~/x"})


def test_the_path_is_required() -> None:
    with pytest.raises(ConfigError, match="path"):
        DefaultFields.parse({})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_chunk_sise", "max_chunk_size"),
        ("synch", "sync"),
        ("producers.data_bufer_pool", "data_buffer_pool"),
        ("consumers.desc_buffer_pool.first_siz", "first_size"),
        ("retension", "retention"),
        ("retention.max_byte", "max_bytes"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_name(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=nearest) as raised:
        DefaultFields.parse({"path": "p", **nested(name, 1)})
    assert raised.value.where == f"config.partition.{name}"


@pytest.mark.parametrize("name", POOLS)
def test_tiers_of_a_pool_grow_geometrically(name: str) -> None:
    producer_or_consumer, kind = name.split(".")
    section = nested(name, {"first_size": 1000, "num_tiers": 3, "size_multiple": 2.5, "num_buffers": 1})
    fields = DefaultFields.parse({"path": "p", **section})
    pool = BufferPool(getattr(getattr(fields, producer_or_consumer), kind).pool())
    assert [pool.acquire(size).size for size in (1, 1001, 2501, 6251)] == [1000, 2500, 6250, 6251]


@pytest.fixture
def files() -> BreakableFiles:
    return BreakableFiles()


def store(tmp_path: Path, files: BreakableFiles, **fields: Any) -> Path:
    """Store and read 4 batches of 10 events with 100 bytes of data each; return the partition's directory."""
    io = GatedIo(files)
    section = {"path": str(tmp_path), **fields}
    partition = DefaultPartition("topic", UUID, DefaultFields.parse(section), io)
    for _ in range(4):
        append(partition, batch_of([(b"{}", b"d" * 100)] * 10))
    for first in range(40):
        read(partition, first, 1, 1000, True)
    partition.close()
    io.close()
    return tmp_path / f"topic-{UUID}"


def test_the_directory_lies_in_the_path_and_is_named_by_topic_and_uuid(
    tmp_path: Path, files: BreakableFiles
) -> None:
    assert (store(tmp_path / "deep" / "er", files) / "chunk-000000.idx").stat().st_size == 40 * 48


def chunks_in(directory: Path) -> int:
    return len([path for path in directory.glob("*.idx") if path.stat().st_size])


def test_a_chunk_ends_at_its_number_of_events(tmp_path: Path, files: BreakableFiles) -> None:
    assert chunks_in(store(tmp_path, files, max_events_per_chunk=20)) == 2


def test_a_chunk_ends_at_its_size(tmp_path: Path, files: BreakableFiles) -> None:
    assert chunks_in(store(tmp_path, files, max_chunk_size=1000)) == 4


@pytest.mark.parametrize(("sync", "least", "most"), [(True, 4, 40), (False, 0, 15)])
def test_sync_means_that_each_batch_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: BreakableFiles, sync: bool, least: int, most: int
) -> None:
    kinds = []
    operation = files.operation
    monkeypatch.setattr(
        files, "operation", lambda kind, *rest: (kinds.append(kind), operation(kind, *rest))[1]
    )
    store(tmp_path, files, sync=sync)
    assert least <= kinds.count("fdatasync") <= most


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("capacity", "least", "most"), [(1, 60, 1000), (64, 1, 30)])
def test_files_are_opened_anew_when_the_cache_is_too_small(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: BreakableFiles,
    capacity: int,
    least: int,
    most: int,
) -> None:
    opened = []
    plain = files.open

    def count(path: str, *, writable: bool) -> Any:
        if not writable:
            opened.append(path)
        return plain(path, writable=writable)

    monkeypatch.setattr(files, "open", count)
    store(tmp_path, files, fd_cache_capacity=capacity)
    assert least <= len(opened) <= most


def test_buffers_that_are_lent_have_the_size_of_the_first_tier(tmp_path: Path, files: BreakableFiles) -> None:
    fields = DefaultFields.parse(
        {"path": str(tmp_path), "producers": {"data_buffer_pool": {"first_size": 12345}}}
    )
    partition = DefaultPartition("topic", UUID, fields, GatedIo(files))
    assert partition.lent_size == 12345
    partition.close()


@pytest.fixture
def engine() -> Any:
    engine = Engine("na+sm")
    yield engine
    engine.finalize()
    engine.run()


def provider_config(engine: Engine, config: dict[str, Any], io: Any = None) -> dict[str, Any]:
    """Return the expanded configuration of a provider made from `config`."""
    provider = MofkaModule().create(engine, "name", 7, config, [], {"io_controller": io})
    expanded = provider.config
    provider.close()
    return expanded


def test_obsolete_fields_are_passed_over_with_one_warning_each(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    section = {"ack_early": False, "write_cache": {}, "bulk_cache": {"x": 1}}
    config = {"topic": "t", "type": "memory", "uuid": UUID, "partition": section}
    assert provider_config(engine, config)["partition"] == {}
    assert sorted(record.getMessage().split()[0] for record in caplog.records) == [
        f"config.partition.{name}" for name in ("ack_early", "bulk_cache", "write_cache")
    ]


def test_a_memory_partition_keeps_the_fields_of_a_default_one_and_says_that_they_have_no_effect(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"topic": "t", "type": "memory", "uuid": UUID, "partition": {"sync": False, "path": "/tmp"}}
    assert provider_config(engine, config) == {**config, "partition": {"path": "/tmp", "sync": False}}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "path, sync have no effect" in record.getMessage()


@pytest.mark.parametrize(
    ("change", "where", "hint"),
    [
        ({"type": "defualt"}, "config.type", "did you mean 'default'"),
        ({"uuid": UUID.upper()}, "config.uuid", "lower-case"),
        ({"uuid": "1234"}, "config.uuid", "36"),
        ({"topic": "../up"}, "config.topic", "'/'"),
        ({"topic": ""}, "config.topic", "name"),
        ({"topics": "t"}, "config.topics", "topic"),
        ({"partition": {"pth": "/"}}, "config.partition.pth", "path"),
    ],
)
def test_a_provider_that_cannot_be_made_says_which_field_is_wrong(
    engine: Engine, change: dict[str, Any], where: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint) as raised:
        provider_config(engine, {"topic": "t", "type": "memory", "uuid": UUID, **change})
    assert raised.value.where == where


def test_the_configuration_of_a_failed_partition_loads_again(
    engine: Engine, tmp_path: Path, files: BreakableFiles
) -> None:
    config = {"topic": "t", "type": "default", "uuid": UUID, "partition": {"path": str(tmp_path)}}
    failed = {**config, "failed": "cannot write"}
    assert "failed" not in provider_config(engine, failed, GatedIo(files))
