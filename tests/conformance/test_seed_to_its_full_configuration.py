"""The user's document, step by step, from several processes to its full configuration: verbatim but for paths.

The steps before these, on one process, are in `test_seed_first_configuration`.
"""

import json
import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

from mochi.mofka.testing import BIN, Service
from tests.conformance.seed import (
    COMMANDS,
    FIRST,
    SEED,
    TOPIC_CONFIG,
    check_partition,
    create,
    partition_of,
    query,
    query_all,
    snippet,
    streams,
)
from tests.system.real_service import Machine

FULL = (SEED / "full-configuration.json").read_text()
DOCS = Path(__file__).parents[2] / "docs"

LAUNCHES = {
    "mpirun": f"{BIN / 'mpirun'} -np 2 {BIN / 'bedrock'}",
    "bedrock -n": f"{BIN / 'bedrock'} -n 2",
}


def changed(text: str, pattern: str, replacement: str) -> str:
    """Make a change that the document asks for, in exactly one place."""
    text, count = re.subn(pattern, lambda _: replacement, text)
    assert count == 1
    return text


@pytest.fixture
def persistent(mofka: Path) -> str:
    """The document's configuration once its master is persistent."""
    database = snippet("rocksdb-database").replace("/tmp/mofka", str(mofka))
    return changed(FIRST, r'"database" : \{\s*"type": "map"\s*\}', database)


@pytest.fixture
def distributed(persistent: str) -> str:
    """The same once it is for several processes."""
    text = changed(persistent, '"bootstrap": "self"', '"bootstrap": "mpi"')
    head = r'"name": "master_database",\s*"provider_id": 2,\s*"type": "yokan",'
    return changed(text, head, snippet("first-rank-only"))


def launch(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, launcher: str, text: str, protocol: str = "na+sm"
) -> Service:
    """Start two servers, as the document starts one."""
    if launcher == "mpirun" and not (BIN / "mpirun").exists():
        pytest.skip("there is no mpirun beside this Python")
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    command = snippet("start").replace("bedrock", LAUNCHES[launcher]).replace("na+sm", protocol)
    return machine.service(2, text, *command.split())


def test_the_document_s_spack_variants_are_in_the_pip_line_of_the_docs() -> None:
    needs = requires("mofka") or []
    assert any(need.startswith("rocksdict") and "extra" not in need for need in needs)  # mochi-yokan+rocksdb
    extras = set(re.findall(r"extra == ['\"](\w+)['\"]", "\n".join(needs)))
    lines = re.findall(r"pip install '?mofka(?:\[([\w,]+)\])?", (DOCS / "deployment.md").read_text())
    assert lines
    assert {extra for line in lines for extra in line.split(",") if extra} <= extras
    assert "mpi" in extras


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_several_processes_form_one_service_with_one_master(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, distributed: str, mofka: Path, launcher: str
) -> None:
    service = launch(machine, monkeypatch, launcher, distributed)
    assert sorted(member["address"] for member in service.members()) == sorted(service.addresses)
    assert (mofka / "master" / "CURRENT").exists()
    names = [
        [provider["name"] for provider in shown["providers"]]
        for shown in query_all(machine, service).values()
    ]
    assert sorted(names) == [
        ["group_manager", "io_controller"],
        ["group_manager", "master", "io_controller"],
    ]
    driver = machine.driver(service)
    driver.create_topic("spread", options={"num_partitions": 4})
    members = [member["address"] for member in json.loads(service.group_file.read_text())["members"]]
    assert [p["address"] for p in driver.open_topic("spread").partitions] == members * 2


@pytest.mark.parametrize("command", COMMANDS)
def test_topics_are_made_by_the_document_s_commands_on_several_servers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, distributed: str, mofka: Path, command: str
) -> None:
    service = launch(machine, monkeypatch, "bedrock -n", distributed)
    (service.directory / "topic-config.json").write_text(TOPIC_CONFIG)
    elsewhere = mofka / "partitions"
    elsewhere.mkdir()
    create(machine, service, command, elsewhere)
    streams(machine.driver(service))
    shown = query_all(machine, service, "tcp")
    check_partition(partition_of(*shown.values()), command, elsewhere)


def with_margo(text: str, section: str) -> str:
    return changed(text, r'"providers": \[', f'{section},\n"providers": [')


