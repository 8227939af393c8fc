"""Configurations of each kind that was written for the original start a service that works, or a line says why not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mochi.mofka.testing import BIN, Service
from tests.system.real_service import Machine

DATABASE = ("providers", 1, "config", "database")
CONFIGURATIONS = Path(__file__).parents[1] / "data" / "configurations"
WARNING = re.compile(
    r"\[warning\] (?:libraries: unknown library \"(?P<library>[^\"]*)\"|(?P<where>[\w.\[\]]+):)"
)


def streams(machine: Machine, server: Service) -> set[str]:
    """Have events go through a topic of each type of partition that the service can have; return these types."""
    driver = machine.driver(server)
    done = server.run("bedrock-query na+sm -f mofka.json")
    assert (done.returncode, done.stderr) == (0, "")
    types = {
        provider["type"] for shown in json.loads(done.stdout).values() for provider in shown["providers"]
    }
    partitions: dict[str, dict[str, Any]] = {"memory": {}}
    if "abt_io" in types:
        partitions["default"] = {"path": str(server.directory / "events")}
    if "warabi" in types:
        partitions["legacy"] = {}
    for kind, partition in partitions.items():
        options = {"num_partitions": 2, "config": {"type": kind, "partition": partition}}
        driver.create_topic(kind, options=options)
        topic = driver.open_topic(kind)
        with topic.producer() as producer:
            for number in range(10):
                producer.push({"number": number}, bytes([number]) * 1000)
            producer.flush().wait(20000)
        with topic.consumer("reader") as consumer:
            events = [consumer.pull().wait(20000) for _ in range(10)]
        found = sorted((event.metadata["number"], b"".join(event.data)) for event in events)
        assert found == [(number, bytes([number]) * 1000) for number in range(10)]
    return set(partitions)


def warnings(output: str) -> list[str]:
    return [match["library"] or match["where"] for match in WARNING.finditer(output)]


@pytest.mark.parametrize(
    ("name", "flags", "warned"),
    [
        ("small.json", [], []),
        ("installed.json", [], []),
        (
            "blobs.json",
            [],
            [
                "libremi-bedrock-module.so",
                "providers[2].dependencies.remi_sender",
                "providers[2].dependencies.remi_receiver",
            ],
        ),
        (
            "of_old.json",
            [],
            [
                "ssg[0]",
                "abt_io",
                "clients",
                "mona",
                "margo.enable_profiling",
                "margo.enable_diagnostics",
                "providers[0].pool",
            ],
        ),
        ("pools.json", [], []),
        ("engines.json", [], ["margo"]),
        ("dotted.json", [], []),
        (
            "measured.json",
            [],
            [
                "_remark",
                "margo.monitoring",
                "margo.enable_abt_profiling",
                "providers[0].owner",
                "libpoesie-bedrock-module.so",
                "/opt/colza/lib/libcolza-bedrock-module.so",
                "libsdskv-bedrock-module.so",
                "providers[1].dependencies.metrics",
                "providers[1].dependencies.xstreams",
            ],
        ),
        ("generated.jx9", ["--jx9", "--jx9-context", 'count=3,database="map"'], []),
        ("site.toml", ["--toml"], []),
    ],
)
def test_a_configuration_starts_a_service_that_works_and_what_it_shows_starts_it_again(
    machine: Machine, name: str, flags: list[str], warned: list[str]
) -> None:
    server = machine.bedrock((CONFIGURATIONS / name).read_text(), "na+sm", "-c", "config.json", *flags)
    topics = streams(machine, server)
    assert warnings(server.output) == warned
    (shown,) = json.loads(server.run("bedrock-query na+sm -f mofka.json").stdout).values()
    assert server.run("bedrock-shutdown na+sm -f mofka.json").returncode == 0
    assert server.end() == 0
    shown["providers"] = [provider for provider in shown["providers"] if provider["type"] != "mofka"]
    again = machine.bedrock(json.dumps(shown), "na+sm", "-c", "config.json", name=server.directory.name)
    assert "[error]" not in again.output
    (master,) = (provider for provider in shown["providers"] if "mofka:master" in provider["tags"])
    is_kept = "path" in master["config"]["database"]["config"]
    assert set(machine.driver(again).list_topics()) == (topics if is_kept else set())


@pytest.mark.parametrize("name", ["ranks.json", "centralized.json", "swim.json"])
def test_a_configuration_for_several_ranks_starts_a_service_of_several(machine: Machine, name: str) -> None:
    service = machine.servers(2, (CONFIGURATIONS / name).read_text(), "na+sm")
    streams(machine, service)
    assert len(service.members()) == 2
    assert warnings(service.output) == []


def changed(name: str, *path: str | int, to: Any) -> str:
    """Return a configuration with another value at a place."""
    document = json.loads((CONFIGURATIONS / name).read_text())
    *above, last = path
    place = document
    for step in above:
        place = place[step]
    place[last] = to
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        (
            changed("small.json", *DATABASE, to={"type": "leveldb", "config": {"path": "x"}}),
            "providers[1].config.database.type",
            '"leveldb" is not built in; use "rocksdb" or "lmdb"',
        ),
        (
            changed("small.json", "providers", 1, to={"name": "mover", "type": "remi"}),
            "providers[1].type",
            'no loaded library brings the type "remi"; no known library does, only those of abt_io,',
        ),
        (
            changed("small.json", "libraries", to=["libflock-bedrock-module.so"]),
            "providers[1].type",
            'no loaded library brings the type "yokan"; add "libyokan-bedrock-module.so" to libraries',
        ),
        (
            changed("of_old.json", "ssg", 0, "bootstrap", to="pmix"),
            "ssg[0].bootstrap",
            '"pmix" is not built in; use "mpi"',
        ),
        (
            changed("pools.json", "margo", "rpc_pool", to="cals"),
            "margo.rpc_pool",
            "no pool is named \"cals\"; did you mean 'calls'?",
        ),
        (
            changed("pools.json", *DATABASE, "config", "path", to="no/such/topics"),
            "providers[1].config.database.config.path",
            "the directory ",
        ),
        (
            "{ // a server\n}",
            "config.json",
            "not JSON, line 1 column 3: remarks are for scripts (--jx9) and TOML (--toml)",
        ),
    ],
)
def test_a_configuration_that_cannot_start_says_in_one_line_what_to_change(
    machine: Machine, tmp_path: Path, text: str, where: str, problem: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    process = machine.start(BIN / "bedrock", "na+sm", "-c", "config.json", "-v", "error")
    assert process.end() != 0
    (said,) = process.lines
    assert said.startswith(f"error: {where}: {problem}")
