"""The configuration of a server, as pure data: what is accepted, and the one line that says what is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock.config import parse
from mochi.bedrock.sources import from_json
from mochi.margo.config import MargoConfig
from mochi.margo.errors import ConfigError


def provider(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "yokan"} | fields


def ids(*requested: int | None) -> list[int]:
    providers = [
        provider(f"p{index}", **({} if wanted is None else {"provider_id": wanted}))
        for index, wanted in enumerate(requested)
    ]
    return [spec.provider_id for spec in parse({"providers": providers}).providers]


def test_an_empty_configuration_has_all_defaults() -> None:
    config = parse({})
    assert config.margo == MargoConfig.parse({})
    assert (config.address, config.pool, config.provider_id) == (None, "__primary__", 0)
    assert config.dependency_resolution_timeout is None
    assert (config.libraries, config.providers) == ((), ())


def test_null_sections_and_an_empty_bedrock_section_are_defaults() -> None:
    empty = {"margo": None, "libraries": None, "providers": None}
    assert parse(empty | {"bedrock": {}}) == parse(empty | {"bedrock": None}) == parse({})


def test_one_engine_may_be_given_in_an_array() -> None:
    assert parse({"margo": [{"rpc_thread_count": 2}]}) == parse({"margo": {"rpc_thread_count": 2}})


def test_the_pool_of_bedrock_is_the_rpc_pool_unless_named() -> None:
    margo = {"use_progress_thread": True, "rpc_thread_count": 4}
    assert parse({"margo": margo}).pool == "__pool_2__"
    assert parse({"margo": margo, "bedrock": {"pool": "__progress__"}}).pool == "__pool_1__"
    assert parse({"margo": margo, "bedrock": {"pool": 0}}).pool == "__primary__"


def test_libraries_are_kept_in_order_and_once() -> None:
    assert parse({"libraries": ["b", "a", "b"]}).libraries == ("b", "a")
    assert parse({"libraries": {"x": "b", "y": "a"}}).libraries == ("b", "a")


def test_dotted_keys_nest_and_merge_outside_arrays_only() -> None:
    config = parse(
        {
            "margo.mercury.address": "na+sm",
            "margo": {"argobots.abt_thread_stacksize": 1},
            "margo.rpc_thread_count": 1,
            "providers": [provider(config={"a.b": 1})],
        }
    )
    assert config.address == "na+sm"
    assert config.margo.argobots.abt_thread_stacksize == 1
    assert config.margo.rpc_pool == "__pool_1__"
    assert config.providers[0].config == {"a.b": 1}


def test_automatic_ids_are_the_lowest_that_nobody_asks_for() -> None:
    assert ids(None, None) == [1, 2]
    assert ids(None, 1, 65535, 3, None) == [2, 1, 4, 3, 5]


def test_the_id_of_bedrock_is_not_given_away() -> None:
    config = parse({"bedrock": {"provider_id": 1}, "providers": [provider("a"), provider("b")]})
    assert [spec.provider_id for spec in config.providers] == [0, 2]


@given(st.lists(st.none() | st.integers(1, 12), max_size=12))
def test_ids_are_unique_and_explicit_ones_are_kept(requested: list[int | None]) -> None:
    explicit = [wanted for wanted in requested if wanted is not None]
    if len(explicit) != len(set(explicit)):
        with pytest.raises(ConfigError, match="ids are unique"):
            ids(*requested)
        return
    given_out = ids(*requested)
    assert len(set(given_out)) == len(given_out)
    assert 0 not in given_out
    assert all(want in (None, got) for want, got in zip(requested, given_out, strict=True))
    assert max(given_out, default=0) <= max([len(requested), *explicit])


@pytest.mark.parametrize(
    ("config", "where", "words"),
    [
        (None, "configuration", ["an object", "null"]),
        ([5], "configuration", ["an object", "5"]),
        ({"provider": []}, "provider", ["unknown field", "'providers'"]),
        ({"margo": {"argobots": {"poosl": []}}}, "margo.argobots.poosl", ["'pools'"]),
        ({"margo.mercury.adress": 1}, "margo.mercury.adress", ["unknown field"]),
        ({"margo": {"mercury": {"address": 5}}}, "margo.mercury.address", ["str", "5"]),
        ({"margo": []}, "margo", ["an engine", "empty"]),
        ({"margo": [{}, {"zz": 1}], "providers": [provider(engine=2)]}, "providers[0].engine", ["0", "2"]),
        ({"ssg": [{"bootstrap": "init"}]}, "ssg[0].name", ["missing"]),
        ({"ssg": {"name": "g", "bootstrap": "pmix"}}, "ssg[0].bootstrap", ['"pmix" is not', '"mpi"']),
        ({"ssg": {"name": "g", "bootstrap": "init", "grp_file": ""}}, "ssg[0].grp_file", ["'group_file'"]),
        ({"a": 1, "a.b": 2}, "a", ["given twice"]),
        ({"bedrock": {"pol": "x"}}, "bedrock.pol", ["'pool'"]),
        ({"bedrock": {"pool": "__primry__"}}, "bedrock.pool", ['"__primry__"', "'__primary__'"]),
        ({"bedrock": {"provider_id": 65535}}, "bedrock.provider_id", ["65535"]),
        ({"bedrock": []}, "bedrock", ["object", "[]"]),
        ({"libraries": "lib"}, "libraries", ["array", '"lib"']),
        ({"libraries": [1]}, "libraries[0]", ["str", "1"]),
        ({"providers": {}}, "providers", ["array", "{}"]),
        ({"providers": [5]}, "providers[0]", ["object", "5"]),
        ({"providers": [{"type": "yokan"}]}, "providers[0].name", ["missing", "type"]),
        ({"providers": [{"name": "a"}]}, "providers[0].type", ["missing"]),
        ({"providers": [provider("a-b")]}, "providers[0].name", ['"a-b"']),
        ({"providers": [provider("")]}, "providers[0].name", ['""']),
        ({"providers": [provider("a\n")]}, "providers[0].name", ["a\\n"]),
        ({"providers": [provider(), provider()]}, "providers[1].name", ['"a"']),
        ({"providers": [provider(provider_id=-1)]}, "providers[0].provider_id", [">= 0", "-1"]),
        ({"providers": [provider(provider_id=65536)]}, "providers[0].provider_id", ["<= 65535", "65536"]),
        ({"providers": [provider(provider_id="1")]}, "providers[0].provider_id", ["int", '"1"']),
        ({"providers": [provider(provider_id=0)]}, "providers[0].provider_id", ["bedrock itself"]),
        (
            {"providers": [provider(provider_id=1), provider("b", provider_id=1)]},
            "providers[1].provider_id",
            ["1 is the id of a"],
        ),
        ({"providers": [provider(config=None)]}, "providers[0].config", ["object", "null"]),
        ({"providers": [provider(tags="x")]}, "providers[0].tags", ["array", '"x"']),
        ({"providers": [provider(tags=[1])]}, "providers[0].tags[0]", ["str", "1"]),
        ({"providers": [provider(dependencies=[])]}, "providers[0].dependencies", ["object", "[]"]),
        (
            {"providers": [provider(dependencies={"pool": True})]},
            "providers[0].dependencies[...]",
            ["array", "str"],
        ),
        ({"providers": [provider(engine=1)]}, "providers[0].engine", ["one of 0", "1"]),
        ({"providers": [provider(dependecies={})]}, "providers[0].dependecies", ["'dependencies'"]),
        (
            {"providers": [provider(), provider("b", config={"x": {"__if__": 1}})]},
            "",
            ["boolean", "Jx9", "1"],
        ),
    ],
)
def test_a_bad_configuration_is_refused_at_the_field_at_fault(
    config: Any, where: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(config)
    assert caught.value.where == (where or "providers[1].config.x.__if__")
    assert all(word in caught.value.problem for word in words), caught.value.problem
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_nested_too_deeply_is_refused() -> None:
    document: dict[str, Any] = {}
    for _ in range(5000):
        document = {"a": document}
    with pytest.raises(ConfigError, match="configuration: nested too deeply"):
        parse({"margo": document})


def test_obsolete_sections_and_fields_warn_once_each(caplog: pytest.LogCaptureFixture) -> None:
    obsolete: dict[str, Any] = {name: [{}] for name in ("abt_io", "clients", "mona")}
    config = parse(obsolete | {"providers": [provider(pool="x")]})
    assert config == parse({"providers": [provider()]})
    assert [message.partition(":")[0] for message in caplog.messages] == [*obsolete, "providers[0].pool"]
    caplog.clear()
    empty: dict[str, Any] = {name: [] for name in ("ssg", *obsolete)}
    assert parse(empty | {"libraries": {}}) == parse({})
    assert caplog.messages == []


def test_what_nobody_knows_warns_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = parse({"_remark": "of mine", "zzz": [], "providers": [provider(owner="me")]})
    assert config == parse({"providers": [provider()]})
    assert caplog.messages == [
        f"{name}: unknown, ignored" for name in ("_remark", "zzz", "providers[0].owner")
    ]


@pytest.mark.parametrize(
    ("swim", "group"),
    [
        ({"disabled": True}, {"type": "static"}),
        (
            {"period_length_ms": 200, "suspect_timeout_periods": 3, "subgroup_member_count": 2},
            {
                "type": "swim",
                "config": {"protocol_period_ms": 200, "suspicion_timeout_ms": 600, "ping_req_members": 2},
            },
        ),
        (
            {"period_length_ms": 0, "suspect_timeout_periods": 4, "subgroup_member_count": -1},
            {"type": "swim", "config": {"suspicion_timeout_ms": 4000}},
        ),
    ],
)
def test_a_group_of_ssg_watches_its_members_as_it_did(swim: dict[str, Any], group: dict[str, Any]) -> None:
    config = parse({"ssg": {"name": "group", "bootstrap": "init", "swim": swim}})
    assert config.providers[0].config["group"] == group


def test_a_group_of_ssg_is_one_of_flock(caplog: pytest.LogCaptureFixture) -> None:
    group = {"name": "group", "bootstrap": "mpi", "group_file": "mofka.ssg", "pool": "__primary__"}
    config = parse({"ssg": [group, {"name": "other", "bootstrap": "init"}], "providers": [provider()]})
    flock = {
        "name": "group",
        "type": "flock",
        "config": {"bootstrap": "mpi", "group": {"type": "swim"}, "file": "mofka.ssg"},
        "dependencies": {"pool": "__primary__"},
    }
    other = {"name": "other", "type": "flock", "config": {"bootstrap": "self", "group": {"type": "swim"}}}
    libraries = ["libflock-bedrock-module.so"]
    assert config == parse({"libraries": libraries, "providers": [provider(), flock, other]})
    warnings = [message.partition(": ") for message in caplog.messages]
    assert [where for where, _, _ in warnings] == ["ssg[0]", "ssg[1]"]
    assert [json.loads(text.partition("provider ")[2]) for _, _, text in warnings] == [flock, other]


def test_of_several_engines_the_first_one_has_all_providers(caplog: pytest.LogCaptureFixture) -> None:
    engines = [{"rpc_thread_count": 2}, {"mercury": {"address": "na+sm"}}]
    config = parse({"margo": engines, "providers": [provider(engine=1)]})
    assert config == parse({"margo": engines[0], "providers": [provider()]})
    assert caplog.messages == ["margo: 2 engines, of which the first one is made, and has all providers"]


names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
specs = st.fixed_dictionaries(
    {"type": names},
    optional={
        "config": st.dictionaries(names, st.integers()),
        "tags": st.lists(names, max_size=2),
        "dependencies": st.dictionaries(names, names | st.integers(0, 9) | st.lists(names), max_size=2),
    },
)


@given(st.dictionaries(names, specs, max_size=4), st.lists(names, max_size=3), st.integers(0, 2))
def test_text_and_decoded_json_give_the_same_configuration(
    providers: dict[str, Any], libraries: list[str], threads: int
) -> None:
    value = {
        "margo": {"rpc_thread_count": threads},
        "libraries": libraries,
        "providers": [{"name": name} | spec for name, spec in providers.items()],
    }
    config = parse(from_json(json.dumps(value).encode(), "text"))
    assert config == parse(value)
    assert [spec.name for spec in config.providers] == list(providers)