def argobots(shown: dict[str, Any]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the names of the pools, and the pools of each xstream."""
    section = shown["margo"]["argobots"]
    return (
        [pool["name"] for pool in section["pools"]],
        {xstream["name"]: xstream["scheduler"]["pools"] for xstream in section["xstreams"]},
    )


def test_margo_makes_pools_and_xstreams_for_progress_and_rpcs(
    machine: Machine, persistent: str, mofka: Path
) -> None:
    _, *arguments = snippet("start").split()
    server = machine.bedrock(with_margo(persistent, snippet("margo-shortcuts")), *arguments)
    create(machine, server, "default-short", mofka)
    streams(machine.driver(server))
    shown = query(machine, server)
    pools, xstreams = argobots(shown)
    assert pools == ["__primary__", "__pool_1__", "__pool_2__"]
    assert list(xstreams.values()) == [["__primary__"], ["__pool_1__"], *[["__pool_2__"]] * 4]
    assert (shown["margo"]["progress_pool"], shown["margo"]["rpc_pool"]) == ("__pool_1__", "__pool_2__")


def test_xstreams_are_dedicated_to_io_and_a_partition_chooses_its_controller(
    machine: Machine, persistent: str, mofka: Path
) -> None:
    section = snippet("margo-shortcuts").rstrip("}\n") + ",\n" + snippet("io-pools") + "\n}"
    text = with_margo(persistent, section)
    first = r'\{\s*"name" : "io_controller",\s*"type" : "abt_io",\s*"provider_id" : 3,\s*"config" : \{\},'
    text = changed(
        text,
        first + r'\s*"dependencies": \{\s*"pool": "__primary__"\s*\}\s*\}',
        snippet("io-controller") + ",\n" + snippet("io-uring-controller"),
    )
    _, *arguments = snippet("start").split()
    server = machine.bedrock(text, *arguments)
    create(machine, server, "default-short", mofka)
    create(machine, server, "io-uring-topic", mofka)
    driver = machine.driver(server)
    streams(driver)
    streams(driver, "fast_topic")
    shown = query(machine, server)
    controllers = {
        provider["config"]["topic"]: provider["dependencies"]["io_controller"]
        for provider in shown["providers"]
        if provider["type"] == "mofka"
    }
    assert controllers == {"my_topic": "io_controller", "fast_topic": "io_uring_controller"}
    pools, xstreams = argobots(shown)
    assert pools[:2] == ["__primary__", "io_pool"]
    assert (xstreams["io_es_0"], xstreams["io_es_1"]) == (["io_pool"], ["io_pool"])


@pytest.mark.parametrize(("launcher", "protocol"), [("mpirun", "na+sm"), ("bedrock -n", "tcp://127.0.0.1")])
def test_the_full_configuration_is_deployed_as_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mofka: Path, launcher: str, protocol: str
) -> None:
    service = launch(machine, monkeypatch, launcher, FULL.replace("/tmp/mofka", str(mofka)), protocol)
    answer = service.run(snippet("query"))
    assert answer.returncode == 0, answer.stderr
    by_address = json.loads(answer.stdout)
    first, second = (by_address[member["address"]] for member in service.members())
    assert [provider["name"] for provider in first["providers"]] == [
        provider["name"] for provider in json.loads(FULL)["providers"]
    ]
    assert "master" not in [provider["name"] for provider in second["providers"]]
    for shown in (first, second):
        assert argobots(shown) == (
            ["__primary__", "io_pool", "__pool_2__", "__pool_3__"],
            {
                "__primary__": ["__primary__"],
                "io_es_0": ["io_pool"],
                "io_es_1": ["io_pool"],
                "__xstream_3__": ["__pool_2__"],
                **{f"__xstream_{number}__": ["__pool_3__"] for number in range(4, 8)},
            },
        )
        assert (shown["margo"]["progress_pool"], shown["margo"]["rpc_pool"]) == ("__pool_2__", "__pool_3__")
        assert shown["bedrock"] == {"pool": "__pool_3__", "provider_id": 0}
    create(machine, service, "default-short", mofka)
    create(machine, service, "io-uring-topic", mofka)
    streams(machine.driver(service))
    streams(machine.driver(service), "fast_topic")
    done = service.run("bedrock-shutdown na+sm -f mofka.json -v off")
    assert (done.returncode, done.stderr) == (0, "")
    assert service.end() == 0
