"""The user's document, step by step: its first configuration and its commands, verbatim but for paths."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_service import Machine, Server

from diaspora_stream.api import Driver

SEED = Path(__file__).parents[1] / "data" / "seed"
FIRST = (SEED / "first-configuration.json").read_text()
COMMANDS = ("memory-short", "memory-long", "default-short", "default-long", "default-topic-config")


def table() -> dict[str, Any]:
    """Return the document's table: the default of each field by dotted name; ``path`` has none."""
    rows = (SEED / "partition-fields.txt").read_text().split("\n\n")
    start = [row.strip() for row in rows].index("path")
    cells = [row.strip() for row in rows[start:] if row.strip()]
    fields: dict[str, Any] = {}
    for name, default in zip(cells[::3], cells[1::3], strict=True):
        value = default.split(" (")[0]
        fields[name] = None if value == "(required)" else json.loads(value)
    return fields


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in section.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


@pytest.fixture
def mofka(tmp_path: Path) -> Path:
    """The directory that the document calls ``/tmp/mofka``."""
    path = tmp_path / "mofka"
    path.mkdir()
    return path


@pytest.fixture
def start(machine: Machine) -> Callable[[str], Server]:
    return lambda text: machine.bedrock(text, "na+sm", "-c", "config.json", "-v", "trace")


def create(machine: Machine, server: Server, command: str, mofka: Path) -> None:
    """Run a command of the document as a shell would."""
    text = (SEED / f"{command}.txt").read_text().replace("/tmp/mofka", str(mofka))
    options = f"--driver mofka --driver.group_file {server.group_file}"
    done = machine.run(server, text, DIASPORA_CTL_DRIVER_OPTIONS=options)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


def query(machine: Machine, server: Server, protocol: str = "na+sm") -> dict[str, Any]:
    """Run ``bedrock-query`` as the document does; return what it shows of the only server."""
    done = machine.run(server, f"bedrock-query {protocol} -f mofka.json -p")
    assert done.returncode == 0, done.stderr
    assert ("the service speaks na+sm" in done.stderr) == (protocol != "na+sm")
    (address, shown), *others = json.loads(done.stdout).items()
    assert address == server.address
    assert others == []
    found: dict[str, Any] = shown
    return found


def partition_of(shown: dict[str, Any]) -> dict[str, Any]:
    (found,) = (provider for provider in shown["providers"] if provider["type"] == "mofka")
    provider: dict[str, Any] = found
    return provider


def streams(driver: Driver) -> None:
    """Check that ``my_topic`` takes events and gives them back."""
    topic = driver.open_topic("my_topic")
    assert len(topic.partitions) == 1
    with topic.producer() as producer:
        futures = [producer.push({"x": n}, b"%d" % n * n) for n in range(200)]
        assert [future.wait(10000) for future in futures] == list(range(200))
    with topic.consumer("my_consumer") as consumer:
        for n in range(200):
            event = consumer.pull().wait(10000)
            assert event is not None
            assert (event.event_id, event.metadata, b"".join(event.data)) == (n, {"x": n}, b"%d" % n * n)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("protocol", ["na+sm", "tcp"])
def test_a_topic_made_by_a_command_of_the_document_works_and_shows_its_configuration(
    machine: Machine, start: Callable[[str], Server], mofka: Path, command: str, protocol: str
) -> None:
    server = start(FIRST)
    (server.directory / "topic-config.json").write_text(
        '{"fd_cache_capacity": 32, "max_chunk_size": 5000, "path": "/nowhere", "sync": false, '
        '"consumers": {"desc_buffer_pool": {"num_tiers": 2}}}'
    )
    create(machine, server, command, mofka)
    streams(machine.driver(server))
    shown = partition_of(query(machine, server, protocol))
    config = shown["config"]
    assert (config["topic"], config["type"]) == ("my_topic", command.split("-")[0])
    uuid = config["uuid"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid)
    assert shown["name"] == f"my_topic_partition_{uuid[:8]}"
    assert shown["dependencies"].get("pool") == ("__primary__" if "long" in command else None)
    if config["type"] == "memory":
        assert config["partition"] == {}
        assert list(mofka.iterdir()) == []
        return
    assert [path.name for path in mofka.iterdir()] == [f"my_topic-{uuid}"]
    assert shown["dependencies"]["io_controller"] == "io_controller"
    expected = {**table(), "path": str(mofka)}
    assert len(expected) == 21
    if command == "default-topic-config":
        expected |= {
            "fd_cache_capacity": 32,
            "max_chunk_size": 5000,
            "sync": False,
            "consumers.desc_buffer_pool.num_tiers": 2,
        }
        assert len(list(mofka.glob("*/chunk-*.idx"))) > 1
    assert flat(config["partition"]) == expected


