"""How a partition becomes a provider of its server: by the driver when it is made, by the server when it is restored.

No I/O: what is needed to know of a server is its expanded configuration.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from mochi.margo.errors import ConfigError
from mochi.mofka.registry import PartitionRecord

MASTER_TAG = "mofka:master"
PARTITION_TAG = "mofka:partition"
METADATA_TAG = "mofka:metadata"
DATA_TAG = "mofka:data"

_NEEDS = {
    "default": [("io_controller", "abt_io", "")],
    "legacy": [("metadata", "yokan", METADATA_TAG), ("data", "warabi", DATA_TAG)],
}
"""What partitions of each type need: the dependency's name, the type of its provider, and the tag that it must have."""

Providers = Iterable[Mapping[str, Any]]
"""The ``providers`` of an expanded configuration."""


def master_among(providers: Providers) -> Mapping[str, Any] | None:
    """Return the master database among the providers of a server, or None."""
    for provider in providers:
        if provider["type"] == "yokan" and MASTER_TAG in provider["tags"]:
            return provider
    return None


def partitions_among(providers: Providers) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the providers of partitions among those of a server, by topic and uuid."""
    return {
        (provider["config"]["topic"], provider["config"]["uuid"]): provider
        for provider in providers
        if provider["type"] == "mofka"
    }


def completed(partition: PartitionRecord, providers: Callable[[], Providers]) -> PartitionRecord:
    """Return a partition with all that it depends on.

    What it needs and does not name is the first of its server that serves, see `_NEEDS`. The server is asked for its
    `providers` only then; `ConfigError` if there is none.
    """
    for name, kind, tag in _NEEDS.get(partition.type, ()):
        if name in partition.dependencies:
            continue
        for provider in providers():
            if provider["type"] == kind and (not tag or tag in provider["tags"]):
                partition = replace(
                    partition, dependencies={**partition.dependencies, name: [provider["name"]]}
                )
                break
        else:
            tagged = f" tagged {tag!r}" if tag else ""
            raise ConfigError(
                f"dependencies.{name}",
                f"a partition of type {partition.type!r} needs {_article(kind)} provider{tagged}, and its server "
                "has none",
            )
    return partition


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def provider_entry(
    topic: str, partition: PartitionRecord, master: str = "", *, attach: bool = False
) -> dict[str, Any]:
    """Return the entry, such as ``providers`` of a configuration holds, that starts a partition.

    Parameters
    ----------
    master : str
        The master database, as ``yokan:<id>@<address>``; left out where it is empty.
    attach : bool
        Whether the partition must have its directory already.
    """
    needs: dict[str, Any] = {
        name: values[0] if len(values) == 1 else values for name, values in partition.dependencies.items()
    }
    return {
        "name": provider_name(topic, partition.uuid),
        "type": "mofka",
        "tags": [PARTITION_TAG],
        "config": {
            "topic": topic,
            "type": partition.type,
            "uuid": partition.uuid,
            "partition": partition.partition,
            **({"attach": True} if attach else {}),
        },
        "dependencies": {**needs, **({"master_database": master} if master else {})},
    }


def provider_name(topic: str, uuid: str) -> str:
    """Return the name of a partition's provider; what may not be in a name is replaced."""
    return re.sub(
        r"[^a-zA-Z0-9_]", "_", f"{'' if re.match('[a-zA-Z_]', topic) else '_'}{topic}_partition_{uuid[:8]}"
    )
