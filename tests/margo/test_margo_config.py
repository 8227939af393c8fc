"""The margo section: its expansion against the published examples, every rule's error, and the round trip."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.margo.config import MargoConfig
from mochi.margo.errors import ConfigError

ADDRESS = "na+sm://12345-0"
MERCURY = {
    "address": ADDRESS,
    "auto_sm": False,
    "checksum_level": "none",
    "input_eager_size": 4080,
    "listening": True,
    "log_level": "warning",
    "log_subsys": "hg,na",
    "max_contexts": 0,
    "na_addr_format": "unspec",
    "na_max_expected_size": 0,
    "na_max_unexpected_size": 0,
    "na_no_block": False,
    "na_no_retry": False,
    "na_request_mem_device": False,
    "no_bulk_eager": False,
    "no_loopback": False,
    "output_eager_size": 4080,
    "request_post_incr": 256,
    "request_post_init": 256,
    "stats": False,
    "version": "2.4.1",
}


def pool(name: str) -> dict[str, Any]:
    return {"access": "mpmc", "kind": "fifo_wait", "name": name}


def xstream(name: str, *pools: str) -> dict[str, Any]:
    return {"name": name, "scheduler": {"pools": list(pools), "type": "basic_wait"}}


def expansion(
    pools: list[dict[str, Any]], xstreams: list[dict[str, Any]], progress: str, rpc: str
) -> dict[str, Any]:
    return {
        "argobots": {
            "abt_mem_max_num_stacks": 8,
            "abt_thread_stacksize": 2097152,
            "lazy_stack_alloc": False,
            "pools": pools,
            "profiling_dir": ".",
            "xstreams": xstreams,
        },
        "enable_abt_profiling": False,
        "handle_cache_size": 256,
        "mercury": MERCURY,
        "plumber": {"bucket_policy": "package", "nic_policy": "roundrobin"},
        "progress_pool": progress,
        "progress_spindown_msec": 10,
        "progress_timeout_ub_msec": 100,
        "rpc_pool": rpc,
        "version": "0.24.0",
    }


def expand(section: dict[str, Any] | None) -> dict[str, Any]:
    return MargoConfig.parse(section).expand(ADDRESS)


def test_an_empty_section_has_one_pool_and_one_xstream() -> None:
    primary = xstream("__primary__", "__primary__")
    expected = expansion([pool("__primary__")], [primary], "__primary__", "__primary__")
    assert expand({}) == expected
    assert expand(None) == expected


def test_shortcuts_add_the_progress_pool_before_the_rpc_pool() -> None:
    pools = ["__primary__", "__pool_1__", "__pool_2__"]
    served = ["__primary__", "__pool_1__", *["__pool_2__"] * 4]
    names = ["__primary__", *(f"__xstream_{n}__" for n in range(1, 6))]
    xstreams = [xstream(name, serves) for name, serves in zip(names, served, strict=True)]
    assert expand({"use_progress_thread": True, "rpc_thread_count": 4}) == expansion(
        [pool(name) for name in pools], xstreams, "__pool_1__", "__pool_2__"
    )


def test_rpc_threads_alone_leave_progress_in_the_primary_pool() -> None:
    config = MargoConfig.parse({"rpc_thread_count": 4})
    assert (config.progress_pool, config.rpc_pool) == ("__primary__", "__pool_1__")
    assert [x.name for x in config.xstreams] == ["__primary__", *(f"__xstream_{n}__" for n in range(1, 5))]


def test_the_full_configuration_of_the_user_guide_expands_as_published() -> None:
    basic = {"type": "basic_wait"}
    section = {
        "use_progress_thread": True,
        "rpc_thread_count": 4,
        "argobots": {
            "pools": [
                {"name": "__primary__", "kind": "fifo_wait", "access": "mpmc"},
                {"name": "io_pool", "kind": "fifo_wait", "access": "mpmc"},
            ],
            "xstreams": [
                {"name": "__primary__", "scheduler": basic | {"pools": ["__primary__"]}},
                {"name": "io_es_0", "scheduler": basic | {"pools": ["io_pool"]}},
                {"name": "io_es_1", "scheduler": basic | {"pools": ["io_pool"]}},
            ],
        },
    }
    assert expand(section) == expansion(
        [pool("__primary__"), pool("io_pool"), pool("__pool_2__"), pool("__pool_3__")],
        [
            xstream("__primary__", "__primary__"),
            xstream("io_es_0", "io_pool"),
            xstream("io_es_1", "io_pool"),
            xstream("__xstream_3__", "__pool_2__"),
            *(xstream(f"__xstream_{n}__", "__pool_3__") for n in range(4, 8)),
        ],
        "__pool_2__",
        "__pool_3__",
    )


def test_keys_are_sorted_at_every_level() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)

    section = {"monitoring": {}, "mercury": {"auth_key": "0:0:1"}}
    document = expand(section)
    assert document["monitoring"]["config"]["statistics"]["precision"] == 9
    assert document["mercury"]["auth_key"] == "0:0:1"
    check(document)


def test_checksums_shrink_the_eager_size() -> None:
    mercury = expand({"mercury": {"checksum_level": "rpc_headers"}})["mercury"]
    assert (mercury["input_eager_size"], mercury["output_eager_size"]) == (4076, 4076)


def test_a_negative_rpc_thread_count_means_the_progress_pool() -> None:
    config = MargoConfig.parse({"use_progress_thread": True, "rpc_thread_count": -1})
    assert (config.progress_pool, config.rpc_pool) == ("__pool_1__", "__pool_1__")


def test_pools_can_be_meant_by_index_and_by_alias() -> None:
    section = {
        "argobots": {
            "pools": [{"name": "a"}, {}],
            "xstreams": [{"name": "x", "scheduler": {"pools": [0, "__rpc__", "__progress__"]}}],
        },
        "rpc_pool": 1,
        "progress_pool": "__rpc__",
    }
    config = MargoConfig.parse(section)
    assert [p.name for p in config.pools] == ["a", "__pool_1__", "__primary__"]
    assert (config.progress_pool, config.rpc_pool) == ("__pool_1__", "__pool_1__")
    assert config.xstreams[0].pools == ("a", "__pool_1__", "__pool_1__")
    assert [config.pool_name(ref) for ref in ("__rpc__", "__progress__", "a", 2)] == [
        "__pool_1__",
        "__pool_1__",
        "a",
        "__primary__",
    ]
    assert config.xstream_name(0) == config.xstream_name("x") == "x"


def test_a_pool_that_bears_an_alias_as_its_name_is_meant_first() -> None:
    config = MargoConfig.parse({"argobots": {"pools": [{"name": "__rpc__"}]}})
    assert config.pool_name("__rpc__") == "__rpc__"
    assert config.rpc_pool == "__primary__"


def test_generated_names_avoid_names_that_are_taken() -> None:
    pools = [{"name": "__pool_1__"}, {}, {"name": "__pool_3__"}]
    config = MargoConfig.parse({"argobots": {"pools": pools}, "rpc_thread_count": 1})
    assert [p.name for p in config.pools] == [
        "__pool_1__",
        "__pool_2__",
        "__pool_3__",
        "__primary__",
        "__pool_4__",
    ]


@pytest.mark.parametrize(
    ("section", "where", "words"),
    [
        (5, "margo", ["object", "5"]),
        ({"mercry": {}}, "margo.mercry", ["unknown field", "'mercury'"]),
        ({"xyz": 1}, "margo.xyz", ["unknown field", "argobots", "rpc_pool"]),
        ({"mercury": {"stat": True}}, "margo.mercury.stat", ["unknown field", "'stats'"]),
        ({"mercury": {"checksum_level": "all"}}, "margo.mercury.checksum_level", ["rpc_payload", '"all"']),
        ({"handle_cache_size": -1}, "margo.handle_cache_size", [">= 0", "-1"]),
        ({"rpc_thread_count": "4"}, "margo.rpc_thread_count", ["int", '"4"']),
        ({"use_progress_thread": 1}, "margo.use_progress_thread", ["bool", "1"]),
        ({"plumber": {"nic_policy": "rr"}}, "margo.plumber.nic_policy", ["roundrobin", '"rr"']),
        (
            {"monitoring": {"config": {"time_series": {"time_interval_sec": 0}}}},
            "margo.monitoring.config.time_series.time_interval_sec",
            ["> 0", "found 0"],
        ),
        ({"argobots": {"pools": [{"kind": "fifo_weit"}]}}, "margo.argobots.pools[0].kind", ["fifo_wait"]),
        ({"argobots": {"pools": [{"kind": "external"}]}}, "margo.argobots.pools[0].kind", ["prio_wait"]),
        ({"argobots": {"pools": [{"acess": "x"}]}}, "margo.argobots.pools[0].acess", ["'access'"]),
        ({"argobots": {"pools": [{"name": "a-b"}]}}, "margo.argobots.pools[0].name", ['"a-b"']),
        ({"argobots": {"pools": [{"name": "a"}, {"name": "a"}]}}, "margo.argobots.pools[1].name", ['"a"']),
        ({"argobots": {"xstreams": [{}]}}, "margo.argobots.xstreams[0].scheduler", ["missing"]),
        (
            {"argobots": {"xstreams": [{"scheduler": {"pools": []}}]}},
            "margo.argobots.xstreams[0].scheduler.pools",
            [">= 1", "[]"],
        ),
        (
            {"argobots": {"xstreams": [{"scheduler": {"type": "basic_wait"}}]}},
            "margo.argobots.xstreams[0].scheduler.pools",
            ["missing", "type"],
        ),
        (
            {"argobots": {"xstreams": [{"scheduler": {"pools": ["__primry__"]}}]}},
            "margo.argobots.xstreams[0].scheduler.pools[0]",
            ['"__primry__"', "'__primary__'"],
        ),
        (
            {"argobots": {"xstreams": [{"name": "__primary__", "scheduler": {"pools": [0]}}]}},
            "margo.argobots.pools",
            ["__primary__", "none"],
        ),
        (
            {
                "argobots": {
                    "pools": [{"name": "a"}, {"name": "__primary__"}],
                    "xstreams": [{"name": "__primary__", "scheduler": {"pools": ["a", "__primary__"]}}],
                }
            },
            "margo.argobots.xstreams[0].scheduler.pools[0]",
            ["first pool", "found a"],
        ),
        (
            {
                "argobots": {
                    "pools": [{"name": "a", "access": "spsc"}],
                    "xstreams": [{"name": n, "scheduler": {"pools": ["a"]}} for n in ("x", "y")],
                }
            },
            "margo.argobots.pools[0].access",
            ["spsc allows one xstream", "found x, y"],
        ),
        (
            {"argobots": {"pools": [{"name": "a"}]}, "rpc_pool": "a"},
            "margo.rpc_pool",
            ['no xstream serves the pool "a"', "served: __primary__"],
        ),
        (
            {"argobots": {"pools": [{"name": "a"}]}, "progress_pool": 0},
            "margo.progress_pool",
            ['no xstream serves the pool "a"'],
        ),
        ({"progress_pool": "x"}, "margo.progress_pool", ['"x"', "__primary__"]),
        ({"rpc_pool": 1}, "margo.rpc_pool", ["0 to 0", "found 1"]),
        ({"rpc_pool": -1}, "margo.rpc_pool", ["found -1"]),
        ({"rpc_pool": "__progress__", "progress_pool": "__rpc__"}, "margo.progress_pool", ['"__rpc__"']),
    ],
)
def test_a_bad_section_is_refused_at_the_field_at_fault(section: Any, where: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        MargoConfig.parse(section)
    assert caught.value.where == where
    assert all(word in caught.value.problem for word in words), caught.value.problem
    assert "\n" not in str(caught.value)


def test_obsolete_fields_warn_once_each_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    obsolete = {
        "enable_profiling": True,
        "enable_diagnostics": True,
        "profile_sparkline_timeslice_msec": 1,
    }
    assert MargoConfig.parse(obsolete) == MargoConfig.parse({})
    assert len(caplog.records) == 3
    assert all(name in text for name, text in zip(obsolete, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("section", "warning"),
    [
        ({"progress_pool": "__primary__", "use_progress_thread": True}, "use_progress_thread"),
        ({"rpc_pool": "__primary__", "rpc_thread_count": 2}, "rpc_thread_count"),
        ({"argobots": {"pools": [{"name": "a"}]}}, "no xstream serves it"),
        ({"monitoring": {}}, "no statistics"),
        (
            {
                "argobots": {
                    "pools": [{"name": "__primary__"}, {"name": "a"}],
                    "xstreams": [
                        {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}},
                        {"scheduler": {"pools": ["a", "__primary__"]}},
                    ],
                }
            },
            "shares an xstream with the progress pool",
        ),
    ],
)
def test_odd_sections_are_accepted_with_a_warning(
    section: dict[str, Any], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = MargoConfig.parse(section)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert warning in caplog.text
    assert config.progress_pool == config.rpc_pool == "__primary__"


def test_a_pool_that_is_never_first_warns(caplog: pytest.LogCaptureFixture) -> None:
    pools = [{"name": "a"}, {"name": "b"}]
    MargoConfig.parse({"argobots": {"pools": pools, "xstreams": [{"scheduler": {"pools": ["a", "b"]}}]}})
    assert caplog.messages == ["pool b: no xstream serves it first"]


counts = st.integers(0, 1000)


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(["a", "b", "__primary__", "__pool_1__", "__rpc__"]), unique=True))
    refs = st.sampled_from([*names, "__primary__", "__rpc__"])
    scheduler = st.fixed_dictionaries(
        {"pools": st.lists(refs, min_size=1, max_size=3)},
        optional={"type": st.sampled_from(["prio", "basic"])},
    )
    stream = st.fixed_dictionaries(
        {"scheduler": scheduler},
        optional={"cpubind": st.integers(-1, 7), "affinity": st.lists(st.integers(0, 7))},
    )
    pools = [{"name": name, "kind": draw(st.sampled_from(["fifo", "prio_wait"]))} for name in names]
    options = {
        "rpc_pool": refs.filter(lambda name: name != "__rpc__"),
        "rpc_thread_count": st.integers(-1, 3),
        "use_progress_thread": st.booleans(),
        "handle_cache_size": counts,
        "progress_timeout_ub_msec": counts,
        "mercury": st.fixed_dictionaries(
            {}, optional={"auth_key": st.text(max_size=3), "stats": st.booleans(), "max_contexts": counts}
        ),
        "monitoring": st.just({"config": {"statistics": {"precision": 3}}}),
    }
    section = draw(st.fixed_dictionaries({}, optional=options))
    serving = {"scheduler": {"pools": [*names, "__primary__"]}}
    return section | {
        "argobots": {"pools": pools, "xstreams": [serving, *draw(st.lists(stream, max_size=3))]}
    }


@given(sections())
def test_an_expansion_parses_to_an_equal_configuration(section: dict[str, Any]) -> None:
    config = MargoConfig.parse(section)
    document = config.expand(ADDRESS)
    again = MargoConfig.parse(document)
    assert again == config
    assert again.expand(ADDRESS) == document
