"""Configuration of a flock provider: the seed's forms, the expanded form, errors with the field's path."""

import logging
from typing import Any

import pytest

from mochi.flock.config import parse
from mochi.flock.errors import ConfigError
from mochi.margo.errors import ConfigError as MargoConfigError

SEED: dict[str, Any] = {"bootstrap": "self", "file": "mofka.json", "group": {"type": "static"}}
EXPANDED: dict[str, Any] = {
    "bootstrap": "self",
    "file": "mofka.json",
    "gateway": {"config": {}, "type": "default"},
    "group": {"config": {}, "type": "static"},
}


def swim(**fields: Any) -> dict[str, Any]:
    return {"type": "swim", "config": fields}


def central(**fields: Any) -> dict[str, Any]:
    return {"type": "centralized", "config": fields}


@pytest.mark.parametrize("group", [swim(), central()])
def test_a_group_that_watches_its_members_shows_how_and_loads_again(group: dict[str, Any]) -> None:
    config = parse({**SEED, "group": group})
    assert parse(config.expand()) == config
    assert parse({**config.expand(), "state": {"members": {"1": "dead"}}}).group == config.group


def test_durations_are_integers_or_floats_and_an_interval_may_be_a_range() -> None:
    assert parse(
        {**SEED, "group": central(ping_timeout_ms=500, ping_interval_ms=[100, 200.5])}
    ).group.config == {
        "ping_timeout_ms": 500.0,
        "ping_interval_ms": [100.0, 200.5],
        "ping_max_num_timeouts": 3,
    }
    assert parse({**SEED, "group": central(ping_interval_ms=100)}).group.config["ping_interval_ms"] == 100.0
    assert parse({**SEED, "group": swim(protocol_period_ms=100)}).group.config == {
        "protocol_period_ms": 100.0,
        "ping_timeout_ms": 200.0,
        "ping_req_timeout_ms": 500.0,
        "ping_req_members": 3,
        "suspicion_timeout_ms": 5000.0,
    }


def test_the_expanded_form_is_the_original_s_with_bootstrap() -> None:
    assert parse(SEED).expand() == EXPANDED


def test_an_expanded_configuration_loads_again() -> None:
    assert parse(EXPANDED) == parse(SEED)


def test_an_array_of_bootstraps_is_echoed_as_given() -> None:
    config = parse({**SEED, "bootstrap": ["join", "mpi"]})
    assert config.expand()["bootstrap"] == ["join", "mpi"]


def test_a_file_in_the_home_is_shown_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse({**EXPANDED, "file": "~/mofka.json"}).file == "/home/me/mofka.json"
    with pytest.raises(MargoConfigError, match=r"config\.file: .*home of no user"):
        parse({**EXPANDED, "file": "~nobody-here/mofka.json"})


def test_without_a_file_none_is_shown() -> None:
    assert "file" not in parse({"bootstrap": "self", "group": {"type": "static"}}).expand()


def test_ranks_without_mpi_are_echoed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = parse({**SEED, "mpi_ranks": [0, 1]})
    assert config.expand()["mpi_ranks"] == [0, 1]
    assert "mpi_ranks has no effect" in caplog.text
    caplog.clear()
    parse({**SEED, "bootstrap": ["join", "mpi"], "mpi_ranks": [0, 1]})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "where", "problem"),
    [
        ({"bootstap": "self"}, "config.bootstap", "did you mean 'bootstrap'"),
        ({"members": []}, "config.members", "known are 'bootstrap'"),
        ({"bootstrap": 1}, "config.bootstrap", "got `int`"),
        ({"bootstrap": []}, "config.bootstrap", "empty array"),
        ({"bootstrap": "slef"}, "config.bootstrap", "did you mean 'self'"),
        ({"bootstrap": "pmix"}, "config.bootstrap", "'self'"),
        ({"bootstrap": ["join", "mip"]}, "config.bootstrap", "did you mean 'mpi'"),
        ({"view": {"members": []}}, "config.view.members", "length >= 1"),
        ({"file": 3}, "config.file", "got `int`"),
        ({"mpi_ranks": ["a"]}, "config.mpi_ranks[0]", "got `str`"),
        ({"group": "static"}, "config.group", "got `str`"),
        ({"group": {}}, "config.group", "`type`"),
        ({"group": {"type": "statik"}}, "config.group.type", "did you mean 'static'"),
        ({"group": {"type": "swam"}}, "config.group.type", "did you mean 'swim'"),
        ({"group": swim(ping_timeout_ms="200")}, "config.group.config.ping_timeout_ms", "got `str`"),
        ({"group": swim(ping_timeout_ms=0)}, "config.group.config.ping_timeout_ms", "> 0"),
        ({"group": swim(ping_req_members=-1)}, "config.group.config.ping_req_members", ">= 0"),
        ({"group": swim(ping_interval_ms=3)}, "config.group.config.ping_interval_ms", "has no such field"),
        ({"group": swim(ping_time_ms=3)}, "config.group.config.ping_time_ms", "mean 'ping_timeout_ms'"),
        ({"group": central(ping_interval_ms=[3])}, "config.group.config.ping_interval_ms", "length >= 2"),
        ({"group": central(ping_interval_ms=[3, 2])}, "config.group.config", "the smaller one comes first"),
        ({"group": central(ping_max_num_timeouts=0)}, "config.group.config.ping_max_num_timeouts", ">= 1"),
        ({"group": central(primary_provider_id=65536)}, "config.group.config.primary_provider_id", "65535"),
        ({"group": {"type": "static", "conf": {}}}, "config.group.conf", "did you mean 'config'"),
        ({"group": {"type": "static", "config": {"ping": 1}}}, "config.group.config.ping", "no such field"),
        ({"gateway": {"type": "pinggy"}}, "config.gateway.type", "not built in"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    change: dict[str, Any], where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({**SEED, **change})
    assert caught.value.where == where
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["bootstrap", "group"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"`{field}`"):
        parse({name: value for name, value in SEED.items() if name != field})
