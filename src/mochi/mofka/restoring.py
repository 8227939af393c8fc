"""What a server does for the partitions of its service when it starts again.

It finds the master database, has what was cut short finished by the server of that: creations, additions, and deletions
while it was down; and takes back the partitions that are recorded for its ordinal, at its new address. A partition that
cannot be opened keeps its record, and has a stand-in that says why to all who ask for it; the others are served.

A service without a master database, or with one that remembers nothing, restores nothing.
"""

import logging
import os
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import cast

from msgspec.structs import replace

from mochi.bedrock.client import BedrockClient
from mochi.bedrock.modules import Deployed
from mochi.bedrock.rpc import ENGINE_ID
from mochi.flock.provider import FlockProvider
from mochi.margo.client import Client
from mochi.margo.errors import ConfigError, Fault, MargoError
from mochi.mofka.deletion import path_of, served_as_usual
from mochi.mofka.hosting import completed, master_among, partitions_among, provider_entry
from mochi.mofka.partition.config import directory_of
from mochi.mofka.protocol import SETTLE_TOPIC, SettleTopic, TopicChanged
from mochi.mofka.registry import BadRecord, PartitionRecord, Registry
from mochi.mofka.topics import Topics
from mochi.yokan.client import DatabaseHandle
from mochi.yokan.errors import KeyNotFound
from mochi.yokan.errors import StorageError as StorageFault

log = logging.getLogger(__name__)

OWN_PATIENCE = 10.0
"""Seconds that the server of the master database waits for what was cut short to be cleared away."""

RETRY_INTERVAL = 0.1
"""Seconds between two rounds of asking the other servers for the master database."""


