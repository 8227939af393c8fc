"""What Bedrock loads for ``libmofka-bedrock-module.so``: providers of type ``mofka``, one for each partition."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from diaspora_stream.console.hints import hint
from mochi import shortage
from mochi.bedrock.modules import Deployed
from mochi.bedrock.spec import ProviderHandle
from mochi.disk import Descriptors, PosixFiles
from mochi.margo.client import Client
from mochi.margo.config import convert
from mochi.margo.engine import Engine
from mochi.margo.errors import ConfigError, Fault
from mochi.mofka.chunks import remove_partition
from mochi.mofka.partition.config import DefaultFields, LegacyFields, directory_of, is_uuid
from mochi.mofka.partition.contract import Partition
from mochi.mofka.partition.default import DefaultPartition
from mochi.mofka.partition.legacy import LegacyPartition
from mochi.mofka.partition.legacy_store import LegacyStore
from mochi.mofka.partition.memory import MemoryPartition
from mochi.mofka.provider import PartitionProvider, ProviderConfig
from mochi.mofka.restoring import Restoration
from mochi.mofka.stand_in import StandIn
from mochi.mofka.topics import TopicServer
from mochi.warabi import Target
from mochi.warabi.client import TargetHandle
from mochi.yokan.database import Database
from mochi.yokan.handle import DatabaseHandle

log = logging.getLogger(__name__)

TYPES = ("memory", "default", "legacy")

_OBSOLETE = ("bulk_cache", "write_cache", "ack_early")


class MofkaModule:
    """Makes providers of type ``mofka``."""

    type = "mofka"

    def __init__(self) -> None:
        self._unopened: dict[str, Fault] = {}
        self._descriptors = Descriptors(shortage.storage_descriptors())

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """What a provider may depend on: where a partition keeps its events, it needs."""
        kind = config.get("type") if config.get("uuid") not in self._unopened else None
        return {
            "pool": ("pool", False),
            "master_database": ("yokan", False),
            "io_controller": ("abt_io", kind == "default"),
            "metadata": ("yokan", kind == "legacy"),
            "data": ("warabi", kind == "legacy"),
        }

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> PartitionProvider | StandIn:
        """Open a partition and serve it; `ConfigError` where its configuration cannot be used."""
        fields = convert(config, ProviderConfig, "config")
        _check_uuid(fields.uuid)
        if not fields.topic or "/" in fields.topic or "\0" in fields.topic:
            raise ConfigError("config.topic", f"must be a name without '/', found {fields.topic!r}")
        section = dict(fields.partition)
        if fields.attach:
            _check_directory(fields)
        for key in _OBSOLETE:
            if section.pop(key, None) is not None:
                log.warning("config.partition.%s is obsolete and has no effect", key)
        partition: Partition
        remove: Callable[[], list[str]] = list
        path = section.get("path")
        if fields.type == "default" and isinstance(path, str):
            remove = partial(remove_partition, PosixFiles(), directory_of(fields.topic, fields.uuid, path))
        reason = self._unopened.pop(fields.uuid, None)
        if reason is not None:
            return StandIn(
                engine,
                provider_id,
                topic=fields.topic,
                kind=fields.type,
                uuid=fields.uuid,
                section=section,
                reason=reason,
                remove=None if fields.type == "legacy" else remove,
            )
        if fields.type == "default":
            partition = DefaultPartition(
                fields.topic,
                fields.uuid,
                DefaultFields.parse(section),
                dependencies["io_controller"],
                self._descriptors,
            )
        elif fields.type == "memory":
            partition = _memory_partition(section)
        elif fields.type == "legacy":
            partition = _legacy_partition(fields, section, engine, dependencies)
            remove = partition.remove
        else:
            raise ConfigError(
                "config.type", f"unknown partition type {fields.type!r}{hint(fields.type, TYPES)}"
            )
        return PartitionProvider(
            engine,
            provider_id,
            topic=fields.topic,
            kind=fields.type,
            uuid=fields.uuid,
            partition=partition,
            remove=remove,
            pool=dependencies.get("pool"),
        )

    def restore(self, server: Deployed) -> None:
        """Take requests to change topics, see `topics`, and take back the partitions of before, see `restoring`."""
        topics = TopicServer(server)
        Restoration(server, self._unopened, topics.topics).run()


def _check_directory(fields: ProviderConfig) -> None:
    directory = directory_of(fields.topic, fields.uuid, DefaultFields.parse(fields.partition).path)
    if not os.path.isdir(directory):
        raise ConfigError("config.partition.path", f"the directory {directory} is missing")


def _check_uuid(text: str) -> None:
    if not is_uuid(text):
        raise ConfigError("config.uuid", f"must be a UUID of 36 lower-case characters, found {text!r}")


def _legacy_partition(
    fields: ProviderConfig, section: dict[str, Any], engine: Engine, dependencies: dict[str, Any]
) -> LegacyPartition:
    """Make a legacy partition over a database and a target of this server, or of others."""
    convert(section, LegacyFields, "config.partition")
    client = Client()

    def reached(handle: ProviderHandle) -> tuple[Client, str, int]:
        if engine.gate.token is not None:
            client.set_token(handle.address, engine.gate.token)
        return client, handle.address, handle.provider_id

    metadata, data = dependencies["metadata"], dependencies["data"]
    database: Database = (
        DatabaseHandle(*reached(metadata)) if isinstance(metadata, ProviderHandle) else metadata.database
    )
    target: Target = TargetHandle(*reached(data)) if isinstance(data, ProviderHandle) else data.target
    return LegacyPartition(
        f"topic {fields.topic!r}, partition {fields.uuid}",
        lambda: LegacyStore(f"{fields.topic}--{fields.uuid}", database, target),
        client.close,
    )


def _memory_partition(section: dict[str, Any]) -> MemoryPartition:
    """Make a memory partition: fields of a `default` one but its retention are kept and have no effect."""
    fields = DefaultFields.parse({"path": "unused", **section})
    if unused := sorted(section.keys() - {"retention"}):
        log.warning("config.partition: %s have no effect on a memory partition", ", ".join(unused))
    return MemoryPartition({key: section[key] for key in sorted(section)}, fields.kept)
