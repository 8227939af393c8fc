"""How the servers are made to remove the partitions of a topic that is not visible (any more)."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from mochi.bedrock.client import BedrockClient
from mochi.margo.client import Client
from mochi.margo.errors import Fault, MargoError
from mochi.mofka.hosting import partitions_among
from mochi.mofka.protocol import REMOVE, Remove, Removed, Where
from mochi.mofka.registry import PartitionRecord, Registry

log = logging.getLogger(__name__)


def remove_partitions(
    registry: Registry, client: Client, topic: str, partitions: Iterable[PartitionRecord]
) -> dict[str, MargoError]:
    """Remove partitions where they are served, and forget those that are gone.

    Those of a deleted topic go with all that is stored; others, whose creation was not finished, keep their files if
    they have events, which a directory that was attached may.

    Returns
    -------
    dict
        Why a partition is left, by its uuid: its server does not answer, cannot remove it, or does not serve it. It
        goes when that server starts again.
    """
    left: dict[str, MargoError] = {}
    bedrock = BedrockClient(client)
    for address, there in groupby(sorted(partitions, key=attrgetter("address")), attrgetter("address")):
        gone: list[str] = []
        stopping: list[str] = []
        running = None
        for partition in there:
            try:
                if running is None:
                    running = partitions_among(bedrock.config(address)["providers"])
                provider = running.get((topic, partition.uuid))
                if provider is not None:
                    asked = Remove(Where(UUID(partition.uuid).bytes, 0), not partition.deleted)
                    number = provider["provider_id"]
                    removed = client.call(address, REMOVE, asked, Removed, provider_id=number)
                    warn_of_kept(topic, partition, removed.kept)
                    stopping.append(provider["name"])
                elif partition.deleted:
                    raise Fault("not_found", f"the server at {address} does not serve it")
            except MargoError as error:
                if partition.rank is not None:
                    left[partition.uuid] = error
                    continue
            gone.append(partition.uuid)
        try:
            registry.forget(topic, gone)
        finally:
            for name in stopping:
                with suppress(MargoError):  # a server that ends meanwhile has stopped it as well
                    bedrock.stop_provider(address, name)
    return left


def warn_of_kept(topic: str, partition: PartitionRecord, kept: Iterable[str]) -> None:
    """Name the files beside a partition that were left, for they are not its own."""
    for path in kept:
        log.warning("topic %r, partition %s: %s is left where it is", topic, partition.uuid, path)
