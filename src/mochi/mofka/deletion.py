"""How partitions are removed: by their server, which need not serve them, and from there by whoever changes a topic."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

from mochi.bedrock.modules import Deployed
from mochi.bedrock.rpc import ENGINE_ID
from mochi.bedrock.spec import AUTOMATIC
from mochi.disk import PosixFiles
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, ConfigError, ConnectionLost, DeadlineExceeded, Fault, MargoError
from mochi.mofka.chunks import PartitionDirectory, StorageError, remove_partition
from mochi.mofka.hosting import completed, partitions_among, provider_entry, provider_name
from mochi.mofka.partition.config import check_topic_name, directory_of, is_uuid
from mochi.mofka.protocol import REMOVE, Remove, Removed
from mochi.mofka.provider import PartitionProvider
from mochi.mofka.registry import PartitionRecord, Registry
from mochi.mofka.stand_in import StandIn

log = logging.getLogger(__name__)

Provider: TypeAlias = PartitionProvider | StandIn

REMOVAL_TIMEOUT = 10.0
"""Seconds that a server has to remove a partition."""


def path_of(partition: PartitionRecord) -> str:
    """Return the path under which a `default` partition has its directory; empty for others.

    Raises
    ------
    ConfigError
        What is recorded is no path.
    """
    path = partition.partition.get("path", "")
    if partition.type != "default":
        return ""
    if not isinstance(path, str):
        raise ConfigError("config.partition.path", f"must be a path, found {path!r}")
    return path


def remove_here(server: Deployed, asked: Remove) -> list[str]:
    """Remove a partition of this server, served or not; blocks.

    Returns
    -------
    list of str
        Paths of what is not the partition's own, and stays; its directory, if that has events and was to be kept then.

    Raises
    ------
    Fault
        ``not_found``: another server is meant; ``storage``: what is stored cannot be removed.
    """
    if asked.rank not in (server.rank, None):
        raise Fault("not_found", f"the server at {server.address} has rank {server.rank}, not {asked.rank}")
    check_topic_name(asked.topic)
    directory = directory_of(asked.topic, asked.uuid, asked.path)
    try:
        name = provider_name(asked.topic, asked.uuid)
        provider = served_as_usual(server, asked.topic, asked.uuid)
        if provider is None:
            running = partitions_among(server.config()["providers"]).get((asked.topic, asked.uuid))
            if running is not None:
                name, provider = running["name"], cast(Provider, server.provider(running["name"]))
        is_opened = provider is not None and not isinstance(provider, StandIn)
        if not is_opened and asked.type == "legacy" and asked.rank is not None:
            if provider is not None:
                server.stop_provider(name)
            name, provider = provider_name(asked.topic, asked.uuid), _opened_to_be_removed(server, asked)
        if provider is not None:
            kept = provider.remove(asked.unused_only)
            server.stop_provider(name)
            return kept
        if asked.rank is None:
            raise Fault("not_found", f"the server at {server.address} does not serve partition {asked.uuid}")
        if not asked.path or not is_uuid(asked.uuid):
            return []
        if asked.unused_only and os.path.isdir(directory):
            with PartitionDirectory.open_to_read(directory) as store:
                if store.event_count:
                    return [directory]
        return remove_partition(PosixFiles(), directory)
    except (OSError, StorageError) as error:
        log.error("topic %r, partition %s cannot be removed: %s", asked.topic, asked.uuid, error)
        raise Fault("storage", str(error)) from error


def _opened_to_be_removed(server: Deployed, asked: Remove) -> Provider | None:
    """Open a legacy partition; None where that fails and there can be no events, for it was never complete."""
    record = PartitionRecord(
        server.address, AUTOMATIC, asked.uuid, asked.rank, asked.type, {}, asked.dependencies
    )
    try:
        entry = provider_entry(asked.topic, completed(record, lambda: server.config()["providers"]))
        server.start_provider(entry, "partition")
    except MargoError:
        if asked.unused_only:
            return None
        raise
    return served_as_usual(server, asked.topic, asked.uuid)


def served_as_usual(server: Deployed, topic: str, uuid: str) -> Provider | None:
    """Return the provider of a partition that has the usual name; costs little."""
    try:
        provider = server.provider(provider_name(topic, uuid))
    except MargoError:
        return None
    if isinstance(provider, Provider) and (provider.topic, provider.uuid) == (topic, uuid):
        return provider
    return None


def request_of(topic: str, partition: PartitionRecord) -> Remove:
    """Return what a server is asked to remove a partition of a topic that is not visible."""
    return Remove(
        topic,
        partition.uuid,
        partition.rank,
        path_of(partition),
        not partition.deleted,
        partition.type,
        partition.dependencies,
    )


def kept_text(topic: str, partition: PartitionRecord, path: str) -> str:
    """Name a file beside a partition that is left, for it is not the partition's own."""
    return f"topic {topic!r}, partition {partition.uuid}: {path} is left where it is"


class Removal:
    """Partitions of topics that are not visible, removed at their servers; the record of each that is gone is dropped.

    Those of a deleted topic go with all that is stored. Others, whose creation was not finished, keep their files if
    they have events; a directory that was attached may have some.

    Parameters
    ----------
    address_of : callable
        Gives the address of the server that has a partition.

    Attributes
    ----------
    left : dict
        Why a partition is left, by its uuid: its server does not answer, or cannot remove it.
    kept : list of str
        What is left beside partitions.
    """

    def __init__(self, client: Client, address_of: Callable[[PartitionRecord], str]) -> None:
        self.left: dict[str, MargoError] = {}
        self.kept: list[str] = []
        self._client = client
        self._address_of = address_of
        self._silent: dict[str, MargoError] = {}

    def remove(self, topic: str, partition: PartitionRecord) -> bool:
        """Remove one; return whether it is gone. One that the original recorded is nobody's to remove."""
        address = self._address_of(partition)
        try:
            asked = request_of(topic, partition)
        except ConfigError as error:
            log.warning("topic %r, partition %s: was never made, for %s", topic, partition.uuid, error)
            return True
        try:
            if address in self._silent:
                raise self._silent[address]
            removed = self._client.call(
                address, REMOVE, asked, Removed, provider_id=ENGINE_ID, timeout=REMOVAL_TIMEOUT
            )
        except MargoError as error:
            if isinstance(error, AddressError | ConnectionLost | DeadlineExceeded):
                self._silent[address] = error
            if partition.rank is not None:
                self.left[partition.uuid] = error
                return False
        else:
            self.kept += [kept_text(topic, partition, path) for path in removed.kept]
        return True

    def clear(self, registry: Registry, topic: str, partitions: Iterable[PartitionRecord]) -> None:
        """Remove partitions, and forget those that are gone, and the topic with the last one."""
        gone = [partition.uuid for partition in partitions if self.remove(topic, partition)]
        registry.forget(topic, gone)