def test_options_come_in_the_shape_in_which_a_query_shows_them(
    machine: Machine, start: Callable[[str], Server], mofka: Path
) -> None:
    server = start(FIRST)
    create(machine, server, "default-long", mofka)
    shown = partition_of(query(machine, server))
    given = {
        "config": {"type": "default", "partition": {"path": str(mofka)}},
        "dependencies": {"io_controller": "io_controller", "pool": "__primary__"},
    }
    assert flat(given).items() <= flat(shown).items()


def test_the_master_database_can_be_persistent(
    machine: Machine, start: Callable[[str], Server], mofka: Path
) -> None:
    database = (SEED / "rocksdb-database.txt").read_text().replace("/tmp/mofka", str(mofka)).strip()
    text = re.sub(r'"database" : \{\s*"type": "map"\s*\}', lambda _: database, FIRST)
    assert "rocksdb" in text
    server = start(text)
    assert (mofka / "master" / "CURRENT").exists()
    create(machine, server, "default-short", mofka)
    streams(machine.driver(server))
    done = machine.run(server, "bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.end() == 0
    again = start(text)
    assert list(machine.driver(again).list_topics()) == ["my_topic"]


def test_the_server_says_where_it_is_and_stops_when_it_is_told(
    machine: Machine, start: Callable[[str], Server], mofka: Path
) -> None:
    server = start(FIRST)
    shown = query(machine, server)
    given = json.loads(FIRST)
    by_name = {provider["name"]: provider for provider in shown["providers"]}
    for provider in given["providers"]:
        for key in ("provider_id", "type"):
            assert by_name[provider["name"]][key] == provider[key]
        assert flat(provider["config"]).items() <= flat(by_name[provider["name"]]["config"]).items()
    assert by_name["master_database"]["tags"] == ["mofka:master"]
    assert by_name["io_controller"]["dependencies"] == {"pool": "__primary__"}
    assert shown["libraries"] == given["libraries"]
    create(machine, server, "memory-short", mofka)
    done = machine.run(server, "bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.end() == 0
    assert "Traceback" not in server.output
    done = machine.run(server, "bedrock-query na+sm -f mofka.json -p")
    assert done.returncode == 255
    assert "mofka.json: no such group file" in done.stderr


def test_a_server_that_was_killed_leaves_a_group_file_that_a_query_does_not_believe(
    machine: Machine, start: Callable[[str], Server]
) -> None:
    server = start(FIRST)
    server.kill()
    for command in ("bedrock-query na+sm -f mofka.json -p", "bedrock-shutdown na+sm -f mofka.json"):
        done = machine.run(server, command)
        assert done.returncode == 255
        assert f"{server.address}: nobody answers" in done.stderr


def test_a_saved_configuration_deploys_the_same_service_again(
    machine: Machine, start: Callable[[str], Server], mofka: Path
) -> None:
    server = start(FIRST)
    create(machine, server, "default-short", mofka)
    before = query(machine, server)
    uuid = partition_of(before)["config"]["uuid"]
    driver = machine.driver(server)
    topic = driver.open_topic("my_topic")
    with topic.producer() as producer:
        assert producer.push({"kept": True}).wait(10000) == 0
    machine.run(server, "bedrock-shutdown na+sm -f mofka.json")
    assert server.end() == 0
    name = server.address.removeprefix("na+sm://")
    again = machine.bedrock(
        json.dumps(before), f"na+sm://{name}", "-c", "config.json", "-v", "trace", name="again"
    )
    assert again.address == server.address
    assert partition_of(query(machine, again))["config"]["uuid"] == uuid
