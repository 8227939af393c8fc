"""The master database and the directories of the original's service are taken over, and nothing is destroyed."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from mochi.mofka.testing import Service, configuration
from mochi.yokan.embedded import EmbeddedDatabase
from mochi.yokan.rocksdb import RocksdbBackend
from tests.system.real_service import Machine

PARTITIONS = Path(__file__).parents[1] / "data" / "partitions"
ADDRESS = "ofi+tcp://127.0.0.1:1"


def uuid_of(topic: str) -> str:
    (directory,) = PARTITIONS.glob(f"{topic}-*/")
    return directory.name.removeprefix(f"{topic}-")


def taken_over(machine: Machine) -> tuple[dict[str, Any], Path]:
    """Put the original's topics into a master database, copy its directories; return a configuration, and where."""
    master, data = machine.directory / "master", machine.directory / "old data"
    database = EmbeddedDatabase(RocksdbBackend({"path": str(master)}, "config"))
    lost = "00000000-1111-4222-8333-444444444444"
    for topic, uuids in {"plain": [uuid_of("plain"), lost], "rotated": [uuid_of("rotated")]}.items():
        for part in ("validator", "selector", "serializer"):
            database.put(f"MOFKA:GLOBAL:{topic}:{part}".encode(), b'{"type":"default"}')
        records = [{"address": ADDRESS, "provider_id": 5, "uuid": uuid} for uuid in uuids]
        name = f"MOFKA:GLOBAL:{topic}:partitions".encode()
        database.coll_create(name)
        database.doc_store(name, [json.dumps(record).encode() for record in records])
        shutil.copytree(PARTITIONS / f"{topic}-{uuids[0]}", data / f"{topic}-{uuids[0]}")
    database.close()
    settings = configuration()
    settings["providers"][1]["config"]["database"] = {"type": "rocksdb", "config": {"path": str(master)}}
    return settings, data


def sums(directory: Path) -> dict[str, str]:
    """Return what the original's files in a directory hold."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("mofka")]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ids(machine: Machine, server: Service, topic: str, count: int) -> list[int | None]:
    consumer = machine.driver(server).open_topic(topic).consumer("check", targets=[0])
    events = [consumer.pull().wait(10000) for _ in range(count)]
    return [None if event is None else event.event_id for event in events]


def commands(server: Service) -> list[re.Match[str]]:
    """Return topic, uuid and command of the lines that tell of partitions that nobody serves."""
    pattern = re.compile(r"topic '(\w+)', partition (\S+): nobody serves it.*(diaspora-ctl topic attach .*)$")
    return [match for line in server.lines if (match := pattern.search(line))]


def test_partitions_that_the_original_left_are_told_of_and_attached(machine: Machine) -> None:
    settings, data = taken_over(machine)
    before = sums(data)
    server = machine.serve(settings)
    told = commands(server)
    assert [match[1] for match in told] == ["plain", "plain", "rotated"]
    missing = server.run(told[1][3].replace("DIR", f"'{data}'"))
    assert missing.returncode == 1
    assert "is missing" in missing.stderr
    nothing = server.run(told[0][3].replace("DIR", "/nowhere"))
    assert nothing.returncode == 1
    assert "the directory /nowhere/plain-" in nothing.stderr
    assert sums(data) == before
    assert not Path("/nowhere").exists()
    for match in (told[0], told[2]):
        done = server.run(match[3].replace("DIR", f"'{data}'"))
        assert done.returncode == 0, done.stderr
    again = server.run(told[0][3].replace("DIR", f"'{data}'"))
    assert again.returncode == 1
    assert "has no partition" in again.stderr
    assert sorted(path.name for path in data.iterdir()) == sorted(
        f"{topic}-{uuid_of(topic)}" for topic in ("plain", "rotated")
    )
    assert sums(data) == before
    counts = {
        topic: len(json.loads((PARTITIONS / f"{topic}.expected.json").read_text()))
        for topic in ("plain", "rotated")
    }
    for topic, count in counts.items():
        assert ids(machine, server, topic, count) == list(range(count))
        producer = machine.driver(server).open_topic(topic).producer()
        assert producer.push({"new": True}, partition=0).wait(10000) == count
    server.kill()
    server = machine.serve(settings)
    assert [match[2] for match in commands(server)] == [told[1][2]]
    for topic, count in counts.items():
        assert ids(machine, server, topic, count + 1) == list(range(count + 1))


def test_all_partitions_of_a_topic_are_attached_by_one_command(machine: Machine) -> None:
    settings, data = taken_over(machine)
    server = machine.serve(settings)
    flags = "--driver mofka --driver.group_file mofka.json"
    done = server.run(f"diaspora-ctl topic attach {flags} --name plain --path '{data}' --server 0")
    assert done.returncode == 0, done.stderr
    assert "00000000-1111-4222-8333-444444444444 is not attached: " in done.stderr
    assert "is missing" in done.stderr
    for wrong, problem in (
        (f"--name plain --path '{data}' --server 1", "server_rank 1 does not exist"),
        (f"--name plain --path '{data}' --server x", "--server: must be a number"),
        (f"--name plein --path '{data}'", "did you mean 'plain'"),
    ):
        refused = server.run(f"diaspora-ctl topic attach {flags} {wrong}")
        assert refused.returncode == 1
        assert problem in refused.stderr