class Restoration:
    """Restores the partitions of one server.

    Parameters
    ----------
    unopened : mapping
        Where the module looks up, by uuid, why a partition that it is to make can only be a stand-in.
    topics : callable
        Gives the topics of the master database of this server, if it has one.
    """

    def __init__(
        self, server: Deployed, unopened: MutableMapping[str, Fault], topics: Callable[[], Topics | None]
    ) -> None:
        self._server = server
        self._unopened = unopened
        self._topics = topics
        self._providers = server.config()["providers"]
        self._configured = partitions_among(self._providers)
        self._client = Client()

    def run(self) -> None:
        """Do it; blocks until the master database is found, for the time-out of dependencies at most.

        Raises
        ------
        MargoError
            A server that may have the master database does not answer, or that fails.
        """
        try:
            own = self._topics()
            if own is not None:
                self._restore(own.registry, own.master, lambda asked: own.ask(asked).result(OWN_PATIENCE))
                for name in own.registry.bad_names():
                    log.error("a topic of the master database has a name that is no text: %s", name)
                return
            found = self._find_master()
            if found is not None:
                address, number = found
                registry = Registry(DatabaseHandle(self._client, address, number))
                self._restore(registry, f"yokan:{number}@{address}", partial(self._ask_master, address))
        finally:
            self._client.close()

    def _find_master(self) -> tuple[str, int] | None:
        """Return address and provider id of the master database of another server."""
        deadline = time.monotonic() + self._server.dependency_resolution_timeout
        while True:
            failures: list[MargoError] = []
            for address in self._meet_others():
                try:
                    master = master_among(BedrockClient(self._client).config(address)["providers"])
                except MargoError as error:
                    failures.append(error)
                    continue
                if master is not None:
                    return address, master["provider_id"]
            if not failures:
                return None
            if time.monotonic() > deadline:
                raise MargoError(
                    f"the master database, which knows the partitions of this server, is not found: {failures[0]}"
                )
            time.sleep(RETRY_INTERVAL)

    def _ask_master(self, address: str, asked: SettleTopic) -> TopicChanged:
        """Have a topic settled by the server of the master database, which may be starting as well."""
        patience = self._server.dependency_resolution_timeout
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._client.call(
                    address, SETTLE_TOPIC, asked, TopicChanged, provider_id=ENGINE_ID, timeout=patience
                )
            except Fault as fault:
                if fault.code != "no_rpc" or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_INTERVAL)

    def _meet_others(self) -> list[str]:
        """Be ready to call the other servers of the group, which may move meanwhile; return their addresses."""
        for provider in self._providers:
            if provider["type"] == "flock":
                view = cast(FlockProvider, self._server.provider(provider["name"])).view
                others = [address for address in view.ranks if address != self._server.address]
                if view.token is not None:
                    for address in others:
                        self._client.set_token(address, view.token, view.ranks[address])
                return others
        return []

    def _restore(
        self, registry: Registry, master: str, settle: Callable[[SettleTopic], TopicChanged]
    ) -> None:
        for topic in sorted({*registry.leftovers(), *registry.adding()}):
            self._settle(topic, settle)
        served, topics = 0, 0
        for topic in registry.names():
            try:
                count = self._take_back(registry, topic, master)
                served, topics = served + count, topics + bool(count)
            except KeyNotFound:
                log.info("topic %r was deleted meanwhile", topic)
            except BadRecord as error:
                log.error("%s; its partitions are not served", error)
        if served:
            log.info("serves %s of %s again", _counted(served, "partition"), _counted(topics, "topic"))

    def _settle(self, topic: str, settle: Callable[[SettleTopic], TopicChanged]) -> None:
        patience = int(self._server.dependency_resolution_timeout * 1000)
        try:
            changed = settle(SettleTopic(topic, max(patience, 1), self._server.rank, self._server.address))
        except (MargoError, TimeoutError) as error:
            log.warning(
                "topic %r: what an interrupted change has left is still to be removed: %s", topic, error
            )
            return
        for text in changed.warnings:
            log.warning("%s", text)
        log.info("topic %r: removed what an interrupted creation or deletion has left", topic)

    def _take_back(self, registry: Registry, topic: str, master: str) -> int:
        """Start the partitions of a topic that are of this server; return how many of them it really serves."""
        there: list[PartitionRecord] = []
        served = 0
        record = registry.load(topic)
        for partition in () if record is None else record.partitions:
            provider_id = self._running_at(topic, partition.uuid)
            if provider_id is not None:
                is_served = True
            elif partition.rank == self._server.rank:
                provider_id, is_served = self._start(topic, partition, master)
            else:
                continue
            served += is_served
            if provider_id is not None:
                there.append(replace(partition, address=self._server.address, provider_id=provider_id))
        if there:
            try:
                registry.update(topic, there)
            except StorageFault as error:
                log.error("topic %r: where its partitions are cannot be recorded: %s", topic, error)
        return served

    def _running_at(self, topic: str, uuid: str) -> int | None:
        """Return the id of the provider of a partition that is of the configuration, or has just been made."""
        if (topic, uuid) in self._configured:
            number: int = self._configured[topic, uuid]["provider_id"]
            return number
        provider = served_as_usual(self._server, topic, uuid)
        return None if provider is None else provider.provider_id

    def _start(self, topic: str, partition: PartitionRecord, master: str) -> tuple[int | None, bool]:
        """Start a partition, or else what stands for it; return its provider id, and whether it is the partition."""
        where = f"topic {topic!r}, partition {partition.uuid}"
        try:
            path = path_of(partition)
            directory = directory_of(topic, partition.uuid, path)
            if path and not os.path.isdir(directory):
                raise ConfigError("config.partition.path", f"the directory {directory} is missing")
            entry = provider_entry(topic, completed(partition, lambda: self._providers), master)
            return self._server.start_provider(entry, "partition"), True
        except MargoError as error:
            log.error("%s: cannot be opened, and is not served: %s", where, error)
            reason = f"{where} could not be opened when its server started: {error}"
        self._unopened[partition.uuid] = Fault("unavailable", reason)
        try:
            entry = provider_entry(topic, partition, master)
            return self._server.start_provider({**entry, "dependencies": {}}, "partition"), False
        except MargoError as error:
            log.error("%s: nothing can stand for it either: %s", where, error)
            return None, False
        finally:
            self._unopened.pop(partition.uuid, None)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
