"""Deployments by mofkactl, against real servers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diaspora_stream.api import Driver
from diaspora_stream.errors import InvalidJson
from mochi.bedrock.cli import FAILURE
from mochi.mofka import mofkactl
from mochi.mofka.spec import MofkaServiceSpec
from mochi.mofka.testing import BIN, Service, configuration
from tests.system.real_service import Machine


def with_blobs() -> dict[str, Any]:
    settings = configuration()
    settings["libraries"].append("libwarabi-bedrock-module.so")
    return settings


def run(server: Service, *arguments: str) -> str:
    """Run mofkactl, which must succeed; return what it prints."""
    done = subprocess.run(
        [BIN / "mofkactl", *arguments],
        cwd=server.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fail(server: Service, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mochi.mofka.mofkactl", *arguments],
        cwd=server.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def roundtrip(driver: Driver, topic: str, count: int) -> None:
    with driver.open_topic(topic).producer("p", batch_size=7) as producer:
        for number in range(count):
            producer.push({"n": number}, b"x" * number)
    with driver.open_topic(topic).consumer("c") as consumer:
        found = {}
        for _ in range(count):
            event = consumer.pull().wait(20000)
            assert event is not None
            found[event.metadata["n"]] = bytes(event.data[0])
    assert found == {number: b"x" * number for number in range(count)}


def test_a_legacy_deployment(machine: Machine) -> None:
    settings = with_blobs()
    settings["providers"][0]["config"]["bootstrap"] = "mpi"
    settings["providers"][1]["__if__"] = "$MPI_COMM_WORLD.rank == 0"
    service = machine.servers(2, json.dumps(settings), "na+sm")
    run(service, "topic", "create", "frames", "-v", "schema", "--v.schema.type", "object", "-g", "mofka.json")
    assert run(service, "topic", "list") == "frames"
    database = run(service, "metadata", "add", "-r", "0", "-t", "map")
    path = service.directory / "blobs"
    target = run(
        service,
        *("data", "add", "--rank", "1", "--type", "abtio", "--config.path", str(path)),
        *("--c.create_if_missing", "true"),
    )
    assert {database.partition("@")[2], target.partition("@")[2]} <= set(service.addresses)
    run(service, "partition", "add", "frames", "-r", "1", "-m", database, "-d", target)
    run(
        service,
        "partition",
        "add",
        "--d.metadata",
        database,
        "--d.data",
        target,
        "frames",
        "-r",
        "0",
        "-t",
        "legacy",
    )
    run(service, "partition", "add", "frames", "-r", "0", "-t", "memory")
    directory = service.directory / "files"
    run(
        service,
        "partition",
        "add",
        "frames",
        "-r",
        "0",
        "--c.path",
        str(directory),
        "--abt-io",
        "io_controller",
    )
    driver = machine.driver(service)
    assert len(driver.open_topic("frames").partitions) == 4
    roundtrip(driver, "frames", 40)
    assert path.stat().st_size
    assert list(directory.glob("frames-*/*.meta"))


def test_what_fails_is_told_on_standard_error_and_by_the_exit_code(machine: Machine) -> None:
    server = machine.serve(with_blobs())
    run(server, "topic", "create", "t")
    code, text = fail(server, "partition", "add", "t", "-r", "7", "-t", "memory")
    assert code == FAILURE
    assert "server_rank 7 does not exist" in text
    assert fail(server, "topic", "create", "t") == (FAILURE, "Error: topic 't' already exists\n")
    assert fail(server, "metadata", "add", "-r", "0", "-t", "mapp")[0] == FAILURE
    assert fail(server, "topic", "list", "-g", "other/mofka.json")[0] == FAILURE
    code, text = fail(
        server, "benchmark", "generate", "-a", "na+sm", "--num-events", "3", "--whatever", "1,2"
    )
    assert code == FAILURE
    assert text.startswith("Error: ")
    assert "diaspora-producer-benchmark" in text
    code, text = fail(server, "partition", "add", "t", "-r", "0", "-t", "memory", "--abt-io", "io_controller")
    assert code == 2
    assert "--abt-io is for partitions of type default, not memory" in text
    code, text = fail(server, "topic", "create", "u", "--validatr.schema", "{}")
    assert code == 2
    assert "--validatr.schema" in text


def test_a_raw_topic_keeps_json_text_as_it_was_given(machine: Machine) -> None:
    server = machine.serve()
    run(server, "topic", "create", "texts", "--serializer", "raw")
    run(server, "partition", "add", "texts", "-r", "0", "--c.path", str(server.directory / "files"))
    text = ' {"z": 1,   "a": 2.50}'
    topic = machine.driver(server).open_topic("texts")
    with topic.producer("p") as producer:
        producer.push(text)
        producer.push(text.encode())
        producer.push({"z": 1, "a": 2.5})
        with pytest.raises(InvalidJson):
            producer.push('{"z": 1')
    with topic.consumer("c") as consumer:
        for _ in range(3):
            event = consumer.pull().wait(20000)
            assert event is not None
            assert event.metadata == {"z": 1, "a": 2.5}
    (file,) = (server.directory / "files").glob("texts-*/chunk-000000.meta")
    assert file.read_bytes() == 2 * text.encode() + b'{"a":2.5,"z":1}'


@pytest.mark.parametrize("servers", [1, 3])
def test_a_generated_configuration_serves(machine: Machine, tmp_path: Path, servers: int) -> None:
    directory = tmp_path / "storage"
    directory.mkdir()
    done = CliRunner().invoke(
        mofkactl.main,
        [
            "config",
            "generate",
            "-a",
            "na+sm",
            "-s",
            str(servers),
            "-m",
            "1,3",
            "-d",
            "1,2",
            "-p",
            "1,2",
            "-x",
            "2,3",
        ]
        + [f"--{kind}-needs-persistence" for kind in ("master-db", "metadata-db", "data-storage")]
        + [f"--{kind}-path-prefixes={directory}" for kind in ("master-db", "metadata-db", "data-storage")],
    )
    assert done.exit_code == 0, done.output
    service = machine.service(
        servers, done.output, str(BIN / "bedrock"), "-n", str(servers), "-c", "config.json"
    )
    run(service, "topic", "create", "t")
    for rank in range(servers):
        run(service, "partition", "add", "t", "-r", str(rank), "-t", "legacy")
    roundtrip(machine.driver(service), "t", 20)
    assert "master" in os.listdir(directory)


def test_pools_that_no_xstream_could_serve_are_refused() -> None:
    done = CliRunner().invoke(mofkactl.main, ["config", "generate", "-a", "na+sm", "-p", "3", "-x", "2"])
    assert done.exit_code == FAILURE
    assert "allow more pools than xstreams" in done.output
    spec = MofkaServiceSpec(
        address="na+sm",
        num_pools_in_servers=(5, 5),
        num_xstreams_in_servers=(2, 2),
        allow_more_pools_than_xstreams=True,
    )
    argobots = spec.sample()["margo"]["argobots"]
    served = [pool for xstream in argobots["xstreams"] for pool in xstream["scheduler"]["pools"]]
    assert sorted(served) == sorted(pool["name"] for pool in argobots["pools"])


@pytest.mark.parametrize("counts", ["2,1", "0", "x", "1,2,3", "-1"])
def test_counts_of_another_form_are_refused(counts: str) -> None:
    done = CliRunner().invoke(mofkactl.main, ["config", "generate", "-a", "na+sm", "-s", counts])
    assert done.exit_code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("FALSE", "FALSE"),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("a,b", "a,b"),
        ("", ""),
    ],
)
def test_values_have_the_types_of_their_texts(text: str, value: object) -> None:
    found = mofkactl.typed(text)
    assert (type(found), found) == (type(value), value)
