"""The user's document, step by step: its first configuration and its commands, verbatim but for paths."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi.mofka.testing import Service
from tests.conformance.seed import (
    COMMANDS,
    FIRST,
    TOPIC_CONFIG,
    check_partition,
    create,
    flat,
    partition_of,
    query,
    snippet,
    streams,
)
from tests.system.real_service import Machine


@pytest.fixture
def start(machine: Machine) -> Callable[[str], Service]:
    _, *arguments = snippet("start").split()
    return lambda text: machine.bedrock(text, *arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_topic_made_by_a_command_of_the_document_works_and_shows_its_configuration(
    machine: Machine, start: Callable[[str], Service], mofka: Path, command: str
) -> None:
    server = start(FIRST)
    (server.directory / "topic-config.json").write_text(TOPIC_CONFIG)
    create(machine, server, command, mofka)
    streams(machine.driver(server))
    check_partition(partition_of(query(machine, server)), command, mofka)


def test_options_come_in_the_shape_in_which_a_query_shows_them(
    machine: Machine, start: Callable[[str], Service], mofka: Path
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
    machine: Machine, start: Callable[[str], Service], mofka: Path
) -> None:
    database = snippet("rocksdb-database").replace("/tmp/mofka", str(mofka))
    text = re.sub(r'"database" : \{\s*"type": "map"\s*\}', lambda _: database, FIRST)
    assert "rocksdb" in text
    server = start(text)
    assert (mofka / "master" / "CURRENT").exists()
    create(machine, server, "default-short", mofka)
    streams(machine.driver(server))
    done = server.run("bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.end() == 0
    again = start(text)
    assert list(machine.driver(again).list_topics()) == ["my_topic"]


def test_the_server_says_where_it_is_and_stops_when_it_is_told(
    machine: Machine, start: Callable[[str], Service], mofka: Path
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
    done = server.run("bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.end() == 0
    assert "Traceback" not in server.output
    done = server.run("bedrock-query na+sm -f mofka.json -p")
    assert done.returncode == 255
    assert "mofka.json: no such group file" in done.stderr


def test_a_server_that_was_killed_leaves_a_group_file_that_a_query_does_not_believe(
    machine: Machine, start: Callable[[str], Service]
) -> None:
    server = start(FIRST)
    server.kill()
    for command in ("bedrock-query na+sm -f mofka.json -p", "bedrock-shutdown na+sm -f mofka.json"):
        done = server.run(command)
        assert done.returncode == 255
        assert f"nobody answers at {server.address}" in done.stderr


def test_a_saved_configuration_deploys_the_same_service_again(
    machine: Machine, start: Callable[[str], Service], mofka: Path
) -> None:
    server = start(FIRST)
    create(machine, server, "default-short", mofka)
    before = query(machine, server)
    uuid = partition_of(before)["config"]["uuid"]
    driver = machine.driver(server)
    topic = driver.open_topic("my_topic")
    with topic.producer() as producer:
        assert producer.push({"kept": True}).wait(10000) == 0
    server.run("bedrock-shutdown na+sm -f mofka.json")
    assert server.end() == 0
    name = server.address.removeprefix("na+sm://")
    again = machine.bedrock(
        json.dumps(before), f"na+sm://{name}", "-c", "config.json", "-v", "trace", name="again"
    )
    assert again.address == server.address
    assert partition_of(query(machine, again))["config"]["uuid"] == uuid
