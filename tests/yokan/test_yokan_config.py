"""Configurations of a provider: what is echoed, what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.errors import ConfigError, MargoError
from mochi.yokan.config import open_database

EXPANDED_MAP: dict[str, Any] = {
    "buffer_cache": {"type": "lru"},
    "database": {
        "config": {
            "allocators": {
                "key_allocator": "default",
                "key_allocator_config": {},
                "node_allocator": "default",
                "node_allocator_config": {},
                "value_allocator": "default",
                "value_allocator_config": {},
            },
            "comparator": "default",
            "use_lock": True,
        },
        "type": "map",
    },
}

FALSE = """error_if_exists paranoid_checks track_and_verify_wals_in_manifest use_fsync allow_mmap_reads
    allow_mmap_writes use_direct_reads use_direct_io_for_flush_and_compaction persist_stats_to_disk
    disable_auto_compactions"""
TRUE = """create_if_missing create_missing_column_families allow_fallocate is_fd_close_on_exec
    advise_random_on_open"""
ZERO = """max_total_wal_size max_log_file_size log_file_time_to_roll recycle_log_file_num WAL_ttl_seconds
    WAL_size_limit_MB db_write_buffer_size compaction_readahead_size snap_refresh_nanos"""
EXPANDED_ROCKSDB: dict[str, Any] = {
    **dict.fromkeys(FALSE.split(), False),
    **dict.fromkeys(TRUE.split(), True),
    **dict.fromkeys(ZERO.split(), 0),
    "max_background_compactions": -1,
    "max_background_flushes": -1,
    "db_log_dir": "",
    "wal_dir": "",
    "write_buffer_size": 67108864,
    "max_open_files": 1000,
    "max_file_opening_threads": 16,
    "delete_obsolete_files_period_micros": 21600000000,
    "max_background_jobs": 2,
    "max_subcompactions": 1,
    "keep_log_file_num": 1000,
    "max_manifest_file_size": 1073741824,
    "manifest_preallocation_size": 4194304,
    "stats_dump_period_sec": 600,
    "stats_persist_period_sec": 600,
    "stats_history_buffer_size": 1048576,
    "level0_file_num_compaction_trigger": 4,
    "max_bytes_for_level_base": 268435456,
    "read_options": {
        "readahead_size": 0,
        "max_skippable_internal_keys": 0,
        "value_size_soft_limit": 0,
        "fill_cache": True,
        "verify_checksums": False,
        "tailing": False,
        "total_order_seek": False,
        "auto_prefix_mode": False,
        "prefix_same_as_start": False,
        "pin_data": False,
        "background_purge_on_iterator_cleanup": False,
        "ignore_range_deletions": False,
    },
    "write_options": {
        "sync": False,
        "disableWAL": False,
        "ignore_missing_column_families": False,
        "no_slowdown": False,
        "low_pri": False,
        "memtable_insert_hint_per_batch": False,
        "use_write_batch": False,
    },
}


def expand(config: dict[str, Any]) -> dict[str, Any]:
    database, expanded = open_database(config)
    database.close()
    return expanded


@pytest.mark.parametrize(
    "config",
    [
        {"database": {"type": "map"}},
        {"database": {"type": "map", "config": {}}, "buffer_cache": {}},
        {"database": {"type": "map", "config": {"allocators": {"key_allocator": "default"}}}},
    ],
)
def test_a_map_is_expanded_as_the_original_expands_it(config: dict[str, Any]) -> None:
    assert expand(config) == EXPANDED_MAP


def test_a_rocksdb_is_expanded_with_every_option_of_the_original(tmp_path: Path) -> None:
    path = str(tmp_path / "master")
    expanded = expand({"database": {"type": "rocksdb", "config": {"path": path, "create_if_missing": True}}})
    assert expanded["database"] == {"type": "rocksdb", "config": {"path": path, **EXPANDED_ROCKSDB}}


@pytest.mark.parametrize(
    ("kind", "has_values", "fields"),
    [
        ("unordered_map", True, {"initial_bucket_count": 23}),
        ("set", False, {"comparator": "default"}),
        ("unordered_set", False, {"initial_bucket_count": 23}),
    ],
)
def test_what_is_kept_in_memory_is_expanded_like_a_map(
    kind: str, has_values: bool, fields: dict[str, Any]
) -> None:
    allocators = EXPANDED_MAP["database"]["config"]["allocators"]
    kept = {name: value for name, value in allocators.items() if has_values or not name.startswith("value")}
    expanded = expand({"database": {"type": kind}})
    assert expanded["database"] == {"type": kind, "config": {"allocators": kept, "use_lock": True, **fields}}
    assert expand(expanded) == expanded


def test_an_lmdb_is_expanded_as_the_original_expands_it(tmp_path: Path) -> None:
    path = str(tmp_path / "master")
    expanded = expand({"database": {"type": "lmdb", "config": {"path": path}}})
    fields = {"path": path, "create_if_missing": True, "no_lock": False}
    assert expanded["database"] == {"type": "lmdb", "config": fields}


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    monkeypatch.delitem(sys.modules, "mochi.yokan.lmdb", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "mofka\[lmdb\]"; or use "rocksdb"$'):
        open_database({"database": {"type": "lmdb", "config": {"path": str(tmp_path / "x")}}})
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_set_is_echoed_and_the_expansion_expands_to_itself(tmp_path: Path) -> None:
    rocksdb = {
        "path": str(tmp_path / "master"),
        "write_options": {"sync": True},
        "db_paths": [{"path": str(tmp_path / "tables"), "target_size": 1000}],
        "info_log_level": "warn",
        "disable_doc_mixin_lock": True,
    }
    for kind, config in (("rocksdb", rocksdb), ("map", {"use_lock": False})):
        expanded = expand(
            {"database": {"type": kind, "config": config}, "buffer_cache": {"type": "keep_all"}}
        )
        echoed = expanded["database"]["config"]
        assert expanded["buffer_cache"] == {"type": "keep_all"}
        assert {field: echoed[field] for field in config if field not in ("write_options", "db_paths")} == {
            field: value for field, value in config.items() if field not in ("write_options", "db_paths")
        }
        assert expand(expanded) == expanded
        if kind == "rocksdb":
            assert echoed["write_options"]["sync"] is True


@pytest.mark.parametrize(
    ("config", "where", "problem"),
    [
        ({}, "config.database", "required field is missing"),
        ({"databse": {"type": "map"}}, "config.databse", "did you mean 'database'"),
        ({"database": {"type": "map"}, "buffer_cache": {"type": "lruu"}}, "config.buffer_cache.type", "lru"),
        ({"database": {"typ": "map"}}, "config.database.typ", "did you mean 'type'"),
        ({"database": {"type": "map", "config": []}}, "config.database.config", "expected object"),
        (
            {"database": {"type": "map", "config": {"use_locks": True}}},
            "config.database.config.use_locks",
            "did you mean 'use_lock'",
        ),
        (
            {"database": {"type": "map", "config": {"comparator": "libmine.so:compare"}}},
            "config.database.config.comparator",
            "default",
        ),
        (
            {"database": {"type": "leveldb", "config": {"path": "x"}}},
            "config.database.type",
            '"leveldb" is not built in; use "rocksdb" or "lmdb", with a new path',
        ),
        ({"database": {"type": "array"}}, "config.database.type", '"array" is not built in; use "map"'),
        ({"database": {"type": "libmine.so:mine"}}, "config.database.type", "is of a shared library"),
        ({"database": {"type": "redis"}}, "config.database.type", "Built in are map, unordered_map, set,"),
        (
            {"database": {"type": "lmdb", "config": {"path": "x", "no_locks": True}}},
            "config.database.config.no_locks",
            "did you mean 'no_lock'",
        ),
        ({"database": {"type": "rocksd"}}, "config.database.type", "did you mean 'rocksdb'?"),
    ],
)
def test_a_bad_configuration_is_refused_where_it_is_bad(
    config: dict[str, Any], where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(config)
    assert caught.value.where == where
    assert problem in caught.value.problem
    assert isinstance(caught.value, MargoError)
    assert "\n" not in str(caught.value)
