"""The user's document in pieces, and what its conformance tests do with them."""

import json
import re
from pathlib import Path
from typing import Any

from diaspora_stream.api import Driver
from mochi.mofka.testing import Service
from tests.system.real_service import Machine

SEED = Path(__file__).parents[1] / "data" / "seed"
FIRST = (SEED / "first-configuration.json").read_text()
COMMANDS = ("memory-short", "memory-long", "default-short", "default-long", "default-topic-config")
"""The document's commands that create ``my_topic``; each is for a fresh service."""

TOPIC_CONFIG = (
    '{"fd_cache_capacity": 32, "max_chunk_size": 5000, "path": "/nowhere", "sync": false, '
    '"consumers": {"desc_buffer_pool": {"num_tiers": 2}}}'
)
"""A topic-config.json as the document has it, with values that are none of the defaults."""


def snippet(name: str) -> str:
    """Return a piece of the document, without the line's end."""
    return (SEED / f"{name}.txt").read_text().rstrip("\n")


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
    leaves: dict[str, Any] = {}
    for key, value in section.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def create(machine: Machine, server: Service, command: str, mofka: Path) -> None:
    """Run a command of the document in a shell, after the line that says where the service is."""
    text = snippet("driver-options").replace("/path/to/mofka.json", str(server.group_file))
    text += "\n" + snippet(command).replace("/tmp/mofka", str(mofka))
    done = server.run(text)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


def query_all(machine: Machine, server: Service, protocol: str = "na+sm") -> dict[str, Any]:
    """Run the document's ``bedrock-query``; return what it shows of each server of a service on na+sm, by address."""
    done = server.run(snippet("query").replace("tcp", protocol))
    assert done.returncode == 0, done.stderr
    assert ("the service speaks na+sm" in done.stderr) == (protocol != "na+sm")
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def query(machine: Machine, server: Service) -> dict[str, Any]:
    """Return what ``bedrock-query`` shows of the only server."""
    (address, shown), *others = query_all(machine, server).items()
    assert address == server.address
    assert others == []
    found: dict[str, Any] = shown
    return found


def partition_of(*shown: dict[str, Any]) -> dict[str, Any]:
    """Return the only partition that the servers shown have."""
    (found,) = (
        provider for server in shown for provider in server["providers"] if provider["type"] == "mofka"
    )
    provider: dict[str, Any] = found
    return provider


def streams(driver: Driver, name: str = "my_topic") -> None:
    """Check that a topic of one partition takes events and gives them back."""
    topic = driver.open_topic(name)
    assert len(topic.partitions) == 1
    with topic.producer() as producer:
        futures = [producer.push({"x": n}, b"%d" % n * n) for n in range(200)]
        assert [future.wait(10000) for future in futures] == list(range(200))
    with topic.consumer("my_consumer") as consumer:
        for n in range(200):
            event = consumer.pull().wait(10000)
            assert event is not None
            assert (event.event_id, event.metadata, b"".join(event.data)) == (n, {"x": n}, b"%d" % n * n)


def check_partition(shown: dict[str, Any], command: str, mofka: Path) -> None:
    """Check what is shown of the partition that a command has made, and its directory."""
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
